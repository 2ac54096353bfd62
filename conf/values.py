"""Quick checks of values that have the right type but are not allowed."""

from dataclasses import fields, is_dataclass

from omegaconf import DictConfig, OmegaConf

from fedser.common.errors import UserError, check_choice
from fedser.conf.messages import no_such_key
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.conf.schema import AdversaryConfig, RuntimeConfig, StudyConfig

NUM_FOLDS = 5
CHOICES = {
    "normalisation": ("speaker", "corpus", "none"),
    "stage": ("all", "check", "plan", "train", "attack", "report"),
}
PORTS = range(1, 2**16)


def reject_early(composed: DictConfig) -> None:
    """Reject unknown keys and impossible values before any slow import.

    Raises
    ------
    UserError
        Naming the key.
    """
    reject_added(composed)
    privacy = OmegaConf.to_object(composed.privacy)
    assert isinstance(privacy, PrivacyConfig)  # by the schema
    check_values(composed)  # type: ignore[arg-type]  # it has the same keys
    privacy.check()


def reject_added(composed: DictConfig, above: str = "") -> None:
    """Reject keys that ``+KEY=VALUE`` added and the schema does not have; raise UserError."""
    schema = OmegaConf.get_type(composed)
    known = [field.name for field in fields(schema)] if is_dataclass(schema) else list(composed)
    values = OmegaConf.to_container(composed)
    assert isinstance(values, dict)
    for name, value in values.items():
        key = above + str(name)
        if name not in known:
            raise UserError(no_such_key(key, known))
        if isinstance(value, dict):
            reject_added(composed[name], f"{key}.")


def check_values(config: StudyConfig) -> None:
    """Reject unknown choices and numbers out of range.

    Raises
    ------
    UserError
        Naming the key.
    """
    for key, choices in CHOICES.items():
        check_choice(key, getattr(config, key), choices)
    check_choice("algorithm.name", config.algorithm.name, ("fedavg", "fedsgd"))
    for key in ("rounds", "checkpoint_every"):
        if getattr(config, key) < 1:
            raise UserError(f"{key}={getattr(config, key)} must be at least 1")
    if not 0 < config.cohort_fraction <= 1:
        raise UserError(f"cohort_fraction={config.cohort_fraction} must lie in (0, 1]")
    if not config.folds or not set(config.folds) <= set(range(NUM_FOLDS)):
        raise UserError(f"folds={config.folds} must be a list of numbers from 0 to {NUM_FOLDS - 1}")
    for key in ("epochs", "batch_size", "learning_rate"):
        if getattr(config.training, key) <= 0:
            raise UserError(f"training.{key}={getattr(config.training, key)} must be above 0")
    if config.plan.clients is not None and config.plan.clients < 1:
        raise UserError(f"plan.clients={config.plan.clients} must be at least 1")
    _check_runtime(config.runtime)
    _check_adversary(config.adversary)


def _check_runtime(runtime: RuntimeConfig) -> None:
    check_choice("runtime.name", runtime.name, ("ray", "local", "network"))
    if runtime.min_clients is not None and runtime.min_clients < 1:
        raise UserError(f"runtime.min_clients={runtime.min_clients} must be at least 1")
    for key in ("patience", "round_timeout"):
        if not getattr(runtime, key) > 0:
            raise UserError(f"runtime.{key}={getattr(runtime, key)} must be above 0")
    for key in ("address", "ray_address"):
        address = getattr(runtime, key)
        port = "1" if address is None else address.rpartition(":")[2]
        if not (port.isdecimal() and int(port) in PORTS):
            raise UserError(
                f"runtime.{key}={address}: must be HOST:PORT, with a port from 1 to {PORTS[-1]}"
            )


def _check_adversary(adversary: AdversaryConfig) -> None:
    for key in ("draws", "shadow_federations", "bootstraps"):
        if getattr(adversary, key) < 1:
            raise UserError(f"adversary.{key}={getattr(adversary, key)} must be at least 1")
    for leaked in adversary.leaked_updates:
        if leaked != "all" and not (isinstance(leaked, int) and leaked >= 1):
            raise UserError(
                f"adversary.leaked_updates: {leaked} must be a count of at least 1, or all"
            )
