"""Every solver on problems whose prior and posterior mean are known exactly, with the bars to meet.

    python bench/recon_closed.py                 four seeds
    python bench/recon_closed.py --quick         one seed
    python bench/recon_closed.py --full          1000 steps for DPS instead of 200
    python bench/recon_closed.py --ablations     the knobs of RED-Diff, on one volume
    python bench/recon_closed.py --kinds ct8,mri --seeds 1,2 --picture F.png --table F.md

No training and no data: see `recon_closed_problem`. Figures are PSNR in dB for a data range of one,
of the complex error in MRI. Total variation and wavelets get the best of several weights for every
single volume, judged by the truth; solvers with a prior run with the settings below on all. Every
bar must hold on every seed, except those on the problem itself, which are on means. The last line
is `RESULT {json}`; the exit status is 1 if a bar is missed.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from recon_closed_problem import GRID, KINDS, Problem, problem
from torch import Tensor

from medsci.core import Rng
from medsci.inverse.solvers.admm_tv import AdmmTvSettings
from medsci.inverse.solvers.data_term import OperatorScaleWarning
from medsci.inverse.solvers.dds3d import Dds3dSettings, dds3d
from medsci.inverse.solvers.diff_pir import diff_pir
from medsci.inverse.solvers.dps import DpsSettings, dps
from medsci.inverse.solvers.flow_chef import flow_chef
from medsci.inverse.solvers.mbir import MbirSettings, mbir
from medsci.inverse.solvers.pi_gdm import pi_gdm
from medsci.inverse.solvers.red_diff import RedDiffSettings, red_diff
from medsci.operators.filtered_backprojection import filtered_backprojection
from medsci.recon.baselines import l1_wavelet, total_variation, zero_filled

Method = Callable[[Problem], Tensor]
TV_WEIGHTS = (0.0007, 0.0014, 0.0028)
WAVELET_WEIGHTS = (0.001, 0.004)
UNCOUPLED = AdmmTvSettings(n_cg=2, rho=0.0, threshold=0.0)
SAMPLES = ("diff_pir", "pi_gdm", "flow_chef", "dps")


@dataclass(frozen=True)
class Bar:
    """A claim, the number that came, and the least or the range that is asked for."""

    claim: str
    value: float
    low: float
    high: float = float("inf")

    @property
    def holds(self) -> bool:
        """Whether the number is in the range."""
        return self.low <= self.value <= self.high


def best_of(candidates: list[Method], case: Problem) -> Tensor:
    """Return the image closest to the truth: an honest baseline is tuned on the very subject."""
    return max((method(case) for method in candidates), key=case.psnr)


def tv(case: Problem) -> Tensor:
    """Return 3-D total variation with the best weight."""
    runs = [
        lambda c, w=w: total_variation(c.raw.y, c.raw.op, weight=w, dims=3, n_iter=120)
        for w in TV_WEIGHTS
    ]
    return best_of(runs, case)


def wavelet(case: Problem) -> Tensor:
    """Return L1-wavelet, db4, with the best weight."""
    runs = [
        lambda c, w=w: l1_wavelet(c.raw.y, c.raw.op, weight=w, wavelet="db4", n_iter=60)
        for w in WAVELET_WEIGHTS
    ]
    return best_of(runs, case)


def fbp(case: Problem, *, window: str) -> Tensor:
    """Return filtered backprojection."""
    return filtered_backprojection(case.raw.y, case.beam, grid=GRID, window=window)


def with_prior(solver: Callable, settings: object = None) -> Method:
    """Return the method that runs a solver with the exact prior."""

    def run(case: Problem) -> Tensor:
        rng = Rng(case.seed, range(len(case.truth)))
        return solver(case.measured, case.prior, rng=rng, settings=settings).image

    return run


def methods_of(kind: str, *, first: bool, full: bool) -> dict[str, Method]:
    """Return the methods of a kind of problem; most single samples on the first seed."""
    ct = kind in ("ct8", "lact")
    found: dict[str, Method] = {}
    if ct:
        found |= {w: partial(fbp, window=w.split()[1]) for w in ("FBP ramp", "FBP hann")}
    else:
        found["zero-filled"] = lambda case: zero_filled(case.raw.y, case.raw.op)
        found["L1-wavelet"] = wavelet
    found["TV 3D"] = tv
    found["posterior mean"] = Problem.posterior_mean
    if kind in ("ct8", "mri"):
        found["mbir 500"] = with_prior(mbir, MbirSettings(n_steps=500, sigma_start=378.0))
    if kind == "ct8":
        found["mbir 200, no z-TV"] = with_prior(mbir, MbirSettings(consistency=UNCOUPLED))
    found["mbir 200"] = with_prior(mbir)
    found["dds3d 50"] = with_prior(dds3d, Dds3dSettings(n_steps=50))
    published = Dds3dSettings(n_steps=50, sigma_max=50.0, eta=0.85)
    found["dds3d 50, published walk"] = with_prior(dds3d, published)
    found["red_diff 100"] = with_prior(red_diff)
    found["red_diff 100 + z-TV"] = with_prior(red_diff, RedDiffSettings(tv_z=0.002))
    if first or kind == "ct8":
        found["flow_chef"] = with_prior(flow_chef)
        found["diff_pir"] = with_prior(diff_pir)
    if first and kind == "ct8":
        found["pi_gdm"] = with_prior(pi_gdm)
        found["dps"] = with_prior(dps, DpsSettings(n_steps=1000 if full else 200))
    return found


def solve(kind: str, seed: int, *, first: bool, full: bool) -> tuple[dict, dict, dict]:
    """Return PSNR, CPU seconds and images of every method on one volume."""
    case = problem(kind, seed)
    scores, seconds, images = {}, {}, {"truth": case.truth}
    for name, method in methods_of(kind, first=first, full=full).items():
        started = time.process_time()
        images[name] = method(case)
        seconds[name] = time.process_time() - started
        scores[name] = case.psnr(images[name])
    return scores, seconds, images


def bars_of(kind: str, scores: list[dict[str, float]]) -> list[Bar]:
    """Return the bars of a kind, each with the worst seed's number."""

    def least(better: str, worse: str) -> float:
        return min(s[better] - s[worse] for s in scores)

    if kind == "ct8":
        bars = _bars_ct(scores, least)
        return bars if len(scores) < 4 else _bars_problem(scores) + bars
    if kind == "lact":
        return [Bar("mbir >= TV + 3.5", least("mbir 200", "TV 3D"), 3.5)]
    if kind == "mri":
        wanted = {"mbir 500": (4.0, 1.2), "dds3d 50": (5.0, 2.0), "red_diff 100": (4.8, 1.8)}
        return [
            Bar(f"{name} >= {other} + {gap}", least(name, other), gap)
            for name, gaps in wanted.items()
            for other, gap in zip(("L1-wavelet", "TV 3D"), gaps, strict=True)
        ]
    return []


def _bars_problem(scores: list[dict[str, float]]) -> list[Bar]:
    """Return what says that this is the problem of the specification; means of four seeds."""
    means = {
        name: float(np.mean([s[name] for s in scores])) for name in ("posterior mean", "TV 3D")
    }
    return [
        Bar("posterior mean, 27.65 on average", means["posterior mean"], 27.55, 27.75),
        Bar("TV 3D, 24.5 on average", means["TV 3D"], 24.2, 24.8),
    ]


def _bars_ct(scores: list[dict[str, float]], least: Callable[[str, str], float]) -> list[Bar]:
    top = "posterior mean"
    equal = [s["mbir 200"] - s["mbir 500"] for s in scores]
    bars = [
        Bar("mbir >= TV + 1.0", least("mbir 500", "TV 3D"), 1.0),
        Bar("mbir >= FBP Hann + 6", least("mbir 500", "FBP hann"), 6.0),
        Bar("mbir >= posterior mean - 1.7", least("mbir 500", top), -1.7),
        Bar("mbir from 5 in 200 = from 378 in 500", max(equal, key=abs), -0.3, 0.3),
        Bar("z-TV gains 1.4 in mbir", least("mbir 200", "mbir 200, no z-TV"), 1.4),
        Bar("dds3d >= TV + 1.5", least("dds3d 50", "TV 3D"), 1.5),
        Bar("dds3d >= posterior mean - 1.1", least("dds3d 50", top), -1.1),
        Bar("red_diff >= TV + 1.4", least("red_diff 100", "TV 3D"), 1.4),
        Bar("red_diff >= FBP + 9", least("red_diff 100", "FBP ramp"), 9.0),
        Bar("red_diff >= posterior mean - 1.1", least("red_diff 100", top), -1.1),
        Bar("z-TV gains .25 in red_diff", least("red_diff 100 + z-TV", "red_diff 100"), 0.25),
    ]
    for name in SAMPLES:
        gaps = [s[name] - s[top] for s in scores if name in s]
        if not gaps:
            continue
        bars.append(Bar(f"{name} >= posterior mean - 3.3", min(gaps), -3.3))
        if name != "dps":
            for side, gap in (("worst", min(gaps)), ("best", max(gaps))):
                bars.append(Bar(f"{name}, {side}, a sample's distance", gap, -3.2, -1.8))
    return bars


def ablations() -> tuple[list[str], list[Bar]]:
    """Turn the knobs of RED-Diff on one volume: as published, r_data = n/m, 1000 steps of 0.02."""
    case = problem("ct8", 1)
    lines: list[str] = []

    def run(label: str, **changes: object) -> float:
        chosen = {"n_steps": 1000, "lr": 0.02, "lam": 0.05, "r_data": "n/m"} | changes
        score = case.psnr(with_prior(red_diff, RedDiffSettings(**chosen))(case))
        lines.append(f"| {label} | {score:.2f} |")
        print(lines[-1], flush=True)
        return score

    lam = {v: run(f"lambda {v}", lam=v) for v in (0.25, 0.05, 0.01, 0.002)}
    order = {o: run(f"order {o}", lam=0.01, order=o) for o in ("descending", "random", "ascending")}
    names = ("linear", "log", "trunc_linear", "sqrt", "square", "const")
    weight = {w: run(f"weight {w}", weight=w) for w in names}
    raw, warned = [], 0
    for value in (0.25, 0.05, 0.01):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            chosen = RedDiffSettings(n_steps=1000, lr=0.02, lam=value, r_data="n/m")
            rng, start = Rng(1, range(len(case.truth))), fbp(case, window="ramp")
            solution = red_diff(case.raw, case.prior, rng=rng, settings=chosen, start=start)
        warned += any(issubclass(w.category, OperatorScaleWarning) for w in caught)
        raw.append(case.psnr(solution.image))
        lines.append(f"| raw operator, lambda {value} | {raw[-1]:.2f} |")
        print(lines[-1], flush=True)
    plateau = [lam[v] for v in (0.25, 0.05, 0.01)]
    bars = [
        Bar("lambda .01 to .25 is a plateau, width", max(plateau) - min(plateau), 0.0, 0.5),
        Bar("below it falls: .01 over .002", lam[0.01] - lam[0.002], 0.8),
        Bar("descending over random", order["descending"] - order["random"], 0.7),
        Bar("descending over ascending", order["descending"] - order["ascending"], 2.5),
        Bar("linear, over the best other weight", weight["linear"] - max(weight.values()), -0.1),
        Bar("raw operator loses 3 dB", lam[0.25] - raw[0], 3.0),
        Bar("raw operator warns, of three", warned, 3, 3),
    ]
    return lines, bars


def table(kind: str, scores: list[dict[str, float]], seconds: list[dict[str, float]]) -> list[str]:
    """Return the lines of a table in Markdown."""
    lines = [f"**{kind}**", "", "| method | PSNR of each seed | CPU s |", "|---|---|---|"]
    for name in scores[0]:
        row = " ".join(f"{s[name]:.1f}" for s in scores if name in s)
        spent = np.mean([s[name] for s in seconds if name in s])
        lines.append(f"| {name} | {row} | {spent:.1f} |")
    return [*lines, ""]


def picture(found: dict[str, dict[str, Tensor]], path: Path) -> None:
    """Draw the middle slice of every problem, by every method, in one window of grey."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    titles = {"ct8": "CT, 8 views", "lact": "CT, 90 degrees", "mri": "MRI, R = 8"}
    start = ("FBP hann", "zero-filled")
    columns = ("truth", start, "TV 3D", "mbir 200", "dds3d 50", "red_diff 100", "posterior mean")
    figure, axes = plt.subplots(3, len(columns), figsize=(2 * len(columns), 7.6))
    for row, kind in zip(axes, titles, strict=True):
        images = found[kind]
        truth = images["truth"]
        for axis, column in zip(row, columns, strict=True):
            name = column if isinstance(column, str) else next(c for c in column if c in images)
            image = images[name]
            error = (image - truth).abs().square().mean()
            score = "" if name == "truth" else f"\n{-10 * float(error.log10()):.1f} dB"
            shown = image[len(image) // 2]
            axis.imshow(shown.abs() if shown.is_complex() else shown, cmap="gray", vmin=0, vmax=0.9)
            axis.set_title(name + score, fontsize=9)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(titles[kind])
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main() -> None:
    """Run, print the tables and the bars, and leave with 1 if one is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for flag in ("--quick", "--full", "--ablations"):
        parser.add_argument(flag, action="store_true")
    for flag in ("--picture", "--table"):
        parser.add_argument(flag, type=Path)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seeds", default="1,2,3,4")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines: list[str] = []
    result: dict = {"psnr": {}, "bars": {}}
    if options.ablations:
        lines, bars = ablations()
        groups = {"ablations": bars}
    else:
        groups, images = {}, {}
        for kind in options.kinds.split(","):
            seeds = [int(seed) for seed in options.seeds.split(",")]
            if options.quick or kind not in ("ct8", "mri"):
                seeds = seeds[:1]
            runs = [solve(kind, seed, first=seed == 1, full=options.full) for seed in seeds]
            scores, seconds, pictures = zip(*runs, strict=True)
            images[kind] = pictures[0]
            found = table(kind, list(scores), list(seconds))
            print("\n".join(found), flush=True)
            lines += found
            groups[kind] = bars_of(kind, list(scores))
            result["psnr"][kind] = list(scores)
        if options.picture:
            picture(images, options.picture)
    missed = 0
    for kind, bars in groups.items():
        for bar in bars:
            missed += not bar.holds
            verdict = "PASS" if bar.holds else "FAIL"
            span = f"{bar.low:g}" if bar.high == float("inf") else f"{bar.low:g} to {bar.high:g}"
            lines.append(f"{verdict}  {kind:9s} {bar.claim:42s} {bar.value:6.2f}  (bar {span})")
            print(lines[-1], flush=True)
            result["bars"][f"{kind}: {bar.claim}"] = [bar.value, bar.holds]
    if options.table:
        options.table.write_text("\n".join(lines) + "\n")
    result["missed"] = missed
    result["cpu_s"] = time.process_time()
    print("RESULT " + json.dumps(result))
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
