"""Experiments on dropout, and the settings that they start from."""

from dataclasses import replace

from training.config import TrainConfig

NO_DROPOUT = (0.0, 0.0, 0.0)

# The article's own notebook (Keras, whose defaults these are where it says nothing): no activation
# functions, Glorot's weights, plain pixels, SGD without momentum, the test images for validation.
ARTICLE = TrainConfig(
    epochs=20,
    batch_size=256,
    learning_rate=0.01,
    dropout=(0.5, 0.5, 0.5),
    averaging=0.0,
    validation_images=10_000,
    optimiser="sgd",
    schedule="constant",
    initialisation="glorot",
    activation="linear",
    normalisation="none",
    augmentation=0.0,
)

# The same network with ReLU and nothing that regularises: no augmentation, no weight decay, and no
# averaged weights.
PLAIN = TrainConfig(
    epochs=15,
    batch_size=256,
    learning_rate=0.1,
    dropout=NO_DROPOUT,
    averaging=0.0,
    optimiser="sgd",
    momentum=0.9,
    augmentation=0.0,
)
RELU_DROPOUT = replace(PLAIN, dropout=(0.2, 0.2, 0.2))
