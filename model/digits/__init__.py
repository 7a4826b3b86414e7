"""From any picture to a 28x28 image in MNIST's convention; the only code that knows digits."""
