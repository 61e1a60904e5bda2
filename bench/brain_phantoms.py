"""Small networks trained to draw 3D heads, judged against bars; and controls that must miss them.

    python bench/brain_phantoms.py                        all four predictions, and the controls
    python bench/brain_phantoms.py --predictions flow     one of them
    python bench/brain_phantoms.py --quick                60 iterations: proves the machinery only
    python bench/brain_phantoms.py --picture F.png --table F.md

The heads and the bars are in `brain_phantoms_problem`. A network learns on fresh heads, 16 at a
time, along the 1000-step linear schedule; its average draws 128 heads in 50 steps of DDIM with
clipping. Flow, velocity and sample must meet every bar. Noise is shown for comparison. The last
line is `RESULT {json}`; the exit status is 1 if a bar is missed, or met by a control.
"""

import argparse
import copy
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from brain_phantoms_net import SmallUNet
from brain_phantoms_problem import N_GENERATED, N_REAL, SIDE, Figures, figures, phantoms
from torch import Tensor

from medsci.core import Clip, Denoiser, Multistep, Rng, grid, sample
from medsci.core import Path as NoisePath
from medsci.core.denoise.schedules import alphas_bar_of
from medsci.core.learn import Regression
from medsci.training.ema import Ema

N_ROWS, N_STEPS, BATCH = 1000, 50, 16
WORDS = {"flow": "flow", "velocity": "v", "sample": "x0", "epsilon": "eps"}
MUST_PASS = ("flow", "velocity", "sample")


@dataclass(frozen=True)
class Rows:
    """Draw rows of the table uniformly, as discrete schedules are trained."""

    n_rows: int = N_ROWS

    def __call__(self, path: NoisePath, rng: Rng, *, step: int) -> Tensor:
        """Return one float64 time per sample."""
        return ((rng.uniform(step=step) * self.n_rows).floor() + 1.0) / self.n_rows


class DividedByAlpha(torch.nn.Module):
    """The control that takes a flow for noise: it divides by `a` where `a + s` belongs."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser, self.path = denoiser, denoiser.path

    def forward(self, x: Tensor, t: float) -> Tensor:
        """Return the wrong x0."""
        alpha, sigma = self.denoiser.coefficients(t)
        return (x - sigma * self.denoiser.predict(x, t)) / alpha


def untrained(prediction: str, *, seed: int = 0) -> Denoiser:
    """Return a fresh network on the table, told its row, with states as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SmallUNet()
    return Denoiser(
        network,
        path=NoisePath.tabulated(alphas_bar_of("linear", N_ROWS)),
        pred=WORDS[prediction],
        time_code="row",
        unit_input=False,
    )


def trained(prediction: str, *, iterations: int, seed: int = 0) -> Denoiser:
    """Return the average of a network over its training."""
    denoiser = untrained(prediction, seed=seed)
    average, ema = copy.deepcopy(denoiser), Ema(0.99)
    optimiser = torch.optim.Adam(denoiser.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations)
    objective, rng = Regression(Rows()), Rng(seed, range(BATCH))
    generator = torch.Generator().manual_seed(seed)
    for step in range(iterations):
        loss, _ = objective(denoiser, phantoms(BATCH, generator=generator), rng=rng, step=step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        ema.update(average, denoiser, update=step)
    return average.eval()


def drawn(
    denoiser: torch.nn.Module,
    *,
    low: float = -1.0,
    n: int = N_GENERATED,
    steps: int = N_STEPS,
    seed: int = 1,
) -> Tensor:
    """Return heads made from noise."""
    return sample(
        denoiser,
        (n, 1, SIDE, SIDE, SIDE),
        solver=Multistep("eps", order=1),
        grid=grid.indices(N_ROWS, steps, spacing="linspace"),
        hooks=[Clip(low, 1.0)],
        seed=seed,
    )


def controls(denoiser: Denoiser) -> dict[str, Tensor]:
    """Return what four mistakes draw with the network that was trained on the flow."""
    straight = Denoiser(
        denoiser.net,
        path=NoisePath.rectified(),
        pred="flow",
        time_code="time",
        unit_input=False,
    )
    return {
        "untrained network": drawn(untrained("flow")),
        "flow divided by a": drawn(DividedByAlpha(denoiser)),
        "rectified path": drawn(straight),
        "clipped to [0, 1]": drawn(denoiser, low=0.0),
    }


def trivial(real: Tensor) -> dict[str, Tensor]:
    """Return two sets that no generator may be worse than: one image, and noise."""
    noise = Rng(9, range(N_GENERATED)).normal((N_GENERATED, *real.shape[1:]), step=0)
    return {
        "constant mean image": real.mean(0).expand(N_GENERATED, *real.shape[1:]),
        "clipped white noise": noise.clamp(-1.0, 1.0),
    }


def line(name: str, found: Figures) -> str:
    """Return one row of the table."""
    shifts = " | ".join(
        f"{found.average[m][0]:.3g} ± {found.average[m][1]:.2g}, {found.shift[m]:.2f}, "
        f"{found.spread[m]:.2f}"
        for m in ("head", "ventricle", "mean")
    )
    verdict = "passes" if not found.missed else f"fails {len(found.missed)}"
    return f"| {name} | {shifts} | {found.energy:.2f} | {found.neighbours:.2f} | {verdict} |"


HEADER = (
    "| set | head (voxels ± sd, W1/sd, sd ratio) | ventricle | mean intensity | energy distance "
    "| neighbours | bars |\n|---|---|---|---|---|---|---|"
)


def picture(sets: dict[str, Tensor], file: Path) -> None:
    """Write the middle slice of eight heads of every set."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(sets), 8, figsize=(8, 1.12 * len(sets)), layout="constrained"
    )
    for row, (name, made) in zip(axes, sets.items(), strict=True):
        for axis, head in zip(row, made, strict=False):
            axis.imshow(head[0, :, :, SIDE // 2], vmin=-1, vmax=1, cmap="gray")
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    figure.savefig(file, dpi=100)
    pyplot.close(figure)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predictions", default=",".join(WORDS))
    parser.add_argument("--iterations", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--table", type=Path)
    return parser.parse_args()


def main() -> int:
    given = options()
    torch.set_num_threads(1)
    iterations = 60 if given.quick else given.iterations
    generator = torch.Generator().manual_seed(1000 + given.seed)
    real, unseen, other = (
        phantoms(n, generator=generator) for n in (N_REAL, N_GENERATED, N_GENERATED)
    )
    sets, table, seconds = {"real": other}, {}, {}
    rows = [HEADER]

    def judge(name: str, made: Tensor) -> None:
        sets[name], table[name] = made, figures(made, real, unseen=unseen)
        rows.append(line(name, table[name]))
        print(rows[-1], "" if not table[name].missed else f"  {table[name].missed}", flush=True)

    print(HEADER)
    judge("real", other)
    for name, made in trivial(real).items():
        judge(name, made)
    wrong = [name for name in trivial(real) if not table[name].missed]
    for prediction in given.predictions.split(","):
        start = time.process_time()
        denoiser = trained(prediction, iterations=iterations, seed=given.seed)
        judge(prediction, drawn(denoiser))
        seconds[prediction] = round(time.process_time() - start, 1)
        if prediction in MUST_PASS and table[prediction].missed:
            wrong.append(prediction)
        for name, made in controls(denoiser).items() if prediction == "flow" else ():
            judge(name, made)
            wrong += [] if table[name].missed else [name]
    if given.table is not None:
        given.table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    if given.picture is not None:
        picture(sets, given.picture)
    result = {name: {**asdict(f), "missed": f.missed} for name, f in table.items()}
    print("RESULT " + json.dumps({"cpu_seconds": seconds, "wrong": wrong, "sets": result}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
