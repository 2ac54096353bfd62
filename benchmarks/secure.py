"""Compare rounds under secure aggregation with central noise: ``python -m benchmarks.secure``.

Prints medians of rounds of everybody, and their ratio to `central`, for the network of the 2022
study and for a softmax layer on 96 coordinates. The runs of one size take turns.
"""

import argparse
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.engines import FEATURES, WARM_UP, federation
from fedser.client.corpora.base import EMOTIONS
from fedser.client.models.base import ModelConfig, parameter_sizes
from fedser.client.models.mlp import Mlp
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.conf.schema import RuntimeConfig
from fedser.server.study.run import run_federations

MODELS: dict[str, ModelConfig] = {"network": Mlp(hidden=[256, 128]), "softmax": Mlp(hidden=[])}
INPUTS = {"network": FEATURES, "softmax": 96}
SUM = PrivacyConfig(
    mechanism="central",
    noise_multiplier=1.0,
    clipping_norm=0.1,
    vantage="sum",
    relation="zero_out",
    accountant="pld",
)
SHARES = replace(SUM, mechanism="distributed", accountant=None, aggregation="plain", dropout=0.1)
MECHANISMS = {
    "central": SUM,
    "distributed, plain": SHARES,
    "distributed, secure": replace(SHARES, aggregation="secure"),
}
REPEATS = 3


def seconds(privacy: PrivacyConfig, model: str, clients: int, rounds: int) -> list[float]:
    """Return the seconds of each round."""
    with tempfile.TemporaryDirectory() as folder:
        made = federation(clients, clients, WARM_UP + rounds, Path(folder))
        own = replace(made.clients, features=made.clients.features[:, : INPUTS[model]].copy())
        sizes = parameter_sizes(MODELS[model], INPUTS[model], len(EMOTIONS))
        plan = replace(made.protocol.plan, config=privacy, num_clients=clients, shared=sizes)
        protocol = replace(made.protocol, model=MODELS[model], plan=plan)
        study = replace(made, clients=own, test=own.validation_set(), protocol=protocol)
        (outcome,) = run_federations([study], RuntimeConfig("local"))
    return [row.seconds for row in outcome.rounds[WARM_UP:]]


def main() -> None:
    """Measure all mechanisms at all sizes, and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    for model in MODELS:
        for clients in (36, 100):
            found = defaultdict(list)
            for _ in range(REPEATS):
                for name, privacy in MECHANISMS.items():
                    found[name] += seconds(privacy, model, clients, rounds)
            base = median(found["central"])
            for name, own in found.items():
                print(
                    f"{model}, {clients} clients a round, {name}: {1e3 * median(own):.1f} ms, "
                    f"ratio to central {median(own) / base:.2f}"
                )


if __name__ == "__main__":
    main()
