"""Users of three kinds for Locust: an application, a person who draws, and a nightly job.

Every answer is looked at: an error, or a digit that is not the one in the picture, is a failure.
"""

import base64
import random
from pathlib import Path
from typing import Any

from locust import FastHttpUser, between, constant, task

SAMPLES = Path(__file__).parents[2] / "tests" / "samples"
PICTURES = {digit: (SAMPLES / f"{digit}.png").read_bytes() for digit in range(10)}


class DropserveUser(FastHttpUser):
    """What all have in common: to ask, and to look at the answer."""

    abstract = True

    def ask(self, path: str, name: str | None = None, **request: Any) -> None:
        """Posts a random digit, or what is given, and checks the answer."""
        digit = random.randrange(10)
        if not request:
            request = {"data": PICTURES[digit], "headers": {"content-type": "image/png"}}
            expected = [digit]
        else:
            expected = request.pop("expected")
        with self.client.post(path, name=name or path, catch_response=True, **request) as response:
            if response.status_code != 200:
                response.failure(f"{response.status_code}: {(response.text or '')[:200]}")
                return
            answer = response.json()
            found = [one["digit"] for one in answer.get("predictions", [answer])]
            if found != expected:
                response.failure(f"{expected} are seen as {found}")


class Application(DropserveUser):
    """Asks as soon as it has the answer before: mostly without dropout, at times with."""

    weight = 6
    wait_time = constant(0)

    @task(6)
    def predict(self) -> None:
        """Dropout off."""
        self.ask("/predict")

    @task(3)
    def predict_mc(self) -> None:
        """Fifty passes."""
        self.ask("/predict/mc?passes=50")

    @task(1)
    def predict_until_sure(self) -> None:
        """As many passes as it takes, at most 200."""
        self.ask("/predict/mc?passes=200&max_standard_error=0.02")


class Person(DropserveUser):
    """Draws, looks at the answer, and draws again."""

    weight = 3
    wait_time = between(0.5, 2)

    @task
    def draw(self) -> None:
        """A hundred passes, as the playground asks."""
        self.ask("/predict/mc?passes=100")


class NightlyJob(DropserveUser):
    """Sends ten pictures at a time."""

    weight = 1
    wait_time = constant(1)

    @task
    def batch(self) -> None:
        """All ten digits."""
        images = [{"image": base64.b64encode(picture).decode()} for picture in PICTURES.values()]
        self.ask("/predict/mc/batch", json={"inputs": images}, expected=list(PICTURES))
