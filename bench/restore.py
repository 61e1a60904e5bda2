"""What `medsci restore` is worth beside simple methods, on a head its prior has not seen.

    python bench/restore.py                   every task, two slices of Colin27
    python bench/restore.py --tasks denoise deblur
    python bench/restore.py --control         the same with an untrained prior, which must lose

Our rows use the library's defaults; the best weight of every simple method is chosen by the truth.
PSNR in dB inside the head (in the holes for inpaint) for a range of the 99th percentile; for bias
the coefficient of variation of corrected over true, on 48 slices. scikit-image gives two of the
simple methods and is named where absent. The last line is `RESULT {json}`.
"""

import argparse
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from medsci.imaging import Volume, read_nifti
from medsci.metrics import head_mask, psnr
from medsci.models import load_denoiser, untrained_like
from medsci.operators import BlurOp, IdentityOp
from medsci.recon import PriorUnits, RestoreSettings, restore, total_variation

SAMPLE = Path(__file__).parent.parent / "sample_data" / "colin27_t1.nii.gz"
UNITS = PriorUnits(2, None, (1.0, 1.0))
HOLES = ((60, 90, 10), (120, 130, 12), (90, 160, 8))


def colin(first: int, stop: int) -> Volume:
    volume = read_nifti(SAMPLE)
    return replace(volume, array=volume.array.astype(np.float32)).slab(2, first, stop)


class Bench:
    """Two slices, their head, and a prior."""

    def __init__(self, prior: torch.nn.Module) -> None:
        self.prior = prior
        self.volume = colin(84, 86)
        self.truth = self.volume.array
        self.mask = head_mask(self.truth, spacing_mm=(1.0, 1.0, 1.0))
        self.bright = float(np.percentile(self.truth[self.mask], 99))
        self.rng = np.random.default_rng(0)

    def score(self, image: np.ndarray, *, truth=None, mask=None) -> float:
        """Return the PSNR in dB."""
        truth = self.truth if truth is None else truth
        mask = self.mask if mask is None else mask
        return psnr(
            np.asarray(image, np.float64),
            truth.astype(np.float64),
            mask=mask,
            data_range=self.bright,
        )

    def ours(self, volume: Volume, mask: Volume | None = None, **options: object) -> np.ndarray:
        """Return what `medsci restore` gives."""
        settings = RestoreSettings(**options)
        return restore(volume, self.prior, settings=settings, units=UNITS, mask=mask).mean.array

    def with_noise(self, array: np.ndarray, share: float) -> Volume:
        """Add Gaussian noise, a share of the bright level."""
        noise = share * self.bright * self.rng.standard_normal(array.shape)
        return self.volume.with_array((array + noise).astype(np.float32))

    def denoise(self) -> dict[str, float]:
        """Noise of 5 %."""
        noisy = self.with_noise(self.truth, 0.05)
        y = torch.from_numpy(np.ascontiguousarray(noisy.array.transpose(2, 0, 1))) / self.bright
        smooth = [total_variation(y, IdentityOp(), weight=w, norm=1.0) for w in (0.02, 0.04, 0.06)]
        rows = {
            "input": self.score(noisy.array),
            "default (mmse)": self.score(self.ours(noisy, task="denoise")),
            "dds3d": self.score(self.ours(noisy, task="denoise", method="dds3d")),
            "TV, best": max(self.score(s.numpy().transpose(1, 2, 0) * self.bright) for s in smooth),
        }
        means = _skimage("denoise_nl_means")
        if means:
            s = 0.05 * self.bright
            known = {"sigma": s, "h": 0.8 * s, "patch_size": 5, "patch_distance": 7}
            each = [means(noisy.array[..., k], fast_mode=True, **known) for k in range(2)]
            rows["non-local means"] = self.score(np.stack(each, -1))
        return rows

    def deblur(self) -> dict[str, float]:
        """A Gaussian of 3 mm and noise of 1 %."""
        shape = self.truth.shape[:2]
        op = BlurOp.gaussian(3.0, shape, spacing_mm=(1.0, 1.0), boundary="reflect")
        stack = torch.from_numpy(np.ascontiguousarray(self.truth.transpose(2, 0, 1)))
        blurred = self.with_noise(op(stack).numpy().transpose(1, 2, 0), 0.01)
        h = BlurOp.gaussian(3.0, shape, spacing_mm=(1.0, 1.0)).transfer.numpy()[..., None]
        spectrum = np.fft.fft2(blurred.array, axes=(0, 1))
        wiener = [
            np.fft.ifft2(spectrum * h.conj() / (abs(h) ** 2 + g), axes=(0, 1)).real
            for g in (0.001, 0.003, 0.01, 0.03)
        ]
        return {
            "input": self.score(blurred.array),
            "default (dds3d)": self.score(self.ours(blurred, task="deblur", fwhm_mm=3.0)),
            "Wiener, best": max(map(self.score, wiener)),
        }

    def superres(self) -> dict[str, float]:
        """Pixels of 2 mm to 1 mm."""
        truth, mask = self.truth[:180, :216], self.mask[:180, :216]
        low = truth.reshape(90, 2, 108, 2, 2).mean((1, 3)).astype(np.float32)
        volume = Volume(low, np.diag([2.0, 2.0, 1.0, 1.0]))

        def of(image: np.ndarray) -> float:
            return self.score(image, truth=truth, mask=mask)

        def zoomed(order: int) -> np.ndarray:
            return ndimage.zoom(low, (2, 2, 1), order=order, mode="nearest", grid_mode=True)

        return {
            "linear": of(zoomed(1)),
            "cubic": of(zoomed(3)),
            "spline": of(self.ours(volume, task="superres", axes="plane", method="spline")),
            "default (dds3d)": of(self.ours(volume, task="superres", axes="plane")),
        }

    def inpaint(self) -> dict[str, float]:
        """Three discs of 16 to 24 pixels."""
        i, j = np.indices(self.truth.shape[:2])
        hole = np.zeros(self.truth.shape, bool)
        for row, column, radius in HOLES:
            hole |= ((i - row) ** 2 + (j - column) ** 2 < radius**2)[..., None]
        seen = self.volume.with_array(np.where(hole, 0, self.truth).astype(np.float32))
        mask = self.volume.with_array(hole.astype(np.uint8))
        rows = {
            "default (dds3d), two samples": self.score(
                self.ours(seen, mask, task="inpaint", n_samples=2), mask=hole
            )
        }
        biharmonic = _skimage("inpaint_biharmonic")
        if biharmonic:
            each = [
                biharmonic(
                    np.ascontiguousarray(seen.array[..., k] / self.bright),
                    np.ascontiguousarray(hole[..., k]),
                )
                for k in range(2)
            ]
            rows["biharmonic"] = self.score(np.stack(each, -1) * self.bright, mask=hole)
        return rows

    def bias(self) -> dict[str, float]:
        """A smooth field of up to a fifth."""
        head = colin(62, 110)
        mask = head_mask(head.array, spacing_mm=(1.0, 1.0, 1.0))
        x, y, z = (np.linspace(-1.0, 1.0, n) for n in head.shape)
        bend = 0.18 * x[:, None, None] - 0.14 * y[:, None] ** 2 + 0.08 * z
        biased = head.with_array((head.array * np.exp(bend)).astype(np.float32))

        def spread(image: np.ndarray) -> float:
            ratio = image[mask & (head.array > 20)] / head.array[mask & (head.array > 20)]
            return float(ratio.std() / ratio.mean())

        return {
            "input": spread(biased.array),
            "default (n4)": spread(self.ours(biased, task="bias")),
            "prior": spread(self.ours(biased, task="bias", method="prior")),
        }


def _skimage(name: str):
    try:
        from skimage import restoration
    except ImportError:
        print(f"absent: scikit-image ({name})")
        return None
    return getattr(restoration, name)


def main() -> None:
    tasks = ("denoise", "deblur", "superres", "inpaint", "bias")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="*", default=list(tasks), choices=tasks)
    parser.add_argument("--control", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    prior = load_denoiser("brain-t1-2d")
    bench, result = Bench(untrained_like(prior) if options.control else prior), {}
    for task in options.tasks:
        result[task] = getattr(bench, task)()
        for name, value in result[task].items():
            print(f"{task:9s} {name:30s} {value:.3f}", flush=True)
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
