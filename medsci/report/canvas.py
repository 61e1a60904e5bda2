"""Draw with Matplotlib without its global state, and get the same bytes for the same picture."""

__all__ = ["canvas", "to_png"]

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MplFigure

DPI = 200
INK = "#1b1f24"
SOFT = "#57606a"


@contextmanager
def canvas(width_in: float, height_in: float) -> "Iterator[MplFigure]":
    """Yield a white figure of this size in inches; the user's Matplotlib style has no say in it.

    The figure has its own Agg canvas: pyplot is never imported, so a notebook's figures and backend
    stay as they are. Turn it into bytes inside the block.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.style import context

    ours = {
        "font.family": "DejaVu Sans",
        "font.size": 9.0,
        "text.color": INK,
        "axes.labelcolor": INK,
    }
    with context(["default", ours]):
        figure = Figure(figsize=(width_in, height_in), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        yield figure


def to_png(figure: "MplFigure") -> bytes:
    """Return the figure as PNG without time stamp or program name."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
