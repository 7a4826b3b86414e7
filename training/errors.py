"""The error of training; its message says what to do."""


class TrainingError(Exception):
    """A run cannot start or go on; the text is one or two sentences for the user."""
