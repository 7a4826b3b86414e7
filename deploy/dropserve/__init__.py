"""What programs that call a Dropserve server import: `from dropserve.client import DropserveClient`.

The wheel adds the client, the schemas and the errors of `app` and the literals of `model` to this
folder, so that a project with packages of its own called `app` or `model` can import them.
"""
