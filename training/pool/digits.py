"""Digits that MNIST hardly has, with their labels: ones with a flag and sevens with a bar.

Sevens that are turned come with them: once a network knows the flag, their bar looks like one.
"""

import cv2
import numpy as np

from model.arrays import Pixels
from training.pool.pen import SIDE, write

# Less than that of signs: augmentation turns and slants digits, too.
_UNSTEADINESS = 0.1


def flagged_one(generator: np.random.Generator) -> Pixels:
    """A 1 with an upstroke, which falls off clearly, and now and then a foot."""
    angle, flag = np.radians(generator.uniform(25, 62)), generator.uniform(0.15, 0.5)
    tip, base = np.array([0.0, 0.0]), np.array([generator.uniform(-0.06, 0.06), 1.0])
    start = flag * np.array([-np.sin(angle), np.cos(angle)])
    strokes = [np.stack([start, tip, base])]
    if generator.random() < 0.3:
        left, right = generator.uniform(0.08, 0.35, size=2)
        strokes.append(base + np.array([[-left, 0.0], [right, 0.0]]))
    return write(strokes, generator, _UNSTEADINESS)


def barred_seven(generator: np.random.Generator) -> Pixels:
    """A 7 with a bar across its stem, and now and then a hook at the start."""
    corner = np.array([generator.uniform(0.45, 0.75), generator.uniform(-0.05, 0.05)])
    base = np.array([generator.uniform(0.0, 0.35), 1.0])
    top = [np.array([0.0, generator.uniform(-0.02, 0.08)]), corner, base]
    if generator.random() < 0.3:
        top.insert(0, top[0] + np.array([0.0, generator.uniform(0.05, 0.2)]))
    middle = corner + generator.uniform(0.35, 0.6) * (base - corner)
    left, right = generator.uniform(0.12, 0.35, size=2)
    rise = generator.uniform(-0.06, 0.06)
    bar = middle + np.array([[-left, rise], [right, -rise]])
    return write([np.stack(top), bar], generator, _UNSTEADINESS)


def turned_seven(sevens: Pixels, generator: np.random.Generator) -> Pixels:
    """A 7 of the training images, (N, 28, 28), turned by more than augmentation does."""
    seven = sevens[generator.integers(len(sevens))]
    angle = generator.uniform(15, 50) * generator.choice([-1, 1])
    matrix = cv2.getRotationMatrix2D((13.5, 13.5), angle, SIDE / 28)
    matrix[:, 2] += SIDE / 2 - 13.5
    return np.asarray(cv2.warpAffine(seven, matrix, (SIDE, SIDE)))
