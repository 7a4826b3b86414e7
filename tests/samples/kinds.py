"""Kinds of pictures that people send, beyond those of `renderings`: image files of known digits.

Each kind takes a digit in MNIST's convention, a seed, and the half of the parameters to draw from:
what is tuned is tuned on one half, and reported on the other.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from model.arrays import Pixels
from tests.samples import marked, photographed, saved
from tests.samples.scenes import Half, Parameters
from tests.samples.strokes import Shares, enlarge
from training.data import Images


@dataclass(frozen=True)
class Kind:
    """How a kind of picture is rendered.

    Attributes:
        render: from a digit in MNIST's convention.
        always_one: the picture shows a 1, whatever the digit.
        may_abstain: abstaining from a digit counts as reading it.
        can_be_empty: without its digit, nothing is left that could be one.
    """

    render: Callable[[Pixels, Parameters], bytes]
    always_one: bool = False
    may_abstain: bool = False
    can_be_empty: bool = False

    def file(self, digit: Pixels, label: int, seed: int, half: Half) -> tuple[bytes, int]:
        """An image file, and the digit that it shows."""
        generator = np.random.default_rng([seed, half == "reporting"])
        file = self.render(digit, Parameters(generator, half))
        return file, 1 if self.always_one else label

    def empty_file(self, seed: int, half: Half) -> bytes:
        """The same picture as without a digit."""
        return self.file(np.zeros((28, 28), np.uint8), 0, seed, half)[0]


def _of_strokes(
    scene: Callable[[Shares, Parameters], bytes],
    *,
    may_abstain: bool = False,
    can_be_empty: bool = True,
) -> Kind:
    def render(digit: Pixels, parameters: Parameters) -> bytes:
        strokes = enlarge(digit) if digit.any() else np.zeros((160, 110))
        return scene(strokes, parameters)

    return Kind(render, may_abstain=may_abstain, can_be_empty=can_be_empty)


def _of_ones(draw: Callable[[Parameters], Shares]) -> Kind:
    return Kind(
        lambda _, parameters: photographed.plain(draw(parameters), parameters), always_one=True
    )


KINDS: Mapping[str, Kind] = {
    "frame": _of_strokes(marked.framed),
    "table cell": _of_strokes(marked.in_table),
    "rest of a frame": _of_strokes(marked.cut_frame),
    "underline": _of_strokes(marked.underlined, can_be_empty=False),
    "underline, touching": _of_strokes(marked.touching_underline, can_be_empty=False),
    "bar above": _of_strokes(marked.bar_above, can_be_empty=False),
    "bar above, touching": _of_strokes(marked.touching_bar, can_be_empty=False),
    "circle": _of_strokes(marked.circled, may_abstain=True, can_be_empty=False),
    "ruled paper": _of_strokes(marked.ruled),
    "squared paper": _of_strokes(marked.squared),
    "1 bit, dithered": _of_strokes(saved.dithered),
    "1 bit, fax": _of_strokes(saved.faxed),
    "salt and pepper": _of_strokes(saved.peppered),
    "hard shadow": _of_strokes(photographed.hard_shadow),
    "soft shadow": _of_strokes(photographed.soft_shadow),
    "dark desk": _of_strokes(photographed.on_dark_desk),
    "light desk": _of_strokes(photographed.on_light_desk),
    "cropped": _of_strokes(saved.cropped, can_be_empty=False),
    "MNIST with a border": Kind(saved.bordered),
    "MNIST as a figure": Kind(saved.figure),
    "equally bright": _of_strokes(photographed.equally_bright),
    "faint pencil": _of_strokes(photographed.pencil),
    "tilted": _of_strokes(photographed.tilted),
    "printed 1": _of_ones(photographed.printed_one),
    "1 with a flag": _of_ones(photographed.drawn_one),
    "other range": _of_strokes(saved.other_range),
    "28x28, anywhere": _of_strokes(saved.shrunk),
    "8x8 to 8000x6000": _of_strokes(saved.any_size),
}


def pictures(images: Images, kind: str, count: int, half: Half) -> Iterator[tuple[bytes, int]]:
    """Files of a kind with the digits they show, the same every time."""
    generator = np.random.default_rng([len(images), *kind.encode()])
    for seed, index in enumerate(generator.choice(len(images), count, replace=False)):
        yield KINDS[kind].file(images.pixels[index], int(images.labels[index]), seed, half)
