"""What can go wrong in training; each message tells the user what to do."""


class TrainingError(Exception):
    """A run cannot start or go on; the text is one or two sentences for the user."""
