"""The table of mechanisms that a client can build by name."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from fedser.client.privacy.base import Mechanism, NoMechanism
from fedser.client.privacy.central import CentralDP
from fedser.client.privacy.distributed import DistributedDP
from fedser.client.privacy.dp_sgd import DPSGD
from fedser.client.privacy.local import LocalDP
from fedser.client.privacy.user_level import UserLevelDP

BUILT_IN: Mapping[str, type[Mechanism]] = {
    "NoMechanism": NoMechanism,
    "UserLevelDP": UserLevelDP,
    "LocalDP": LocalDP,
    "CentralDP": CentralDP,
    "DistributedDP": DistributedDP,
    "DPSGD": DPSGD,
}
"""The only mechanisms that a node with its own data builds."""


def target_of(mechanism: Mechanism) -> str:
    """Return the ``_target_`` from which `build_mechanism` finds the class of a mechanism.

    It is the name in `BUILT_IN`, without a dot, or ``module.Class`` for a class of the user.
    """
    kind = type(mechanism)
    names = (name for name, built_in in BUILT_IN.items() if built_in is kind)
    return next(names, f"{kind.__module__}.{kind.__qualname__}")


def build_mechanism(settings: Mapping[str, Any], custom: bool = False) -> Mechanism:
    """Build a mechanism: ``_target_`` names its class, and the other entries are its fields.

    Parameters
    ----------
    custom : bool
        Whether a class outside of `BUILT_IN` may be imported as ``module.Class``. True only if
        the settings come from the user's own configuration (``privacy.custom``).

    Raises
    ------
    ValueError
        If there is no such class, if it is not a `Mechanism`, or if it has other fields.
    """
    fields = dict(settings)
    target = str(fields.pop("_target_", ""))
    kind = BUILT_IN.get(target)
    if kind is None:
        if not custom:
            raise ValueError(f"_target_={target} is not one of {', '.join(BUILT_IN)}")
        kind = _imported(target)
    try:
        return kind(**fields)
    except TypeError as error:
        raise ValueError(f"_target_={target}: {error}") from error


def _imported(target: str) -> type[Mechanism]:
    module, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (AttributeError, ImportError, ValueError) as error:
        raise ValueError(f"_target_={target}: no such class ({error})") from error
    if not (isinstance(found, type) and issubclass(found, Mechanism)):
        raise ValueError(
            f"_target_={target} is not a subclass of {Mechanism.__module__}.{Mechanism.__name__}"
        )
    return found
