"""What all figures share: style, colours and output formats.

The colours suit colour-blind readers (Okabe-Ito), screens and paper. Figures are built with
matplotlib's objects and not with pyplot, so that no global state is left behind.
"""

import io
import re
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedser.common.files import write_bytes

INK, GREY = "#1f2328", "#8c959f"
# Without yellow and black, which are hard to see on a white or a dark page.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vPX"
WIDTH, HEIGHT, LEGEND_ROW = 5.2, 3.7, 0.18  # inches
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "legend.frameon": False,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "fedser",
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
}


def new_axes(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """Return a figure with one plot, in a size that is readable on a phone."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
    return figure, axes


def add_legend(figure: Figure, axes: Axes) -> None:
    """Put the legend below the plot, so that it hides no curve."""
    labels = axes.get_legend_handles_labels()[1]
    columns = min(4 if max(map(len, labels)) < 14 else 2, len(labels))
    figure.set_figheight(HEIGHT + LEGEND_ROW * -(-len(labels) // columns))
    figure.legend(loc="outside lower center", ncols=columns, fontsize=8)


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure on a white background, for papers and slides."""
    write_bytes(path, png_bytes(figure))


@rc_context(STYLE)
def png_bytes(figure: Figure) -> bytes:
    """Return a figure as a PNG image."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=200, metadata={"Software": None})
    return buffer.getvalue()


@rc_context(STYLE)
def inline_svg(figure: Figure) -> str:
    """Return a figure as an SVG element for an HTML page, in the text colour of the page."""
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = buffer.getvalue()
    # HTML needs no XML namespaces. Group ids would be the same in every figure of a page.
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg[svg.index("<svg") :])
    return re.sub(r'<g id="[^"]*">', "<g>", svg).replace(INK, "currentColor")
