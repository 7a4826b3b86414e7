"""What a request may ask for and what an answer holds: validation and the OpenAPI description."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from model.literals import MAX_SEED, Estimator, Outcome, Preprocess, Reason, StopReason


@dataclass(frozen=True)
class MustBe:
    """What a parameter's value must be, in words for the error message."""

    words: str


class PredictParameters(BaseModel):
    """Parameters of every prediction, in the query, the JSON body or the form fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    preprocess: Annotated[Preprocess, MustBe("auto or none")] = Field(
        default="auto",
        description="`auto` finds the ink in any picture and brings it to MNIST's convention; "
        "`none` takes a 28x28 image, white ink on black, as it is.",
    )
    return_input: Annotated[bool, MustBe("true or false")] = Field(
        default=False, description="Also return `input`: the 28x28 values that the network saw."
    )
    coverage: Annotated[float | None, MustBe("a level of the checkpoint, such as 0.99")] = Field(
        default=None,
        description="Also return `prediction_set`: all classes that the answer may be, so that "
        "this share of digits have the true one in it. One of the checkpoint's levels: see "
        "`calibration.conformal` in `GET /model`.",
        examples=[0.99, 0.995, 0.999],
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
        le=MAX_SEED,
        description="Determines the dropout masks: the same image, parameters and seed give the "
        "same bytes. Without one the server draws it, and returns it.",
    )
    estimator: Annotated[Estimator, MustBe("independent or balanced")] = Field(
        default="independent",
        description="`independent` masks give an unbiased variance; `balanced` ones drop each "
        "neuron equally often, which at least halves the squared error of the mean.",
    )
    max_standard_error: Annotated[float | None, MustBe("a number above 0")] = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Stop as soon as the largest standard error of the mean is at most this, but "
        "not before 32 passes; `passes` is then the maximum. Independent masks only.",
    )
    return_passes: Annotated[bool, MustBe("true or false")] = Field(
        default=False,
        description="Also return every pass: `pass_probabilities`, and the neurons that were "
        "`dropped` in it.",
    )


class ModelIdentity(BaseModel):
    """Which network answered."""

    name: str = Field(description="The data set the network was trained on.")
    version: str = Field(description="First 12 hexadecimal digits of the checkpoint's SHA-256.")


class Decision(BaseModel):
    """Whether to rely on an answer."""

    outcome: Outcome = Field(description="`accept`, or `abstain`: let a person look.")
    reason: Reason | None = Field(
        description="Why to abstain: `ambiguous`, two classes share the image; `several_digits`; "
        "`unfamiliar`, it looks like no digit that the network has learnt. null: accept."
    )
    score: float = Field(description="The predictive entropy, nats.")
    threshold: float = Field(description="The largest score that is accepted, nats.")
    boxes: list[tuple[int, int, int, int]] | None = Field(
        default=None,
        description="Only with `several_digits`: left, top, right and bottom of each digit, the "
        "last two exclusive, in pixels of the picture as it is seen upright.",
    )


class Prediction(BaseModel):
    """A deterministic answer: dropout off."""

    digit: int = Field(description="Index of the largest probability.")
    label: str = Field(description="The checkpoint's name for it.")
    confidence: float = Field(description="The largest probability.")
    probabilities: list[float] = Field(
        description="Calibrated probability per class; they sum to 1."
    )
    predictive_entropy: float = Field(
        description="Total doubt, nats: 0 is none, ln 10 = 2.303 a pure guess."
    )
    decision: Decision | None = Field(
        description="Accept or abstain; null while the checkpoint has no threshold."
    )
    model: ModelIdentity
    prediction_set: list[int] | None = Field(
        default=None,
        description="Only with `coverage`: indices of the classes that the answer may be, the "
        "likeliest first.",
    )
    input: list[list[int]] | None = Field(
        default=None,
        description="Only with `return_input`: 28 rows of 28 values, 0 to 255, ink is 255.",
    )


class McPrediction(Prediction):
    """An MC-dropout answer: N passes with dropout on."""

    mean: list[float] = Field(
        description="Mean of the passes' probabilities per class, uncalibrated."
    )
    variance: list[float] | None = Field(
        description="Unbiased variance of the passes' probabilities per class; null for one pass."
    )
    standard_error: list[float] | None = Field(
        description="Monte Carlo standard error of `mean`: sqrt(variance / passes); null for one."
    )
    expected_entropy: float = Field(
        description="Mean entropy of the passes, nats: doubt in the image."
    )
    mutual_information: float = Field(
        description="Predictive minus expected entropy, nats: how far the passes disagree."
    )
    votes: list[int] = Field(description="How many passes chose each class.")
    passes: int = Field(description="How many passes were computed.")
    stop_reason: StopReason = Field(
        description="`passes`: all were computed; `standard_error`: the mean was known well enough."
    )
    seed: int = Field(description="The seed of the masks; send it to get the same answer again.")
    estimator: Estimator = Field(description="How the masks of the passes were drawn.")
    pass_probabilities: list[list[float]] | None = Field(
        default=None, description="Only with `return_passes`: the probabilities of each pass."
    )
    dropped: list[str] | None = Field(
        default=None,
        description="Only with `return_passes`: per pass, one bit per hidden neuron, layer after "
        "layer, highest bit first, 1 is dropped; base64.",
    )


class FailedImage(BaseModel):
    """What is wrong with one image of a batch, in its place."""

    error: dict[str, str | None] = Field(description="`code`, `message` and `param`.")


class PredictionBatch(BaseModel):
    """Deterministic answers in the order of the images."""

    predictions: list[Prediction | FailedImage]


class McPredictionBatch(BaseModel):
    """MC-dropout answers in the order of the images."""

    predictions: list[McPrediction | FailedImage]


class ErrorDetail(BaseModel):
    """What went wrong."""

    code: str = Field(description="For programs.")
    message: str = Field(description="For people: what to do.")
    param: str | None = Field(description="The parameter at fault, if one is.")
    request_id: str = Field(description="The same as in the header x-request-id.")


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail


class Health(BaseModel):
    """State of the server."""

    status: str
