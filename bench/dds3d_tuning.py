"""What each choice of the volume sampler is worth, on a simulated head outside of the training set.

    python bench/dds3d_tuning.py            R = 4 and 8
    python bench/dds3d_tuning.py --quick    R = 4, eight steps, fewer rows

Every row changes one setting of the defaults. PSNR inside the head over four slices; for rows with
three samples also the share of voxels whose error is within one standard deviation (52 % if
calibrated) and the rank correlation of standard deviation and error. Colin27 is never used here.
The last line is `RESULT {json}`.
"""

import argparse
import json
from dataclasses import replace

import numpy as np
import torch

from medsci.core import Rng, Slicewise, mix64
from medsci.data import simulated_head_volume
from medsci.imaging import Volume
from medsci.inverse import Dds3dSettings, dds3d
from medsci.inverse.measurement import Measurement
from medsci.metrics import coverage, head_mask, psnr, uncertainty_correlation
from medsci.models import load_denoiser
from medsci.recon import SimulateSettings, encode, simulate_kspace
from medsci.recon.orientation import Oriented, prior_view
from medsci.recon.sampling import default_settings

CENTRE = {4: 0.08, 8: 0.04}
CONSISTENCY = ("n_cg", "rho", "threshold")
ROWS = (
    ("defaults", {}, 3),
    ("eta 0.85", {"eta": 0.85}, 3),
    ("eta 0, deterministic", {"eta": 0.0}, 3),
    ("start at noise level 20", {"sigma_max": 20.0}, 1),
    ("half of the steps", {"n_steps": 0.5}, 1),
    ("twice the steps", {"n_steps": 2.0}, 1),
    ("no slice coupling", {"rho": 0.0}, 1),
    ("no tie to the prior", {"prox_noise": 0.0}, 1),
    ("half of the CG steps", {"n_cg": 0.5}, 1),
    ("low-resolution coil maps", {"maps": "low_res"}, 1),
)


def changed(walk: Dds3dSettings, change: dict) -> Dds3dSettings:
    """Apply a row's change; steps are given as factors."""
    scaled = {k: v for k, v in change.items() if k != "maps"}
    if "n_steps" in scaled:
        scaled["n_steps"] = round(walk.n_steps * scaled["n_steps"])
    if "n_cg" in scaled:
        scaled["n_cg"] = round(walk.consistency.n_cg * scaled["n_cg"])
    inner = {k: v for k, v in scaled.items() if k in CONSISTENCY}
    outer = {k: v for k, v in scaled.items() if k not in CONSISTENCY}
    return replace(walk, consistency=replace(walk.consistency, **inner), **outer)


def run(kspace, prior, change: dict, n_samples: int, *, quick: bool) -> dict:
    encoding = encode(kspace, maps=change.get("maps", "espirit"))
    walk = default_settings(kspace.acceleration, noise_variance=encoding.noise_variance)
    walk = changed(replace(walk, n_steps=8) if quick else walk, change)
    view = Slicewise(Oriented(prior, prior_view(kspace)), chunk=4)
    rngs = [Rng(mix64(0, i), range(kspace.n_slices)) for i in range(n_samples)]
    measured = Measurement(encoding.y, encoding.op)
    drawn = [dds3d(measured, view, rng=rng, settings=walk).image for rng in rngs]
    samples = torch.stack(drawn) * encoding.scale
    mask, truth = head_mask(kspace.reference), kspace.reference
    row = {"single_db": round(psnr(samples[0].abs().numpy(), truth, mask=mask), 2)}
    if n_samples > 1:
        mean, std = samples.mean(0).abs().numpy(), samples.abs().std(0).numpy()
        error = np.abs(mean - truth)
        row["mean_db"] = round(psnr(mean, truth, mask=mask), 2)
        row["within_1_std"] = round(coverage(std, error, factor=1.0, mask=mask), 3)
        row["correlation"] = round(uncertainty_correlation(std, error, mask=mask), 3)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--acceleration", type=int, nargs="+", default=[4, 8], choices=CENTRE)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    prior = load_denoiser("brain-t1-2d", precision="auto")
    head = Volume(simulated_head_volume(1, slices=(79, 83)), np.eye(4))
    final = {}
    for rate in [4] if options.quick else options.acceleration:
        settings = SimulateSettings(acceleration=float(rate), center_fraction=CENTRE[rate])
        kspace = simulate_kspace(head, settings=settings)
        for name, change, n_samples in ROWS[:4] if options.quick else ROWS:
            row = run(kspace, prior, change, n_samples, quick=options.quick)
            final[f"R{rate} {name}"] = row
            print(f"R = {rate}  {name:26s} {row}", flush=True)
    print("RESULT " + json.dumps(final))


if __name__ == "__main__":
    main()
