"""Environment variables that Flower, Ray, transformers and MLflow read on import."""

import logging
import os
from urllib.request import getproxies_environment, proxy_bypass

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # at the default 15 other programs leave workers no time
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


LOOPBACK = ("localhost", "127.0.0.1", "::1")
PROXIES = ("https_proxy", "http_proxy", "all_proxy")


def keep_quiet() -> None:
    """Turn off telemetry and downloads, and exclude this machine from proxies."""
    spare_loopback()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # Flower's; it logs its plugins


def spare_loopback() -> None:
    """Exclude the loopback interface from the proxies of the environment."""
    if getproxies_environment():
        spared = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        listed = ",".join(dict.fromkeys(filter(None, [*spared.split(","), *LOOPBACK])))
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = listed


def proxy_hint(address: str) -> str:
    """Name the environment variable of the proxy to HOST:PORT, or return an empty text.

    The proxy's address is left out, because it may hold a password.
    """
    host = address.rpartition(":")[0].strip("[]")
    set_here = [n for name in PROXIES for n in (name, name.upper()) if os.environ.get(n)]
    if not set_here or proxy_bypass(host):
        return ""
    return (
        f"; {set_here[0]} sends this through a proxy: to reach {host} without it, add {host} to "
        "NO_PROXY"
    )
