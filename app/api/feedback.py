"""`POST /feedback`: which class an image really shows, of an answer that was given before."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from app.api.answers import JsonResponse
from app.api.feedback_tokens import HEADER, FeedbackTokens, UsedTokens
from app.api.receiving import headers_of, parse_body, read_body
from app.errors import ErrorCode
from app.schemas import ErrorBody, Prediction, answer, describe
from app.settings import Settings
from app.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from app.inference.repository import ModelRepository

router = APIRouter(tags=["predictions"])

_MOST_BYTES = 4096
_FAILURES = (400, 404, 409, 410, 413, 422, 429)


class Feedback(BaseModel):
    """Which class the image of an answer really shows."""

    token: str = Field(description="The answer's header `x-feedback-token`.")
    label: int | str = Field(description="The true class: its index, or its name.", examples=[7])


@answer
class FeedbackResult:
    """Feedback that is counted."""

    correct: bool = describe("Whether the answer had this class.")


class FeedbackCounter:
    """Gives answers their tokens, and counts what comes back.

    Args:
        secret: signs the tokens.
        metrics: count the feedback.
        path: see `UsedTokens`.
    """

    def __init__(self, secret: str, metrics: Metrics, path: Path | None = None) -> None:
        self._tokens = FeedbackTokens(secret)
        self._metrics = metrics
        self._used = UsedTokens(path)

    @classmethod
    def of(
        cls, settings: Settings, metrics: Metrics | None, path: Path | None
    ) -> "FeedbackCounter | None":
        """What the settings ask for; None: answers carry no tokens."""
        if settings.feedback_secret is None or metrics is None:
            return None
        return cls(settings.feedback_secret.get_secret_value(), metrics, path)

    def headers(self, answer: Prediction) -> dict[str, str]:
        """The header of an answer."""
        return {HEADER: self._tokens.make(answer)}

    def count(self, token: str, label: int | str, models: "ModelRepository") -> FeedbackResult:
        """Counts the true label of an answer.

        Args:
            token: of the answer.
            label: a class index, or the class's name.
            models: know the classes of the one that answered.

        Raises:
            ApiError: invalid_parameter, there is no such class; not_found, its model is not served
                any more; see also `FeedbackTokens.read` and `UsedTokens.use`.
        """
        answered = self._tokens.read(token)
        labels = models.find(answered.model).checkpoint.network.config.labels
        index = _class_index(label, labels)
        self._used.use(answered, time.time())
        is_correct = answered.class_index == index
        self._metrics.models.count_feedback(
            answered.model, answered.decision, index, is_correct=is_correct
        )
        return FeedbackResult(correct=is_correct)

    def close(self) -> None:
        self._used.close()


def _class_index(label: Any, labels: tuple[str, ...]) -> int:
    if isinstance(label, str) and label in labels:
        return labels.index(label)
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(labels):
        return label
    raise ErrorCode.INVALID_PARAMETER(
        f"label must be a class index, a whole number from 0 to {len(labels) - 1}, or the class's "
        "name",
        param="label",
    )


@router.post(
    "/feedback",
    summary="Which class did an image really show?",
    response_model=FeedbackResult,
    responses={status: {"model": ErrorBody} for status in _FAILURES},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": Feedback.model_json_schema()}},
        }
    },
)
async def feedback(request: Request) -> JsonResponse:
    """Counts it in the metrics, by the model, the decision and the true class.

    `token` is the answer's header `x-feedback-token`. It can be used once, within 24 hours.
    """
    counter: FeedbackCounter | None = request.app.state.feedback
    if counter is None:
        raise ErrorCode.NOT_FOUND("feedback is off; DROPSERVE_FEEDBACK_SECRET turns it on")
    headers = headers_of(request)
    body = await read_body(request, headers, _MOST_BYTES)
    token, label = await parse_body(request, headers, body, _read)
    return JsonResponse(counter.count(token, label, request.app.state.models))


def _read(body: bytes) -> tuple[str, Any]:
    example = 'send {"token": "...", "label": 7}'
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ErrorCode.INVALID_JSON(f"the body is not valid JSON; {example}") from error
    if not isinstance(document, dict):
        raise ErrorCode.INVALID_JSON(f"the body is no JSON object; {example}")
    if unknown := document.keys() - Feedback.model_fields.keys():
        raise ErrorCode.UNKNOWN_PARAMETER(
            f"{len(unknown)} of the fields are unknown; {example}", param="token"
        )
    if not isinstance(document.get("token"), str):
        raise ErrorCode.INVALID_PARAMETER(f"token must be text; {example}", param="token")
    return document["token"], document.get("label")
