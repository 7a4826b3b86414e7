"""uvicorn's configuration, connection limits, signals and workers."""
