"""What each choice of dds3d and RED-Diff is worth for CT, on simulated anatomy.

    python bench/ct_tuning.py
    python bench/ct_tuning.py --views 24 --prior runs/ct-2d/model
    python bench/ct_tuning.py --subject chest-ct-1 --views 8 24

Four simulated slices (two trunks, two heads, 256 x 256 at 1.2 mm) that no training has seen, or two
slices of a patient of the registry (chest-ct-1 is the one that the shipped prior was trained on, so
choosing by it spares the patients it is tested on); 1e5 photons. Each row changes one setting of
the library's default (for dds3d: no ray weights, the tie at the noise variance). Simulated slices
are not neighbours, so the coupling between slices is off. PSNR for a data range of 2000 HU, and
total variation slice by slice at its best weight. The last line is `RESULT {json}`.
"""

import argparse
import json
from typing import Any

import numpy as np
import torch

from medsci.core import Rng, Slicewise
from medsci.core.denoise import DenoiseFn
from medsci.data.ct_phantom import head_slice, trunk_slice
from medsci.data.head_template import simulate_head
from medsci.data.known import read_data
from medsci.imaging import Volume
from medsci.inverse.methods import settings_of, solve
from medsci.models import load_denoiser
from medsci.recon import SimulateCtSettings, encode_ct
from medsci.recon.baselines import total_variation
from medsci.recon.ct_sampling import default_ct_walk
from medsci.recon.ct_simulation import simulate_ct
from medsci.recon.orientation import Oriented, prior_view

ROWS = {
    "dds3d": (
        {},
        {"weights": "statistical"},
        {"tie": "0"}, {"tie": "0.2"}, {"tie": "3"},
        {"n_steps": "20"}, {"n_steps": "120"},
        {"consistency.n_cg": "10"}, {"consistency.n_cg": "60"},
        {"sigma_max": "0.25"}, {"sigma_max": "0.5"}, {"sigma_max": "2"},
        {"eta": "0.85"}, {"sigma_min": "0.02"},
    ),
    "red-diff": (
        {}, {"weights": "statistical"}, {"lam": "0.005"}, {"lam": "0.08"}, {"lr": "0.03"},
        {"tau": "1", "lr": "0.02", "n_steps": "200"},
    ),
    "diffpir": ({}, {"weights": "statistical"}, {"weight": "0.3"}, {"weight": "3"}, {"zeta": "1"}),
}  # fmt: skip


def anatomy() -> Volume:
    """Return two trunks and two heads, as slices of one file."""
    slices = [trunk_slice(np.random.default_rng(seed), size=256) for seed in (901, 902)]
    for seed, level in ((903, 60), (904, 100)):
        labels = np.ascontiguousarray(simulate_head(-seed)[0][:, :, level].T)
        image = np.full((256, 256), -1000.0, dtype=np.float32)
        drawn = head_slice(labels, np.random.default_rng(seed))
        image[: labels.shape[0], 30 : 30 + labels.shape[1]] = drawn
        slices.append(image)
    return Volume(np.stack(slices).transpose(2, 1, 0).copy(), np.diag([1.2, 1.2, 5.0, 1.0]))


def patient(name: str) -> Volume:
    """Return two slices from the middle of a volume of the registry, in pixels of twice the side.

    Raises:
        InvalidInputError: its data are not here.
    """
    found = read_data(name)
    rows, columns = (n - n % 2 for n in found.array.shape[:2])
    array = found.array[:rows, :columns].astype(np.float32)
    array = array.reshape(rows // 2, 2, columns // 2, 2, -1).mean(axis=(1, 3))
    affine = found.affine @ np.diag([2.0, 2.0, 1.0, 1.0])
    affine[:3, 3] += 0.5 * found.affine[:3, :2].sum(axis=1)
    middle = array.shape[2] // 2
    return Volume(array, affine).slab(2, middle - 1, middle + 1)


def settings_for(solver: str, changes: dict[str, str], noise: float, base: Any) -> Any:
    """Return the settings of a row; `tie` counts the tie to the prior in noise variances."""
    asked = dict(changes)
    if "tie" in asked:
        asked["prox_noise"] = str(float(asked.pop("tie")) * noise**2)
    return settings_of(solver, asked, base=base if solver == "dds3d" else None)


class Bench:
    """One scan and its encodings, with and without ray weights."""

    def __init__(self, volume: Volume, prior: DenoiseFn, *, views: int, simulated: bool) -> None:
        self.scan = simulate_ct(volume, settings=SimulateCtSettings(n_views=views, seed=1))
        self.prior = Slicewise(Oriented(prior, prior_view(self.scan)), chunk=4)
        self.encodings = {
            weights: encode_ct(self.scan, window_hu=(-1000.0, 1000.0), weights=weights)
            for weights in ("none", "statistical")
        }
        spacing = 1e3 if simulated else volume.spacing_mm[2]  # far apart: no coupling
        noise = self.encodings["none"].measured.noise
        self.base = default_ct_walk(views, noise=noise, slice_spacing_mm=float(spacing))

    def row(self, solver: str, row: dict[str, str]) -> tuple[np.ndarray, float]:
        """Return the PSNR of every slice, and the misfit."""
        changes = dict(row)
        encoding = self.encodings[changes.pop("weights", "none")]
        settings = settings_for(solver, changes, encoding.measured.noise, self.base)
        rng = Rng(5, range(self.scan.n_slices))
        found = solve(encoding.measured, self.prior, rng=rng, method=solver, settings=settings)
        return self.psnr(found.image, encoding), float(encoding.measured.misfit(found.image))

    def total_variation(self) -> np.ndarray:
        """Return the PSNR of every slice at the best of three weights."""
        encoding = self.encodings["none"]
        measured = encoding.measured
        images = [
            total_variation(measured.y, measured.op, weight=weight, non_negative=True)
            for weight in (0.0005, 0.001, 0.002)
        ]
        return max((self.psnr(image, encoding) for image in images), key=np.mean)

    def psnr(self, image: torch.Tensor, encoding: Any) -> np.ndarray:
        """Return the PSNR of every slice in dB."""
        error = encoding.window.to_hu(image).numpy() - self.scan.reference
        return 20 * np.log10(2000.0 / np.sqrt((error**2).mean(axis=(1, 2))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--views", nargs="*", type=int, default=[8, 24, 60])
    parser.add_argument("--solvers", nargs="*", choices=ROWS, default=["dds3d"])
    parser.add_argument("--prior", default="ct-2d")
    parser.add_argument("--subject", default="simulated")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    prior, result = load_denoiser(options.prior), {}
    simulated = options.subject == "simulated"
    volume = anatomy() if simulated else patient(options.subject)
    for views in options.views:
        bench = Bench(volume, prior, views=views, simulated=simulated)
        plain = bench.total_variation()
        result[f"{views} total variation"] = float(plain.mean())
        print(f"{f'{views} total variation':72s} {plain.mean():6.2f} dB  {np.round(plain, 1)}")
        for solver in options.solvers:
            for row in ROWS[solver]:
                each, misfit = bench.row(solver, row)
                name = f"{views} {solver} {row}"
                result[name] = float(each.mean())
                print(f"{name:72s} {each.mean():6.2f} dB  {np.round(each, 1)}  misfit {misfit:.2f}",
                      flush=True)  # fmt: skip
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
