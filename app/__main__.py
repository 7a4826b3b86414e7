"""`python -m app` is `dropserve`."""

from app.cli import main

main()
