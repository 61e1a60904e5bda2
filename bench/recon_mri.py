"""Reconstruction quality on heads the prior has never seen, beside tuned classical baselines.

    python bench/recon_mri.py                     Colin27, R = 4 and 8, three masks each
    python bench/recon_mri.py --control           the same with an untrained prior
    python bench/recon_mri.py --wrong-anatomy     the same with a prior of CT slices
    python bench/recon_mri.py --solver red-diff   another solver, with its defaults
    python bench/recon_mri.py --subject cranium-ct
    python bench/recon_mri.py --quick

PSNR and SSIM inside the head mask, against the fully sampled magnitude, whose largest value inside
the mask is the data range. The weights of the baselines are tuned on the very subject they are
tested on (first mask, every fourth slice, best PSNR), which favours them; ours are the library's
defaults, chosen on simulated heads. The last line is `RESULT {json}`.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from medsci.data.known import read_data
from medsci.imaging import Volume, read_nifti
from medsci.inverse.methods import method_of
from medsci.metrics import head_mask, psnr, ssim
from medsci.models import load_denoiser, untrained_like
from medsci.operators import CartesianMriOp
from medsci.recon import (
    ReconSettings,
    SimulateSettings,
    encode,
    l1_wavelet,
    posterior,
    sense_cg,
    simulate_kspace,
    total_variation,
)

CENTRE = {4: 0.08, 8: 0.04}
SAMPLES = {4: 3, 8: 1}
GRIDS = {
    "SENSE-CG": (sense_cg, "n_iter", (8, 12, 20, 30, 50)),
    "L1-wavelet": (l1_wavelet, "weight", (0.0005, 0.001, 0.002, 0.004, 0.008)),
    "TV 2D": (total_variation, "weight", (0.0005, 0.001, 0.002, 0.004, 0.008)),
}


def colin27() -> Volume:
    sample = Path(__file__).parent.parent / "sample_data" / "colin27_t1.nii.gz"
    return read_nifti(sample).slab(2, 70, 106)


def simulated(seed: int) -> Volume:
    from medsci.data import simulated_head_volume

    return Volume(simulated_head_volume(seed), np.diag([1.0, 1.0, 1.0, 1.0]))


class OfCt(nn.Module):
    """A prior of CT slices asked about complex heads: real part by the prior, imaginary part 0."""

    def __init__(self, prior: nn.Module) -> None:
        super().__init__()
        self.prior, self.path = prior, prior.path

    def forward(self, x: torch.Tensor, t: float) -> torch.Tensor:  # noqa: D102
        real = self.prior(x[:, :1], t)
        return torch.cat([real, torch.zeros_like(real)], dim=1)


def cranium_ct() -> Volume:
    volume = read_data("cranium-ct")
    array = np.clip(volume.array.astype(np.float32) + 1000.0, 0.0, 2200.0)
    return volume.with_array(array).slab(2, 60, 72)


def macaque() -> Volume:
    return read_data("inia19-t1").slab(2, 60, 72)


SUBJECTS = {
    "colin27": colin27,
    "simulated-0": lambda: simulated(0),
    "simulated-1": lambda: simulated(1),
    "cranium-ct": cranium_ct,
    "inia19-t1": macaque,
}


def score(image: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Return PSNR in dB and SSIM inside the mask; slices are the leading axis."""
    return (
        psnr(image, reference, mask=mask),
        ssim(image, reference, mask=mask, slice_axis=0),
    )


def baselines(encoding, reference, mask, tuned: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Return the scores of every classical method; fill `tuned` on the first call."""
    rows, clock = {}, time.perf_counter()

    def magnitude(x: torch.Tensor) -> np.ndarray:
        return (x.abs() * encoding.scale).numpy()

    rows["zero-filled"] = score(magnitude(encoding.op.adjoint(encoding.y)), reference, mask)
    every = slice(None, None, 4)
    for name, (method, option, values) in GRIDS.items():
        if name not in tuned:
            part = CartesianMriOp(encoding.op.maps[every].contiguous(), encoding.op.mask)
            trial = {
                v: psnr(
                    magnitude(method(encoding.y[every].contiguous(), part, **{option: v})),
                    reference[every],
                    mask=mask[every],
                )
                for v in values
            }
            tuned[name] = max(trial, key=trial.__getitem__)
        x = method(encoding.y, encoding.op, **{option: tuned[name]})
        rows[name] = score(magnitude(x), reference, mask)
        print(f"    {name}: {time.perf_counter() - clock:.0f} s", file=sys.stderr, flush=True)
    x = total_variation(encoding.y, encoding.op, weight=tuned["TV 2D"], dims=3)
    rows["TV 3D"] = score(magnitude(x), reference, mask)
    return rows


def ours(kspace, prior, n_samples: int, *, mask, solver) -> dict[str, tuple[float, float]]:
    rows, reference = {}, kspace.reference
    n_samples = n_samples if method_of(solver).samples else 1
    settings = ReconSettings(n_samples=n_samples, seed=0, solver=solver)
    started = time.perf_counter()
    result = posterior(kspace, prior, settings=settings)
    seconds = time.perf_counter() - started
    image = kspace.from_volume_array(result.mean.array)
    label = f"{solver}, 1 sample" if n_samples == 1 else f"{solver}, mean of {n_samples}"
    rows[label] = score(image, reference, mask)
    print(f"    {label}: {seconds:.0f} s", file=sys.stderr, flush=True)
    return rows


def run(subject: str, acceleration: int, n_masks: int, prior, *, n_samples, solvers, classical):
    volume, tuned, table = SUBJECTS[subject](), {}, {}
    for seed in range(n_masks):
        settings = SimulateSettings(
            acceleration=acceleration, center_fraction=CENTRE[acceleration], seed=seed
        )
        kspace = simulate_kspace(volume, settings=settings)
        mask = head_mask(kspace.reference)
        rows = {}
        if classical:
            rows |= baselines(encode(kspace), kspace.reference, mask, tuned)
        for solver in solvers:
            rows |= ours(kspace, prior, n_samples, mask=mask, solver=solver)
        for name, values in rows.items():
            table.setdefault(name, []).append(values)
        print(f"  {subject} R={acceleration} mask {seed}", file=sys.stderr, flush=True)
        for name, (db, similarity) in rows.items():
            print(f"    {name:18s} {db:6.2f} dB  {similarity:.4f}", file=sys.stderr, flush=True)
    return {"table": table, "tuned": tuned}


def show(title: str, result: dict) -> dict:
    print(f"\n### {title}\n\n| method | PSNR (dB) | SSIM | tuned on the subject |")
    print("|---|---|---|---|")
    out = {}
    for name, values in result["table"].items():
        db, similarity = np.array(values).T
        weight = result["tuned"].get(name, "")
        print(
            f"| {name} | {db.mean():.2f} ({db.min():.2f} to {db.max():.2f}) | "
            f"{similarity.mean():.4f} | {weight} |"
        )
        out[name] = {"psnr_db": db.round(3).tolist(), "ssim": similarity.round(4).tolist()}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subject", choices=SUBJECTS, default="colin27")
    parser.add_argument("--acceleration", type=int, nargs="+", default=[4, 8], choices=CENTRE)
    parser.add_argument("--masks", type=int, default=3)
    parser.add_argument("--samples", type=int, help="default: 3 at R = 4, 1 at R = 8")
    parser.add_argument("--prior", default="brain-t1-2d")
    parser.add_argument("--control", action="store_true", help="untrained prior, no baselines")
    parser.add_argument("--wrong-anatomy", action="store_true", help="prior ct-2d, no baselines")
    parser.add_argument("--solver", nargs="+", default=["dds3d"])
    parser.add_argument("--no-baselines", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one mask, R = 8 only")
    options = parser.parse_args()
    if options.quick:
        options.masks, options.acceleration = 1, [8]
    torch.set_num_threads(options.threads)
    prior = load_denoiser(options.prior, precision="auto")
    if options.control:
        prior = untrained_like(prior, seed=0)
    if options.wrong_anatomy:
        prior = OfCt(load_denoiser("ct-2d", precision="auto"))
    final = {"subject": options.subject, "control": options.control}
    for acceleration in options.acceleration:
        result = run(
            options.subject,
            acceleration,
            options.masks,
            prior,
            n_samples=options.samples or SAMPLES[acceleration],
            solvers=options.solver,
            classical=not (options.control or options.wrong_anatomy or options.no_baselines),
        )
        title = f"{options.subject}, R = {acceleration}" + (", untrained" * options.control)
        title += ", prior of CT" * options.wrong_anatomy
        final[f"R{acceleration}"] = show(title, result)
    print("RESULT " + json.dumps(final))


if __name__ == "__main__":
    main()
