"""What can go wrong in `model`, without a word about HTTP.

ModelError
├── CheckpointError    a checkpoint file cannot be used
├── ShapeError         tensors that do not fit together
└── ImageError         an image that cannot be answered
    ├── InvalidPixelsError
    └── NoInkError
"""


class ModelError(Exception):
    """Base of every error that `model` raises on purpose; its text is for the user."""


class CheckpointError(ModelError):
    """The checkpoint is missing, damaged, or of a kind this version cannot serve."""


class ShapeError(ModelError):
    """An array or a mask has another shape than the network needs."""


class ImageError(ModelError):
    """The image was read, and still has no answer."""


class InvalidPixelsError(ImageError):
    """Pixel values or dimensions are outside what the network is defined for."""


class NoInkError(ImageError):
    """The image is uniform: there is nothing to recognise in it."""
