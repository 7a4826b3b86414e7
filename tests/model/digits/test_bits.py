"""A digit's 28x28 pixels are the same bytes whatever instructions OpenCV uses."""

import hashlib
import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from PIL import Image

from model.errors import NoInkError
from tests.conftest import ROOT
from tests.model.digits.pictures import draw_varied
from tests.samples.draw import preprocess_image

# What the CPU here does not have cannot be disabled, and OpenCV only says so.
_FEATURES = "AVX,AVX2,FMA3,FP16,AVX512-SKX,AVX512-COMMON,AVX512-ICL"
_SETTINGS = [
    {"OPENCV_IPP": "disabled"},
    {"OPENCV_CPU_DISABLE": _FEATURES},
    {"OPENCV_CPU_DISABLE": f"{_FEATURES},SSE4.1,SSE4.2,SSSE3", "OPENCV_IPP": "disabled"},
]


@cache
def digest() -> str:
    """Of 1,000 pictures: sharp, blurred, noisy, lit and ruled."""
    generator = np.random.default_rng(0)
    sums = hashlib.sha256()
    for picture in draw_varied():
        height, width = picture.shape
        light = np.linspace(0.4, 1, width)
        ruled = picture.copy()
        ruled[5::23] = 128
        smaller = Image.fromarray(picture).resize((width * 2 // 3 + 1, height * 2 // 3 + 1))
        for variant in (
            picture,
            ruled,
            np.array(smaller.resize((width, height))),
            (picture * light).astype(np.uint8),
            np.clip(picture + generator.normal(0, 15, picture.shape), 0, 255).astype(np.uint8),
        ):
            try:
                sums.update(preprocess_image(variant).tobytes())
            except NoInkError as refusal:
                sums.update(str(refusal).encode())
    return sums.hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("setting", _SETTINGS)
def test_the_bytes_do_not_depend_on_the_cpu(setting: dict[str, str]) -> None:
    command = "from model.compiling import compile_all; compile_all(); "
    command += "from tests.model.digits.test_bits import digest; print(digest())"
    process = subprocess.run(
        [sys.executable, "-c", command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **setting},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert process.stdout.strip() == digest()
