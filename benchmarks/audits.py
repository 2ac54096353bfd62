"""How often an audit of an honest mechanism raises an alarm: ``python -m benchmarks.audits``."""

import argparse
from collections import Counter

from fedser.attacks.evaluation.audit import evaluate_audit
from fedser.conf.schema import AuditConfig, RuntimeConfig
from fedser.server.study.run import run_canaries
from tests import examples
from tests.fedser.test_planted_faults import MECHANISMS

AUDIT = AuditConfig("canary", canaries=100, releases=1, magnitudes=[1.0])


def main() -> None:
    """Audit each mechanism as often, and print how many alarms there were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--audits", type=int, default=200, help="in all, over the mechanisms")
    count = parser.parse_args().audits
    alarms, least = Counter[str](), 1.0
    for number in range(count):
        name = list(MECHANISMS)[number % len(MECHANISMS)]
        made = examples.protocol(privacy=MECHANISMS[name], num_clients=20, seed=number)
        audited = run_canaries(made, examples.FEATURES, AUDIT, RuntimeConfig("local"))
        found = evaluate_audit(audited, made.plan, AUDIT)
        alarms[name] += found["violated"]
        tests = [test["p_value"] for test in found["tests"] if test["p_value"] is not None]
        least = min(least, len(tests) * min(tests))
    print(f"{sum(alarms.values())} alarms in {count} honest audits: {dict(alarms)}")
    print(f"least p-value of an audit, over all its tests: {least:.2g}")


if __name__ == "__main__":
    main()
