"""Answers on a stream: dots for one image, a table for several, lines of JSON, CSV."""

import csv
import json
import math
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, Self, TextIO

from app.cli.predict.verdict import is_flat, rival_of, word_verdict
from app.client.errors import DropserveError
from app.schemas import CSV, Decision, McPrediction, ModelIdentity, index_name

Result = McPrediction | DropserveError

_BOLD, _DIM, _BLUE, _ORANGE, _RESET = "\x1b[1m", "\x1b[2m", "\x1b[34m", "\x1b[33m", "\x1b[0m"


class Writer(Protocol):
    """Writes the result of each image, in order; an error only if the format has a place for it."""

    def write(self, name: str, result: Result) -> None: ...


@dataclass(frozen=True)
class JsonLines:
    """A line for each image: its file, then the fields of the API's answer, digit for digit."""

    stream: TextIO

    def write(self, name: str, result: Result) -> None:
        if isinstance(result, DropserveError):
            detail = {"code": result.code, "message": result.message, "param": result.param}
            line = json.dumps({"file": name, "error": detail}, ensure_ascii=False)
        else:
            line = f'{{"file":{json.dumps(name, ensure_ascii=False)},{result.raw[1:]}'
        self.stream.write(f"{line}\n")


_CSV_FIELDS = [each.name for each in fields(McPrediction) if CSV in each.metadata["places"]]
_CSV_COLUMNS_OF = {"decision": ("outcome", "reason")}  # other fields have one of their own name


class Csv:
    """A header, then a row for each image; cells without a value are empty."""

    def __init__(self, stream: TextIO) -> None:
        columns = [column for name in _CSV_FIELDS for column in _CSV_COLUMNS_OF.get(name, (name,))]
        self._rows = csv.DictWriter(
            stream, ["file", *columns, "error", "message"], restval="", lineterminator="\n"
        )
        self._rows.writeheader()

    def write(self, name: str, result: Result) -> None:
        row: dict[str, Any] = {"file": name}
        if isinstance(result, DropserveError):
            row |= {"error": result.code, "message": result.message}
        else:
            for field in _CSV_FIELDS:
                value = getattr(result, field)
                if isinstance(value, Decision):
                    row |= {part: getattr(value, part) for part in _CSV_COLUMNS_OF[field]}
                elif isinstance(value, ModelIdentity):
                    row[field] = f"{value.name} {value.version}"
                elif isinstance(value, tuple):
                    row[field] = " ".join(map(str, value))
                elif value is not None:
                    row[field] = value
        self._rows.writerow(row)


@dataclass(frozen=True)
class Terminal:
    """Capabilities of an output stream.

    Attributes:
        columns: characters in a line; None if lines may have any length.
        has_colour: whether it interprets escape sequences, and the user wants colours.
        has_unicode: whether its encoding has the characters of the dots.
    """

    columns: int | None
    has_colour: bool
    has_unicode: bool

    @classmethod
    def of(cls, stream: TextIO) -> Self:
        is_terminal = stream.isatty()
        wants_colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        encoding = stream.encoding or "utf-8"
        has_unicode = "?" not in "●○·…".encode(encoding, "replace").decode(encoding)
        columns = shutil.get_terminal_size().columns if is_terminal else None
        return cls(columns, is_terminal and wants_colour, has_unicode)

    def paint(self, text: str, colour: str) -> str:
        return f"{colour}{text}{_RESET}" if self.has_colour and text else text


@dataclass(frozen=True)
class Dots:
    """One image: a row of dots for each class, the entropies, and the verdict."""

    stream: TextIO
    terminal: Terminal
    labels: Sequence[str]

    def write(self, name: str, result: Result) -> None:
        if isinstance(result, DropserveError):
            return
        taken = max(map(len, self.labels)) + len(" |  ") + len(str(result.passes))
        room = max(10, (self.terminal.columns or 80) - taken)
        passes_per_dot = math.ceil(max(result.votes) / room)
        best = _kind(self.labels)
        legend = f"One dot is one pass, in the row of its best {best}."
        if passes_per_dot > 1:
            legend = f"One dot is up to {passes_per_dot} passes, in the row of their best {best}."
        lines = [
            *self._rows(result, passes_per_dot),
            "",
            f"{legend} Seed {result.seed}.",
            f"Predictive entropy {result.predictive_entropy:.3f} nats (0 is certain, "
            f"{math.log(len(self.labels)):.3f} is pure guessing): "
            f"{result.expected_entropy:.3f} in the image (expected entropy), "
            f"{result.mutual_information:.3f} between the passes (mutual information).",
        ]
        if result.prediction_set is not None:
            members = ", ".join(self.labels[index] for index in result.prediction_set)
            lines.append(f"Prediction set: {members}.")
        verdict = word_verdict(result, self.labels)
        lines += ["", self.terminal.paint(verdict.headline, _BOLD), verdict.reason]
        self.stream.write("\n".join(lines) + "\n")

    def _rows(self, answer: McPrediction, passes_per_dot: int) -> list[str]:
        leader_dot, rival_dot, other_dot = "●○·" if self.terminal.has_unicode else "#o."
        styles = {}
        if not is_flat(answer):
            styles = {rival_of(answer): (rival_dot, _ORANGE), answer.index: (leader_dot, _BLUE)}
        width = max(map(len, self.labels))
        rows = []
        for index, (label, votes) in enumerate(zip(self.labels, answer.votes, strict=True)):
            dot, colour = styles.get(index, (other_dot, _DIM))
            dots = self.terminal.paint(dot * math.ceil(votes / passes_per_dot), colour)
            rows.append(f"{label:>{width}} | {dots} {votes}" if votes else f"{label:>{width}} |")
        return rows


def _kind(labels: Sequence[str]) -> str:
    """What the labels are."""
    return "digit" if index_name(labels) == "digit" else "class"


# "1000 of 1000" with a rival, the entropy, the longest decision, and spaces between five columns.
_OTHER_WIDTH = 18 + len("entropy") + 24 + 4 * len("  ")


class Table:
    """Several images: a row for each."""

    def __init__(
        self, stream: TextIO, terminal: Terminal, labels: Sequence[str], names: Sequence[str]
    ) -> None:
        self._stream, self._terminal, self._labels = stream, terminal, labels
        longest = max(len("file"), *map(len, names))
        self._digit_width = max(len("digit"), 1 + max(map(len, labels), default=0))
        room = (terminal.columns or sys.maxsize) - self._digit_width - _OTHER_WIDTH
        self._name_width = min(longest, max(12, room))
        self._write_row("file", _kind(labels), "passes", "entropy", "decision")

    def write(self, name: str, result: Result) -> None:
        if isinstance(result, DropserveError):
            self._write_row(name, "-", "", "", f"failed: {result.code}")
            return
        rival = rival_of(result)
        passes = f"{result.votes[result.index]} of {result.passes}"
        if result.votes[rival]:
            passes += f", {self._labels[rival]}: {result.votes[rival]}"
        digit, decision = result.label, "answers" if result.decision else "-"
        if result.decision is not None and result.decision.abstains:
            digit += "?"
            decision = f"abstains: {(result.decision.reason or '').replace('_', ' ')}"
        self._write_row(name, digit, passes, f"{result.predictive_entropy:.3f}", decision)

    def _write_row(self, name: str, digit: str, passes: str, entropy: str, decision: str) -> None:
        width = self._name_width
        if len(name) > width:
            name = f"…{name[1 - width :]}" if self._terminal.has_unicode else name[-width:]
        cells = f"{name:<{width}}  {digit:<{self._digit_width}}  {passes:<18}  {entropy:>7}"
        self._stream.write(f"{cells}  {decision}\n")
