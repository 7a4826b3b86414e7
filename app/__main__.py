"""`python -m app` is `dropserve`."""

from app.cli.main import main

main()
