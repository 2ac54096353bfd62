"""Who takes part in a networked study: what nodes told of themselves, and of nothing else."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedser.client.corpora import table, utterances
from fedser.client.corpora.ages import with_age_groups
from fedser.client.corpora.base import EMOTIONS, Utterance, check_speaker_names, speaker_attributes
from fedser.client.speakers.clients import name_units, training_sizes
from fedser.client.training.request import Hosting
from fedser.common.errors import UserError
from fedser.common.files import read_json, write_text

FILE = "roster.json"
"""Name of a roster in a run's folder."""


@dataclass(frozen=True)
class RemoteClients:
    """The clients of a federation whose data nodes hold: N of them, d features.

    Attributes
    ----------
    corpora, speakers : list of str, length N
        Whose each client is.
    counts : list of int, length N
        Training utterances.
    dimension : int
    hosts : mapping of int to Hosting
        What each node does for the federation, by Flower's name of it.
    evaluated : mapping of int to mapping
        How many utterances each node evaluates a model on: ``validation`` and ``test``.
    """

    corpora: list[str]
    speakers: list[str]
    counts: list[int]
    dimension: int
    hosts: Mapping[int, Hosting]
    evaluated: Mapping[int, Mapping[str, int]]

    def __len__(self) -> int:
        """Return N."""
        return len(self.speakers)

    def units(self, unit: str) -> list[str]:
        """Name whom each client's data protects, length N: ``client`` or ``speaker``."""
        return name_units(self.corpora, self.speakers, unit)

    def sizes(self) -> npt.NDArray[np.int64]:
        """Return each client's number of training utterances, shape (N,)."""
        return np.array(self.counts, dtype=np.int64)

    def fingerprint(self) -> bytes:
        """Return what tells these clients from others; which node holds them does not matter."""
        known = [self.corpora, self.speakers, self.counts, self.dimension]
        return hashlib.sha256(json.dumps(known).encode()).digest()


@dataclass(frozen=True)
class Roster:
    """A corpus that nodes hold.

    Attributes
    ----------
    name : str
        Of the corpus.
    shards : int
        Clients a speaker.
    features : str
        Key of the extractor.
    dimension : int
        Number of features.
    counts : mapping of str to int
        Utterances of each speaker.
    truth : mapping of str to mapping
        The experimenter's table of the speakers' attributes; empty where there is none.
    nodes : mapping of str to int
        Which node holds each speaker; empty once the nodes are gone.
    digests : tuple
        Of recordings none are known.
    """

    name: str
    shards: int
    features: str
    dimension: int
    counts: Mapping[str, int]
    truth: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    nodes: Mapping[str, int] = field(default_factory=dict)
    digests: tuple[str, ...] = ()

    @property
    def speakers(self) -> list[str]:
        """All speakers, sorted."""
        return sorted(self.counts)

    def attributes(self, speaker: str) -> dict[str, str]:
        """What the experimenter knows of a speaker."""
        return dict(self.truth.get(speaker, {}))

    def summary(self) -> dict[str, Any]:
        """What ``results.json`` says of it: emotions and file names stay with the nodes."""
        return {
            "name": self.name,
            "utterances": sum(self.counts.values()),
            "skipped": [],
            "left_out": {},
            "emotions": {},
        }

    def clients(
        self, trained: Sequence[str], tested: Sequence[str], normalisation: str
    ) -> RemoteClients:
        """Number the clients of these speakers as a simulation does; others test the model."""
        speakers = [s for s in sorted(trained) for _ in range(self.shards)]
        numbered = [(n, s, n % self.shards) for n, s in enumerate(speakers)]
        sizes = {s: training_sizes(self.counts[s], self.shards) for s in sorted(trained)}
        hosts, evaluated = {}, {}
        of_node = self._by_node([*trained, *tested])
        clients = defaultdict(list)
        for client in numbered:
            clients[client[1]].append(client)
        for node, held in of_node.items():
            own, tests = [s for s in held if s in sizes], [s for s in held if s not in sizes]
            numbers = tuple(client for s in own for client in clients[s])
            hosts[node] = Hosting(numbers, tuple(tests), normalisation)
            evaluated[node] = {
                "validation": sum(self.counts[s] - sum(sizes[s]) for s in own),
                "test": sum(self.counts[s] for s in tests),
            }
        return RemoteClients(
            corpora=[self.name] * len(speakers),
            speakers=speakers,
            counts=[size for of_speaker in sizes.values() for size in of_speaker],
            dimension=self.dimension,
            hosts=hosts,
            evaluated=evaluated,
        )

    def _by_node(self, speakers: Sequence[str]) -> dict[int, list[str]]:
        """Return which of these speakers each node holds, sorted; nothing once nodes are gone."""
        held: dict[int, list[str]] = {node: [] for node in sorted(set(self.nodes.values()))}
        for speaker in sorted(speakers) if held else []:
            held[self.nodes[speaker]].append(speaker)
        return held

    def save(self, folder: Path) -> None:
        """Write what does not change when nodes come and go."""
        kept = ("name", "shards", "features", "dimension", "counts", "truth")
        text = json.dumps({key: getattr(self, key) for key in kept}, indent=2)
        write_text(folder / FILE, text)


def read_roster(folder: Path) -> Roster:
    """Read the roster of a run whose nodes may be gone.

    Raises
    ------
    UserError
        If there is none.
    """
    try:
        return Roster(**read_json(folder / FILE))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{folder}: no roster of a networked run; run fedser stage=train"
        ) from error


def read_truth(file: Path, name: str, age_bounds: Sequence[int]) -> dict[str, dict[str, str]]:
    """Read the experimenter's table of speakers: what it says the same of all rows of each.

    Parameters
    ----------
    name : str
        Of the corpus.
    age_bounds : sequence of int
        Where ages are cut into groups.

    Raises
    ------
    UserError
        If it cannot be read.
    """
    found = table.read_rows(file)
    if "speaker" not in found.rows[0]:
        columns = ", ".join(found.rows[0])
        raise UserError(f"{file}: no column 'speaker' (there are {columns}): rename one")
    utterances.check_attributes(found)
    rows = [
        Utterance(
            file, row["speaker"], EMOTIONS[0], {"corpus": name, **utterances.row_attributes(row)}
        )
        for row in found.rows
    ]
    check_speaker_names(name, rows)
    return speaker_attributes(with_age_groups(rows, age_bounds))
