"""Fit attacks to the adversary's shadow federations."""

import copy
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from joblib import delayed

from fedser.attacks.adversary.tap import View, tap
from fedser.attacks.algorithms.base import Attack, ShadowUpdates, Stream
from fedser.common.arrays import Floats, Ints
from fedser.common.errors import UserError
from fedser.common.processes import side_by_side
from fedser.common.seeds import numpy_stream
from fedser.common.threads import cores
from fedser.server.transcript.transcript import Transcript

GROUPS = 3


@dataclass(frozen=True)
class ShadowFederation:
    """A shadow federation of N clients.

    Attributes
    ----------
    folder : Path
        Its transcript.
    labels, speakers : ndarray of int64, shape (N,)
        Class of the attribute, and number of the speaker, of each client.
    """

    folder: Path
    labels: Ints
    speakers: Ints


@dataclass(frozen=True)
class FittedAttack:
    """An attack that is fitted to all shadow speakers.

    Attributes
    ----------
    attack : Attack
    without : dict of int to Attack
        Copies fitted without one group of speakers, keyed by group. A copy scores its group as it
        would score victims. Empty if no other attack needs these scores.
    """

    attack: Attack
    without: dict[int, Attack]

    def score_held_out(self, gradients: Mapping[str, Floats], groups: Ints) -> Floats:
        """Score k updates of shadow speakers, each by the copy without its group; groups: (k,)."""
        scores: dict[int, Floats] = {}
        for group in np.unique(groups).tolist():
            rows = np.flatnonzero(groups == group)
            attack = self.without[group]
            found = attack.score(attack.features({n: a[rows] for n, a in gradients.items()}))
            scores |= dict(zip(rows.tolist(), found, strict=True))
        return np.stack([scores[row] for row in range(len(groups))])


def speaker_groups(labels: Ints, corpora: Ints, attack: str) -> Ints:
    """Return the group of each of the S shadow speakers, (S,); groups are held out together.

    A group is a corpus if all classes remain without any one corpus. Victims differ from shadow
    speakers in recordings and language, too. So the scores of unknown corpora show how far to trust
    an attack. Otherwise each group gets the same share of the speakers of each class.

    Parameters
    ----------
    labels, corpora : ndarray of int64, shape (S,)
        Class and corpus of each speaker.
    attack : str
        Name of the attack that needs the groups, for the error message.

    Raises
    ------
    UserError
        If a class has a single speaker.
    """
    if np.bincount(labels).min() < 2:
        raise UserError(
            f"attack={attack} needs two shadow speakers of each class of the attribute: "
            f"add corpora to shadow, or remove {attack} from attack"
        )
    shares = np.argsort(np.argsort(labels, kind="stable")) % GROUPS
    for groups in (corpora, shares):
        rest = [set(labels[groups != group]) for group in np.unique(groups)]
        if len(rest) > 1 and all(found == set(labels) for found in rest):
            break
    return groups


def fit_attacks(
    attacks: Sequence[Attack],
    shadows: Sequence[ShadowFederation],
    view: View,
    groups: Ints,
    held_out: Collection[str],
    seed: int,
) -> list[FittedAttack]:
    """Fit each attack to updates of shadow clients, at random if it takes fewer than there are.

    Parameters
    ----------
    groups : ndarray of int64, shape (S,)
        Group of each speaker.
    held_out : collection of str
        Names of the attacks that also get a copy without each group.
    """
    index = View(view.vantage, [], view.initial_weights)  # reads senders and rounds, no arrays
    sent = [
        (number, seen.client, row)
        for number, shadow in enumerate(shadows)
        for seen in tap(Transcript(shadow.folder), index)
        for row in range(len(seen.round))
    ]
    tasks, keys = [], []
    for attack in attacks:
        chosen = _choose(attack, sent, seed)
        for group in [None, *np.unique(groups).tolist()] if attack.name in held_out else [None]:
            without = [] if group is None else np.flatnonzero(groups == group).tolist()
            tasks.append(delayed(_fit)(attack, partial(_read, shadows, view, chosen, without)))
            keys.append((attack.name, group))
    workers = max(1, min(cores(), len(tasks)))
    done = side_by_side(tasks, workers)
    fitted = dict(zip(keys, done, strict=True))
    return [
        FittedAttack(
            fitted[a.name, None],
            {g: f for (n, g), f in fitted.items() if n == a.name and g is not None},
        )
        for a in attacks
    ]


def _fit(attack: Attack, examples: Stream) -> Attack:
    torch.set_num_threads(1)  # one worker per core runs at the same time
    fitted = copy.deepcopy(attack)
    fitted.fit(examples)
    return fitted


def _read(
    shadows: Sequence[ShadowFederation],
    view: View,
    chosen: Mapping[int, Mapping[int, Ints]],
    without: Collection[int],
) -> Iterator[ShadowUpdates]:
    """Yield the chosen updates, client by client, except the updates of some speakers."""
    for number, of_client in chosen.items():
        shadow = shadows[number]
        rows = {c: r for c, r in of_client.items() if shadow.speakers[c] not in without}
        for seen in tap(Transcript(shadow.folder), view, rows):
            yield ShadowUpdates(
                seen.gradients, np.full(len(seen.round), shadow.labels[seen.client])
            )


def _choose(
    attack: Attack, sent: Sequence[tuple[int, int, int]], seed: int
) -> dict[int, dict[int, Ints]]:
    """Choose the updates to fit to: their places, by shadow federation and client.

    Parameters
    ----------
    sent : sequence of tuple of int
        Federation, client, and place among the client's updates, of all updates.
    """
    count = len(sent) if attack.max_examples is None else min(attack.max_examples, len(sent))
    kept = numpy_stream(seed, "examples", attack.name).permutation(len(sent))[:count]
    chosen: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place in sorted(kept.tolist()):
        number, client, row = sent[place]
        chosen[number][client].append(row)
    return {n: {c: np.array(rows) for c, rows in of.items()} for n, of in chosen.items()}
