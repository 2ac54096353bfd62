"""Score the clients of one private federation with the prepared attacks, without their labels."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fedser.attacks.adversary.fit import ShadowFederation
from fedser.attacks.adversary.leaked_updates import choose_leaks, score_leaks
from fedser.attacks.adversary.prepare import LayerAttacks
from fedser.attacks.adversary.reidentify import choose_sides
from fedser.attacks.adversary.shadow_federations import SPEAKER
from fedser.attacks.adversary.tap import tap
from fedser.common.arrays import Bools
from fedser.conf.schema import AdversaryConfig
from fedser.server.transcript.transcript import Transcript

AttackScores = dict[str, pd.DataFrame]
Chooser = Callable[..., dict[str, Bools]]


@dataclass(frozen=True)
class ScoreTables:
    """Scores by attack, with one row per draw of a client's leaked updates.

    Attributes
    ----------
    victims : dict of str to DataFrame
        ``federation``, ``client``, ``leaked``, ``draw`` and ``score_*``.
    shadow : dict of str to DataFrame
        The same columns for shadow clients, with their ``label`` and ``group``. The attack that
        scored a client was fitted without the client's group.
    """

    victims: AttackScores
    shadow: AttackScores


def score_private(
    path: Path, attacks: LayerAttacks, config: AdversaryConfig, seed: int
) -> ScoreTables:
    """Score the victims of a private transcript with the attacks on single updates."""
    rows: dict[str, list[pd.DataFrame]] = defaultdict(list)
    for seen in tap(Transcript(path), attacks.view):
        leaks = leak_chooser(config)(seen.round, config, seed, path.name, seen.client)
        for fitted in attacks.fitted if any(map(len, leaks.values())) else ():
            found = score_leaks(fitted.attack, seen, leaks, config.combination)
            rows[fitted.attack.name].append(found)
    return ScoreTables(name_federation(rows, path.name), {})


def score_shadow(
    shadow: ShadowFederation, attacks: LayerAttacks, config: AdversaryConfig, seed: int
) -> ScoreTables:
    """Score the clients of a shadow federation with attacks fitted without their group."""
    rows: dict[str, list[pd.DataFrame]] = defaultdict(list)
    for seen in tap(Transcript(shadow.folder), attacks.view):
        leaks = choose_leaks(seen.round, config, seed, "shadow", seen.client)
        group = int(attacks.groups[shadow.speakers[seen.client]])
        for fitted in attacks.held_out:
            found = score_leaks(fitted.without[group], seen, leaks, config.combination)
            label = shadow.labels[seen.client]
            rows[fitted.attack.name].append(found.assign(label=label, group=group))
    return ScoreTables({}, name_federation(rows, "shadow"))


def join_scores(parts: Sequence[AttackScores]) -> AttackScores:
    """Concatenate the scores of several federations, by attack."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {
        name: pd.concat([part[name] for part in parts if name in part], ignore_index=True)
        for name in names
    }


def leak_chooser(config: AdversaryConfig) -> Chooser:
    """Return the function that chooses the leaked updates of a victim."""
    return choose_sides if config.attribute == SPEAKER else choose_leaks


def name_federation(rows: Mapping[str, list[pd.DataFrame]], federation: str) -> AttackScores:
    """Concatenate the scores of a federation's clients, by attack, and add its name."""
    return {
        name: pd.concat(parts, ignore_index=True).assign(federation=federation)
        for name, parts in rows.items()
    }
