"""A process that reaches the port of a Ray cluster, and tries to run code there.

``python -m tests.hostile.ray_attacker ADDRESS FILE`` makes the file from within the cluster, and
prints the result. If it has a token, the token is in its environment.
"""

import sys
from pathlib import Path

import ray


def main(address: str, file: str) -> str:
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR")
        ray.get(ray.remote(num_cpus=0)(lambda: Path(file).touch()).remote(), timeout=30)
    except BaseException as error:  # Ray exits if it is rejected
        return f"rejected: {type(error).__name__}"
    return "ran"


if __name__ == "__main__":
    print(main(*sys.argv[1:]), flush=True)
