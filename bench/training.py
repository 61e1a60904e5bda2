"""Ways of training and of needing fewer steps, compared on one small prior (heads at 64 x 64).

    python bench/training.py [--work runs/bench_training] [--quick]

Draws the data, trains the prior with four laws, makes pairs, trains the students, and measures.
Every stage leaves its result in the work folder and is skipped when it is there, so an interrupted
run goes on where it was; `--quick` proves the machinery in minutes with numbers that mean nothing.
Printed are the two tables of docs/training.md; the last line is `RESULT {json}`.
"""

import argparse
import json
import os
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from medsci.core import sample
from medsci.data import SimulatedHeads
from medsci.metrics import feature_energy, feature_frechet
from medsci.models import load_denoiser, untrained_like
from medsci.models.sampling import few_step
from medsci.models.store import verify_model
from medsci.nets import DenoiserFeatures
from medsci.pipelines.pairs import PairSettings, make_pairs
from medsci.pipelines.train import packaged_recipe
from medsci.training import load_recipe, train
from medsci.training.callbacks import read_log

N_TRAIN, N_REAL, N_PAIRS = 6144, 2048, 4096
PRIORS = {
    "plain": (),
    "assignment": ("coupling={kind: assignment}",),
    "transport": ("coupling={kind: transport}",),
    "ushape": ("time_law={kind: u_shape}",),
}
STUDENTS = {  # recipe -> the way its samples are drawn
    "reflow": "ddim",
    "rectified_diffusion": "ddim",
    "phased": "ddim",
    "slim_reflow": "ddim",
    "slim_flow": "ddim",
    "consistency_lora": "renoise",
    "mmd": "ddim",
}
BUDGETS = (1, 2, 4, 20)
QUICK = ("trainer.max_steps=6", "trainer.batch_size=8", "trainer.val_samples=8",
         "trainer.val_every_steps=3", "samples.every_steps=1000")  # fmt: skip


def draw(file: Path, split: str, *, heads: int, n: int, cache: Path) -> None:
    """Draw slices once, so that every run sees the same ones quickly."""
    if file.exists():
        return
    source = SimulatedHeads(
        n_heads=heads, size=(64, 64), pixel_mm=3.5, split=split, cache_dir=cache
    )
    order = np.random.default_rng(0).integers(0, source.n_items, n)
    rows = [source.draw(int(item), i).numpy().astype(np.float16) for i, item in enumerate(order)]
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file.with_suffix(".partial.npy"), np.stack(rows))
    file.with_suffix(".partial.npy").rename(file)


def run(recipe: str, folder: Path, overrides: tuple[str, ...]) -> Path:
    """Train unless it is done, and return the model."""
    resolved = load_recipe(packaged_recipe(recipe), overrides=overrides)
    done = folder / "model" / "config.json"
    wanted = resolved.trainer.max_steps
    if not done.exists() or json.loads(done.read_text())["training"]["steps"] < wanted:
        print(f"training {folder.name}", flush=True)
        train(resolved, output=folder, device="cpu", resume="auto")
    link = Path("models") / resolved.name
    link.parent.mkdir(exist_ok=True)
    if not link.exists():
        link.symlink_to((folder / "model").resolve())
    return folder / "model"


@torch.no_grad()
def drawn(denoiser: torch.nn.Module, n: int, **how: object) -> torch.Tensor:
    """Return n samples; the noise of sample i is the same for every model."""
    parts = [
        sample(denoiser, (len(ids), 2, 64, 64), seed=9, ids=ids, **how)
        for ids in np.array_split(np.arange(n), max(1, n // 64))
    ]
    return torch.cat(parts)


class Judge:
    """Distances in the space of features of brain-t1-2d, with those of real from real."""

    def __init__(self, n: int) -> None:
        self.features = DenoiserFeatures(load_denoiser("brain-t1-2d"))
        real = torch.from_numpy(np.load("data/validation.npy").astype(np.float32))
        self.real, self.other = real[:n], real[n : 2 * n]
        self.rows = self._rows(self.real)
        self.scale = self.rows.std(0).clamp_min(1e-6)

    def _rows(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([self.features(part) for part in images.split(64)])

    def __call__(self, images: torch.Tensor) -> dict[str, float]:
        """Return the distances of images from real ones."""
        rows = self._rows(images)
        frechet = feature_frechet(self.rows, rows, standardise=True).value
        energy = feature_energy(self.rows / self.scale, rows / self.scale, n_deals=20).value
        return {"frechet": frechet, "energy": energy}


def measure(
    name: str, denoiser: torch.nn.Module, *, judge: Judge, solver: str | None, n: int
) -> dict:
    """Return the distances at every budget."""
    found = {}
    for budget in BUDGETS:
        how: dict = {"steps": budget}
        if solver is not None:
            plan, grid = few_step(solver, budget, prediction=denoiser.pred)
            how = {"solver": plan, "grid": grid}
        started = time.perf_counter()
        images = drawn(denoiser, n, **how)
        seconds = time.perf_counter() - started
        found[str(budget)] = judge(images) | {"seconds": round(seconds, 1)}
        show(images[:16], Path("pictures") / f"{name}_{budget}.png")
    return found


def show(images: torch.Tensor, file: Path) -> None:
    """Write 16 images on a sheet."""
    from matplotlib.image import imsave

    from medsci.training.callbacks.samples import tile

    file.parent.mkdir(exist_ok=True)
    imsave(file, tile(images, is_complex=True), cmap="gray", vmin=0.0, vmax=1.2)


def steps_to(log: list[dict[str, float]], loss: float) -> float:
    """Return the step at which the validation loss falls below `loss`, between two validations."""
    points = [(row["step"], row["val_loss"]) for row in log if "val_loss" in row]
    for (s0, l0), (s1, l1) in pairwise(points):
        if l1 <= loss < l0:
            return s0 + (s1 - s0) * (l0 - loss) / (l0 - l1)
    return float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/bench_training"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    os.chdir(options.work)
    os.environ["MEDSCI_MODELS"] = str(Path("models").resolve())
    torch.set_num_threads(2)
    n_train, n_real, n_pairs = (64, 64, 64) if options.quick else (N_TRAIN, N_REAL, N_PAIRS)
    quick = QUICK if options.quick else ()
    heads = 1 if options.quick else 24
    draw(Path("data/train.npy"), "train", heads=heads, n=n_train, cache=Path("data/heads"))
    draw(Path("data/validation.npy"), "validation", heads=min(4, heads), n=n_real,
         cache=Path("data/heads"))  # fmt: skip
    arrays = "data={kind: arrays, train: data/train.npy, validation: data/validation.npy}"
    common = (arrays, "trainer.tensorboard=false", *quick)
    logs = {}
    for name, overrides in PRIORS.items():
        run("heads_64", Path(name), (f"name=heads-64-{name}", *common, *overrides))
        logs[name] = read_log(Path(name) / "metrics.csv")
    base = Path("models/heads-64")
    if not base.exists():
        base.symlink_to(Path("plain/model").resolve())
    if not Path("pairs.h5").exists():
        settings = PairSettings(n=n_pairs, steps=4 if options.quick else 20, seed=0, batch=64)
        make_pairs("heads-64", Path("pairs.h5"), settings=settings)
    for name in STUDENTS:
        own = ("trainer.tensorboard=false", *quick)
        recipe = load_recipe(packaged_recipe(name))
        run(name, Path(name), own if recipe.data.kind == "pairs" else (arrays, *own))
    report(logs, n=32 if options.quick else 1024)


def report(logs: dict[str, list[dict[str, float]]], *, n: int) -> None:
    """Measure, print both tables and the result."""
    judge = Judge(n)
    priors = {}
    end = max(min(row["val_loss"] for row in log if "val_loss" in row) for log in logs.values())
    for name, log in logs.items():
        losses = [row["val_loss"] for row in log if "val_loss" in row]
        priors[name] = {"final": losses[-1], "steps_to": steps_to(log, 1.02 * end)}
        priors[name] |= {
            f"steps_to_{factor}": steps_to(log, factor * end) for factor in (1.1, 1.25)
        }
        priors[name] |= judge(drawn(load_denoiser(f"{name}/model"), n, steps=20))
    print("\n| prior | validation loss | steps to 1.25x | 1.1x | 1.02x | FD at 20 | energy |")
    print("|---|---|---|---|---|---|---|")
    for name, row in priors.items():
        print(f"| {name} | {row['final']:.4f} | {row['steps_to_1.25']:.0f} | "
              f"{row['steps_to_1.1']:.0f} | {row['steps_to']:.0f} | {row['frechet']:.1f} | "
              f"{row['energy']:.3f} |")  # fmt: skip
    models = {"base": None, "base, DDIM": "ddim", **STUDENTS}
    table = {}
    for name, solver in models.items():
        place = "plain" if name.startswith("base") else name
        table[name] = measure(
            name, load_denoiser(f"{place}/model"), judge=judge, solver=solver, n=n
        )
        print(name, table[name], flush=True)
    table["untrained"] = measure(
        "untrained", untrained_like(load_denoiser("plain/model")), judge=judge, solver=None, n=n
    )
    real = judge(judge.other)
    print(f"\nreal from real ({n} and {n} images): FD {real['frechet']:.1f}, "
          f"energy {real['energy']:.4f}\n")  # fmt: skip
    print("| model | parameters | " + " | ".join(f"{b}" for b in BUDGETS) + " |")
    print("|---|---|" + "---|" * len(BUDGETS))
    for name, rows in table.items():
        place = "plain" if name.startswith(("base", "untrained")) else name
        size = verify_model(f"{place}/model").config.n_parameters / 1e6
        cells = " | ".join(f"{rows[str(b)]['frechet']:.0f} ({rows[str(b)]['energy']:.2f})"
                           for b in BUDGETS)  # fmt: skip
        print(f"| {name} | {size:.2f} M | {cells} |")
    print("RESULT " + json.dumps({"priors": priors, "models": table, "real": real, "n": n}))


if __name__ == "__main__":
    main()
