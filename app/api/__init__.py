"""HTTP: routes and what they need."""
