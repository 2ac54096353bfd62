"""Measure encrypted sums: ``python -m benchmarks.encrypted``.

Prints what one client and one round cost for the network of the 2022 study, whole and pruned to a
tenth: bytes, and milliseconds of a processor.
"""

import argparse
import time

import numpy as np

from fedser.client.encryption.ckks import PublicKey, SecretKey

COORDINATES = {"network": 286_596, "a tenth of it": 28_660}
UPDATE = 0.1
"""Standard deviation of an update times the client's number of utterances."""


def main() -> None:
    """Measure a sum at both sizes, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=8)
    clients, rng = parser.parse_args().clients, np.random.default_rng(0)
    for name, size in COORDINATES.items():
        began = time.process_time()
        secret = SecretKey()
        public = PublicKey(secret.public)
        made = time.process_time() - began
        total, spent = None, np.zeros(2)
        for _ in range(clients):
            update, began = rng.normal(0, UPDATE, size), time.process_time()
            sent = public.encrypt(update, clients)
            encrypted = time.process_time()
            loaded = public.read(sent, size)
            if total is None:
                total = loaded
            else:
                for part, added in zip(total, loaded, strict=True):
                    part += added
            spent += encrypted - began, time.process_time() - encrypted
        assert total is not None
        encrypt, add = 1e3 * spent / clients
        parts, began = [part.serialize() for part in total], time.process_time()
        secret.decrypt(parts)
        opened = time.process_time() - began
        uploaded = sum(map(len, sent))
        print(
            f"{name}, {size:,} coordinates: {uploaded:,} bytes ({uploaded / size:.1f} each); "
            f"key {1e3 * made:.0f} ms, {len(secret.public):,} bytes; one client: encrypt "
            f"{encrypt:.0f} ms, read and add {add:.0f} ms; decrypt {1e3 * opened:.0f} ms"
        )


if __name__ == "__main__":
    main()
