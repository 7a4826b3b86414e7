"""What a request may ask for and what an answer holds: declared here and nowhere else.

The predictor makes the answers, the encoder writes them and the client returns them. Query, form
and JSON parameters, command-line options, tensors of the Open Inference Protocol, table columns and
the OpenAPI description follow from these declarations.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self, TypeVar, cast, dataclass_transform

from pydantic import BaseModel, ConfigDict, Field

from . import literals
from .errors import ApiError

Floats = Sequence[float]
Integers = Sequence[int]


@dataclass(frozen=True)
class MustBe:
    """What a parameter's value must be, in words for the error message."""

    words: str


class PredictParameters(BaseModel):
    """Parameters of every prediction, in the query, the JSON body or the form fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    preprocess: Annotated[literals.Preprocess, MustBe("auto or none")] = Field(
        default="auto",
        description="`auto` finds the ink in any picture and brings it to MNIST's convention; "
        "`none` takes a 28x28 image, white ink on black, as it is.",
    )
    return_input: Annotated[bool, MustBe("true or false")] = Field(
        default=False, description="Also return `input`: the 28x28 values that the network saw."
    )
    return_steps: Annotated[bool, MustBe("true or false")] = Field(
        default=False,
        description="Also return `steps`: small pictures of how the digit was found. Not for "
        "batches.",
    )
    coverage: Annotated[float | None, MustBe("a level of the checkpoint, such as 0.99")] = Field(
        default=None,
        description="Also return `prediction_set`: all classes that the answer may be, so that "
        "this share of digits have the true one in it. One of the checkpoint's levels: see "
        "`calibration.conformal` in `GET /model`.",
        examples=[0.99, 0.995, 0.999],
    )
    target_error: Annotated[float | None, MustBe("a level of the checkpoint")] = Field(
        default=None,
        description="Decide by the threshold that keeps the error among accepted digits to this "
        "share, as far as the validation images show: one of the levels of "
        "`calibration.target_errors` in `GET /model`.",
        examples=[0.002, 0.005, 0.01],
    )
    timeout_ms: Annotated[int | None, MustBe("a whole number from 1 to {max_timeout_ms}")] = Field(
        default=None,
        ge=1,
        description="Deadline in milliseconds; an answer that is not ready by then is a 504.",
    )


class McParameters(PredictParameters):
    """Parameters of a prediction with dropout on."""

    passes: Annotated[int, MustBe("a whole number from 1 to {max_passes}")] = Field(
        default=50, ge=1, description="How many stochastic passes."
    )
    seed: Annotated[int | None, MustBe("a whole number from 0 to 2^53 - 1")] = Field(
        default=None,
        ge=0,
        le=literals.MAX_SEED,
        description="Determines the dropout masks: the same image, parameters and seed give the "
        "same bytes. Without one the server draws it, and returns it.",
    )
    estimator: Annotated[literals.Estimator, MustBe("independent or balanced")] = Field(
        default="independent",
        description="`independent` masks give an unbiased variance; `balanced` ones drop each "
        "neuron equally often, which at least halves the squared error of the mean.",
    )
    dropout: Annotated[float | None, MustBe("a number from 0 to 0.9")] = Field(
        default=None,
        ge=0,
        le=0.9,
        description="For study: the dropout rate of all hidden layers, instead of the "
        "checkpoint's. It is rounded to a multiple of 1/256. `probabilities` are then the `mean`, "
        "and nothing is decided. Not with `coverage`.",
    )
    max_standard_error: Annotated[float | None, MustBe("a number above 0")] = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Stop as soon as the largest standard error of the mean is at most this, but "
        "not before 32 passes; `passes` is then the maximum. Independent masks only.",
    )
    until: Annotated[literals.Until | None, MustBe("decision")] = Field(
        default=None,
        description="`decision`: stop once further passes would hardly change the decision; "
        "`passes` is then the maximum. Of images like the validation set's it differs for a share "
        "of at most `calibration.until_decision.share`; for a single one nothing is promised. The "
        "statistics of such a stop are biased. Independent masks only.",
    )
    return_passes: Annotated[bool, MustBe("true or false")] = Field(
        default=False,
        description="Also return every pass: `pass_probabilities`, and the neurons that were "
        "`dropped` in it.",
    )


# Where an answer's field appears besides the JSON: the columns of `dropserve predict --csv`, the
# tensors of the Open Inference Protocol, and the table of `dropserve score`.
CSV, TENSORS, TABLE = "csv", "tensors", "table"
_EVERYWHERE = frozenset({CSV, TENSORS, TABLE})


def describe(
    description: str,
    *,
    axes: Sequence[str] = (),
    not_in: Sequence[str] = (),
    default: Any = dataclasses.MISSING,
) -> Any:
    """A field of an answer.

    Args:
        description: for OpenAPI.
        axes: what the dimensions of its value are: `C` is the number of classes.
        not_in: where it does not appear; see `CSV`.
        default: None for a field that is there only when it was asked for.
    """
    metadata = {
        "description": description,
        "axes": tuple(axes),
        "places": _EVERYWHERE.difference(not_in),
    }
    return dataclasses.field(default=default, metadata=metadata)


Answer = TypeVar("Answer")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(describe,))
def answer(cls: type[Answer]) -> type[Answer]:
    """A frozen dataclass without positional arguments."""
    return dataclass(frozen=True, kw_only=True)(cls)


class Sparse:
    """An object whose fields with the default None are there only when they were asked for.

    The encoder writes what the instance holds. One that lacks such a field reads None from its
    class, and the field is left out.
    """

    def __post_init__(self) -> None:
        for each in dataclasses.fields(cast(Any, self)):
            if each.default is None and self.__dict__[each.name] is None:
                del self.__dict__[each.name]

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Self:
        """Made of the fields at hand, in the order in which they are written.

        The constructor of a frozen dataclass sets its fields one by one, which would take 3.5
        microseconds more, of the 100 that a prediction takes.
        """
        made = object.__new__(cls)
        made.__dict__.update(fields)
        return made


@answer
class ModelIdentity(Sparse):
    """Which network answered."""

    name: str = describe("The model's name, by default the data set it was trained on.")
    version: str = describe("First 12 hexadecimal digits of the checkpoint's SHA-256.")
    reproducible: str | None = describe("If torch computes: where a seed repeats.", default=None)


@answer
class Decision(Sparse):
    """Whether to rely on an answer."""

    outcome: literals.Outcome = describe("`accept`, or `abstain`: let a person look.")
    reason: literals.Reason | None = describe(
        "Why to abstain: `ambiguous`, two classes share the image; `several_digits`; "
        "`unfamiliar`, it looks like no digit that the network has learnt. null: accept."
    )
    measure: literals.Measure = describe(
        "What decided: `predictive_entropy`, or `mutual_information` where the passes disagree.",
        default="predictive_entropy",
    )
    score: float = describe("Its value, nats.")
    threshold: float = describe("The largest score that is accepted, nats.")
    coverage: float | None = describe(
        "Only with `target_error`: the share of digits that its threshold accepts.", default=None
    )
    boxes: Sequence[tuple[int, int, int, int]] | None = describe(
        "Only with `several_digits`: left, top, right and bottom of each digit, the last two "
        "exclusive, in pixels of the picture as it is seen upright.",
        default=None,
    )

    @property
    def abstains(self) -> bool:
        """Whether a person should look."""
        return self.outcome == "abstain"


def index_name(labels: Sequence[str]) -> str:
    """The field of an answer that has the index of the largest probability."""
    return "digit" if list(labels) == list("0123456789") else "class_index"


@answer
class Prediction(Sparse):
    """A deterministic answer: dropout off."""

    digit: int | None = describe("Index of the largest probability, of digits.", default=None)
    class_index: int | None = describe(
        "The same, where the labels are no digits.", not_in=[CSV, TABLE], default=None
    )
    label: str = describe("The checkpoint's name for it.", not_in=[TENSORS])
    confidence: float = describe("The largest probability.", not_in=[TENSORS])
    probabilities: Floats = describe(
        "Calibrated probability per class; they sum to 1. With `dropout`, the `mean`.",
        axes="C",
        not_in=[CSV],
    )
    predictive_entropy: float = describe(
        "Predictive uncertainty, nats: 0 is none, ln 10 = 2.303 a pure guess."
    )
    decision: Decision | None = describe(
        "Accept or abstain; null while the checkpoint has no threshold, and with `dropout`."
    )
    model: ModelIdentity = describe("Which network answered.", not_in=[TENSORS, TABLE])
    no_decision: str | None = describe(
        "Only without a threshold: how to get one.", not_in=[CSV, TENSORS, TABLE], default=None
    )
    prediction_set: Sequence[int] | None = describe(
        "Only with `coverage`: indices of the classes that the answer may be, the likeliest first.",
        axes=["set"],
        not_in=[TENSORS, TABLE],
        default=None,
    )
    input: Sequence[Integers] | None = describe(
        "Only with `return_input`: what the network saw; of digits 28 rows of 28, 0 to 255.",
        axes=["row", "column"],
        not_in=[CSV, TENSORS, TABLE],
        default=None,
    )
    steps: Mapping[str, str] | None = describe(
        "Only with `return_steps`: PNGs in base64, by name, in the order of the steps; none for an "
        "image in MNIST's own form.",
        not_in=[CSV, TENSORS, TABLE],
        default=None,
    )

    @property
    def index(self) -> int:
        """Of the largest probability, whatever the labels are."""
        return cast(int, self.digit if self.class_index is None else self.class_index)

    @property
    def raw(self) -> str:
        """What the client received: the answer's JSON, byte for byte as the server wrote it."""
        text: str = self.__dict__.get("_raw", "")
        return text

    @property
    def feedback_token(self) -> str | None:
        """What the client received: the header `x-feedback-token`, if there was one."""
        token: str | None = self.__dict__.get("_feedback_token")
        return token

    @property
    def extra(self) -> Mapping[str, Any]:
        """What the client received: fields that this version does not know."""
        fields: Mapping[str, Any] = self.__dict__.get("_extra", {})
        return fields


@answer
class McPrediction(Prediction):
    """An MC-dropout answer: N passes with dropout on, or a partial result on the way to it."""

    mean: Floats = describe(
        "Mean of the passes' probabilities per class, uncalibrated.", axes="C", not_in=[CSV]
    )
    variance: Floats | None = describe(
        "Unbiased variance of the passes' probabilities per class; null for one pass.",
        axes="C",
        not_in=[CSV],
    )
    standard_error: Floats | None = describe(
        "Monte Carlo standard error of `mean`: sqrt(variance / passes); null for one pass.",
        axes="C",
        not_in=[CSV, TABLE],
    )
    expected_entropy: float = describe(
        "Mean entropy of the passes, nats: uncertainty that lies in the image."
    )
    mutual_information: float = describe(
        "Predictive minus expected entropy, nats: how far the passes disagree."
    )
    votes: Integers = describe("How many passes chose each class.", axes="C")
    passes: int = describe("How many passes were computed.", not_in=[TENSORS, TABLE])
    stop_reason: literals.StopReason | None = describe(
        "`passes`: all were computed; `standard_error`: the mean was known well enough; "
        "`decision`: it had settled, and the entropies are biased, downwards on average; "
        "null in a partial result of a stream.",
        not_in=[TENSORS, TABLE],
    )
    seed: int = describe("The seed of the masks; send it to get the same answer again.")
    estimator: literals.Estimator = describe(
        "How the masks of the passes were drawn.", not_in=[TENSORS, TABLE]
    )
    dropout: float | None = describe(
        "Only with `dropout`: the rate of the hidden layers, as it was rounded.",
        not_in=[TENSORS, TABLE],
        default=None,
    )
    pass_probabilities: Sequence[Floats] | None = describe(
        "Only with `return_passes`: the probabilities of each pass.",
        axes=["pass", "C"],
        not_in=[CSV, TENSORS, TABLE],
        default=None,
    )
    dropped: Sequence[str] | None = describe(
        "Only with `return_passes`: per pass, one bit per hidden unit, layer after layer, highest "
        "bit first, 1 is dropped; base64.",
        axes=["pass"],
        not_in=[CSV, TENSORS, TABLE],
        default=None,
    )

    @property
    def is_final(self) -> bool:
        """False for the partial results of a stream."""
        return self.stop_reason is not None


@answer
class ErrorSummary:
    """What went wrong with an image of a batch."""

    code: str = describe("For programs.")
    message: str = describe("For people: what to do.")
    param: str | None = describe("The parameter at fault, if one is.")


@answer
class ErrorDetail(Sparse, ErrorSummary):
    """What went wrong."""

    request_id: str | None = describe("The same as in the header x-request-id.")
    trace_id: str | None = describe(
        "Only with the header `traceparent`: the id of its trace.", default=None
    )
    steps: Mapping[str, str] | None = describe(
        "Only with `return_steps`, of a picture in which no digit was found: see the answer's.",
        default=None,
    )


@answer
class ErrorBody:
    """The body of every answer that is not a success."""

    error: ErrorDetail = describe("What went wrong.")


@answer
class FailedImage:
    """What is wrong with one image of a batch, in its place."""

    error: ErrorSummary = describe("What went wrong; it has no request id, as no success has one.")


def error_body(error: ApiError, request_id: str | None, trace_id: str | None = None) -> ErrorBody:
    """The one error shape; without a request id outside of any request."""
    fields: dict[str, Any] = {
        "code": error.code,
        "message": error.message,
        "param": error.param,
        "request_id": request_id,
    }
    if trace_id is not None:
        fields["trace_id"] = trace_id
    if error.steps is not None:
        fields["steps"] = error.steps
    return ErrorBody(error=ErrorDetail.of(fields))
