"""The client of a Dropserve server: `from dropserve.client import DropserveClient`.

The other modules are links to those of `app` and `model`, which import each other relatively. They
are installed under this name, too, so that a project can have packages called `app` or `model`.
"""
