"""The server: HTTP in, HTTP out."""

# `schemas` and `errors` import them from their own package, since both are also installed as a part
# of `dropserve`, which has no `model`.
from model import literals as literals
