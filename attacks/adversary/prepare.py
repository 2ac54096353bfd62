"""What the adversary learns on its own speakers before it meets a victim."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedser.attacks.adversary import shadow_federations as shadow
from fedser.attacks.adversary.fit import (
    FittedAttack,
    ShadowFederation,
    View,
    fit_attacks,
    speaker_groups,
)
from fedser.attacks.adversary.snapshot import Snapshot
from fedser.attacks.algorithms.fusion import Fusion
from fedser.attacks.algorithms.layer_samples import FIRST
from fedser.client.speakers.corpus_data import CorpusData
from fedser.common.arrays import Ints
from fedser.common.cache import cache_folder
from fedser.common.errors import UserError
from fedser.conf.build import build
from fedser.conf.schema import StudyConfig
from fedser.server.federation.federation import Federation
from fedser.server.privacy.plan import PrivacyPlan
from fedser.server.study.federations import parameter_names
from fedser.server.study.run import run_federations
from fedser.server.transcript.transcript import choose_layers


def corpus_numbers(shadows: Sequence[CorpusData]) -> Ints:
    """Return the corpus of each of the adversary's S speakers, (S,)."""
    return np.repeat(np.arange(len(shadows)), [len(data.speakers) for data in shadows])


@dataclass(frozen=True)
class LayerAttacks:
    """What attacks learned of some layers.

    Attributes
    ----------
    layers : str
        As in ``adversary.layers``.
    fitted : list of FittedAttack
        Attacks that carry over to the victims.
    groups : ndarray of int64, shape (S,)
        Group of each speaker; empty where nothing is fused.
    fusion, snapshot : Fusion, Snapshot or None
        Those that still have to learn, from scores and at the victims' models.
    """

    layers: str
    view: View
    fitted: list[FittedAttack]
    groups: Ints
    fusion: Fusion | None
    snapshot: Snapshot | None

    @property
    def fused(self) -> list[str]:
        """Names of the attacks to fuse."""
        of = self.fusion.of if self.fusion else []
        return [name for name in of if name != "snapshot" or self.snapshot]

    @property
    def beside(self) -> list[FittedAttack]:
        """Return attacks to rehearse, each without some speakers."""
        return [known for known in self.fitted if known.without]


@dataclass(frozen=True)
class PreparedAttacks:
    """All that the adversary learned.

    Attributes
    ----------
    shadows : sequence of CorpusData
    labels : ndarray of int64, shape (S,)
        Class of each of their speakers.
    rehearsals : list of ShadowFederation
    lessons : list of LayerAttacks
    numbers : dict of str to str
        Names of what can be read of each update, such as ``correlation/first``, and of all
        that determines it.
    seconds : tuple of float
        What it took to train shadow federations, and to fit attacks.
    """

    shadows: Sequence[CorpusData]
    labels: Ints
    rehearsals: list[ShadowFederation]
    lessons: list[LayerAttacks]
    numbers: dict[str, str]
    seconds: tuple[float, float]


def prepare_attacks(
    config: StudyConfig,
    plan: PrivacyPlan,
    shadows: Sequence[CorpusData],
    classes: Sequence[str],
    kept: Mapping[str, str] | None = None,
) -> PreparedAttacks:
    """Train shadow federations that are not in the cache, and fit every attack to them.

    Parameters
    ----------
    plan : PrivacyPlan
        Plan of the private federations.
    kept : mapping of str to str, optional
        Numbers that a run kept of its updates, which are to be attacked.

    Raises
    ------
    UserError
        If these are not of the attacks that would be fitted.
    """
    started = time.perf_counter()
    federations = shadow.shadow_federations(config, shadows, plan, cache_folder(config.cache))
    labels = shadow.speaker_labels(shadows, config.adversary.attribute, classes)
    numbers = _numbers(config, federations, labels)
    others = [name for name in numbers if kept and kept.get(name) != numbers[name]]
    if others:
        raise UserError(
            f"transcript.store=features kept no numbers of {', '.join(others)} as set now, and no "
            "updates to read them from: attack as the run was set up, or run it anew"
        )
    if absent := shadow.missing(federations):
        run_federations(absent, config.runtime.simulated)
        shadow.keep(absent)
    rehearsals = [
        ShadowFederation(
            f.folder, labels[speakers := shadow.speaker_numbers(f.clients, shadows)], speakers
        )
        for f in federations
    ]
    trained = time.perf_counter()
    lessons = [
        _learn(config, layers, shadows, labels, rehearsals) for layers in config.adversary.layers
    ]
    seconds = (trained - started, time.perf_counter() - trained)
    return PreparedAttacks(shadows, labels, rehearsals, lessons, numbers, seconds)


def _learn(
    config: StudyConfig,
    layers: str,
    shadows: Sequence[CorpusData],
    labels: Ints,
    rehearsals: Sequence[ShadowFederation],
) -> LayerAttacks:
    """Fit every attack to these layers alone."""
    adversary = config.adversary
    attacks = {name: build(settings) for name, settings in config.attack.items()}
    fusion, snapshot = attacks.pop("fusion", None), attacks.pop("snapshot", None)
    parameters = choose_layers(layers, parameter_names(config), "adversary.layers")
    if f"{FIRST}.weight" not in parameters:
        snapshot = None
    view = View(adversary.vantage, parameters, adversary.initial_weights)
    lesson = LayerAttacks(layers, view, [], np.zeros(0, dtype=np.int64), fusion, snapshot)
    fused = lesson.fused
    groups = speaker_groups(labels, corpus_numbers(shadows)) if fused else lesson.groups
    fitted = fit_attacks(list(attacks.values()), rehearsals, view, groups, fused, config.seed)
    return replace(lesson, fitted=fitted, groups=groups)


def _numbers(
    config: StudyConfig, federations: Sequence[Federation], labels: Ints
) -> dict[str, str]:
    """Name what each attack will read of an update, and all that determines it."""
    adversary = config.adversary
    scored = adversary.combination == "log_odds"
    shared = [[f.digest for f in federations], labels.tolist(), adversary.attribute, config.seed]
    return {
        number_name(name, layers): hashlib.sha256(
            json.dumps([settings, layers, scored, *shared]).encode()
        ).hexdigest()[:24]
        for layers in adversary.layers
        for name, settings in config.attack.items()
        if name not in ("fusion", "snapshot")
    }


def number_name(attack: str, layers: str) -> str:
    """Return what an attack's numbers of some layers are called in a transcript."""
    return f"{attack}/{layers}"
