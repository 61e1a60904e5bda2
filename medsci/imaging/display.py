"""Pictures of a volume for notebooks and reports: three mid-planes in radiological view."""

__all__ = ["Plane", "mid_planes", "volume_html"]

import base64
import html
import io
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Shaped

from medsci.imaging.volume import Volume

# name, canonical axis across the picture, axis up the picture, letters left right top bottom
_VIEWS = (
    ("sagittal", 1, 2, ("A", "P", "S", "I")),
    ("coronal", 0, 2, ("R", "L", "S", "I")),
    ("axial", 0, 1, ("R", "L", "A", "P")),
)
_WIDTH_INCHES, _DOTS_PER_INCH = 2.4, 100


@final
@dataclass(frozen=True, eq=False)
class Plane:
    """One slice as it is to be drawn, first row at the top.

    Attributes:
        name: sagittal, coronal or axial.
        pixels: rows and columns; the patient's right, or front in the sagittal plane, on the left.
        aspect: height of a pixel divided by its width, in mm per mm.
        letters: world directions at the left, right, top and bottom edge.
    """

    name: str
    pixels: Shaped[np.ndarray, "rows columns"]
    aspect: float
    letters: tuple[str, str, str, str]


def mid_planes(volume: Volume) -> tuple[Plane, Plane, Plane]:
    """Return the middle sagittal, coronal and axial slice in radiological view.

    Of trailing axes (time, components) the first entry is taken; complex values as magnitude.
    """
    first = volume.array
    while first.ndim > 3:
        first = first[..., 0]
    flat = volume.with_array(np.abs(first) if first.dtype.kind == "c" else first).canonical()
    sagittal, coronal, axial = (_plane(flat, view) for view in range(3))
    return sagittal, coronal, axial


def _plane(canonical: Volume, view: int) -> Plane:
    name, across, up, letters = _VIEWS[view]
    normal = 3 - across - up
    pixels = np.take(canonical.array, canonical.shape[normal] // 2, axis=normal)
    return Plane(
        name, pixels.T[::-1, ::-1], canonical.spacing_mm[up] / canonical.spacing_mm[across], letters
    )


def volume_html(volume: Volume) -> str:
    """Return a self-contained HTML fragment: three pictures and a table of what the volume is."""
    planes = mid_planes(volume)
    low, high = _window(volume.array)
    pictures = "".join(
        f'<img alt="{plane.name}" style="display:inline-block" '
        f'src="data:image/png;base64,{_png(plane, low, high)}">'
        for plane in planes
    )
    rows = "".join(
        f'<tr><th style="text-align:left">{html.escape(name)}</th>'
        f'<td style="text-align:left">{html.escape(value)}</td></tr>'
        for name, value in _facts(volume)
    )
    return f"<div>{pictures}<table>{rows}</table></div>"


def _facts(volume: Volume) -> list[tuple[str, str]]:
    view = "radiological: the patient's right is on the left of the picture"
    if not volume.has_orientation:
        view = "the file states no orientation: left and right are not known"
    facts = [
        ("shape", " x ".join(map(str, volume.shape))),
        ("spacing", " x ".join(f"{mm:.4g}" for mm in volume.spacing_mm) + " mm"),
        ("orientation", "".join(volume.orientation)),
        ("type", str(volume.array.dtype)),
        ("range", _range_text(volume)),
        ("view", view),
    ]
    return facts if volume.path is None else [("file", volume.path.name), *facts]


def _range_text(volume: Volume) -> str:
    array = np.abs(volume.array) if volume.array.dtype.kind == "c" else volume.array
    finite = array[np.isfinite(array)]
    if finite.size == 0:
        return "no finite voxel"
    text = f"{finite.min():.5g} to {finite.max():.5g}"
    text = f"magnitude {text}" if volume.array.dtype.kind == "c" else text
    return f"{text}, {volume.n_nonfinite} not finite" if volume.n_nonfinite else text


def _window(array: np.ndarray) -> tuple[float, float]:
    """Return the grey window: the 1st and 99.5th percentile of at most 200 000 finite voxels."""
    sample = array.reshape(-1)[:: max(1, array.size // 200_000)]
    sample = np.abs(sample) if sample.dtype.kind == "c" else sample
    sample = sample[np.isfinite(sample)].astype(np.float64)
    if sample.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(sample, (1, 99.5)).tolist()
    return (low, high) if high > low else (low, low + 1.0)


def _png(plane: Plane, low: float, high: float) -> str:
    """Draw one plane with its direction letters; return the PNG in base64."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = plane.pixels.shape
    height = _WIDTH_INCHES * float(np.clip(rows * plane.aspect / columns, 0.2, 3.0))
    figure = Figure(figsize=(_WIDTH_INCHES, height), dpi=_DOTS_PER_INCH, facecolor="black")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.imshow(
        plane.pixels.astype(np.float64), cmap="gray", vmin=low, vmax=high, aspect=plane.aspect
    )
    places = ((0.03, 0.5), (0.97, 0.5), (0.5, 0.96), (0.5, 0.04))
    for letter, (x, y) in zip(plane.letters, places, strict=True):
        axes.text(
            x, y, letter, transform=axes.transAxes, color="yellow", ha="center", va="center",
            fontsize=8,
        )  # fmt: skip
    buffer = io.BytesIO()
    canvas.print_png(buffer, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode("ascii")
