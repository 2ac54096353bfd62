"""Where federations run, and how many of them at a time."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol, TypeVar

import torch

from fedser.client.app import app as client_app
from fedser.common.errors import UserError
from fedser.common.private_folder import private_folder
from fedser.common.threads import cores
from fedser.conf.schema import RuntimeConfig
from fedser.server.grids.local import LocalGrid, Server, sharing_cores

T = TypeVar("T")


class ServerSlot(Protocol):
    """Where servers run, one at a time."""

    def serve(self, server: Server[T], folder: Path, device: str) -> T:
        """Return what a server returns, or raise what it raises."""

    def stop(self) -> None:
        """End the server that runs; it may still take a moment."""


def run_on(runtime: RuntimeConfig, servers: Sequence[Server[T]]) -> list[T]:
    """Run servers side by side, each over a grid of its own, and return what they return.

    They share out the cores of this machine, or the workers of Ray; there a server may run in
    another process, so that it is to act on files and by what it returns. Each must draw from
    named random streams alone, so that it computes the same whatever runs beside it.

    Raises
    ------
    UserError
        If the runtime is unknown or asks for what the machine has not.
    """
    device = "cuda" if runtime.client_resources.get("num_gpus", 0) > 0 else "cpu"
    if device == "cuda" and runtime.ray_address is None and not torch.cuda.is_available():
        raise UserError("runtime.client_resources.num_gpus is above 0 but no GPU is to be seen")
    if not servers:
        return []
    with (
        sharing_cores(),
        private_folder() as folder,
        _places(runtime, len(servers)) as places,
    ):
        return _side_by_side(servers, places, folder, device)


@contextmanager
def _places(runtime: RuntimeConfig, most: int) -> Iterator[Sequence[ServerSlot]]:
    """Make places for so many servers, or for as many as run at a time."""
    cpus, here = runtime.client_resources.get("num_cpus", 1), cores()
    if runtime.name == "local":
        count = min(most, here)
        yield [LocalGrid(client_app, here // count) for _ in range(count)]
    elif runtime.name != "ray":
        raise UserError(f"runtime.name={runtime.name} is not one of ray, local")
    elif cpus <= 0 or (runtime.ray_address is None and cpus > here):
        raise UserError(f"runtime.client_resources.num_cpus={cpus} must lie in (0, {here}]")
    else:
        from fedser.server.grids.ray import ray_grids  # slow to import: not where nobody needs it

        with ray_grids(client_app, runtime.client_resources, runtime.ray_address, most) as places:
            yield places


def _side_by_side(
    servers: Sequence[Server[T]], places: Sequence[ServerSlot], folder: Path, device: str
) -> list[T]:
    """Run as many servers at a time as there are places; the first that fails stops the rest."""
    idle: SimpleQueue[ServerSlot] = SimpleQueue()
    for place in places:
        idle.put(place)

    def run(server: Server[T]) -> T:
        torch.set_num_threads(1)  # of this thread
        place = idle.get()
        try:
            return place.serve(server, folder, device)
        finally:
            idle.put(place)

    with ThreadPoolExecutor(len(places)) as pool:
        running = [pool.submit(run, server) for server in servers]
        try:
            for finished in as_completed(running):
                finished.result()
        except BaseException:  # an interruption too, which reaches this thread alone
            pool.shutdown(wait=False, cancel_futures=True)
            for place in places:
                place.stop()
            raise
    return [finished.result() for finished in running]
