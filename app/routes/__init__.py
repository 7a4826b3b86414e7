"""The routes: each reads a request, hands it over, and answers."""
