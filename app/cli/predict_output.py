"""Answers on a stream: dots for one image, a table for many, lines of JSON, CSV."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TextIO

from app.cli.predict_words import is_flat, rival_of, word_verdict
from app.client.errors import DropserveError
from app.client.results import McPrediction

Result = McPrediction | DropserveError

_BOLD, _DIM, _BLUE, _ORANGE, _RESET = "\x1b[1m", "\x1b[2m", "\x1b[34m", "\x1b[33m", "\x1b[0m"

_CSV_COLUMNS = (
    "file",
    "digit",
    "label",
    "confidence",
    "outcome",
    "reason",
    "predictive_entropy",
    "expected_entropy",
    "mutual_information",
    "votes",
    "passes",
    "stop_reason",
    "seed",
    "estimator",
    "prediction_set",
    "model",
    "error",
    "message",
)


class Writer(Protocol):
    """Writes what became of each image, in order."""

    def write(self, name: str, result: Result) -> None:
        """Writes one image's answer, or its error if the format has a place for it."""


@dataclass(frozen=True)
class Terminal:
    """What can be shown.

    Attributes:
        columns: characters in a line; None where lines may be as long as they like.
        has_colour: whether escape sequences are understood and wanted.
        has_unicode: whether the stream's encoding has the dots.
    """

    columns: int | None
    has_colour: bool
    has_unicode: bool

    def paint(self, text: str, colour: str) -> str:
        """The text in a colour, where there are colours."""
        return f"{colour}{text}{_RESET}" if self.has_colour and text else text


class JsonLines:
    """A line for each image: its file, then the fields of the API's answer, digit for digit."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, name: str, result: Result) -> None:
        """One line."""
        if isinstance(result, DropserveError):
            detail = {"code": result.code, "message": result.message, "param": result.param}
            line = json.dumps({"file": name, "error": detail}, ensure_ascii=False)
        else:
            line = f'{{"file":{json.dumps(name, ensure_ascii=False)},{result.raw[1:]}'
        self._stream.write(f"{line}\n")


class Csv:
    """A header, then a row for each image."""

    def __init__(self, stream: TextIO) -> None:
        self._rows = csv.DictWriter(stream, _CSV_COLUMNS, restval="", lineterminator="\n")
        self._rows.writeheader()

    def write(self, name: str, result: Result) -> None:
        """One row; where there is no value it is empty."""
        if isinstance(result, DropserveError):
            self._rows.writerow({"file": name, "error": result.code, "message": result.message})
            return
        row = {column: getattr(result, column, "") for column in _CSV_COLUMNS}
        decision = result.decision
        row |= {
            "file": name,
            "outcome": decision.outcome if decision else "",
            "reason": decision.reason if decision else "",
            "votes": _spaced(result.votes),
            "prediction_set": _spaced(result.prediction_set or ()),
            "model": f"{result.model.name} {result.model.version}",
        }
        self._rows.writerow(row)


class Dots:
    """One image: a row of dots for each class, what the doubt is made of, and the verdict."""

    def __init__(self, stream: TextIO, terminal: Terminal, labels: Sequence[str]) -> None:
        self._stream = stream
        self._terminal = terminal
        self._labels = labels

    def write(self, name: str, result: Result) -> None:
        """The picture; an error has none."""
        if isinstance(result, DropserveError):
            return
        paint = self._terminal.paint
        lines = self._rows(result)
        lines += ["", f"{self._legend(result)} Seed {result.seed}.", self._describe_doubt(result)]
        if result.prediction_set is not None:
            among = ", ".join(self._labels[index] for index in result.prediction_set)
            lines.append(f"Prediction set: {among}.")
        verdict = word_verdict(result, self._labels)
        lines += ["", paint(verdict.headline, _BOLD), verdict.reason]
        self._stream.write("\n".join(lines) + "\n")

    def _rows(self, answer: McPrediction) -> list[str]:
        leader, rival = (None, None) if is_flat(answer) else (answer.digit, rival_of(answer))
        leader_dot, rival_dot, other_dot = "●○·" if self._terminal.has_unicode else "#o."
        width = max(map(len, self._labels))
        passes_a_dot = self._passes_a_dot(answer)
        rows = []
        for index, (label, votes) in enumerate(zip(self._labels, answer.votes, strict=True)):
            dot, colour = other_dot, _DIM
            if index == leader:
                dot, colour = leader_dot, _BLUE
            elif index == rival:
                dot, colour = rival_dot, _ORANGE
            dots = self._terminal.paint(dot * math.ceil(votes / passes_a_dot), colour)
            rows.append(f"{label:>{width}} | {dots} {votes}" if votes else f"{label:>{width}} |")
        return rows

    def _passes_a_dot(self, answer: McPrediction) -> int:
        taken = max(map(len, self._labels)) + len(" |  ") + len(str(answer.passes))
        room = max(10, (self._terminal.columns or 80) - taken)
        return math.ceil(max(answer.votes) / room)

    def _legend(self, answer: McPrediction) -> str:
        passes = self._passes_a_dot(answer)
        if passes == 1:
            return "One dot is one pass, in the row of its best digit."
        return f"One dot is up to {passes} passes, in the row of their best digit."

    def _describe_doubt(self, answer: McPrediction) -> str:
        most = math.log(len(self._labels))
        return (
            f"Doubt {answer.predictive_entropy:.3f} (0 is none, {most:.3f} is pure guessing): "
            f"{answer.expected_entropy:.3f} in the image, "
            f"{answer.mutual_information:.3f} between the passes."
        )


# "1000 of 1000" with a rival, "doubt", and the longest decision.
_PASSES_WIDTH, _DOUBT_WIDTH, _DECISION_WIDTH = 18, 5, 24


class Table:
    """Many images: a row each."""

    def __init__(
        self, stream: TextIO, terminal: Terminal, labels: Sequence[str], names: Sequence[str]
    ) -> None:
        self._stream = stream
        self._terminal = terminal
        self._labels = labels
        longest = max(len("file"), *map(len, names))
        self._digit_width = max(len("digit"), 1 + max(map(len, labels), default=0))
        figures = self._digit_width + _PASSES_WIDTH + _DOUBT_WIDTH + _DECISION_WIDTH + 4 * len("  ")
        room = longest if terminal.columns is None else max(12, terminal.columns - figures)
        self._name_width = min(longest, room)
        self._line("file", "digit", "passes", "doubt", "decision")

    def write(self, name: str, result: Result) -> None:
        """One row."""
        if isinstance(result, DropserveError):
            self._line(name, "-", "", "", f"failed: {result.code}")
            return
        rival = rival_of(result)
        passes = f"{result.votes[result.digit]} of {result.passes}"
        if result.votes[rival]:
            passes += f", {self._labels[rival]}: {result.votes[rival]}"
        doubt = f"{result.predictive_entropy:.3f}"
        decision = result.decision
        if decision is None:
            self._line(name, result.label, passes, doubt, "-")
        elif decision.abstains:
            why = (decision.reason or "").replace("_", " ")
            self._line(name, f"{result.label}?", passes, doubt, f"abstains: {why}")
        else:
            self._line(name, result.label, passes, doubt, "answers")

    def _line(self, name: str, digit: str, passes: str, doubt: str, decision: str) -> None:
        width = self._name_width
        if len(name) > width:
            name = f"…{name[1 - width :]}" if self._terminal.has_unicode else name[-width:]
        self._stream.write(
            f"{name:<{width}}  {digit:<{self._digit_width}}  {passes:<{_PASSES_WIDTH}}  "
            f"{doubt:>{_DOUBT_WIDTH}}  {decision}\n"
        )


def _spaced(values: Sequence[object]) -> str:
    return " ".join(map(str, values))
