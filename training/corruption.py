"""Corruptions that people's pictures have: noise, blur, dots, lines, spatter, contrast, outlines.

Mu and Gilmer 2019, "MNIST-C: A Robustness Benchmark for Computer Vision", arXiv 1906.02337, judges
networks by 15 corruptions; the strengths here were chosen on others (docs/training.md).
"""

from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor

from model.arrays import Floats

_FRACTION = 4  # bits of a drawn coordinate behind the point
# Changes images, ink 0 to 255, (N, 28, 28), each its own way; values may leave the range.
Corruption = Callable[[Floats, np.random.Generator], Floats]


def corrupt(pixels: Tensor, share: float, seed: int) -> Tensor:
    """Corrupts this share of the images, (B, 28, 28), each in one way, and a few in two."""
    if share == 0:
        return pixels
    generator = np.random.default_rng(seed)
    images = pixels.cpu().numpy().astype(np.float32)
    for _ in range(2):
        chosen = generator.permutation(len(images))[: round(share * len(images) / 2)]
        for rows, change in zip(np.array_split(chosen, len(CORRUPTIONS)), CORRUPTIONS, strict=True):
            images[rows] = change(images[rows], generator).clip(0, 255)
    return torch.from_numpy(images).to(pixels.device, pixels.dtype)


def noise(images: Floats, generator: np.random.Generator) -> Floats:
    """Adds Gaussian noise."""
    amplitudes = generator.uniform(10, 70, size=(len(images), 1, 1)).astype(np.float32)
    return images + amplitudes * generator.standard_normal(images.shape, np.float32)


def blur(images: Floats, generator: np.random.Generator) -> Floats:
    """Blurs, more along one axis than along the other, and keeps the brightest brightness."""
    widths = generator.uniform(0.3, 1.8, size=(len(images), 2))
    soft = np.stack(
        [
            cv2.GaussianBlur(image, (0, 0), x, None, y)
            for image, (x, y) in zip(images, widths, strict=True)
        ]
    )
    brightest = [each.max(axis=(1, 2), keepdims=True) for each in (images, soft)]
    blurred: Floats = soft * brightest[0] / np.maximum(brightest[1], 1)
    return blurred


def dots(images: Floats, generator: np.random.Generator) -> Floats:
    """Sets single pixels to white or black."""
    shares = generator.uniform(0.01, 0.15, size=(len(images), 1, 1))
    draws = generator.random(images.shape, np.float32)
    dotted: Floats = np.where(draws < shares, np.where(draws < shares / 2, 0, 255), images)
    return dotted


def lines(images: Floats, generator: np.random.Generator) -> Floats:
    """Draws one to three straight lines across, of any brightness; black ones cut the digit."""
    changed = images.copy()
    for image, number in zip(changed, generator.integers(1, 4, size=len(images)), strict=True):
        for x, y, angle, reach, level, width in generator.random((number, 6)):
            middle = 96 + 256 * np.array([x, y])  # sixteenths of a pixel
            step = (100 + 400 * reach) * np.array([np.cos(np.pi * angle), np.sin(np.pi * angle)])
            ends = (np.rint(middle + step).astype(int), np.rint(middle - step).astype(int))
            brightness = max(0.0, 300 * level - 45)
            cv2.line(image, *ends, brightness, 1 + (width > 0.5), cv2.LINE_AA, _FRACTION)
    return changed


def spatter(images: Floats, generator: np.random.Generator) -> Floats:
    """Drops blots of ink, some of them on the digit."""
    blots = np.zeros(images.shape, np.uint8)
    for image, number in zip(blots, generator.integers(1, 9, size=len(images)), strict=True):
        for x, y, radius, level in generator.random((number, 4)):
            place = round(448 * x), round(448 * y)
            size, brightness = round(8 + 36 * radius), 80 + 175 * level
            cv2.circle(image, place, size, brightness, -1, cv2.LINE_AA, _FRACTION)
    return np.maximum(images, blots)


def contrast(images: Floats, generator: np.random.Generator) -> Floats:
    """Greys ink and paper, with light that may come from one side."""
    each = (len(images), 1, 1)
    place = np.linspace(-0.5, 0.5, images.shape[1], dtype=np.float32)
    level, across, down, ink = (
        generator.uniform([-40, -120, -120, 0.4], [130, 120, 120, 1], size=(*each[:1], 4))
        .astype(np.float32)
        .T[:, :, None, None]
    )
    paper = np.clip(level + across * place + down * place[:, None], 0, 200)
    greyed: Floats = paper + images * ink * (1 - paper / 255)
    return greyed


def hollow(images: Floats, generator: np.random.Generator) -> Floats:
    """Leaves the outline of the strokes, as of digits that somebody writes hollow."""
    outlined = np.empty_like(images)
    strengths = generator.uniform(1, 3, size=len(images))
    sides = generator.integers(2, 4, size=len(images))
    for outline, image, strength, side in zip(outlined, images, strengths, sides, strict=True):
        kernel = np.ones((side, side), np.uint8)
        outline[:] = strength * cv2.morphologyEx(image, cv2.MORPH_GRADIENT, kernel)
    return outlined


CORRUPTIONS: tuple[Corruption, ...] = (noise, blur, dots, lines, spatter, contrast, hollow)
