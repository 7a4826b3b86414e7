"""Feedback tokens: who takes them, how long, and how often."""

import base64
from pathlib import Path

import pytest

from app.api.feedback_tokens import FeedbackTokens, UsedTokens
from app.errors import ApiError
from app.schemas import Decision, ModelIdentity, Prediction

SECRET = "a secret that all replicas share"


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def answer(digit: int = 7, outcome: str | None = "accept") -> Prediction:
    decision = None
    if outcome is not None:
        decision = Decision(outcome=outcome, reason=None, score=0.1, threshold=0.2)  # type: ignore[arg-type]
    return Prediction(
        digit=digit,
        label=str(digit),
        confidence=1.0,
        probabilities=[1.0],
        predictive_entropy=0.1,
        decision=decision,
        model=ModelIdentity(name="mnist", version="0"),
    )


def code_of(tokens: FeedbackTokens, token: str) -> str:
    with pytest.raises(ApiError) as raised:
        tokens.read(token)
    assert raised.value.param == "token"
    return raised.value.code


@pytest.mark.parametrize(
    ("outcome", "decision"), [("accept", "accept"), ("abstain", "abstain"), (None, "none")]
)
@pytest.mark.parametrize("digit", [0, 9, 999])
def test_any_server_with_the_secret_reads_a_token(
    digit: int, outcome: str | None, decision: str
) -> None:
    token = FeedbackTokens(SECRET).make(answer(digit, outcome))

    read = FeedbackTokens(SECRET).read(token)

    assert (read.model, read.class_index, read.decision) == ("mnist", digit, decision)


def test_tokens_of_the_same_answer_differ() -> None:
    tokens, others = FeedbackTokens(SECRET), FeedbackTokens(SECRET)
    made = [each.make(answer()) for each in (tokens, tokens, others)]
    assert len({tokens.read(token).nonce for token in made}) == 3


def test_a_forged_or_foreign_token_is_refused() -> None:
    tokens = FeedbackTokens(SECRET, Clock())
    token = tokens.make(answer())
    signed = bytearray(base64.urlsafe_b64decode(token))

    assert code_of(FeedbackTokens("another secret, as long"), token) == "invalid_token"
    for position in range(len(signed)):
        forged = signed.copy()
        forged[position] ^= 1
        assert code_of(tokens, base64.urlsafe_b64encode(forged).decode()) == "invalid_token"
    for broken in ("", "é", token[:-1], token[:-4], token + "AAAA", f" {token}", token + "\n"):
        assert code_of(tokens, broken) == "invalid_token"


def test_a_token_expires() -> None:
    clock = Clock()
    tokens = FeedbackTokens(SECRET, clock)
    token = tokens.make(answer())

    clock.now += 24 * 3600
    assert tokens.read(token).class_index == 7
    clock.now += 1
    assert code_of(tokens, token) == "expired_token"
    clock.now -= 2 * 24 * 3600  # made in the future
    assert code_of(tokens, token) == "expired_token"


def test_workers_share_what_was_used_until_it_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    tokens = FeedbackTokens(SECRET, clock)
    workers = [UsedTokens(tmp_path / "used") for _ in range(2)]
    used = tokens.read(tokens.make(answer()))
    try:
        workers[0].use(used, clock.now)
        for worker in workers:
            with pytest.raises(ApiError) as raised:
                worker.use(used, clock.now)
            assert raised.value.code == "used_token"
        monkeypatch.setattr("app.api.feedback_tokens._FORGETTING", 1)
        clock.now += 25 * 3600
        workers[1].use(tokens.read(tokens.make(answer())), clock.now)
        workers[1].use(used, clock.now)  # forgotten, since `read` refuses it by now
    finally:
        for worker in workers:
            worker.close()


def test_what_is_remembered_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.api.feedback_tokens._FORGETTING", 1)
    monkeypatch.setattr("app.api.feedback_tokens._MOST_USED", 3)
    tokens, used = FeedbackTokens(SECRET, Clock()), UsedTokens()
    try:
        for _ in range(3):
            used.use(tokens.read(tokens.make(answer())), Clock.now)
        with pytest.raises(ApiError) as raised:
            used.use(tokens.read(tokens.make(answer())), Clock.now)
    finally:
        used.close()
    assert raised.value.code == "overloaded"
