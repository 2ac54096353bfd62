"""Options of the group `privacy` with an epsilon in their name: `udp_50`, `central_8`, ...

Each mechanism has epsilons of its own, so that a sweep over mechanisms and epsilons needs one
option per pair.
"""

from typing import Any

from fedser.conf.mechanisms import MECHANISMS

PRIVACY_POINTS: dict[str, dict[str, Any]] = {
    f"{mechanism}_{epsilon}": {"defaults": [mechanism, "_self_"], "epsilon": float(epsilon)}
    for mechanism, spec in MECHANISMS.items()
    for epsilon in spec.epsilons
}
"""Nodes for Hydra's ConfigStore: each takes the mechanism's own file, then sets epsilon."""
