"""Progress bars, shown by the process that has the terminal."""

import os
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

Told = tuple[str, int, int, str]
"""Description, rounds done, rounds in all, and what else a bar says."""


class _Telling(tqdm):  # type: ignore[type-arg]
    """Shows nothing, and keeps what it would for another process to ask."""

    told: dict[str, Told]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, file=open(os.devnull, "w"))  # noqa: SIM115

    def display(self, *_: Any, **__: Any) -> None:
        """Keep what would be shown."""
        says = str(self.postfix or "")
        self.told[self.desc] = (self.desc, int(self.n), int(self.total or 0), says)


_kind: type[tqdm] = tqdm  # type: ignore[type-arg]


def bar(total: int, name: str) -> Any:
    """Return a bar over so many rounds."""
    return _kind(total=total, desc=name, unit="round", mininterval=0.5)


class Shown:
    """Bars of another process, shown here."""

    def __init__(self) -> None:
        self._bars: dict[str, Any] = {}

    def update(self, told: Iterable[Told]) -> None:
        """Show what the other process told."""
        for name, done, total, says in told:
            if name not in self._bars:
                self._bars[name] = bar(total, name)
            shown = self._bars[name]
            shown.set_postfix_str(says, refresh=False)
            shown.update(done - shown.n)

    def close(self) -> None:
        """Leave the bars as they are."""
        for shown in self._bars.values():
            shown.close()


def tell() -> dict[str, Told]:
    """Have this process show no bars from now on, and return where it keeps what they say."""
    global _kind
    _kind, _Telling.told = _Telling, {}
    return _Telling.told
