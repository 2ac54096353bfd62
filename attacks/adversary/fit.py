"""Fitting attacks to the adversary's shadow federations."""

import copy
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from joblib import delayed

from fedser.attacks.adversary.tap import tap
from fedser.attacks.algorithms.base import Attack, ShadowUpdates, Stream
from fedser.common.arrays import Floats, Ints
from fedser.common.errors import UserError
from fedser.common.processes import side_by_side
from fedser.common.seeds import numpy_stream
from fedser.common.threads import cores
from fedser.server.transcript.transcript import Transcript

GROUPS = 3


@dataclass(frozen=True)
class View:
    """What of a transcript the adversary looks at: the arguments of `tap`."""

    vantage: str
    parameters: Sequence[str]
    initial_weights: bool


@dataclass(frozen=True)
class ShadowFederation:
    """A shadow federation: its transcript, and of each of N clients class and speaker (N,)."""

    folder: Path
    labels: Ints
    speakers: Ints


@dataclass(frozen=True)
class FittedAttack:
    """An attack that has learned from all shadow speakers.

    Attributes
    ----------
    attack : Attack
    without : dict of int to Attack
        The same, each without the speakers of one group: what it scores of these is what it
        would of victims. Empty where nobody asks.
    """

    attack: Attack
    without: dict[int, Attack]

    def score_held_out(self, gradients: Mapping[str, Floats], groups: Ints) -> Floats:
        """Score k updates of the adversary's own speakers, of these groups (k,)."""
        scores: dict[int, Floats] = {}
        for group in np.unique(groups).tolist():
            rows = np.flatnonzero(groups == group)
            attack = self.without[group]
            found = attack.score(attack.features({n: a[rows] for n, a in gradients.items()}))
            scores |= dict(zip(rows.tolist(), found, strict=True))
        return np.stack([scores[row] for row in range(len(groups))])


def speaker_groups(labels: Ints, corpora: Ints) -> Ints:
    """Group the adversary's S speakers to hold out together; returns the group of each, (S,).

    Groups are corpora where without each there are still all classes: victims are strangers in
    their recordings and language, too, and what an attack makes of strangers decides how far
    to trust it. Else the speakers of each class are dealt out alike.

    Parameters
    ----------
    labels, corpora : ndarray of int64, shape (S,)
        Class and corpus of each speaker.

    Raises
    ------
    UserError
        If a class has a single speaker.
    """
    if np.bincount(labels).min() < 2:
        raise UserError("attack=fusion needs two shadow speakers of each class of the attribute")
    dealt = np.argsort(np.argsort(labels, kind="stable")) % GROUPS
    for groups in (corpora, dealt):
        rest = [set(labels[groups != group]) for group in np.unique(groups)]
        if len(rest) > 1 and all(found == set(labels) for found in rest):
            break
    return groups


def fit_attacks(
    attacks: Sequence[Attack],
    shadows: Sequence[ShadowFederation],
    view: View,
    groups: Ints,
    held_out: Sequence[str],
    seed: int,
) -> list[FittedAttack]:
    """Fit each attack to updates of shadow clients, drawn at random where it takes fewer.

    Parameters
    ----------
    groups : ndarray of int64, shape (S,)
        Group of each speaker.
    held_out : sequence of str
        Names of attacks that are fitted without each group, too.
    """
    index = View(view.vantage, [], view.initial_weights)  # who sent when, and nothing large
    sent = [
        (number, seen.client, row)
        for number, shadow in enumerate(shadows)
        for seen in tap(Transcript(shadow.folder), **vars(index))
        for row in range(len(seen.round))
    ]
    tasks, made = [], []
    for attack in attacks:
        chosen = _choose(attack, sent, seed)
        for group in [None, *np.unique(groups).tolist()] if attack.name in held_out else [None]:
            without = [] if group is None else np.flatnonzero(groups == group).tolist()
            tasks.append(delayed(_fit)(attack, partial(_read, shadows, view, chosen, without)))
            made.append((attack.name, group))
    workers = max(1, min(cores(), len(tasks)))
    done = side_by_side(tasks, workers)
    fitted = dict(zip(made, done, strict=True))
    return [
        FittedAttack(
            fitted[a.name, None],
            {g: f for (n, g), f in fitted.items() if n == a.name and g is not None},
        )
        for a in attacks
    ]


def _fit(attack: Attack, examples: Stream) -> Attack:
    torch.set_num_threads(1)  # as many workers as cores train at once
    fitted = copy.deepcopy(attack)
    fitted.fit(examples)
    return fitted


def _read(
    shadows: Sequence[ShadowFederation],
    view: View,
    chosen: Mapping[int, Mapping[int, Ints]],
    without: Collection[int],
) -> Iterator[ShadowUpdates]:
    """Yield the chosen updates, client by client, but for those of some speakers."""
    for number, of_client in chosen.items():
        shadow = shadows[number]
        rows = {c: r for c, r in of_client.items() if shadow.speakers[c] not in without}
        for seen in tap(Transcript(shadow.folder), **vars(view), rows=rows):
            yield ShadowUpdates(
                seen.gradients, np.full(len(seen.round), shadow.labels[seen.client])
            )


def _choose(
    attack: Attack, sent: Sequence[tuple[int, int, int]], seed: int
) -> dict[int, dict[int, Ints]]:
    """Choose the updates to learn from: of each shadow federation, by client, which of theirs.

    Parameters
    ----------
    sent : sequence of tuple of int
        Federation, client and place among the client's updates, of all of them.
    """
    many = len(sent) if attack.max_examples is None else min(attack.max_examples, len(sent))
    kept = numpy_stream(seed, "examples", attack.name).permutation(len(sent))[:many]
    chosen: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place in sorted(kept.tolist()):
        number, client, row = sent[place]
        chosen[number][client].append(row)
    return {n: {c: np.array(rows) for c, rows in of.items()} for n, of in chosen.items()}
