"""From a decoded request to an answer; knows no HTTP."""
