"""A closed surface that grows inside a head until it meets the edge of the brain.

A sphere of triangles starts in the brain. In every step each vertex x moves by

    u = s_t / 2 + f2 s_n + 0.05 l f3 n

n is the outward normal, l the mean edge, s = s_t + s_n the way to the mean of the neighbours, split
into its tangential and normal part. f2 in (0, 1) smooths where the surface bends more sharply than
a brain does; f3 compares the darkest value within 20 mm inside the vertex with a threshold between
background and the brightest value within 10 mm: negative, and the surface draws back, where it has
passed into fluid or skull.

Source: Smith 2002, doi:10.1002/hbm.10062.
"""

__all__ = ["Sphere", "filled", "grow", "icosphere"]

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import final

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int
from scipy import ndimage

_DARK_MM, _BRIGHT_MM = 20.0, 10.0  # how far inside a vertex the darkest and brightest are sought
_RADIUS_MM = (3.33, 10.0)  # curvature of the sharpest and of the mildest bend smoothed
_STEPS = ((3, 300), (4, 250))  # divisions of the sphere and steps taken with it, coarse first


@final
@dataclass(frozen=True, eq=False)
class Sphere:
    """Triangles of a sphere of radius 1.

    Attributes:
        vertices: unit vectors.
        faces: indices of three vertices, outward.
        neighbours: of each vertex, padded with itself.
        n_neighbours: 5 or 6.
    """

    vertices: Float64[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    neighbours: Int[np.ndarray, "v 6"]
    n_neighbours: Int[np.ndarray, " v"]


@lru_cache(maxsize=4)
def icosphere(divisions: int = _STEPS[-1][0]) -> Sphere:
    """Halve the edges of an icosahedron `divisions` times: 10 * 4^divisions + 2 vertices."""
    if divisions == 0:
        return _with_neighbours(*_icosahedron())
    coarse = icosphere(divisions - 1)
    vertices = _halved(coarse.vertices, coarse)
    vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    ab, bc, ca = _edges(coarse)[1].reshape(3, -1) + len(coarse.vertices)
    a, b, c = coarse.faces.T
    parts = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    return _with_neighbours(vertices, np.concatenate([np.stack(p, axis=1) for p in parts]))


def _icosahedron() -> tuple[Float64[np.ndarray, "12 3"], Int[np.ndarray, "20 3"]]:
    golden = (1.0 + 5.0**0.5) / 2.0
    corners = [(0.0, a, b * golden) for a in (-1.0, 1.0) for b in (-1.0, 1.0)]
    points = np.array([np.roll(c, turn) for turn in range(3) for c in corners])
    near = np.isclose(np.linalg.norm(points[:, None] - points[None], axis=-1), 2.0)
    faces = np.array([
        three for three in combinations(range(12), 3) if near[np.ix_(three, three)].sum() == 6
    ])  # fmt: skip
    inward = np.sum(points[faces[:, 0]] * _crosses(points, faces), axis=1) < 0
    faces[inward] = faces[inward][:, ::-1]
    return points / np.linalg.norm(points, axis=1, keepdims=True), faces


def _with_neighbours(vertices: Float64[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]) -> Sphere:
    pairs = np.unique(_sides(faces), axis=0)
    neighbours = np.tile(np.arange(len(vertices))[:, None], (1, 6))
    count = np.zeros(len(vertices), dtype=np.int64)
    for a, b in np.concatenate([pairs, pairs[:, ::-1]]):
        neighbours[a, count[a]] = b
        count[a] += 1
    return Sphere(vertices, faces, neighbours, count)


def _sides(faces: Int[np.ndarray, "f 3"]) -> Int[np.ndarray, "n 2"]:
    return np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)


def _edges(sphere: Sphere) -> tuple[Int[np.ndarray, "e 2"], Int[np.ndarray, " n"]]:
    """Return every edge once, and which of them each side of each triangle is."""
    edges, which = np.unique(_sides(sphere.faces), axis=0, return_inverse=True)
    return edges, which.ravel()


def _halved(vertices: Float64[np.ndarray, "v 3"], sphere: Sphere) -> Float64[np.ndarray, "w 3"]:
    """Add the middle of every edge, as the next finer sphere counts its vertices."""
    return np.concatenate([vertices, vertices[_edges(sphere)[0]].mean(axis=1)])


def _crosses(
    points: Float64[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]
) -> Float64[np.ndarray, "f 3"]:
    a, b, c = (points[faces[:, corner]] for corner in range(3))
    return np.cross(b - a, c - a)


def grow(
    image: Float32[np.ndarray, "i j k"],
    *,
    spacing_mm: tuple[float, float, float],
    centre_mm: Float64[np.ndarray, "3"],
    radius_mm: float,
    levels: tuple[float, float, float],
    fraction: float = 0.5,
) -> Float64[np.ndarray, "v 3"]:
    """Let a sphere grow to the edge of the brain.

    Args:
        image: T1-weighted magnitudes.
        spacing_mm: voxel size.
        centre_mm: middle of the first sphere, in mm from voxel 0 along each axis.
        radius_mm: of the whole head; the first sphere has half of it.
        levels: value of background, threshold between background and head, and median of the brain.
        fraction: place of the threshold; a larger one gives a smaller brain.

    Returns:
        The vertices, in mm from voxel 0, of the surface of `icosphere()`.
    """
    seen = _Profile(image, np.array(spacing_mm), levels, fraction)
    first = _STEPS[0][0]
    vertices = icosphere(first).vertices * (0.5 * radius_mm) + centre_mm
    for divisions, n_steps in _STEPS:
        if divisions > first:
            vertices = _halved(vertices, icosphere(divisions - 1))
        for _ in range(n_steps):
            vertices = _moved(vertices, icosphere(divisions), seen)
    return vertices


@final
@dataclass(frozen=True, eq=False)
class _Profile:
    """What lies inside a vertex, and whether the surface should go on there."""

    image: Float32[np.ndarray, "i j k"]
    spacing_mm: Float64[np.ndarray, "3"]
    levels: tuple[float, float, float]
    fraction: float

    def push(
        self, vertices: Float64[np.ndarray, "v 3"], normal: Float64[np.ndarray, "v 3"]
    ) -> Float64[np.ndarray, " v"]:
        """Return f3 of every vertex."""
        background, threshold, median = self.levels
        step = max(float(self.spacing_mm.min()), 1.0)
        depths = np.arange(step, _DARK_MM + 0.5 * step, step)
        place = (vertices[:, None] - normal[:, None] * depths[None, :, None]) / self.spacing_mm
        size = self.image.shape
        i, j, k = (
            np.clip(np.rint(place[..., axis]).astype(np.int64), 0, size[axis] - 1)
            for axis in range(3)
        )
        seen = self.image[i, j, k].astype(np.float64)
        near = seen[:, : int(np.sum(depths <= _BRIGHT_MM))]
        dark = np.maximum(background, np.minimum(median, seen.min(axis=1)))
        bright = np.minimum(median, np.maximum(threshold, near.max(axis=1)))
        wanted = background + self.fraction * (bright - background)
        return np.asarray(2.0 * (dark - wanted) / np.maximum(bright - background, 1e-12))


def _moved(
    vertices: Float64[np.ndarray, "v 3"], sphere: Sphere, seen: _Profile
) -> Float64[np.ndarray, "v 3"]:
    normal = _normals(vertices, sphere)
    way = _neighbour_mean(vertices, sphere) - vertices
    edge = _mean_edge(vertices, sphere)
    along = np.sum(way * normal, axis=1, keepdims=True)
    bend = 2.0 * np.abs(along) / edge**2  # 1 / radius of the sphere through the neighbours
    sharpest, mildest = (1.0 / radius for radius in _RADIUS_MM)
    smooth = 0.5 * (1.0 + np.tanh(6.0 / (sharpest - mildest) * (bend - (sharpest + mildest) / 2)))
    push = seen.push(vertices, normal)[:, None]
    step = 0.5 * (way - along * normal) + smooth * along * normal + 0.05 * edge * push * normal
    return np.asarray(vertices + step)


def _normals(vertices: Float64[np.ndarray, "v 3"], sphere: Sphere) -> Float64[np.ndarray, "v 3"]:
    crosses = _crosses(vertices, sphere.faces)
    found = np.zeros_like(vertices)
    for axis in range(3):
        for corner in range(3):
            found[:, axis] += np.bincount(
                sphere.faces[:, corner], weights=crosses[:, axis], minlength=len(vertices)
            )
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def _neighbour_mean(
    vertices: Float64[np.ndarray, "v 3"], sphere: Sphere
) -> Float64[np.ndarray, "v 3"]:
    n = sphere.n_neighbours[:, None]
    total = vertices[sphere.neighbours].sum(axis=1)  # a place without a neighbour holds the vertex
    return np.asarray((total - (6 - n) * vertices) / n)


def _mean_edge(vertices: Float64[np.ndarray, "v 3"], sphere: Sphere) -> float:
    a, b = sphere.faces[:, 0], sphere.faces[:, 1]
    return float(np.linalg.norm(vertices[a] - vertices[b], axis=1).mean())


def filled(
    vertices: Float64[np.ndarray, "v 3"],
    *,
    shape: tuple[int, ...],
    spacing_mm: tuple[float, ...],
) -> Bool[np.ndarray, "i j k"]:
    """Return True where a voxel's centre is inside the surface, on a grid with voxel 0 at 0 mm."""
    sphere = icosphere()
    corners = [vertices[sphere.faces[:, n]] / spacing_mm for n in range(3)]
    outward = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    sides = [np.linalg.norm(corners[n] - corners[n - 1], axis=1).max() for n in range(3)]
    # one voxel of room around, so that a surface through the border still closes
    room = np.array(shape) + 2
    touched = np.zeros(room, dtype=bool)
    beyond = np.zeros(room)  # positive where the centre of a voxel on the surface is outside
    for weights in _barycentric(int(np.ceil(max(sides) / 0.5))):
        point = sum(w * corner for w, corner in zip(weights, corners, strict=True)) + 1.0
        voxel = np.clip(np.rint(point).astype(np.int64), 0, room - 1)
        where = tuple(voxel.T)
        touched[where] = True
        np.add.at(beyond, where, np.sum((voxel - point) * outward, axis=1))
    found = ndimage.binary_fill_holes(touched) & ~(touched & (beyond > 0))
    return np.asarray(found[1:-1, 1:-1, 1:-1])


def _barycentric(n: int) -> Float[np.ndarray, "p 3"]:
    i, j = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    keep = i + j <= n
    u, v = i[keep] / n, j[keep] / n
    return np.stack([u, v, 1.0 - u - v], axis=1)
