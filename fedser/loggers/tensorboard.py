"""Log a run to TensorBoard: event files in the folder of the run."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.image import imread

from fedser.loggers.base import (
    RoundRow,
    RunPlace,
    require,
    result_figures,
    round_figures,
    statement,
)
from fedser.results.files import Results

FOLDER = "tensorboard"
RESULTS = "results"


@dataclass(frozen=True)
class TensorBoard:
    """``logger=tensorboard``."""

    def check(self) -> None:
        """Check that TensorBoard is installed."""
        require("tensorboard")

    def begin(self, place: RunPlace, fresh: bool) -> "EventFiles":
        """Return a writer; its files replace the files of an earlier command."""
        return EventFiles(place)


class EventFiles:
    """One folder of event files per federation, and one for the results.

    Every process that writes to a folder replaces its files, so that nothing is logged twice.
    """

    def __init__(self, place: RunPlace) -> None:
        self._place = place
        self._writers: dict[str, Any] = {}
        self._last: dict[str, int] = {}

    def rounds(self, federation: str, rows: Sequence[RoundRow]) -> None:
        """Log the rounds of a federation: one scalar per figure, with the round as step."""
        new = [row for row in rows if row["round"] > self._last.get(federation, 0)]
        if not new:
            return
        writer = self._writer(federation)
        for row in new:
            for name, value in round_figures(row).items():
                writer.add_scalar(name, value, row["round"])
        writer.flush()
        self._last[federation] = new[-1]["round"]

    def results(self, results: Results, measured: bool) -> None:
        """Log figures, texts and images, and the configuration as hyper-parameters."""
        writer = self._writer(RESULTS)
        figures = result_figures(results)
        for name, value, step in figures:
            writer.add_scalar(name, value, step)
        # If a figure has several steps, TensorBoard shows the last one beside the hyper-parameters.
        writer.add_hparams(
            {**self._place.config, **statement(results)},
            {f"result/{name}": value for name, value, _ in figures},
            run_name=".",
        )
        for name, text in statement(results).items():
            writer.add_text(name, text)
        writer.add_text("results.json", f"```\n{json.dumps(results, indent=2)}\n```")
        for path in sorted((self._place.folder / "figures").glob("*.png")):
            image = np.asarray(imread(path))[..., :3]
            writer.add_image(path.stem, image, dataformats="HWC")

    def end(self, status: str, problem: str | None) -> None:
        """Log the status of the run, and close the files."""
        writer = self._writers.get(RESULTS) or self._writer(RESULTS)
        writer.add_text("status", status if problem is None else f"{status}: {problem}")
        for writer in self._writers.values():
            writer.close()

    def _writer(self, name: str) -> Any:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        if name not in self._writers:
            folder = self._place.folder / FOLDER / name
            shutil.rmtree(folder, ignore_errors=True)
            self._writers[name] = SummaryWriter(folder)
        return self._writers[name]
