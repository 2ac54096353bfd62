"""Count the false alarms in audits of correct mechanisms: ``python -m benchmarks.audits``."""

import argparse
from collections import Counter
from typing import Any

from fedser.attacks.evaluation.audit import evaluate_audit
from fedser.conf.schema import AuditConfig, RuntimeConfig
from fedser.server.study.run import run_canaries
from tests import examples
from tests.fedser.test_planted_faults import MECHANISMS

AUDIT = AuditConfig("canary", canaries=100, releases=1, magnitudes=[1.0])


def audit(mechanism: str, seed: int) -> dict[str, Any]:
    """Audit a mechanism once and return the results."""
    protocol = examples.protocol(privacy=MECHANISMS[mechanism], num_clients=20, seed=seed)
    audited = run_canaries(protocol, examples.FEATURES, AUDIT, RuntimeConfig("local"))
    return evaluate_audit(audited, protocol.plan, AUDIT)


def main() -> None:
    """Audit all mechanisms equally often, and print the number of alarms."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--audits", type=int, default=200, help="number of audits in total")
    count = parser.parse_args().audits
    alarms, smallest = Counter[str](), 1.0
    for number in range(count):
        name = list(MECHANISMS)[number % len(MECHANISMS)]
        found = audit(name, number)
        alarms[name] += found["violated"]
        p_values = [test["p_value"] for test in found["tests"] if test["p_value"] is not None]
        smallest = min(smallest, len(p_values) * min(p_values))
    print(f"{sum(alarms.values())} false alarms in {count} audits: {dict(alarms)}")
    print(f"smallest p-value of an audit, corrected for its number of tests: {smallest:.2g}")


if __name__ == "__main__":
    main()
