"""The two models that V2 clients see of each network, and the documents that describe them."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from app.open_inference.tensors import Datatype as Datatype
from app.open_inference.tensors import ModelInputs
from app.schemas import (
    TENSORS,
    McParameters,
    McPrediction,
    Prediction,
    PredictParameters,
    index_name,
)
from app.settings import Settings
from model.checkpoint import AnyCheckpoint
from model.layered import spec_of

SERVER_NAME = "dropserve"
# What tritonclient and perf_analyzer ask for before they use it. Not "statistics": each of several
# workers would report its own counts, and a client would see them run backwards.
EXTENSIONS = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "parameters",
)

_PLATFORM = "dropserve"
MC_SUFFIX = "-mc"
_UNDECIDED = "none"  # tensors know no null
_NUMPY: Mapping[Datatype, str] = {"UINT8": "u1", "FP32": "<f4", "INT64": "<i8"}


@dataclass(frozen=True)
class Tensor:
    """An input or output as the metadata describes it.

    Attributes:
        item_shape: the shape of one image's values; a batch stands before it.
    """

    name: str
    datatype: Datatype
    item_shape: tuple[int, ...] = ()

    def values(self, answers: Sequence[Prediction]) -> NDArray[Any] | list[str]:
        """One answer after the other, little-endian and in memory's order, or strings."""
        if self.datatype == "BYTES":
            decisions = [getattr(answer, self.name) for answer in answers]
            return [_UNDECIDED if each is None else each.outcome for each in decisions]
        values = [getattr(answer, self.name) for answer in answers]
        # One answer's is mostly an array already, and a list of one array takes long to convert.
        return np.asarray(values[0] if len(values) == 1 else values, _NUMPY[self.datatype])

    def metadata(self, images: int = -1) -> dict[str, Any]:
        """As `GET /v2/models/NAME` and a response show it; -1 is a batch of any size."""
        return {"name": self.name, "datatype": self.datatype, "shape": [images, *self.item_shape]}

    def config(self) -> dict[str, Any]:
        """As `GET /v2/models/NAME/config` shows it: without the batch, and never without a size."""
        data_type = "TYPE_STRING" if self.datatype == "BYTES" else f"TYPE_{self.datatype}"
        return {"name": self.name, "data_type": data_type, "dims": list(self.item_shape) or [1]}


# Compared by identity: it is part of what parsed headers are remembered under.
@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model of V2: deterministic, or with dropout on.

    Two models and no parameter, because perf_analyzer cannot send parameters over HTTP.
    """

    name: str
    version: str
    versions: tuple[str, ...]
    parameters_type: type[PredictParameters]
    inputs: ModelInputs
    outputs: Mapping[str, Tensor]
    settings: Settings

    def metadata(self) -> dict[str, Any]:
        """`GET /v2/models/NAME`."""
        return {
            "name": self.name,
            "versions": self.versions,
            "platform": _PLATFORM,
            "inputs": [self._input.metadata()],
            "outputs": [output.metadata() for output in self.outputs.values()],
        }

    def config(self) -> dict[str, Any]:
        """`GET /v2/models/NAME/config`, in the names of Triton's model configuration."""
        return {
            "name": self.name,
            "platform": _PLATFORM,
            "backend": _PLATFORM,
            "version_policy": {"latest": {"num_versions": 1}},
            "max_batch_size": self.settings.max_batch_images,
            "input": [self._input.config()],
            "output": [output.config() for output in self.outputs.values()],
            "model_transaction_policy": {"decoupled": False},
        }

    def index(self) -> dict[str, str]:
        """Its entry in `POST /v2/repository/index`."""
        return {"name": self.name, "version": self.version, "state": "READY", "reason": ""}

    @property
    def _input(self) -> Tensor:
        first = self.inputs.first
        return Tensor(first.name, first.datatypes[0], first.item_shapes[0])


def missing_model(name: str, reason: str) -> list[dict[str, str]]:
    """The entries of a network that is not served."""
    return [
        {"name": each, "version": "", "state": "UNAVAILABLE", "reason": reason}
        for each in (name, name + MC_SUFFIX)
    ]


def served_models(
    checkpoint: AnyCheckpoint,
    settings: Settings,
    name: str | None = None,
    version: str = "1",
    versions: Collection[str] = ("1",),
) -> dict[str, ServedModel]:
    """The deterministic model, named as the network, and the one with dropout, by name.

    Args:
        checkpoint: the network.
        settings: the limits.
        name: of the network; the checkpoint's own, if None.
        version: of this network.
        versions: all that are served under the name.
    """
    name = checkpoint.name if name is None else name
    labels = checkpoint.network.config.labels
    thresholds = checkpoint.calibration["thresholds"]
    inputs = ModelInputs(spec_of(checkpoint.network))
    models = [
        ServedModel(
            each,
            version,
            tuple(sorted(versions, key=int)),
            parameters,
            inputs,
            _outputs(answer, labels, thresholds[mode] is not None),
            settings,
        )
        for each, parameters, answer, mode in (
            (name, PredictParameters, Prediction, "predict"),
            (name + MC_SUFFIX, McParameters, McPrediction, "mc"),
        )
    ]
    return {model.name: model for model in models}


def _outputs(
    answer: type[Prediction], labels: Sequence[str], has_decision: bool
) -> dict[str, Tensor]:
    """The tensors of an answer's fields, by name; strings come last.

    Tensors know no null, so there is no decision before there is a threshold.
    """
    classes, missing = len(labels), {"digit", "class_index"} - {index_name(labels)}
    if not has_decision:
        missing.add("decision")
    types = get_type_hints(answer)
    tensors = [
        Tensor(field.name, _datatype(types[field.name]), (classes,) * len(field.metadata["axes"]))
        for field in dataclasses.fields(answer)
        if TENSORS in field.metadata["places"] and field.name not in missing
    ]
    tensors.sort(key=lambda tensor: tensor.datatype == "BYTES")
    return {tensor.name: tensor for tensor in tensors}


def _datatype(kind: Any) -> Datatype:
    """Of a field's type: `int` and `Sequence[int] | None` are INT64."""
    inner = [each for each in get_args(kind) if each is not type(None)]
    if inner:
        return _datatype(inner[0])
    datatypes: dict[Any, Datatype] = {int: "INT64", float: "FP32"}
    return datatypes.get(kind, "BYTES")
