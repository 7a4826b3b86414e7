"""The steps from a file to the table, as functions over record batches, for one machine or many.

`read` -> `prepare` -> `predict` -> `parts.write`: a batch is a block of the input, with a row for
each of its images, in order. Where an image has no answer, `code` and `message` say why.
"""

import gc
from itertools import chain, starmap
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from app.errors import ApiError, ErrorCode
from app.inference.jobs import draw_seed
from app.inference.plain_inputs import input_from_json, json_shape, takes_digits
from app.inference.reading import read_picture
from app.inference.served_checkpoint import load_served_checkpoint
from app.scoring.answers import answer_columns, table_schema
from app.scoring.question import Question
from app.scoring.readers import Reader
from app.scoring.sources import Block
from model.arrays import Floats, Pixels
from model.digits.fitting import follows_convention
from model.engines import build_engine
from model.engines.protocol import Engine
from model.layered import InputSpec, spec_of
from model.literals import SIDE
from model.sampling.masks import Passes
from model.uncertainty.calibration import Calibration, read_calibration
from model.uncertainty.statistics import summarise_images

_ROW = [("row", pa.int64()), ("source", pa.string())]
_IMAGE = [("form", pa.string()), ("image", pa.binary())]
_ERROR = [("code", pa.string()), ("message", pa.string())]
_MNIST_FORMS = (f"|u1 {SIDE} {SIDE}", f"|u1 {SIDE * SIDE}")


class Network(NamedTuple):
    """What predicts, and what is asked of it; any thread may use it."""

    question: Question
    engine: Engine
    calibration: Calibration
    labels: tuple[str, ...]
    spec: InputSpec  # what it takes


def load_network(question: Question) -> Network:
    """Loads the network that the settings name.

    Raises:
        ModelError: it cannot be used.
    """
    settings = question.settings
    checkpoint = load_served_checkpoint(settings)
    engine = build_engine(checkpoint.network, settings.device, settings.precision)
    calibration = read_calibration(checkpoint.calibration, "mc", question.parameters.passes)
    labels = tuple(checkpoint.network.config.labels)
    gc.freeze()  # no collection goes through all that is imported: one would take 0.1 s
    return Network(question, engine, calibration, labels, spec_of(checkpoint.network))


def read(block: Block, files: Reader) -> pa.RecordBatch:
    """The images of a block; `form` and `image` as `Reader.read` has them."""
    rows = np.arange(block.first_row, block.first_row + block.rows)
    columns = zip(*map(files.read, block.pieces), strict=True)
    cells = (list(chain.from_iterable(column)) for column in columns)
    return pa.record_batch([rows, *cells], pa.schema([*_ROW, *_IMAGE, *_ERROR]))


def prepare(batch: pa.RecordBatch, network: Network) -> pa.RecordBatch:
    """What the network sees, as the server has it from the same bytes or pixels."""
    question, spec = network.question, network.spec
    mode, most = question.parameters.preprocess, question.settings.max_pixels
    pixels = np.zeros((batch.num_rows, *json_shape(spec)), spec.dtype)
    several = [False] * batch.num_rows
    forms, images, codes, messages = (column.to_pylist() for column in batch.columns[2:])
    left = batch["code"].is_null().to_numpy(zero_copy_only=False)
    if takes_digits(spec):  # all in MNIST's convention first
        small = np.flatnonzero([form in _MNIST_FORMS for form in forms])
        found = b"".join(images[row] for row in small)
        digits = np.frombuffer(found, np.uint8).reshape(-1, SIDE, SIDE)
        is_plain = digits.max(axis=(1, 2)) > 1
        if mode == "auto":
            is_plain &= np.fromiter(map(follows_convention, digits), np.bool_, len(digits))
        pixels[small[is_plain]], left[small[is_plain]] = digits[is_plain], False
    for row in np.flatnonzero(left):
        try:
            image = images[row]
            if forms[row]:
                kind, *size = forms[row].split()
                array = np.frombuffer(image, kind).reshape(*map(int, size))
                image = check_array(array, most, spec)
            pixels[row], boxes = read_picture(image, mode, spec, max_pixels=most)
            several[row] = bool(boxes)
        except ApiError as refused:
            codes[row], messages[row] = refused.code, refused.message
    seen = pa.FixedShapeTensorArray.from_numpy_ndarray(pixels)
    columns = [batch["row"], batch["source"], seen, several, codes, messages]
    fields = [*_ROW, ("pixels", seen.type), ("several_digits", pa.bool_()), *_ERROR]
    return pa.record_batch(columns, pa.schema(fields))


def check_array(array: NDArray[Any], most: int, spec: InputSpec) -> Pixels | Floats:
    """One image's numbers, if they are what a request may have.

    Raises:
        ApiError: they are not.
    """
    if not takes_digits(spec):
        return input_from_json(array.tolist(), spec)
    if array.shape == (SIDE * SIDE,):
        array = array.reshape(SIDE, SIDE)
    is_picture = array.ndim == 2 and array.dtype.kind in "iu"
    if not is_picture or array.min() < 0 or not 1 < array.max() <= 255:
        raise ErrorCode.INVALID_PIXELS(
            "pixels are HxW or 784 integers from 0 to 255, where 255 is ink, and not "
            f"{array.shape} of {array.dtype} from {array.min()} to {array.max()}"
        )
    if array.size > most:
        raise ErrorCode.TOO_MANY_PIXELS()
    return array.astype(np.uint8)


def predict(batch: pa.RecordBatch, network: Network) -> pa.RecordBatch:
    """The columns of the table, null where there is no answer, with `code` and `message`."""
    answered = batch.filter(batch["code"].is_null())
    asked, columns = network.question.parameters, {}
    if answered.num_rows:
        seeds = [draw_seed() if asked.seed is None else asked.seed for _ in range(len(answered))]
        pixels, passes = answered["pixels"], Passes(asked.passes, 0, asked.estimator)
        probs = network.engine.sample_images(pixels.to_numpy_ndarray(), seeds, passes)
        several = answered["several_digits"].to_numpy(zero_copy_only=False)
        summaries = summarise_images(probs)
        columns = answer_columns(summaries, several, network.calibration, network.labels)
        columns["seed"] = pa.array(seeds, pa.int64())
    places = pc.index_in(batch["row"], answered["row"])
    # Where there is no answer, also those columns are null that are not in the table.
    schema = pa.schema([*table_schema(network.labels), *starmap(pa.field, _ERROR)])
    arrays = [
        batch[field.name]
        if field.name in batch.schema.names
        else columns.get(field.name, pa.nulls(0, field.type)).take(places)
        for field in schema
    ]
    return pa.record_batch(arrays, schema=schema)


def answer(batch: pa.RecordBatch, network: Network) -> pa.RecordBatch:
    """Prepares and predicts."""
    return predict(prepare(batch, network), network)
