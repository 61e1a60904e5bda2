"""What each choice of dds3d and RED-Diff is worth for CT, on simulated anatomy.

    python bench/ct_tuning.py
    python bench/ct_tuning.py --views 24 --prior runs/ct-2d/model

Four simulated slices (two trunks, two heads, 256 x 256 at 1.2 mm) that no training has seen, 1e5
photons. Each row changes one setting. The slices are not neighbours, so the coupling between slices
is off. PSNR for a data range of 2000 HU. The last line is `RESULT {json}`.
"""

import argparse
import json

import numpy as np
import torch

from medsci.core import Rng, Slicewise
from medsci.data.ct_phantom import head_slice, trunk_slice
from medsci.data.head_template import simulate_head
from medsci.imaging import Volume
from medsci.inverse.methods import settings_of, solve
from medsci.models import load_denoiser
from medsci.recon import SimulateCtSettings, encode_ct
from medsci.recon.ct_simulation import simulate_ct

ROWS = {
    "dds3d": (
        {},
        {"weights": "none"}, {"weights": "none", "consistency.n_cg": "10"},
        {"tie": "0"}, {"tie": "1"}, {"tie": "3"},
        {"n_steps": "20"}, {"n_steps": "80"},
        {"consistency.n_cg": "10"}, {"consistency.n_cg": "60"},
        {"sigma_max": "0.25"}, {"sigma_max": "2"},
        {"eta": "0.85"}, {"sigma_min": "0.005"},
    ),
    "red-diff": (
        {}, {"weights": "none"}, {"lam": "0.005"}, {"lam": "0.08"}, {"lr": "0.03"},
        {"tau": "1", "lr": "0.02", "n_steps": "200"},
    ),
    "diffpir": ({}, {"weights": "none"}, {"weight": "0.3"}, {"weight": "3"}, {"zeta": "1"}),
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


def options_for(solver: str, changes: dict[str, str], noise: float) -> dict[str, str]:
    """Return the options of a row; `tie` counts the tie to the prior in noise variances."""
    asked = dict(changes)
    if solver != "dds3d":
        return asked
    tie = float(asked.pop("tie", "0.2"))
    fixed = {"consistency.rho": "0", "n_steps": "40", "consistency.n_cg": "30"}
    return {**fixed, "prox_noise": str(tie * noise**2), **asked}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--views", nargs="*", type=int, default=[8, 24, 60])
    parser.add_argument("--solvers", nargs="*", default=["dds3d"])
    parser.add_argument("--prior", default="ct-2d")
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    prior = Slicewise(load_denoiser(options.prior), chunk=4)
    volume, result = anatomy(), {}
    volume = volume.slab(2, 2 - options.slices // 2, 2 + (options.slices + 1) // 2)
    for views in options.views:
        scan = simulate_ct(volume, settings=SimulateCtSettings(n_views=views, seed=1))
        encodings = {
            weights: encode_ct(scan, window_hu=(-1000.0, 1000.0), weights=weights)
            for weights in ("none", "statistical")
        }
        for solver in options.solvers:
            for row in ROWS[solver]:
                changes = dict(row)
                encoding = encodings[changes.pop("weights", "statistical")]
                settings = settings_of(
                    solver, options_for(solver, changes, encoding.measured.noise)
                )
                found = solve(
                    encoding.measured,
                    prior,
                    rng=Rng(5, range(scan.n_slices)),
                    method=solver,
                    settings=settings,
                )
                error = encoding.window.to_hu(found.image).numpy() - scan.reference
                each = 20 * np.log10(2000.0 / np.sqrt((error**2).mean(axis=(1, 2))))
                misfit = encoding.measured.misfit(found.image)
                name = f"{views} {solver} {row}"
                result[name] = float(each.mean())
                print(f"{name:72s} {each.mean():6.2f} dB  {np.round(each, 1)}  misfit {misfit:.2f}",
                      flush=True)  # fmt: skip
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
