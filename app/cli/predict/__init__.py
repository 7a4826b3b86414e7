"""`dropserve predict`: answers about some images, here or from a server."""
