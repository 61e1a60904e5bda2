"""Draw curves, such as a loss over training steps."""

__all__ = ["curve"]

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float64, Real

from medsci.errors import InvalidInputError
from medsci.report.canvas import SOFT, canvas, to_png

# Okabe and Ito 2008: told apart with every common form of colour blindness
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("-", "--", "-.", ":")
Numbers = Sequence[float | int] | Real[np.ndarray, "..."]

_FEW = 25  # so few points are marked one by one


def curve(
    series: Mapping[str, tuple[Numbers, Numbers]],
    *,
    x_label: str,
    y_label: str,
    y_scale: Literal["linear", "log"] = "linear",
) -> bytes:
    """Return a PNG with one line per series.

    Args:
        series: `(x, y)` by name, equally long; a NaN in y breaks the line.
        x_label: what x is, with its unit.
        y_label: what y is, with its unit.
        y_scale: `log` for quantities that span decades; all of them must be positive then.

    Raises:
        InvalidInputError: nothing to draw, x and y of different length, or values <= 0 on a
            logarithmic axis.
    """
    points = {name: _checked(name, xy, y_scale=y_scale) for name, xy in series.items()}
    if not points:
        raise InvalidInputError("no series to draw; pass at least one named (x, y)")
    with canvas(7.2, 3.4) as figure:
        axes = figure.add_axes((0.1, 0.15, 0.87, 0.8))
        for number, (name, (x, y)) in enumerate(points.items()):
            axes.plot(
                x, y, label=name, linewidth=1.6,
                color=_COLOURS[number % len(_COLOURS)],
                linestyle=_DASHES[number % len(_DASHES)],
                marker="o" if len(x) <= _FEW else "", markersize=3.5,
            )  # fmt: skip
        axes.set_yscale(y_scale)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(visible=True, which="major", color="#d5dae0", linewidth=0.6)
        axes.tick_params(labelsize=8, color=SOFT, labelcolor=SOFT)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(SOFT)
        if len(points) > 1:
            axes.legend(frameon=False, fontsize=8)
        return to_png(figure)


def _checked(
    name: str, xy: tuple[Numbers, Numbers], *, y_scale: str
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    x, y = (np.asarray(values, dtype=np.float64) for values in xy)
    if x.ndim != 1 or x.shape != y.shape or x.size == 0:
        raise InvalidInputError(
            f"series {name!r} has x of shape {x.shape} and y of shape {y.shape}; "
            "give two equally long lists of numbers"
        )
    if y_scale == "log" and (y[np.isfinite(y)] <= 0).any():
        raise InvalidInputError(
            f"series {name!r} has values <= 0, which a logarithmic axis cannot show; "
            'use y_scale="linear"'
        )
    return x, y
