"""The errors that `model` raises; they know nothing of HTTP.

ModelError
├── CheckpointError        a checkpoint file cannot be used
├── ShapeError             arrays or tensors do not fit together
├── DeviceError            a device does not exist
├── PrecisionError         a device cannot compute in a precision
└── NoInkError             an image holds no digit
"""


class ModelError(Exception):
    """Base class of all errors that `model` raises on purpose; the message is for the user."""


class CheckpointError(ModelError):
    """The checkpoint is missing or damaged, or this version cannot serve it."""


class ShapeError(ModelError):
    """A shape or a setting does not fit the network."""


class DeviceError(ModelError):
    """The requested device does not exist."""


class PrecisionError(ModelError):
    """The device cannot compute in the requested precision."""


class NoInkError(ModelError):
    """The image holds no digit: it is uniform, or its marks are not strokes of a pen."""
