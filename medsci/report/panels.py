"""Lay out pictures of slices: one column per volume, one row per plane, all at one scale."""

__all__ = ["THIN", "Layer", "Row", "Sheet", "Tile", "draw_sheet"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, final

import numpy as np
from jaxtyping import Float64

from medsci.report.canvas import SOFT, canvas, to_png
from medsci.report.slices import Plane, plane_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MplFigure

THIN = 0.35  # a picture flatter than this is shown at several positions, stacked

_GAP_IN = 0.05
_LABEL_IN = 0.5
_TITLE_IN = 0.3
_BAR_IN = 0.5
_TILE_GAP_MM = 3.0
_LETTER: dict[str, Any] = {"color": "#ffd24a", "fontsize": 6.5, "fontweight": "bold"}
_NOTE: dict[str, Any] = {"color": "white", "fontsize": 5.5}


@final
@dataclass(frozen=True, slots=True)
class Tile:
    """One slice of a plane, cropped to voxel ranges along the plane's axes, with a note in it."""

    plane: Plane
    index: int
    crop: tuple[slice, slice]
    note: str = ""

    def size_mm(self, spacing_mm: tuple[float, float, float]) -> tuple[float, float]:
        """Width and height of the picture."""
        (u, v), (across, up) = self.plane.axes, self.crop
        return (
            (across.stop - across.start) * spacing_mm[u],
            (up.stop - up.start) * spacing_mm[v],
        )


@final
@dataclass(frozen=True, slots=True)
class Layer:
    """What a column shows and how: values from 0 (dark) to `top` (bright)."""

    title: str
    values: Float64[np.ndarray, "x y z"]
    colours: str
    top: float
    bar_label: str


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One list of tiles per column and a label at the left."""

    label: str
    cells: Sequence[Sequence[Tile]]


@final
@dataclass(frozen=True, slots=True)
class Sheet:
    """A whole picture: every row has as many cells as there are layers, or fewer.

    Without `lettered` no side of the patient is named, for files that do not say which is which.
    """

    layers: Sequence[Layer]
    rows: Sequence[Row]
    spacing_mm: tuple[float, float, float]
    column_in: float
    lettered: bool


def draw_sheet(sheet: Sheet) -> bytes:
    """Return the picture as PNG bytes."""
    sizes = [
        [_montage_mm(tiles, spacing_mm=sheet.spacing_mm) for tiles in row.cells]
        for row in sheet.rows
    ]
    width_mm = max(width for row in sizes for width, _ in row)
    heights_mm = [max(height for _, height in row) for row in sizes]
    inch_per_mm = sheet.column_in / width_mm
    left = _LABEL_IN if any(row.label for row in sheet.rows) else _GAP_IN
    head = _TITLE_IN if any(layer.title for layer in sheet.layers) else _GAP_IN
    pitch = sheet.column_in + _GAP_IN
    total_w = left + pitch * len(sheet.layers)
    total_h = head + sum(h * inch_per_mm + _GAP_IN for h in heights_mm) + _BAR_IN
    with canvas(total_w, total_h) as figure:
        top = total_h - head
        _draw_titles(figure, sheet.layers, left=left, y=top + 0.09, column_in=sheet.column_in)
        for row, height_mm in zip(sheet.rows, heights_mm, strict=True):
            height = height_mm * inch_per_mm
            if row.label:
                figure.text(
                    0.5 * left / total_w, (top - height / 2) / total_h, row.label,
                    rotation=90, ha="center", va="center", fontsize=7.5, color=SOFT,
                )  # fmt: skip
            for column, tiles in enumerate(row.cells):
                box = (left + column * pitch, top - height, sheet.column_in, height)
                axes = _axes(figure, box)
                axes.set_xlim(0, width_mm)
                axes.set_ylim(0, height_mm)
                _draw_cell(axes, sheet.layers[column], tiles, sheet=sheet)
            top -= height + _GAP_IN
        _draw_bars(figure, sheet.layers, left=left, top=top, column_in=sheet.column_in)
        return to_png(figure)


def _montage_mm(
    tiles: Sequence[Tile], *, spacing_mm: tuple[float, float, float]
) -> tuple[float, float]:
    """Return the size of the tiles stacked along their short side."""
    width, height = tiles[0].size_mm(spacing_mm)
    extra = len(tiles) - 1
    if width < THIN * height:
        return width + extra * (width + _TILE_GAP_MM), height
    return width, height + extra * (height + _TILE_GAP_MM)


def _axes(figure: "MplFigure", box_in: tuple[float, float, float, float]) -> "Axes":
    """Add axes at left, bottom, width, height in inches."""
    w, h = figure.get_size_inches()
    x, y, dx, dy = box_in
    axes = figure.add_axes((x / w, y / h, dx / w, dy / h), facecolor="black")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def _draw_cell(axes: "Axes", layer: Layer, tiles: Sequence[Tile], *, sheet: Sheet) -> None:
    """Draw the tiles in the middle of the cell; the first one carries the letters."""
    from matplotlib import colormaps

    axes.set_facecolor(colormaps[layer.colours](0.0))
    width, height = tiles[0].size_mm(sheet.spacing_mm)
    all_w, all_h = _montage_mm(tiles, spacing_mm=sheet.spacing_mm)
    _, cell_w = axes.get_xlim()
    _, cell_h = axes.get_ylim()
    x, y = (cell_w - all_w) / 2, (cell_h + all_h) / 2 - height
    beside = width < THIN * height
    for tile in tiles:
        picture = plane_picture(layer.values, tile.plane, index=tile.index, crop=tile.crop)
        axes.imshow(
            picture, cmap=layer.colours, vmin=0, vmax=layer.top, aspect="auto",
            extent=(x, x + width, y, y + height),
        )  # fmt: skip
        if tile is tiles[0] and sheet.lettered:
            _draw_letters(axes, tile.plane, box=(x, y, width, height))
        _mark(axes, (x + 1.5, y + 1.5), tile.note, anchor=("left", "bottom"), style=_NOTE)
        x, y = (x + width + _TILE_GAP_MM, y) if beside else (x, y - height - _TILE_GAP_MM)
    axes.set_xlim(0, cell_w)
    axes.set_ylim(0, cell_h)


def _draw_letters(axes: "Axes", plane: Plane, *, box: tuple[float, float, float, float]) -> None:
    """Mark the picture's edges with the patient's sides."""
    x, y, width, height = box
    west, east, north, south = plane.letters
    pad = 1.5
    for at, letter, anchor in (
        ((x + pad, y + height / 2), west, ("left", "center")),
        ((x + width - pad, y + height / 2), east, ("right", "center")),
        ((x + width / 2, y + height - pad), north, ("center", "top")),
        ((x + width / 2, y + pad), south, ("center", "bottom")),
    ):
        _mark(axes, at, letter, anchor=anchor, style=_LETTER)


def _mark(
    axes: "Axes",
    at: tuple[float, float],
    text: str,
    *,
    anchor: tuple[str, str],
    style: Mapping[str, Any],
) -> None:
    """Write into a picture so that it can be read on bright and on dark tissue."""
    from matplotlib.patheffects import withStroke

    if text:
        outline = [withStroke(linewidth=1.5, foreground="black")]
        axes.text(*at, text, ha=anchor[0], va=anchor[1], path_effects=outline, **style)


def _draw_titles(
    figure: "MplFigure", layers: Sequence[Layer], *, left: float, y: float, column_in: float
) -> None:
    w, h = figure.get_size_inches()
    for column, layer in enumerate(layers):
        x = left + column * (column_in + _GAP_IN) + column_in / 2
        figure.text(x / w, y / h, layer.title, ha="center", va="bottom", fontsize=9.5)


def _draw_bars(
    figure: "MplFigure", layers: Sequence[Layer], *, left: float, top: float, column_in: float
) -> None:
    """Draw one colour bar for each run of columns that share a window."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    pitch = column_in + _GAP_IN
    start = 0
    for (colours, limit, label), run in groupby(
        layers, key=lambda layer: (layer.colours, layer.top, layer.bar_label)
    ):
        count = len(list(run))
        middle = left + start * pitch + (count * pitch - _GAP_IN) / 2
        bar_w = 0.7 * column_in
        axes = _axes(figure, (middle - bar_w / 2, top - 0.12, bar_w, 0.09))
        bar = figure.colorbar(
            ScalarMappable(Normalize(0, limit), colours), cax=axes, orientation="horizontal"
        )
        ticks = [0.0, limit / 2, limit]
        bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
        bar.ax.tick_params(labelsize=7, length=2, pad=1.5, color=SOFT, labelcolor=SOFT)
        bar.outline.set_visible(False)
        bar.set_label(label, fontsize=7, color=SOFT, labelpad=1)
        start += count
