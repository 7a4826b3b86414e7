"""`python -m training` is `dropserve-train`."""

from training.cli import main

main()
