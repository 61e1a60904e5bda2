"""Show volumes side by side in three anatomical planes."""

__all__ = ["slice_mosaic", "three_planes"]

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from medsci.errors import InvalidInputError
from medsci.imaging import Volume
from medsci.report.panels import THIN, Layer, Row, Sheet, Tile, draw_sheet
from medsci.report.slices import (
    PLANES,
    Grid,
    Plane,
    content_box,
    to_grid,
)

_WIDTH_IN = 9.0  # of all columns together
_WIDEST_COLUMN_IN = 2.8
_FLATTEST = 0.06  # a plane flatter than this is left out
_MARGIN_MM = 6.0


def three_planes(
    volumes: Mapping[str, Volume],
    *,
    errors: Mapping[str, Volume] | None = None,
    uncertainty: Volume | None = None,
    error_scale: float = 4.0,
    at_mm: tuple[float, float, float] | None = None,
) -> bytes:
    """Return a PNG: rows axial, coronal, sagittal; one column per volume, error and uncertainty.

    All volumes are turned to RAS+ first, so equal anatomy gives equal pictures whatever the file's
    axis order; drawn in radiological convention (patient's right at the left, front at the left in
    sagittal pictures) with true proportions, all rows at one scale, cropped to the head.

    A file that does not say how its axes lie gets no letters: its left and right are not known.

    A thin slab is shown as several strips per column, and a plane in which it would be a mere line
    is left out.

    Args:
        volumes: grey columns by title. They share the window from 0 to the 99.5th percentile of
            the first one, which should be the truth where there is one.
        errors: columns of absolute error by title (the absolute value is taken), drawn from 0 to
            the grey window divided by `error_scale`, with a colour bar in image units.
        uncertainty: standard deviation, drawn from 0 to its own 99.5th percentile.
        error_scale: how many times brighter errors are drawn; part of their title.
        at_mm: where the planes cross, world RAS+ mm; default: the first volume's centre of mass.

    Raises:
        InvalidInputError: no volume, volumes on different grids, or values that cannot be drawn.
    """
    if not volumes:
        raise InvalidInputError("no volume to draw; pass at least one named volume")
    if not error_scale > 0:
        raise InvalidInputError(f"error_scale is {error_scale}; give a positive factor, e.g. 4")
    grids = [(name, to_grid(volume, name=name)) for name, volume in volumes.items()]
    first = grids[0][1]
    white = _white(first)
    layers = [Layer(name, grid.array, "gray", white, "intensity") for name, grid in grids]
    for name, volume in (errors or {}).items():
        grid = to_grid(volume, name=name)
        grids.append((name, grid))
        title = f"{name}, ×{error_scale:g}"
        layers.append(Layer(title, np.abs(grid.array), "inferno", white / error_scale, name))
    if uncertainty is not None:
        grid = to_grid(uncertainty, name="uncertainty")
        grids.append(("uncertainty", grid))
        layers.append(Layer("uncertainty (std)", grid.array, "viridis", _white(grid), "std"))
    _require_one_grid(grids)
    rows = []
    for label, tiles in _cuts(first, white=white, at_mm=at_mm):
        plain = [replace(tile, note="") for tile in tiles]
        rows.append(Row(label, [tiles] + [plain] * (len(layers) - 1)))
    width = min(_WIDEST_COLUMN_IN, _WIDTH_IN / len(layers))
    lettered = all(volume.has_orientation for volume in volumes.values())
    return draw_sheet(Sheet(layers, rows, first.spacing_mm, width, lettered))


def slice_mosaic(
    volume: Volume,
    *,
    plane: Literal["axial", "coronal", "sagittal"] = "axial",
    n_slices: int = 12,
    n_columns: int = 6,
    white: float | None = None,
) -> bytes:
    """Return a PNG with slices of one plane at equal distances, from the lowest position upwards.

    Args:
        volume: what to show, turned to RAS+ and cropped to the head first.
        plane: which plane.
        n_slices: how many; never more than the volume has.
        n_columns: pictures per row.
        white: value drawn white; default: 99.5th percentile.

    Raises:
        InvalidInputError: counts below one, or values that cannot be drawn.
    """
    if n_slices < 1 or n_columns < 1:
        raise InvalidInputError(
            f"n_slices is {n_slices} and n_columns {n_columns}; both must be at least 1"
        )
    grid = to_grid(volume, name="volume")
    chosen = next(p for p in PLANES if p.name == plane)
    top = _white(grid) if white is None else white
    box = _crop(grid, white=top)
    inside = box[chosen.normal]
    count = min(n_slices, inside.stop - inside.start)
    n_columns = min(n_columns, count)
    edges = np.linspace(inside.start, inside.stop, 2 * count + 1)[1::2]
    indices = [int(e) for e in edges]
    tiles = [_tile(grid, chosen, box=box, index=i) for i in indices]
    rows = [
        Row("", [[tile] for tile in tiles[start : start + n_columns]])
        for start in range(0, count, n_columns)
    ]
    layers = [Layer("", grid.array, "gray", top, "intensity")] * n_columns
    width = min(_WIDEST_COLUMN_IN, _WIDTH_IN / n_columns)
    return draw_sheet(Sheet(layers, rows, grid.spacing_mm, width, volume.has_orientation))


def _white(grid: Grid) -> float:
    """Return the 99.5th percentile, or something positive if there is nothing to see."""
    top = float(np.percentile(np.abs(grid.array), 99.5))
    return top or float(np.abs(grid.array).max()) or 1.0


def _require_one_grid(grids: Sequence[tuple[str, Grid]]) -> None:
    name, first = grids[0]
    for other, grid in grids[1:]:
        same_shape = grid.array.shape == first.array.shape
        if not same_shape or not np.allclose(grid.affine, first.affine, atol=1e-3):
            raise InvalidInputError(
                f"{other!r} {grid.array.shape} is not on the grid of {name!r} {first.array.shape} "
                "(shape or affine differs); resample it first"
            )


def _crop(grid: Grid, *, white: float) -> tuple[slice, slice, slice]:
    x, y, z = (int(np.ceil(_MARGIN_MM / step)) for step in grid.spacing_mm)
    return content_box(np.abs(grid.array), level=0.12 * white, margin=(x, y, z))


def _cuts(
    grid: Grid, *, white: float, at_mm: tuple[float, float, float] | None
) -> list[tuple[str, list[Tile]]]:
    """Choose label and slices for every plane that shows more than a line."""
    box = _crop(grid, white=white)
    centre = _centre(grid)
    if at_mm is not None:
        centre = tuple(grid.index_at(axis, position) for axis, position in enumerate(at_mm))
    size = [(b.stop - b.start) * step for b, step in zip(box, grid.spacing_mm, strict=True)]
    flatness = {
        plane: min(size[a] for a in plane.axes) / max(size[a] for a in plane.axes)
        for plane in PLANES
    }
    shown = [plane for plane in PLANES if flatness[plane] >= _FLATTEST]
    cuts = []
    for plane in shown or [max(PLANES, key=lambda p: flatness[p])]:
        inside = box[plane.normal]
        last = grid.array.shape[plane.normal] - 1
        wanted = [
            centre[plane.normal] + round(offset * (inside.stop - inside.start))
            for offset in _offsets(flatness[plane])
        ]
        indices = sorted({min(max(index, 0), last) for index in wanted}, reverse=True)
        tiles = [_tile(grid, plane, box=box, index=i) for i in indices]
        if len(tiles) > 1 and size[plane.axes[0]] > size[plane.axes[1]]:
            cuts.append((plane.name, tiles))  # flat strips: the row is too low for a long label
        else:
            positions = _positions_mm(grid, plane, indices)
            cuts.append((f"{plane.name}\n{positions}", [replace(t, note="") for t in tiles]))
    return cuts


def _offsets(flatness: float) -> tuple[float, ...]:
    """Return where to cut, from the centre, as fractions of the head: the flatter the more cuts."""
    if flatness >= THIN:
        return (0.0,)
    return (0.2, 0.0, -0.2) if flatness >= THIN / 3 else (0.3, 0.15, 0.0, -0.15, -0.3)


def _centre(grid: Grid) -> tuple[int, ...]:
    """Return the voxel at the centre of mass."""
    weight = np.abs(grid.array)
    total = weight.sum()
    if total == 0:
        return tuple(n // 2 for n in grid.array.shape)
    return tuple(
        round(float(np.average(np.arange(n), weights=weight.sum(tuple({0, 1, 2} - {axis})))))
        for axis, n in enumerate(grid.array.shape)
    )


def _tile(grid: Grid, plane: Plane, *, box: tuple[slice, slice, slice], index: int) -> Tile:
    """Return one slice with its position as note."""
    crop = (box[plane.axes[0]], box[plane.axes[1]])
    return Tile(plane, index, crop, _positions_mm(grid, plane, [index]))


def _positions_mm(grid: Grid, plane: Plane, indices: Sequence[int]) -> str:
    """Spell where slices lie in the world, to the millimetre."""
    positions = [round(grid.position_mm(plane.normal, index)) for index in indices]
    spelt = ", ".join(f"{p:+d}".replace("-", "−") if p else "0" for p in positions)
    return f"{plane.axis_name} = {spelt} mm"
