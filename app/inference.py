"""Joins requests to the model: decoding, preprocessing, the network, the fields of the answer."""

import asyncio
import base64
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from app.bodies import ImageRequest
from app.errors import from_image_error
from app.images import decode_if_small, decode_image
from app.schemas import McParameters, PredictParameters
from app.settings import Settings
from model.adaptive import sample_until
from model.calibration import apply_temperature
from model.checkpoint import Checkpoint
from model.engine import PassRange, build_engine
from model.errors import ImageError
from model.masks import Passes, dropped_units
from model.preprocessing import Pixels, preprocess_image
from model.uncertainty import entropy, summarise

# Drawn seeds stay below this: short enough to read out, and repeated exactly by every JSON parser.
_DRAWN_SEED_BITS = 32


class Inference:
    """Answers requests with one network; belongs to one event loop."""

    def __init__(self, checkpoint: Checkpoint, settings: Settings) -> None:
        self.checkpoint = checkpoint
        self._settings = settings
        self._engine = build_engine(checkpoint.network, settings.device, settings.precision)
        self._labels = checkpoint.network.config.labels
        self._identity = {"name": checkpoint.name, "version": checkpoint.version}
        # One thread each: the sampling methods of the engine belong to one, and more decoding
        # threads would only take the engine's core from it.
        self._decoding = ThreadPoolExecutor(1, thread_name_prefix="decode")
        self._sampling = ThreadPoolExecutor(1, thread_name_prefix="sample")

    def warm_up(self) -> None:
        """Computes one answer of each kind, so that no caller pays for first times."""
        pixels = np.zeros(self.checkpoint.network.config.input_shape, dtype=np.uint8)
        pixels[4:24, 12:16] = 255
        self._predict(pixels, PredictParameters())
        self._predict_mc(pixels, McParameters(seed=0))

    def close(self) -> None:
        """Waits for running work and ends the threads."""
        self._decoding.shutdown()
        self._sampling.shutdown()

    async def predict(self, asked: ImageRequest[PredictParameters]) -> dict[str, Any]:
        """The deterministic answer, computed at once: it takes less than handing it to a thread."""
        return self._predict(await self._read_pixels(asked), asked.parameters)

    async def predict_mc(self, asked: ImageRequest[McParameters]) -> dict[str, Any]:
        """The MC-dropout answer, computed in the sampling thread."""
        pixels = await self._read_pixels(asked)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._sampling, self._predict_mc, pixels, asked.parameters
        )

    async def _read_pixels(self, asked: ImageRequest[Any]) -> Pixels:
        """The 28x28 pixels that the network sees.

        Raises:
            ApiError: the image cannot be decoded, or shows nothing.
        """
        image = asked.image
        try:
            if isinstance(image, bytes):
                max_pixels = self._settings.max_pixels
                grey = decode_if_small(image, max_pixels=max_pixels)
                if grey is None:
                    loop = asyncio.get_running_loop()
                    return await loop.run_in_executor(
                        self._decoding, _decode_and_preprocess, image, max_pixels, asked.parameters
                    )
                image = grey
            return preprocess_image(image, asked.parameters.preprocess)
        except ImageError as error:
            raise from_image_error(error) from error

    def _predict(self, pixels: Pixels, parameters: PredictParameters) -> dict[str, Any]:
        probs = self._engine.predict_probs(pixels)
        probabilities = apply_temperature(probs, self.checkpoint.calibration["temperature"])
        return self._answer(probabilities, float(entropy(probs)), pixels, parameters)

    def _predict_mc(self, pixels: Pixels, parameters: McParameters) -> dict[str, Any]:
        seed = parameters.seed
        if seed is None:
            seed = secrets.randbits(_DRAWN_SEED_BITS)
        passes = Passes(parameters.passes, seed, parameters.estimator)
        (image,) = self._engine.prepare([pixels], [passes])
        if parameters.max_standard_error is None:
            (probs,) = self._engine.sample([PassRange(image, 0, passes.count)])
            stop_reason = "passes"
        else:
            probs, stop_reason = sample_until(self._engine, image, parameters.max_standard_error)
        summary = summarise(probs)
        temperature = self.checkpoint.calibration["mc_temperature"]
        probabilities = apply_temperature(summary.mean, temperature)
        answer = self._answer(probabilities, summary.predictive_entropy, pixels, parameters)
        answer |= {
            "mean": _single(summary.mean),
            "variance": _single(summary.variance),
            "standard_error": _single(summary.standard_error),
            "expected_entropy": np.float32(summary.expected_entropy),
            "mutual_information": np.float32(summary.mutual_information),
            "votes": summary.votes,
            "passes": len(probs),
            "stop_reason": stop_reason,
            "seed": seed,
            "estimator": parameters.estimator,
        }
        if parameters.return_passes:
            bits = dropped_units(self._engine.config, passes)[: len(probs)]
            answer["pass_probabilities"] = np.ascontiguousarray(probs)
            answer["dropped"] = [base64.b64encode(row.tobytes()).decode() for row in bits]
        return answer

    def _answer(
        self,
        probabilities: NDArray[np.float64],
        doubt: float,
        pixels: Pixels,
        parameters: PredictParameters,
    ) -> dict[str, Any]:
        digit = int(probabilities.argmax())
        answer = {
            "digit": digit,
            "label": self._labels[digit],
            "confidence": np.float32(probabilities[digit]),
            "probabilities": _single(probabilities),
            "predictive_entropy": np.float32(doubt),
            "decision": None,
            "model": self._identity,
        }
        if parameters.return_input:
            answer["input"] = np.ascontiguousarray(pixels)
        return answer


@overload
def _single(values: NDArray[np.float64]) -> NDArray[np.float32]: ...
@overload
def _single(values: None) -> None: ...
def _single(values: NDArray[np.float64] | None) -> NDArray[np.float32] | None:
    """As float32, whose shortest decimal form is half as long: the network knows no more digits."""
    return None if values is None else values.astype(np.float32)


def _decode_and_preprocess(data: bytes, max_pixels: int, parameters: PredictParameters) -> Pixels:
    return preprocess_image(decode_image(data, max_pixels=max_pixels), parameters.preprocess)
