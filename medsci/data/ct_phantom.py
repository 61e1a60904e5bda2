"""Simulated anatomy in Hounsfield units: heads from labels, and trunks drawn at random.

Heads take the labelled heads of `head_template` and give every tissue the attenuation it has in a
CT. Trunks are axial slices through a chest or an abdomen built of smooth closed outlines: skin,
fat, muscle, ribs, lungs with vessels, heart, aorta, spine, liver and bowel. Both are crude: they
teach a prior which attenuations lie next to one another, and how sharp the borders are.

Source of the attenuations: textbook ranges, for instance Kalender 2011, Computed Tomography, ch. 1.
"""

__all__ = ["head_slice", "trunk_slice"]

import numpy as np
from scipy import ndimage

from medsci.data.head_template import LABELS
from medsci.data.random_field import coarse_field, fourier_field

AIR_HU = -1000.0
# mean and spread of each label of the simulated heads, in Hounsfield units
_HEAD_HU = {
    "air": (-1000.0, 0.0), "fluid": (8.0, 4.0), "grey": (38.0, 3.0), "white": (29.0, 3.0),
    "dura": (55.0, 15.0), "bone": (1150.0, 250.0), "marrow": (450.0, 180.0),
    "muscle": (55.0, 10.0), "fat": (-95.0, 12.0), "skin": (25.0, 30.0), "deep": (30.0, 40.0),
}  # fmt: skip
_ROUGH_HU = {
    "bone": 180.0,
    "marrow": 160.0,
    "muscle": 12.0,
    "fat": 12.0,
    "deep": 60.0,
    "skin": 20.0,
}


def head_slice(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Give a labelled axial slice of a head attenuations, air cells and a head rest.

    Args:
        labels: uint8 (rows, columns), indices into `head_template.LABELS`, 1 mm pixels.
        generator: everything random comes from it.

    Returns:
        float32 Hounsfield units of the same shape.
    """
    means = np.array([generator.normal(*_HEAD_HU[name]) for name in LABELS], dtype=np.float32)
    rough = np.array([_ROUGH_HU.get(name, 2.0) for name in LABELS], dtype=np.float32)
    fine = fourier_field(labels.shape, scale=generator.uniform(0.7, 2.0), generator=generator)
    image = means[labels] + rough[labels] * fine * generator.uniform(0.4, 1.2)
    deep = labels == LABELS.index("deep")
    if deep.any():  # the base of the skull: thin bone around air cells
        cells = fourier_field(labels.shape, scale=generator.uniform(2.0, 6.0), generator=generator)
        level = generator.uniform(0.2, 1.0)
        image[deep & (cells > level)] = AIR_HU
        wall = np.abs(cells - level) < generator.uniform(0.05, 0.25)
        image[deep & wall] = generator.uniform(300.0, 900.0)
    if generator.random() < 0.5:
        _rest(image, generator)
    return np.maximum(image, AIR_HU).astype(np.float32)


def trunk_slice(generator: np.random.Generator, *, size: int = 320) -> np.ndarray:
    """Draw an axial slice through a trunk, rows from posterior to anterior.

    Args:
        generator: everything random comes from it.
        size: rows and columns; pixels are meant as 1.15 mm.

    Returns:
        float32 Hounsfield units (size, size).
    """
    rows, columns = _bent(size, generator)
    half_width, half_depth = generator.uniform(0.33, 0.45), generator.uniform(0.21, 0.31)
    image = np.full((size, size), AIR_HU, dtype=np.float32)
    _table(image, -half_depth, generator)

    def inside(y: float, x: float, ry: float, rx: float, *, power: float = 2.0) -> np.ndarray:
        return np.abs((rows - y) / ry) ** power + np.abs((columns - x) / rx) ** power < 1.0

    def put(where: np.ndarray, mean: float, spread: float) -> None:
        image[where] = generator.normal(mean, spread)

    put(inside(0.0, 0.0, half_depth, half_width, power=2.4), 10.0, 30.0)  # skin
    put(inside(0.0, 0.0, half_depth - 0.008, half_width - 0.008, power=2.4), -100.0, 10.0)  # fat
    fat = generator.uniform(0.015, 0.06)
    ry, rx = half_depth - fat, half_width - fat
    put(inside(0.0, 0.0, ry, rx, power=2.3), 50.0, 12.0)  # wall
    chest = generator.random() < 0.75
    wall = generator.uniform(0.02, 0.05)
    cavity = inside(0.01, 0.0, ry - wall, rx - wall, power=2.2)
    image[cavity] = generator.uniform(-110.0, 40.0)
    _ribs(image, (rows, columns), (ry - 0.5 * wall, rx - 0.5 * wall), generator)
    (_lungs if chest else _bowel)(image, cavity, (rows, columns), (ry, rx), generator=generator)
    _spine(image, (rows, columns), -ry + generator.uniform(0.09, 0.13), generator)
    soft = fourier_field((size, size), scale=generator.uniform(0.8, 2.5), generator=generator)
    image += soft * np.where(image > -300.0, generator.uniform(3.0, 18.0), 0.0).astype(np.float32)
    return np.clip(image, AIR_HU, 3000.0)


def _bent(size: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates of a unit square, smoothly deformed."""
    axis = (np.arange(size, dtype=np.float32) - 0.5 * (size - 1)) / size
    bend = coarse_field((size, size), spacing=size / 5.0, generator=generator, channels=2)
    fine = coarse_field((size, size), spacing=size / 16.0, generator=generator, channels=2)
    strong, weak = generator.uniform(0.004, 0.02), generator.uniform(0.001, 0.005)
    rows = axis[:, None] + strong * bend[0] + weak * fine[0]
    columns = axis[None, :] + strong * bend[1] + weak * fine[1]
    return rows, columns


def _ribs(
    image: np.ndarray,
    at: tuple[np.ndarray, np.ndarray],
    radii: tuple[float, float],
    generator: np.random.Generator,
) -> None:
    rows, columns = at
    for angle in np.linspace(0, 2 * np.pi, generator.integers(8, 22), endpoint=False):
        theta = angle + generator.normal(0.0, 0.08)
        y, x = radii[0] * np.sin(theta), radii[1] * np.cos(theta)
        along = -np.sin(theta) * (columns - x) + np.cos(theta) * (rows - y)
        across = np.cos(theta) * (columns - x) + np.sin(theta) * (rows - y)
        length, thick = generator.uniform(0.01, 0.05), generator.uniform(0.007, 0.013)
        shape = (along / length) ** 2 + (across / thick) ** 2
        image[shape < 1.0] = generator.uniform(350.0, 1100.0)
        image[shape < 0.35] = generator.uniform(80.0, 350.0)


def _lungs(
    image: np.ndarray,
    cavity: np.ndarray,
    at: tuple[np.ndarray, np.ndarray],
    radii: tuple[float, float],
    *,
    generator: np.random.Generator,
) -> None:
    rows, columns = at
    size = image.shape[0]
    middle = generator.uniform(0.05, 0.11)
    air = generator.normal(-850.0, 40.0)
    gentle = generator.uniform(10.0, 50.0)
    texture = fourier_field((size, size), scale=generator.uniform(1.0, 3.0), generator=generator)
    ridge = np.zeros((size, size), dtype=np.float32)  # vessels: thin ridges of a random field
    for scale in (3.0, 6.0):
        field = fourier_field((size, size), scale=scale, generator=generator)
        mask = fourier_field((size, size), scale=2 * scale, generator=generator) > 0.3
        ridge = np.maximum(ridge, mask * np.exp(-((field / 0.08) ** 2)))
    for side in (-1.0, 1.0):
        y, x = generator.normal(0.01, 0.02), side * (0.5 * radii[1] + 0.5 * middle)
        ry, rx = radii[0] * generator.uniform(0.6, 0.92), 0.5 * (radii[1] - middle)
        lung = (np.abs((rows - y) / ry) ** 2.5 + np.abs((columns - x) / rx) ** 2.5 < 1.0) & cavity
        filled = air + gentle * texture + (30.0 - air) * np.clip(ridge, 0.0, 1.0)
        image[lung] = filled[lung]
    y, x = generator.normal(0.03, 0.03), generator.normal(0.03, 0.02)
    ry, rx = generator.uniform(0.04, 0.13), generator.uniform(0.05, 0.14)
    heart = ((rows - y) / ry) ** 2 + ((columns - x) / rx) ** 2
    blood = generator.uniform(30.0, 220.0)
    image[heart < 1.0] = 45.0
    image[heart < generator.uniform(0.3, 0.9)] = blood
    for _ in range(generator.integers(2, 6)):  # great vessels and airways
        y, x = generator.normal(0.0, 0.07), generator.normal(0.0, 0.05)
        r = generator.uniform(0.008, 0.03)
        value = blood if generator.random() < 0.7 else -950.0
        image[(rows - y) ** 2 + (columns - x) ** 2 < r**2] = value


def _bowel(
    image: np.ndarray,
    cavity: np.ndarray,
    at: tuple[np.ndarray, np.ndarray],
    radii: tuple[float, float],
    *,
    generator: np.random.Generator,
) -> None:
    rows, columns = at
    for _ in range(generator.integers(5, 14)):
        y, x = generator.normal(0.0, 0.5, 2) * radii
        ry, rx = generator.uniform(0.02, 0.12, 2)
        organ = ((rows - y) / ry) ** 2 + ((columns - x) / rx) ** 2
        image[(organ < 1.0) & cavity] = generator.normal(55.0, 25.0)
        if generator.random() < 0.25:
            image[(organ < generator.uniform(0.2, 0.8)) & cavity] = generator.choice([-900.0, 10.0])


def _spine(
    image: np.ndarray,
    at: tuple[np.ndarray, np.ndarray],
    y: float,
    generator: np.random.Generator,
) -> None:
    rows, columns = at
    r = generator.uniform(0.035, 0.055)
    body = ((rows - y) / r) ** 2 + (columns / (1.2 * r)) ** 2
    image[body < 1.0] = generator.uniform(450.0, 900.0)
    image[body < 0.75] = generator.uniform(120.0, 330.0)
    canal = ((rows - y + 1.5 * r) / (0.45 * r)) ** 2 + (columns / (0.55 * r)) ** 2
    image[canal < 2.2] = generator.uniform(400.0, 900.0)
    image[canal < 1.0] = 30.0
    process = (np.abs(columns) < 0.18 * r) & (rows < y - 1.9 * r) & (rows > y - 3.2 * r)
    image[process] = generator.uniform(300.0, 800.0)


def _table(image: np.ndarray, back: float, generator: np.random.Generator) -> None:
    """Draw the couch: a thin curved shell below the back."""
    if generator.random() < 0.4:
        return
    size = image.shape[0]
    axis = (np.arange(size) - 0.5 * (size - 1)) / size
    y = back - generator.uniform(0.0, 0.05) + generator.uniform(0.1, 0.9) * axis[None, :] ** 2
    shell = np.abs(axis[:, None] - y) < generator.uniform(0.003, 0.01)
    image[shell] = generator.uniform(-850.0, -100.0)


def _rest(image: np.ndarray, generator: np.random.Generator) -> None:
    """Draw a head rest in the air behind the head."""
    air = ndimage.binary_erosion(image < -900.0, iterations=3)
    n_rows, n_columns = image.shape
    rows = np.arange(n_rows)[:, None] - n_rows * generator.uniform(0.4, 0.6)
    columns = np.arange(n_columns)[None, :] - 0.5 * n_columns
    radius = generator.uniform(0.42, 0.62) * n_rows
    distance = np.hypot(rows, columns * generator.uniform(0.9, 1.2))
    shell = (np.abs(distance - radius) < generator.uniform(1.0, 4.0)) & (rows < 0)
    image[shell & air] = generator.uniform(-900.0, 100.0)
