"""Small heads to compare: a shell, a ventricle, a texture, all at random, with a label map."""

import numpy as np
from scipy.ndimage import gaussian_filter

from medsci.imaging import Volume

VOXEL_MM = 8.0


def phantom_head(seed, *, n=24, blur=0.0, size=1.0):
    """Return a T1-like volume and its label map (1 ventricle, 2 shell, 3 inside), both at 8 mm."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n)] * 3, indexing="ij"), -1)
    half, centre = size * rng.uniform(0.6, 0.85, 3), rng.normal(0, 0.05, 3)
    radius = np.linalg.norm((grid - centre) / half, axis=-1)
    inner = np.linalg.norm((grid - centre) / (half * rng.uniform(0.25, 0.45)), axis=-1)
    image = np.where(radius < 1, 0.8, 0.0) + np.where((radius < 1) & (radius > 0.85), 0.2, 0.0)
    image[inner < 1] = 0.2
    texture = gaussian_filter(rng.normal(size=image.shape), 1.0)
    image = gaussian_filter(image * (1 + 0.1 * texture / texture.std()), 0.5 + blur)
    labels = np.select([inner < 1, (radius < 1) & (radius > 0.75), radius < 1], [1, 2, 3], 0)
    affine = np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0])
    affine[:3, 3] = rng.normal(0, 20, 3)  # scanners disagree on the origin
    volume = Volume((1000 * image).astype(np.float32), affine, sform_code=1)
    return volume, volume.with_array(labels.astype(np.uint8))
