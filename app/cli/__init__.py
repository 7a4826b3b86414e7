"""The command line: `dropserve`, also `python -m app`."""
