"""Points of the privacy frontier as options of the group `privacy`: `udp_50`, `central_8`, ...

Mechanisms and their epsilons form no product, so a sweep over both needs one name a point.
"""

from typing import Any

EPSILONS = {
    "udp": (50, 25, 10, 5),
    "central": (1, 2, 4, 8),
    "central_adaptive": (1, 2, 4, 8),
    "local": (8, 16),
    "dp_sgd": (8,),
    "layered": (8,),
}

PRIVACY_POINTS: dict[str, dict[str, Any]] = {
    f"{mechanism}_{epsilon}": {"defaults": [mechanism, "_self_"], "epsilon": float(epsilon)}
    for mechanism, epsilons in EPSILONS.items()
    for epsilon in epsilons
}
"""Nodes for Hydra's ConfigStore: the mechanism's own file, then epsilon."""
