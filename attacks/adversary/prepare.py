"""Prepare the attacks: train shadow federations and fit attacks, before any victim is seen."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedser.attacks.adversary import shadow_federations as shadow
from fedser.attacks.adversary.fit import (
    FittedAttack,
    ShadowFederation,
    fit_attacks,
    speaker_groups,
)
from fedser.attacks.adversary.tap import View
from fedser.attacks.algorithms.base import ModelAttack, ScoreAttack, is_update_attack
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
    """Return the corpus of each of the S shadow speakers, (S,)."""
    return np.repeat(np.arange(len(shadows)), [len(data.speakers) for data in shadows])


@dataclass(frozen=True)
class LayerAttacks:
    """The attacks on some layers.

    Attributes
    ----------
    layers : str
        As in ``adversary.layers``.
    view : View
    fitted : list of FittedAttack
        Attacks on single updates.
    groups : ndarray of int64, shape (S,)
        Group of each shadow speaker; empty if no attack reads scores.
    on_models : list of ModelAttack
        Attacks that train shadow clients at the victims' global models.
    on_scores : list of ScoreAttack
        Attacks that read the scores of other attacks.
    """

    layers: str
    view: View
    fitted: list[FittedAttack]
    groups: Ints
    on_models: list[ModelAttack]
    on_scores: list[ScoreAttack]

    @property
    def held_out(self) -> list[FittedAttack]:
        """Return the fitted attacks that also score shadow speakers."""
        return [fitted for fitted in self.fitted if fitted.without]

    @property
    def aware(self) -> set[str]:
        """Return the names of attacks that are fitted under the victims' mechanism.

        If shadow clients are trained at the victims' models, they give the scores to be fused, too.
        """
        on_scores = {attack.name for attack in self.on_scores} if self.on_models else set()
        return {attack.name for attack in self.on_models} | on_scores


@dataclass(frozen=True)
class PreparedAttacks:
    """All attacks, ready to score victims.

    Attributes
    ----------
    shadows : sequence of CorpusData
    labels : ndarray of int64, shape (S,)
        Class of each shadow speaker.
    federations : list of ShadowFederation
    layer_attacks : list of LayerAttacks
        In the order of ``adversary.layers``.
    numbers : dict of str to str
        By name of the features that an attack reads of each update, such as
        ``correlation/first``: a digest of everything that determines them.
    seconds : tuple of float
        Time to train shadow federations, and to fit attacks.
    """

    shadows: Sequence[CorpusData]
    labels: Ints
    federations: list[ShadowFederation]
    layer_attacks: list[LayerAttacks]
    numbers: dict[str, str]
    seconds: tuple[float, float]


def prepare_attacks(
    config: StudyConfig,
    plan: PrivacyPlan,
    shadows: Sequence[CorpusData],
    classes: Sequence[str],
    kept: Mapping[str, str] | None = None,
) -> PreparedAttacks:
    """Train the shadow federations that the cache lacks, and fit every attack to all of them.

    Parameters
    ----------
    plan : PrivacyPlan
        Plan of the private federations.
    kept : mapping of str to str, optional
        Names and digests of the features that an earlier run stored, as in `PreparedAttacks`.

    Raises
    ------
    UserError
        If the attacks would read other features than the stored ones.
    """
    started = time.perf_counter()
    federations = shadow.shadow_federations(config, shadows, plan, cache_folder(config.cache))
    labels = shadow.speaker_labels(shadows, config.adversary.attribute, classes)
    numbers = _numbers(config, federations, labels)
    others = [name for name in numbers if kept and kept.get(name) != numbers[name]]
    if others:
        raise UserError(
            f"transcript.store=features kept no features of {', '.join(others)} as set now, and no "
            "updates to read them from: set attack as in that run, or start a new run"
        )
    if absent := shadow.missing(federations):
        run_federations(absent, config.runtime.simulated)
        shadow.keep(absent)
    trained = [
        ShadowFederation(
            f.folder, labels[speakers := shadow.speaker_numbers(f.clients, shadows)], speakers
        )
        for f in federations
    ]
    between = time.perf_counter()
    fitted = [_fit(config, layers, shadows, labels, trained) for layers in config.adversary.layers]
    seconds = (between - started, time.perf_counter() - between)
    return PreparedAttacks(shadows, labels, trained, fitted, numbers, seconds)


def _fit(
    config: StudyConfig,
    layers: str,
    shadows: Sequence[CorpusData],
    labels: Ints,
    federations: Sequence[ShadowFederation],
) -> LayerAttacks:
    """Fit every attack to updates of these layers."""
    adversary, attacks = config.adversary, [build(settings) for settings in config.attack.values()]
    parameters = choose_layers(layers, parameter_names(config), "adversary.layers")
    view = View(adversary.vantage, parameters, adversary.initial_weights)
    on_updates = [a for a in attacks if is_update_attack(a)]
    on_models = [
        a for a in attacks if isinstance(a, ModelAttack) and f"{a.layer}.weight" in parameters
    ]
    on_scores = [a for a in attacks if isinstance(a, ScoreAttack)]
    available = {attack.name for attack in (*on_updates, *on_models)}
    held_out = available & {name for a in on_scores for name in a.of}
    groups = np.zeros(0, dtype=np.int64)
    if held_out:
        groups = speaker_groups(labels, corpus_numbers(shadows), on_scores[0].name)
    fitted = fit_attacks(on_updates, federations, view, groups, held_out, config.seed)
    return LayerAttacks(layers, view, fitted, groups, on_models, on_scores)


def _numbers(
    config: StudyConfig, federations: Sequence[Federation], labels: Ints
) -> dict[str, str]:
    """Return a digest of everything that determines an attack's features, by their name."""
    adversary = config.adversary
    scored = adversary.combination == "log_odds"
    shared = [[f.digest for f in federations], labels.tolist(), adversary.attribute, config.seed]
    on_updates = {n: s for n, s in config.attack.items() if is_update_attack(build(s))}
    return {
        stored_name(name, layers): hashlib.sha256(
            json.dumps([settings, layers, scored, *shared]).encode()
        ).hexdigest()[:24]
        for layers in adversary.layers
        for name, settings in on_updates.items()
    }


def stored_name(attack: str, layers: str) -> str:
    """Return the name of an attack's features of some layers in a transcript."""
    return f"{attack}/{layers}"
