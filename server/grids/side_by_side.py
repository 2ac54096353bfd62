"""Run federations side by side, in this process or on Ray."""

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
    """A place where servers run, one at a time."""

    def serve(self, server: Server[T], folder: Path, device: str) -> T:
        """Run a server; return or raise what it returns or raises."""

    def stop(self) -> None:
        """End the server that runs now; it may take a moment."""


def run_on(runtime: RuntimeConfig, servers: Sequence[Server[T]]) -> list[T]:
    """Run servers side by side, each over its own grid, and return their results in order.

    The servers share the cores of this machine, or the workers of Ray. On Ray a server may run in
    another process, so its only effects must be files and its return value. A server must draw
    only from named random streams: then its results do not depend on the servers beside it.

    Raises
    ------
    UserError
        If the runtime is unknown, or asks for more than the machine has.
    """
    device = "cuda" if runtime.client_resources.get("num_gpus", 0) > 0 else "cpu"
    if device == "cuda" and runtime.ray_address is None and not torch.cuda.is_available():
        raise UserError(
            "runtime.client_resources.num_gpus is above 0, but no GPU can be used; set it to 0"
        )
    if not servers:
        return []
    with (
        sharing_cores(),
        private_folder() as folder,
        _slots(runtime, len(servers)) as slots,
    ):
        return _run_in_slots(servers, slots, folder, device)


@contextmanager
def _slots(runtime: RuntimeConfig, num_servers: int) -> Iterator[Sequence[ServerSlot]]:
    """Make one slot per server, or as many slots as the machine can run at a time."""
    cpus, here = runtime.client_resources.get("num_cpus", 1), cores()
    if runtime.name == "local":
        count = min(num_servers, here)
        yield [LocalGrid(client_app, here // count) for _ in range(count)]
    elif runtime.name != "ray":
        raise UserError(f"runtime.name={runtime.name} is not one of ray, local")
    elif cpus <= 0 or (runtime.ray_address is None and cpus > here):
        raise UserError(f"runtime.client_resources.num_cpus={cpus} must lie in (0, {here}]")
    else:
        from fedser.server.grids.ray import ray_grids  # slow to import: only if it is needed

        resources, address = runtime.client_resources, runtime.ray_address
        with ray_grids(client_app, resources, address, num_servers) as slots:
            yield slots


def _run_in_slots(
    servers: Sequence[Server[T]], slots: Sequence[ServerSlot], folder: Path, device: str
) -> list[T]:
    """Run one server per slot at a time; if a server fails, stop all others."""
    idle: SimpleQueue[ServerSlot] = SimpleQueue()
    for slot in slots:
        idle.put(slot)

    def run(server: Server[T]) -> T:
        torch.set_num_threads(1)  # of this thread
        slot = idle.get()
        try:
            return slot.serve(server, folder, device)
        finally:
            idle.put(slot)

    with ThreadPoolExecutor(len(slots)) as pool:
        running = [pool.submit(run, server) for server in servers]
        try:
            for finished in as_completed(running):
                finished.result()
        except BaseException:  # also an interruption, which only this thread gets
            pool.shutdown(wait=False, cancel_futures=True)
            for slot in slots:
                slot.stop()
            raise
    return [finished.result() for finished in running]
