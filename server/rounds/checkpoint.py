"""Save the state of a federation, so that it can go on after an interruption.

A checkpoint is one safetensors file: the model, the best model so far, and in the header all else
as JSON. It is written to a temporary file, synced to the disk and renamed, so there is always a
complete checkpoint. A journal notes the clients of a round before any message is sent: a round
that is run again may have released updates the first time.
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedser.client.privacy.pruning import Support
from fedser.common.arrays import Arrays
from fedser.common.errors import UserError
from fedser.common.files import make_private, sync, write_synced
from fedser.server.federation.federation import Outcome, Round
from fedser.server.federation.scores import ModelScores

FORMAT = 3
STATE, JOURNAL = "state.safetensors", "journal.jsonl"


@dataclass(frozen=True)
class State:
    """A federation after some rounds.

    Attributes
    ----------
    arrays : Arrays
        The global model.
    clipping_norm : float
        The server's clipping norm for the next round.
    cohorts : list of list of int
        The participation ledger: per round the clients with an update that may have left the
        device.
    chunks : dict of str to int
        Number of files of the transcript, by kind.
    announced : int
        Lines of the journal that the ledger covers.
    support : Support or None
        As in `server.strategy.pruning.Pruning`.
    """

    arrays: Arrays
    clipping_norm: float
    cohorts: list[list[int]]
    chunks: dict[str, int]
    announced: int
    support: Support | None = None


class Checkpoint:
    """The checkpoint of one federation, in a folder that no other process uses.

    Parameters
    ----------
    folder : Path
        Folder for this checkpoint only.
    digest : str
        `Federation.digest`: a checkpoint with another digest is rejected.

    Attributes
    ----------
    announced : list of (int, list of int)
        The journal: each round that was begun, with its cohort.
    """

    def __init__(self, folder: Path, digest: str) -> None:
        self._folder, self._digest = folder, digest
        self._state, self._journal = folder / STATE, folder / JOURNAL
        self._rows: list[str] = []
        self._cohorts: list[str] = []
        self.announced: list[tuple[int, list[int]]] = []
        make_private(folder)

    def announce(self, server_round: int, cohort: Sequence[int], durably: bool) -> None:
        """Add the cohort of a round to the journal; if `durably`, sync it to the disk."""
        self.announced.append((server_round, list(cohort)))
        try:
            with self._journal.open("a") as file:
                file.write(json.dumps(self.announced[-1]) + "\n")
            if durably:
                sync(self._journal)
        except OSError as error:
            error.filename = self._journal  # an error of a write names no file
            raise

    def save(self, state: State, outcome: Outcome) -> None:
        """Write the state and the outcome so far in one step."""
        # Rows of earlier checkpoints are kept as text.
        self._rows += [json.dumps(vars(row)) for row in outcome.rounds[len(self._rows) :]]
        self._cohorts += [json.dumps(cohort) for cohort in state.cohorts[len(self._cohorts) :]]
        header = {
            "format": FORMAT,
            "digest": self._digest,
            "names": list(state.arrays),
            "clipping_norm": state.clipping_norm,
            "chunks": state.chunks,
            "announced": state.announced,
            "best_round": outcome.best_round,
            "best_scores": _plain(outcome.best_scores),
        }
        best = {}
        if outcome.best_arrays and outcome.best_arrays is not state.arrays:
            best = {f"best.{name}": array for name, array in outcome.best_arrays.items()}
        model = {f"model.{name}": array for name, array in state.arrays.items()}
        lists = {"rounds": self._rows, "cohorts": self._cohorts}
        texts = {name: f"[{','.join(rows)}]" for name, rows in lists.items()}
        # Other threads run while this writes.
        support = {f"support.{name}": mask for name, mask in (state.support or {}).items()}
        content = save({**model, **best, **support}, {"books": json.dumps(header), **texts})
        write_synced(self._state, content)

    def load(self, outcome: Outcome) -> State | None:
        """Read the journal, fill in `outcome` and return the state; None if nothing was saved.

        Raises
        ------
        UserError
            If a file is damaged, or from another version or federation.
        """
        if self._journal.exists():
            self._read_journal()
        if not self._state.exists() and not self.announced:
            return None
        try:
            with safe_open(self._state, framework="numpy") as file:
                texts = file.metadata()
                arrays = {name: file.get_tensor(name) for name in list(file.keys())}
            header = json.loads(texts["books"])
            if (header.get("format"), header.get("digest")) != (FORMAT, self._digest):
                raise UserError(
                    f"{self._state}: made with another configuration, corpus or version; resume "
                    "without changes, or start the run anew"
                )
            outcome.rounds = [Round(**row) for row in json.loads(texts["rounds"])]
            outcome.best_round = header["best_round"]
            # safetensors sorts arrays its own way, and noise is drawn in the order of the network.
            model = {name: arrays[f"model.{name}"] for name in header["names"]}
            if scores := header["best_scores"]:
                confusion = np.array(scores["confusion"])
                outcome.best_scores = ModelScores(**{**scores, "confusion": confusion})
                # If the best model is the last model, it is stored only once.
                outcome.best_arrays = {n: arrays.get(f"best.{n}", a) for n, a in model.items()}
            fields = ("clipping_norm", "chunks", "announced")
            saved = {name: header[name] for name in fields}
            masks = {n: arrays[f"support.{n}"] for n in model if f"support.{n}" in arrays}
            cohorts = json.loads(texts["cohorts"])
            state = State(model, cohorts=cohorts, support=masks or None, **saved)
        except (SafetensorError, OSError, AttributeError, LookupError, TypeError, ValueError) as e:
            raise UserError(f"{self._state}: damaged checkpoint; start the run anew") from e
        if state.announced > len(self.announced):
            raise UserError(f"{self._journal}: damaged journal; start the run anew")
        return state

    def _read_journal(self) -> None:
        text = self._journal.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):  # after an incomplete line no message was sent
            os.truncate(self._journal, whole)
        try:
            lines = [json.loads(line) for line in text[:whole].splitlines()]
            self.announced = [(int(number), list(cohort)) for number, cohort in lines]
        except (TypeError, ValueError) as error:
            raise UserError(f"{self._journal}: damaged journal; start the run anew") from error


def repeated_cohorts(folder: Path) -> list[list[int]]:
    """Return the cohorts of rounds that were begun again; empty if there is no journal."""
    seen: set[int] = set()
    again: list[list[int]] = []
    with suppress(FileNotFoundError):
        for line in (folder / JOURNAL).read_bytes().split(b"\n")[:-1]:
            server_round, cohort = json.loads(line)
            if server_round in seen:
                again.append(cohort)
            seen.add(server_round)
    return again


def saved_rounds(folder: Path, after: int) -> list[Round]:
    """Return the rounds of a checkpoint without the first `after`; empty if there is none.

    May be called while the federation runs.
    """
    try:
        with safe_open(folder / STATE, framework="numpy") as file:
            return [Round(**row) for row in json.loads(file.metadata()["rounds"])[after:]]
    except (SafetensorError, OSError, LookupError, TypeError, ValueError):
        return []


def _plain(scores: ModelScores | None) -> dict[str, Any] | None:
    return {**asdict(scores), "confusion": scores.confusion.tolist()} if scores else None
