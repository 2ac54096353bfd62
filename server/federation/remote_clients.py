"""The clients and speakers of a networked study, as the nodes report them."""

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
from fedser.client.speakers.public_model import PublicModel
from fedser.client.training.request import Hosting
from fedser.common.errors import UserError
from fedser.common.files import read_json, write_text

FILE = "roster.json"
"""Name of a roster in a run's folder."""


@dataclass(frozen=True)
class RemoteClients:
    """N clients of a federation; nodes hold their data.

    Attributes
    ----------
    corpora, speakers : list of str, length N
        Corpus and speaker of each client.
    counts : list of int, length N
        Training utterances of each client.
    dimension : int
        Number of features.
    hosts : mapping of int to Hosting
        Tasks of each node in the federation, by Flower's node id.
    evaluated : mapping of int to mapping
        Utterances on which each node evaluates a model, for ``validation`` and ``test``.
    public : PublicModel or None
        The nodes project their features with it; they get it with each model.
    """

    corpora: list[str]
    speakers: list[str]
    counts: list[int]
    dimension: int
    hosts: Mapping[int, Hosting]
    evaluated: Mapping[int, Mapping[str, int]]
    public: PublicModel | None = None

    def __len__(self) -> int:
        """Return N."""
        return len(self.speakers)

    def units(self, unit: str) -> list[str]:
        """Return the protected unit of each client, length N: a ``client`` or a ``speaker``."""
        return name_units(self.corpora, self.speakers, unit)

    def sizes(self) -> npt.NDArray[np.int64]:
        """Return each client's number of training utterances, shape (N,)."""
        return np.array(self.counts, dtype=np.int64)

    def fingerprint(self) -> bytes:
        """Return a hash of these clients; it does not depend on which nodes hold them."""
        known = [self.corpora, self.speakers, self.counts, self.dimension]
        return hashlib.sha256(json.dumps(known).encode()).digest()


@dataclass(frozen=True)
class Roster:
    """The corpus that the nodes of a study hold together.

    Attributes
    ----------
    name : str
        Name of the corpus.
    shards : int
        Clients per speaker.
    features : str
        Key of the feature extractor.
    dimension : int
        Number of features.
    counts : mapping of str to int
        Utterances of each speaker.
    truth : mapping of str to mapping
        The experimenter's table of the speakers' attributes; empty if there is none.
    nodes : mapping of str to int
        Node of each speaker; empty once the nodes are gone.
    digests : tuple
        Hashes of the recordings: always empty, as nodes report none.
    public : PublicModel or None
        The nodes project their features with it.
    """

    name: str
    shards: int
    features: str
    dimension: int
    counts: Mapping[str, int]
    truth: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    nodes: Mapping[str, int] = field(default_factory=dict)
    digests: tuple[str, ...] = ()
    public: PublicModel | None = None

    @property
    def speakers(self) -> list[str]:
        """All speakers, sorted."""
        return sorted(self.counts)

    def attributes(self, speaker: str) -> dict[str, str]:
        """Return the attributes of a speaker in the experimenter's table."""
        return dict(self.truth.get(speaker, {}))

    def summary(self) -> dict[str, Any]:
        """Return its entry in ``results.json``; emotions and file names stay with the nodes."""
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
        """Return the clients of the `trained` speakers, numbered as in a simulation.

        The `tested` speakers test the model at their nodes.
        """
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
            dimension=self.public.directions.shape[1] if self.public else self.dimension,
            hosts=hosts,
            evaluated=evaluated,
            public=self.public,
        )

    def _by_node(self, speakers: Sequence[str]) -> dict[int, list[str]]:
        """Return the speakers of each node, sorted; empty once the nodes are gone."""
        held: dict[int, list[str]] = {node: [] for node in sorted(set(self.nodes.values()))}
        for speaker in sorted(speakers) if held else []:
            held[self.nodes[speaker]].append(speaker)
        return held

    def save(self, folder: Path) -> None:
        """Write all fields but `nodes`, which change when nodes come and go."""
        kept = ("name", "shards", "features", "dimension", "counts", "truth")
        text = json.dumps({key: getattr(self, key) for key in kept}, indent=2)
        write_text(folder / FILE, text)


def read_roster(folder: Path) -> Roster:
    """Read the roster of a run whose nodes may be gone.

    Raises
    ------
    UserError
        If there is no readable roster.
    """
    try:
        return Roster(**read_json(folder / FILE))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{folder}: no roster of a networked run; run fedser stage=train"
        ) from error


def read_truth(file: Path, name: str, age_bounds: Sequence[int]) -> dict[str, dict[str, str]]:
    """Read the experimenter's table: the attributes that are equal in all rows of a speaker.

    Parameters
    ----------
    name : str
        Name of the corpus.
    age_bounds : sequence of int
        Ages at which the age groups are cut.

    Raises
    ------
    UserError
        If the table cannot be read, or has no column ``speaker``.
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
