"""Saves what a federation needs to go on after an interruption, and reads it back.

A checkpoint is one safetensors file: the model, the best model so far, and in its header the
books as JSON. It is written beside its place and renamed, so that there is always a whole one.
Where noise comes from the operating system a round that is run again releases something new:
a journal of cohorts, written before any message goes out, then counts both.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from client.errors import UserError
from client.mechanism import Arrays
from server.evaluate import Scores
from server.federation import Outcome, Round

FORMAT = 1


@dataclass(frozen=True)
class State:
    """A federation after some rounds.

    Attributes
    ----------
    arrays : Arrays
        The global model.
    clipping_norm : float
        The server's clip of the next round.
    cohorts : list of list of int
        The participation ledger.
    chunks : dict of str to int
        Files that the transcript consists of, by kind.
    """

    arrays: Arrays
    clipping_norm: float
    cohorts: list[list[int]]
    chunks: dict[str, int]


class Checkpoint:
    """The checkpoint of one federation.

    Parameters
    ----------
    folder : Path
        A folder of its own.
    digest : str
        Of all that determines the federation: another one's checkpoint is refused.
    """

    def __init__(self, folder: Path, digest: str) -> None:
        self._state = folder / "state.safetensors"
        self._journal = folder / "journal.jsonl"
        self._digest = digest
        folder.mkdir(parents=True, exist_ok=True)
        if self._journal.exists():
            # A line that the interruption cut short was never followed by a message.
            text = self._journal.read_text()
            self._journal.write_text(text[: text.rfind("\n") + 1])

    def announce(self, cohort: Sequence[int]) -> None:
        """Note in the journal, lastingly, whom the next message asks."""
        with self._journal.open("a") as file:
            file.write(json.dumps(list(cohort)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def save(self, state: State, outcome: Outcome) -> None:
        """Write the state and the books in one step."""
        books = {
            "format": FORMAT,
            "digest": self._digest,
            "names": list(state.arrays),
            "clipping_norm": state.clipping_norm,
            "cohorts": state.cohorts,
            "chunks": state.chunks,
            "announced": len(self._announced()),
            "rounds": [asdict(row) for row in outcome.rounds],
            "best_round": outcome.best_round,
            "best_scores": _plain(outcome.best_scores),
        }
        best = {f"best.{name}": array for name, array in (outcome.best_arrays or {}).items()}
        model = {f"model.{name}": array for name, array in state.arrays.items()}
        part = self._state.with_suffix(".part")
        save_file({**model, **best}, part, metadata={"books": json.dumps(books)})
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, self._state)

    def load(self, outcome: Outcome) -> State | None:
        """Fill in `outcome` and return the state; None where nothing was saved yet.

        Raises
        ------
        UserError
            If the file is damaged, of another version or of another federation.
        """
        if not self._state.exists():
            return None
        try:
            with safe_open(self._state, framework="numpy") as file:
                books = json.loads(file.metadata()["books"])
                arrays = {name: file.get_tensor(name) for name in list(file.keys())}
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self._state}: damaged checkpoint; start the run anew") from error
        if (books.get("format"), books.get("digest")) != (FORMAT, self._digest):
            raise UserError(
                f"{self._state}: made with another configuration, corpus or version; resume "
                "without changes, or start the run anew"
            )
        outcome.rounds = [Round(**row) for row in books["rounds"]]
        outcome.best_round = books["best_round"]
        # safetensors has an order of its own, and noise is drawn in that of the network.
        model, best = (
            {n: arrays[kind + n] for n in books["names"] if kind + n in arrays}
            for kind in ("model.", "best.")
        )
        outcome.best_arrays = best or None
        if scores := books["best_scores"]:
            outcome.best_scores = Scores(**{**scores, "confusion": np.array(scores["confusion"])})
        again = self._announced()[books["announced"] :]  # left devices since, and will again
        return State(
            arrays=model,
            clipping_norm=books["clipping_norm"],
            cohorts=[*books["cohorts"], *again],
            chunks=books["chunks"],
        )

    def _announced(self) -> list[list[int]]:
        if not self._journal.exists():
            return []
        return [json.loads(line) for line in self._journal.read_text().splitlines()]


def _plain(scores: Scores | None) -> dict[str, Any] | None:
    return {**asdict(scores), "confusion": scores.confusion.tolist()} if scores else None
