"""A head of ellipsoids: brain with ventricles in fluid, dark skull, bright scalp, a neck."""

import numpy as np

from medsci.imaging import Volume

_SEMI_MM = np.array([66.0, 84.0, 64.0])
_CENTRE_MM = np.array([3.0, -10.0, 20.0])


def _grid(volume_shape, affine):
    index = np.meshgrid(*[np.arange(n) for n in volume_shape], indexing="ij")
    world = np.stack(index, axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    return world - _CENTRE_MM


def _within(place, wider_mm):
    return np.sum((place / (_SEMI_MM + wider_mm)) ** 2, axis=-1) <= 1.0


def toy_head(*, spacing_mm=3.0, noise=2.0, seed=0, affine=None, shape=None):
    """Return (image, brain): float32 and bool volumes in RAS, or on the grid that is given."""
    if affine is None:
        shape = tuple(int(mm / spacing_mm) for mm in (186, 216, 204))
        affine = np.diag([spacing_mm] * 3 + [1.0])
        affine[:3, 3] = (-90.0, -115.0, -100.0)
    place = _grid(shape, affine)
    neck = (np.hypot(place[..., 0], place[..., 1] + 15.0) < 52.0) & (place[..., 2] < -30.0)
    image = np.zeros(shape)
    image[_within(place, 17.0)] = 180.0
    image[neck] = 70.0
    image[_within(place, 11.0)] = 8.0
    brain = _within(place, 2.5)
    image[brain] = 30.0
    image[_within(place, 0.0)] = 100.0
    image[np.sum((place / (0.7 * _SEMI_MM)) ** 2, axis=-1) <= 1.0] = 140.0
    image[np.sum((place / (10.0, 30.0, 14.0)) ** 2, axis=-1) <= 1.0] = 30.0
    noises = np.random.default_rng(seed).normal(scale=noise, size=(2, *shape))
    values = np.hypot(image + noises[0], noises[1]).astype(np.float32)
    return Volume(values, affine, sform_code=1), Volume(brain, affine, sform_code=1)
