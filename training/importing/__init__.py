"""`dropserve-train import`: files of other libraries, read without executing anything in them."""
