"""Small grids in every orientation, shared by the imaging tests."""

from itertools import permutations, product

import numpy as np

SPACING = (0.75, 1.25, 2.5)
SHAPE = (3, 4, 5)
ORIENTATIONS = list(product(permutations(range(3)), product((1, -1), repeat=3)))


def oriented_affine(order, signs, *, tilt=0.0):
    """World axis order[a] with signs[a] along voxel axis a; exact in float32 when tilt is 0."""
    affine = np.zeros((4, 4))
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world, axis] = sign * SPACING[axis]
    c, s = np.cos(tilt), np.sin(tilt)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ affine[:3, :3]
    affine[:, 3] = (-12.5, 7.25, 31.75, 1)
    return affine


def name_of(orientation):
    order, signs = orientation
    return "".join(map(str, order)) + "".join("+" if s > 0 else "-" for s in signs)
