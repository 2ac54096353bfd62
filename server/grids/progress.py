"""Progress bars of rounds, also for a worker process without a terminal."""

import os
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

BarState = tuple[str, int, int, str]
"""Name of a bar, rounds done, rounds in total, and its postfix."""


class _HiddenBar(tqdm):  # type: ignore[type-arg]
    """Shows nothing, and keeps its state for another process to read."""

    states: dict[str, BarState]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, file=open(os.devnull, "w"))  # noqa: SIM115

    def display(self, *_: Any, **__: Any) -> None:
        """Keep the state instead of showing it."""
        postfix = str(self.postfix or "")
        self.states[self.desc] = (self.desc, int(self.n), int(self.total or 0), postfix)


_kind: type[tqdm] = tqdm  # type: ignore[type-arg]


def bar(total: int, name: str) -> Any:
    """Return a progress bar over `total` rounds."""
    return _kind(total=total, desc=name, unit="round", mininterval=0.5)


class RemoteBars:
    """Shows the bars of another process in this process."""

    def __init__(self) -> None:
        self._bars: dict[str, Any] = {}

    def update(self, states: Iterable[BarState]) -> None:
        """Show these states of the other process."""
        for name, done, total, postfix in states:
            if name not in self._bars:
                self._bars[name] = bar(total, name)
            shown = self._bars[name]
            shown.set_postfix_str(postfix, refresh=False)
            shown.update(done - shown.n)

    def close(self) -> None:
        """Close the bars; they stay on the screen."""
        for shown in self._bars.values():
            shown.close()


def hide_bars() -> dict[str, BarState]:
    """Hide all later bars of this process, and return the dictionary of their states."""
    global _kind
    _kind, _HiddenBar.states = _HiddenBar, {}
    return _HiddenBar.states
