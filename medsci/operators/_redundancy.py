"""How much of a scan each ray stands for: widths of views, and Parker's weights of a short scan.

Views are samples of an integral over the angle, of period pi for parallel rays and 2 pi for a fan.
A view stands for half of the way to each of its neighbours. A gap far wider than the others is
where nothing was measured; there the view stands for as much as on its other side, so that a scan
over a limited angle gets the plain sum of its views times their step.
"""

__all__ = ["fan_redundancy", "scanned_span", "view_widths"]

import math
import warnings
from typing import Literal

import numpy as np
from jaxtyping import Float64

Angles = Float64[np.ndarray, " n_angles"]
_OPEN = 2.5  # a gap this many times as wide as the others is no part of the scan
_SAME = 1e-9


def view_widths(angles: Angles, *, period: float) -> Angles:
    """Return the width in rad for which each view stands."""
    order, gaps = _sorted_gaps(angles, period)
    gaps = np.where(gaps > _OPEN * _usual(gaps), _usual(gaps), gaps)
    widths = np.empty_like(gaps)
    widths[order] = (gaps + np.roll(gaps, 1)) / 2
    return widths


def scanned_span(angles: Angles) -> tuple[float, float]:
    """Return first angle and length, in rad, of the arc on which a fan scan took its views.

    The arc reaches half a step beyond its first and last view; a full turn has length 2 pi.
    """
    order, gaps = _sorted_gaps(angles, 2 * math.pi)
    widest = int(np.argmax(gaps))
    step = _usual(gaps)
    if gaps[widest] <= _OPEN * step:
        return float(angles[order[0]]), 2 * math.pi
    first = float(angles[order[(widest + 1) % len(order)]])
    return first - step / 2, 2 * math.pi - float(gaps[widest]) + step


def fan_redundancy(
    angles: Angles,
    gammas: Float64[np.ndarray, " n_bins"],
    *,
    short_scan: Literal["auto", "off"],
) -> Float64[np.ndarray, "n_angles n_bins"]:
    """Return the share of each ray (view, fan angle) among all measurements of the same line.

    Ray `(beta, gamma)` and ray `(beta + pi - 2 gamma, -gamma)` are one line. A full turn measures
    each twice: 1/2. A turn of `pi + 2 delta`, delta at least the largest fan angle, measures some
    once; Parker's weights go smoothly from one to the other. On less than that, or with `off`,
    all rays weigh the same.

    Warns:
        UserWarning: the scan is shorter than a short scan.

    Source: Parker 1982, doi:10.1118/1.595078.
    """
    first, span = scanned_span(angles)
    shape = (len(angles), len(gammas))
    if span >= 2 * math.pi - _SAME:
        return np.full(shape, 0.5)
    widest, delta = float(np.abs(gammas).max()), (span - math.pi) / 2
    if short_scan == "off" or delta < widest:
        if short_scan != "off":
            warnings.warn(
                f"the fan turned by {math.degrees(span):.0f} degrees, a short scan needs "
                f"{math.degrees(math.pi + 2 * widest):.0f}; Parker's weights were left out and "
                "some lines are missing: prefer an iterative reconstruction",
                stacklevel=3,
            )
        return np.full(shape, min(1.0, math.pi / span))
    beta = np.mod(angles - first, 2 * math.pi)[:, None]
    rising = beta / (2 * (delta + gammas))
    falling = (span - beta) / (2 * (delta - gammas))
    nearest = np.clip(np.minimum(rising, falling), 0.0, 1.0)
    return np.asarray(np.sin(math.pi / 2 * nearest) ** 2, dtype=np.float64)


def _sorted_gaps(angles: Angles, period: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of the angles within a period, and the gap after each."""
    within = np.mod(angles, period)
    order = np.argsort(within, kind="stable")
    gaps = np.diff(within[order], append=within[order[0]] + period)
    return order, gaps


def _usual(gaps: np.ndarray) -> float:
    """Return the third quartile of the gaps that are not zero."""
    positive = np.sort(gaps[gaps > _SAME])
    return float(positive[int(0.75 * (positive.size - 1))])
