"""What a prior of whole volumes is worth for restoration, on a head it has not seen.

    python bench/brain_restore.py --model brain-t1-small
    python bench/brain_restore.py --model FOLDER --tasks superres --samples 8
    python bench/brain_restore.py --control       the same with untrained weights, which must lose

The head is Colin27, averaged to the model's voxels; the model saw simulated heads made from another
template. PSNR in dB inside the head (inside the hole for inpaint) for a range of the 99th
percentile. Thick slices are simulated from the 1 mm image, with a Gaussian profile as wide as their
distance, three voxels of the model. The best weight of every simple method is chosen by the truth,
ours are the library's defaults, of which one (`sigma_min`, worth about 0.4 dB) was chosen on this
head: our rows are that much too good. bias: coefficient of variation of corrected over true,
smaller is better. scikit-image gives two of the simple methods and is named where absent. The
last line is `RESULT {json}`.
"""

import argparse
import json
import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve

from medsci.imaging import Volume, read_nifti
from medsci.imaging.resample import resample_to, window
from medsci.metrics import head_mask, psnr
from medsci.models import load_denoiser, untrained_like
from medsci.models.store import find_model, read_config
from medsci.recon import PriorUnits, RestoreSettings, restore
from medsci.recon.volume_frame import VolumePrior, brain_centre_mm
from medsci.recon.volume_restoration import restore_volume

SAMPLE = Path(__file__).parent.parent / "sample_data" / "colin27_t1.nii.gz"
FWHM_PER_SIGMA = 2.3548200450309493
BALLS_MM = ((25.0, 10.0, 25.0), (-30.0, -30.0, 15.0), (5.0, 5.0, 5.0))  # from the middle
RADIUS_MM = 15.0
TIMES_COARSER = 3


class Bench:
    """One head on the model's grid, and a prior."""

    def __init__(self, model: str, *, control: bool, samples: int, steps: int | None) -> None:
        denoiser = load_denoiser(model)
        self.denoiser = untrained_like(denoiser) if control else denoiser
        self.prior = VolumePrior.of(read_config(find_model(model)))
        self.samples, self.steps = samples, steps
        voxel = round(self.prior.voxel_mm[0])
        head = read_nifti(SAMPLE)
        head = replace(head, array=head.array.astype(np.float32), header=None)
        centre = np.linalg.inv(head.affine) @ [*brain_centre_mm(head), 1.0]
        size = [n * voxel for n in self.prior.shape]
        start = [round(c - (n - 1) / 2) for c, n in zip(centre[:3], size, strict=True)]
        self.fine = window(head, start, size)
        self.missing = max(0, -start[2])  # mm below the image, where nobody knows the truth
        self.truth = blocks(self.fine, (voxel,) * 3)
        middle = (np.array(self.truth.shape) - 1) / 2
        self.middle = tuple((self.truth.affine @ [*middle, 1.0])[:3].tolist())
        self.mask = head_mask(self.truth.array, spacing_mm=self.truth.spacing_mm)
        self.mask[:, :, : -(-self.missing // (TIMES_COARSER * voxel)) * TIMES_COARSER] = False
        self.bright = float(np.percentile(self.truth.array[self.mask], 99))
        self.rng = np.random.default_rng(0)
        self.images: dict[str, np.ndarray] = {"truth": self.truth.array}

    def score(self, image: np.ndarray, mask: np.ndarray | None = None) -> float:
        """Return the PSNR in dB."""
        return psnr(
            np.asarray(image, np.float64), self.truth.array.astype(np.float64),
            mask=self.mask if mask is None else mask, data_range=self.bright,
        )  # fmt: skip

    def ours(self, volume: Volume, mask: Volume | None = None, **options: object) -> Volume:
        """Return what `medsci restore --prior` gives."""
        options = {"n_steps": self.steps, "centre_mm": self.middle} | options
        settings = RestoreSettings(**options)
        return restore_volume(
            volume, self.denoiser, settings=settings, prior=self.prior, mask=mask
        ).mean

    def known(self, volume: Volume) -> Volume:
        """Return the slices that lie wholly within the original image."""
        first = -(-self.missing // round(volume.spacing_mm[2]))
        return volume.slab(2, first, volume.shape[2])

    def rows(self, volume: Volume, mask: Volume | None = None, *, inside=None, **options):
        """Score one sample, and the mean of several."""
        found = {}
        for n in sorted({1, self.samples}):
            start = time.perf_counter()
            seen = None if mask is None else self.known(mask)
            image = self.ours(self.known(volume), seen, n_samples=n, **options)
            found[f"seconds, {n} sample(s)"] = time.perf_counter() - start
            there = resample_to(image, self.truth, order=1).array  # whole voxels: a copy
            found[f"prior, {n} sample(s)"] = self.score(there, inside)
            self.images[f"{options['task']} {n}"] = there
        return found

    def thick(self) -> Volume:
        """Return slices three of the model's voxels thick, and as far apart."""
        voxel = round(self.prior.voxel_mm[2])
        width = TIMES_COARSER * voxel
        sigma = (width**2 - 1.0) ** 0.5 / FWHM_PER_SIGMA
        soft = ndimage.gaussian_filter1d(self.fine.array, sigma, axis=2, mode="constant")
        at = np.arange(width // 2 - 1, soft.shape[2], width)  # centres lie between two voxels
        slices = (soft[:, :, at] + soft[:, :, at + 1]) / 2
        step = np.diag([1.0, 1.0, width, 1.0])
        step[2, 3] = (width - 1) / 2
        fine = replace(self.fine, array=slices, affine=self.fine.affine @ step)
        return blocks(fine, (voxel, voxel, 1))

    def superres(self) -> dict[str, float]:
        """Thick slices to cubes."""
        thick = self.thick()
        noisy = self.rng.standard_normal(thick.shape).astype(np.float32) * 0.005 * self.bright
        thick = thick.with_array(thick.array + noisy)
        rows = {}
        for name, order in (("nearest", 0), ("linear", 1), ("cubic", 3)):
            self.images[f"superres {name}"] = along_k(thick, self.truth, order)
            rows[name] = self.score(self.images[f"superres {name}"])
        return rows | self.rows(thick, task="superres")

    def inpaint(self) -> dict[str, float]:
        """Fill balls 30 mm wide inside the head, one after the other; the mean of their scores."""
        index = np.indices(self.truth.shape).reshape(3, -1)
        place = self.truth.affine[:3, :3] @ index + self.truth.affine[:3, 3:]
        rows: dict[str, list[float]] = {}
        for ball in BALLS_MM:
            gap = place - (np.array(self.middle) + ball)[:, None]
            hole = ((gap**2).sum(0) < RADIUS_MM**2).reshape(self.truth.shape)
            seen = self.truth.with_array(np.where(hole, 0, self.truth.array).astype(np.float32))
            mask = self.truth.with_array(hole.astype(np.uint8))
            each = {"harmonic": self.score(harmonic(seen.array, hole), hole)}
            biharmonic = _skimage("inpaint_biharmonic")
            if biharmonic:
                filled = biharmonic(seen.array.astype(float) / self.bright, hole) * self.bright
                each["biharmonic"] = self.score(filled, hole)
            each |= self.rows(seen, mask, inside=hole, task="inpaint")
            for name, value in each.items():
                rows.setdefault(name, []).append(value)
        return {name: float(np.mean(values)) for name, values in rows.items()}

    def denoise(self) -> dict[str, float]:
        """Gaussian noise of 10 %."""
        level = 0.1 * self.bright
        noise = level * self.rng.standard_normal(self.truth.shape).astype(np.float32)
        noisy = self.truth.with_array(self.truth.array + noise)
        smooth = [ndimage.gaussian_filter(noisy.array, s) for s in (0.3, 0.4, 0.5, 0.6, 0.8)]
        rows = {"input": self.score(noisy.array), "Gaussian, best": max(map(self.score, smooth))}
        tv = _skimage("denoise_tv_chambolle")
        if tv:
            unit = noisy.array / self.bright
            each = [tv(unit, weight=w) * self.bright for w in (0.03, 0.05, 0.07, 0.1, 0.15)]
            rows["TV, best"] = max(map(self.score, each))
        return rows | self.rows(noisy, task="denoise", noise=level)

    def bias(self) -> dict[str, float]:
        """A smooth field of up to a third."""
        x, y, z = (np.linspace(-1.0, 1.0, n) for n in self.truth.shape)
        bend = 0.25 * x[:, None, None] - 0.3 * y[:, None] ** 2 + 0.15 * z
        biased = self.truth.with_array((self.truth.array * np.exp(bend)).astype(np.float32))
        tissue = self.mask & (self.truth.array > 0.2 * self.bright)

        def spread(image: np.ndarray) -> float:
            ratio = image[tissue] / self.truth.array[tissue]
            return float(ratio.std() / ratio.mean())

        known = self.known(biased)
        n4 = restore(known, None, settings=RestoreSettings("bias"), units=PriorUnits()).mean
        ours = self.ours(known, task="bias", method="prior")
        return {
            "input": spread(biased.array),
            "n4": spread(resample_to(n4, self.truth, order=0).array),
            "prior": spread(resample_to(ours, self.truth, order=0).array),
        }


def blocks(volume: Volume, factors: tuple[int, ...]) -> Volume:
    """Return means over blocks, in their place."""
    shape = [size for n, f in zip(volume.shape, factors, strict=True) for size in (n // f, f)]
    step = np.diag([*map(float, factors), 1.0])
    step[:3, 3] = (np.array(factors) - 1) / 2
    means = volume.array.reshape(shape).mean(axis=(1, 3, 5))
    return replace(volume, array=means.astype(np.float32), affine=volume.affine @ step)


def along_k(thick: Volume, like: Volume, order: int) -> np.ndarray:
    """Interpolate between slices by a spline, in their places."""
    return resample_to(thick, like, order=order).array


def harmonic(values: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Solve Laplace's equation in the hole."""
    number = np.full(hole.shape, -1)
    number[hole] = np.arange(hole.sum())
    rows, columns, right = [], [], np.zeros(hole.sum())
    for axis in range(3):
        for shift in (-1, 1):
            near, value = np.roll(number, shift, axis), np.roll(values, shift, axis)
            inner = hole & (near >= 0)
            rows.append(number[inner])
            columns.append(near[inner])
            edge = hole & (near < 0)
            np.add.at(right, number[edge], value[edge])
    where = np.concatenate(rows), np.concatenate(columns)
    matrix = sparse.csr_array((-np.ones(len(where[0])), where), shape=(len(right),) * 2)
    filled = values.astype(np.float64).copy()
    filled[hole] = spsolve(sparse.csc_array(matrix + 6.0 * sparse.eye_array(len(right))), right)
    return filled


def _skimage(name: str):
    try:
        from skimage import restoration
    except ImportError:
        print(f"absent: scikit-image ({name})")
        return None
    return getattr(restoration, name)


def picture(images: dict[str, np.ndarray], path: Path) -> None:
    """Draw a sagittal and a coronal slice of every image."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(images), figsize=(2.2 * len(images), 4.6), squeeze=False)
    bright = np.percentile(images["truth"], 99.5)
    for column, (name, image) in enumerate(images.items()):
        middle = [n // 2 for n in image.shape]
        for row, part in enumerate((image[middle[0] + 2], image[:, middle[1]])):
            axes[row, column].imshow(part.T, origin="lower", cmap="gray", vmin=0, vmax=bright)
            axes[row, column].set_axis_off()
        axes[0, column].set_title(name, fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    tasks = ("superres", "inpaint", "denoise", "bias")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="brain-t1-small", help="name or folder of a 3D model")
    parser.add_argument("--tasks", nargs="*", default=list(tasks), choices=tasks)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--steps", type=int, help="network calls per sample")
    parser.add_argument("--control", action="store_true")
    parser.add_argument("--picture", type=Path, help="PNG with a slice of every result")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    bench = Bench(
        options.model, control=options.control, samples=options.samples, steps=options.steps
    )
    result = {}
    for task in options.tasks:
        result[task] = getattr(bench, task)()
        for name, value in result[task].items():
            print(f"{task:9s} {name:24s} {value:.3f}", flush=True)
    if options.picture is not None:
        picture(bench.images, options.picture)
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
