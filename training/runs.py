"""The files of a training run: its history, and the state that an interrupted run resumes from."""

import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from model.files import write_atomically
from training.errors import TrainingError

# A row of the history: what was measured after an epoch.
Row = Mapping[str, Any]


@dataclass(frozen=True)
class RunFiles:
    """The files of a run, all in one folder."""

    checkpoint: Path

    @property
    def history(self) -> Path:
        return self.checkpoint.with_name(f"{self.checkpoint.name}.history.jsonl")

    @property
    def state(self) -> Path:
        """What `--resume` continues from, while the run is unfinished."""
        return self.checkpoint.with_name(f"{self.checkpoint.name}.state")

    @property
    def is_finished(self) -> bool:
        """Whether there is a checkpoint and no unfinished run that would replace it."""
        return self.checkpoint.exists() and not self.state.exists()

    def begin(self, *, resume: bool) -> None:
        """Prepares the folder, and the history of a run that begins anew.

        Raises:
            TrainingError: there is an unfinished run, and it is not to be resumed.
        """
        if self.state.exists() and not resume:
            raise TrainingError(
                f"{self.checkpoint} has an unfinished run: add --resume to continue it, "
                f"or delete {self.state}"
            )
        require_writable(self.checkpoint)
        # What a killed run had half written was never seen under its name.
        for path in (self.checkpoint, self.state):
            for half_written in path.parent.glob(f".{path.name}.*"):
                half_written.unlink()
        if not self.state.exists():
            self.history.write_text("")

    def append(self, row: Row) -> None:
        with self.history.open("a") as history:
            history.write(json.dumps(row) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.history.read_text().splitlines()]

    def cut_history(self, epochs: int) -> None:
        """Removes the row of an epoch whose state was never saved."""
        rows = self.history.read_text().splitlines()[:epochs] if self.history.exists() else []
        self.history.write_text("".join(row + "\n" for row in rows))

    def save_state(
        self, recipe: Mapping[str, Any], parts: Mapping[str, Any], **values: Any
    ) -> None:
        """Writes the state after an epoch: the parts' `state_dict`, and other values."""
        states = {name: part.state_dict() for name, part in parts.items()}
        buffer = io.BytesIO()
        torch.save({"recipe": recipe, **values, **states}, buffer)
        write_atomically(self.state, buffer.getvalue())

    def load_state(self, recipe: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
        """Restores the parts; returns the saved values, and nothing where no state was saved.

        Raises:
            TrainingError: the state is that of a run with another recipe.
        """
        if not self.state.exists():
            return {}
        state: dict[str, Any] = torch.load(self.state, weights_only=True, map_location="cpu")
        self.require_recipe(recipe, state["recipe"])
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return state

    def require_recipe(self, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Raises `TrainingError` where the files come from a run with another recipe."""
        different = sorted(
            key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)
        )
        if different:
            raise TrainingError(
                f"the run at {self.checkpoint} has other settings ({', '.join(different)}): "
                "repeat them, or choose another --output"
            )


def require_writable(path: Path) -> None:
    """Creates the folder of a file that will be written, so that an error does not come at the end.

    Raises:
        OSError: the folder cannot be created.
        TrainingError: the file cannot be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise TrainingError(f"{path} cannot be written; choose another --output")


@contextmanager
def progress(epochs: int, finished: int) -> Iterator[Callable[[Row], None]]:
    """A progress bar over the epochs; yields what shows a row of the history above it."""
    with tqdm(total=epochs, initial=finished, unit="epoch", desc="training") as bar:

        def show(row: Row) -> None:
            bar.write(
                f"epoch {row['epoch']:3d}  training, dropout on: loss {row['train_loss']:.4f} "
                f"accuracy {row['train_accuracy']:.4f}  validation, dropout off: "
                f"loss {row['validation_loss']:.4f} accuracy {row['validation_accuracy']:.4f}",
                file=sys.stderr,
            )
            bar.update()

        yield show


def use_one_thread() -> None:
    """More threads would not help at this size, and their number would change the low bits."""
    torch.set_num_threads(1)


def find_device(name: str) -> torch.device:
    """What computes: "cpu", "cuda", ... or "auto", a GPU where there is one.

    Raises:
        TrainingError: there is no such device.
    """
    use_one_thread()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without it
        raise TrainingError(f"there is no device {name} here; try --device auto") from error
    return device
