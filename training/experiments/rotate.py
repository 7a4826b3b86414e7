"""The passes of a digit that turns: `dropserve-train rotate`.

Gal and Ghahramani 2016, "Dropout as a Bayesian Approximation", figure 4: the softmax inputs and
outputs of each pass against the rotation of a digit 1.
"""

import numpy as np

from model.checkpoint import DEFAULT_CHECKPOINT
from model.uncertainty.statistics import entropy
from training.answers import load_digit_network
from training.config import RotateOptions
from training.data import load_images
from training.report.figures import save_figure
from training.report.measurements import measure_rotated_digit
from training.runs import use_one_thread


def rotate_digit(options: RotateOptions) -> None:
    """Prints the favourite class at each angle, and draws every pass.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        TrainingError: the data cannot be used.
    """
    use_one_thread()
    checkpoint = load_digit_network(options.checkpoint or DEFAULT_CHECKPOINT)
    images = load_images("test", options.data_dir)
    rotated = measure_rotated_digit(
        checkpoint.network, images, passes=options.passes, seed=options.seed
    )
    print(f"{checkpoint.name} {checkpoint.version}, {options.passes} passes of each rotation\n")
    print("angle  label  mean  lowest-highest  entropy, nats")
    for angle, each in zip(rotated["angles"], rotated["probabilities"], strict=True):
        probs = np.array(each)  # (T, C)
        mean = probs.mean(axis=0)
        best = int(mean.argmax())
        low, high = probs[:, best].min(), probs[:, best].max()
        print(
            f"{angle:5}  {rotated['labels'][best]:>5}  {mean[best]:.2f}  "
            f"{f'{low:.2f}-{high:.2f}':>14}  {float(entropy(mean)):13.2f}"
        )
    save_figure("rotated_digit", {"rotated_digit": rotated}, options.figures)
    print(f"\nfigure: {options.figures / 'rotated_digit.svg'}")
