"""Score victims with an attack that trains shadow clients at the victims' global models."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from fedser.attacks.adversary.fit import FittedAttack
from fedser.attacks.adversary.leaked_updates import choose_leaks, combine_scores
from fedser.attacks.adversary.own_speakers import ShadowClients, simulate_rounds
from fedser.attacks.adversary.prepare import LayerAttacks
from fedser.attacks.adversary.score import (
    Chooser,
    ScoreTables,
    leak_chooser,
    name_federation,
)
from fedser.attacks.adversary.tap import pseudo_gradients
from fedser.attacks.algorithms.base import Leaks, ModelAttack
from fedser.common.arrays import Bools, Floats, Ints
from fedser.conf.schema import AdversaryConfig
from fedser.server.federation.federation import Protocol
from fedser.server.transcript.transcript import Transcript


def score_on_models(
    path: Path,
    attacks: LayerAttacks,
    attack: ModelAttack,
    shadow_clients: ShadowClients,
    protocol: Protocol,
    config: AdversaryConfig,
) -> ScoreTables:
    """Score the victims of a private transcript, and shadow clients if a fusion needs their scores.

    Of several attacks of this kind, only the first gives the scores of shadow clients by attacks
    on single updates.
    """
    transcript, labels = Transcript(path), shadow_clients.labels
    groups = attacks.groups[shadow_clients.speakers] if len(attacks.groups) else attacks.groups
    num_victims, num_shadow = transcript.meta.num_clients, len(shadow_clients)
    evidence = attack.start(shadow_clients.examples, labels, groups, num_victims)
    first = attack.name == attacks.on_models[0].name
    held_out = _HeldOutScores(attacks.held_out if first else [], groups, num_shadow)
    victim_rounds: list[list[int]] = [[] for _ in range(num_victims)]
    shadow_rounds: list[list[int]] = [[] for _ in range(num_shadow)]
    for one in simulate_rounds(transcript, protocol, shadow_clients, attack.asked):
        updates = pseudo_gradients(transcript.meta, one.victims)
        evidence.add(one.victims.client, updates, one.clients, one.plain, one.sent)
        held_out.add(one.clients, {name: one.sent[name] for name in attacks.view.parameters})
        for clients, rounds in (one.victims.client, victim_rounds), (one.clients, shadow_rounds):
            for client in clients.tolist():
                rounds[client].append(one.round)

    # Earlier results depend on the names of the random streams: they must not change.
    own, name = replace(config, draws=attack.draws), path.name
    of_shadow = _leaks(shadow_rounds, choose_leaks, own, protocol.seed, name, "cast")
    of_victims = _leaks(victim_rounds, leak_chooser(config), config, protocol.seed, name, "victims")
    shadow = held_out.combine(of_shadow, labels, config.combination)
    found = [evidence.score(n, of_shadow, of_victims) for n in map(str, config.leaked_updates)]
    if len(groups):
        shadow[attack.name] = [table for table, _ in found]
    victims = {attack.name: [table for _, table in found]}
    return ScoreTables(name_federation(victims, name), name_federation(shadow, name))


class _HeldOutScores:
    """Scores of single updates of A shadow clients, by attacks fitted without their group (A,)."""

    def __init__(self, attacks: list[FittedAttack], groups: Ints, clients: int) -> None:
        self._attacks, self._groups = attacks, groups
        self._scores: dict[str, list[list[Floats]]] = {
            fitted.attack.name: [[] for _ in range(clients)] for fitted in attacks
        }

    def add(self, clients: Ints, sent: dict[str, Floats]) -> None:
        """Score one update of each of a clients; `sent` are pseudo-gradients (a, ...)."""
        for fitted in self._attacks:
            found = fitted.score_held_out(sent, self._groups[clients])
            for client, score in zip(clients.tolist(), found, strict=True):
                self._scores[fitted.attack.name][client].append(score)

    def combine(
        self, leaks: Leaks, labels: Ints, combination: str
    ) -> dict[str, list[pd.DataFrame]]:
        """Return tables of scores by attack, one per client; see `ScoreTables`."""
        return {
            name: [
                combine_scores(client, np.stack(scores[client]), drawn, combination).assign(
                    label=labels[client], group=self._groups[client]
                )
                for client, drawn in leaks.items()
            ]
            for name, scores in self._scores.items()
        }


def _leaks(
    rounds: list[list[int]], choose: Chooser, config: AdversaryConfig, seed: int, *name: str
) -> dict[int, dict[str, Bools]]:
    """Choose the updates that leak, for each client that sent one."""
    return {
        client: choose(np.array(sent), config, seed, *name, client)
        for client, sent in enumerate(rounds)
        if sent
    }
