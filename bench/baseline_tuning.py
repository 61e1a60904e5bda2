"""Tune the classical baselines on a simulated head, and compare ways to estimate coil maps.

    python bench/baseline_tuning.py            both rates, two masks, four slices
    python bench/baseline_tuning.py --quick    one mask, one slice, fewer settings

A head simulated from the ICBM 2009a template is acquired with 8 coils, 1 % complex noise, a random
smooth phase and 1-D random lines (R = 4 with 8 %, R = 8 with 4 % centre). Everything is scored by
PSNR inside the head against the true magnitude, with its largest value as data range. The
defaults of `medsci.recon.baselines` are the winners of the mean over both rates; the heads that
results are reported on are never used here. The last line is `RESULT {json}`.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from medsci.data import simulated_head_volume
from medsci.imaging import Volume
from medsci.metrics import head_mask, psnr
from medsci.operators import CartesianMriOp
from medsci.recon import (
    SimulateSettings,
    estimate_maps,
    l1_wavelet,
    sense_cg,
    simulate_kspace,
    total_variation,
    zero_filled,
)

CENTRE = {4: 0.08, 8: 0.04}
HEAD_SEED = 77_001
Method = Callable[[Tensor, CartesianMriOp], Tensor]


class Case:
    """One acquisition with its truth."""

    def __init__(self, head: np.ndarray, rate: int, seed: int) -> None:
        settings = SimulateSettings(
            acceleration=float(rate), center_fraction=CENTRE[rate], seed=seed
        )
        kspace = simulate_kspace(Volume(head, np.eye(4)), settings=settings)
        self.y = torch.from_numpy(kspace.data)
        self.mask = torch.from_numpy(kspace.mask)
        self.truth = kspace.reference
        self.inside = head_mask(self.truth)
        self.op = CartesianMriOp(estimate_maps(self.y, self.mask), self.mask)

    def score(self, image: Tensor) -> float:
        """Return the PSNR of the magnitude in dB."""
        return psnr(image.abs().numpy(), self.truth, mask=self.inside)


def grids(*, quick: bool) -> dict[str, dict[str, Method]]:
    weights = (0.001,) if quick else (0.00025, 0.0005, 0.001, 0.002, 0.004)
    wavelets = ("haar", "db4") if quick else ("haar", "db2", "db4", "bior4.4")
    ridges = (0.001,) if quick else (0.0001, 0.0003, 0.001, 0.003, 0.01)
    counts = (12, 30) if quick else (8, 12, 20, 30, 50)
    return {
        "zero-filled": {"": zero_filled},
        "SENSE-CG": {
            f"n_iter {n} ridge {r:g}": lambda y, op, n=n, r=r: sense_cg(y, op, n_iter=n, ridge=r)
            for n in counts
            for r in ridges
        },
        "L1-wavelet": {
            f"{name} weight {w:g}": lambda y, op, name=name, w=w: l1_wavelet(
                y, op, wavelet=name, weight=w
            )
            for name in wavelets
            for w in weights
        },
        "TV 2D": {
            f"weight {w:g}": lambda y, op, w=w: total_variation(y, op, weight=w) for w in weights
        },
        "TV 3D": {
            f"weight {w:g}": lambda y, op, w=w: total_variation(y, op, weight=w, dims=3)
            for w in weights
        },
    }


def tune(cases: dict[int, list[Case]], *, quick: bool) -> dict:
    result = {}
    for family, settings in grids(quick=quick).items():
        table = {}
        started = time.process_time()
        for name, method in settings.items():
            table[name] = {
                rate: float(np.mean([c.score(method(c.y, c.op)) for c in cases[rate]]))
                for rate in cases
            }
            figures = "  ".join(f"R={rate} {value:6.2f}" for rate, value in table[name].items())
            print(f"{family:12s} {name:24s} {figures} dB", flush=True)
        best = {str(rate): max(table, key=lambda n, r=rate: table[n][r]) for rate in cases}
        overall = max(table, key=lambda n: sum(table[n].values()))
        result[family] = {
            "table": table,
            "best": best,
            "overall": overall,
            "cpu_s": time.process_time() - started,
        }
        print(f"{family:12s} best {best}, of both: {overall or '-'}\n", flush=True)
    return result


def compare_maps(cases: dict[int, list[Case]]) -> dict:
    """Score one reconstruction with maps by each estimator."""
    table = {}
    for method in ("espirit", "low_res"):
        table[method] = {}
        for rate, group in cases.items():
            scores = []
            for case in group:
                op = CartesianMriOp(estimate_maps(case.y, case.mask, method=method), case.mask)
                scores.append([case.score(f(case.y, op)) for f in (sense_cg, l1_wavelet)])
            table[method][rate] = dict(
                zip(("SENSE-CG", "L1-wavelet"), np.mean(scores, 0).tolist(), strict=True)
            )
        print(f"maps by {method:8s} {table[method]}", flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    first, n_slices, seeds = 92, 1 if quick else 4, (0,) if quick else (0, 1)
    head = simulated_head_volume(HEAD_SEED, slices=(first, first + n_slices))
    cases = {rate: [Case(head, rate, seed) for seed in seeds] for rate in CENTRE}
    result = {"baselines": tune(cases, quick=quick), "maps": compare_maps(cases)}
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
