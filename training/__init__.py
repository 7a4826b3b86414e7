"""From MNIST to a checkpoint: data, augmentation, the recipe, and its evaluation."""
