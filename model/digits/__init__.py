"""Any picture to MNIST's convention; the only code that knows digits."""
