"""How few network evaluations make volumes as good as DDIM at 256: a study on a stored model.

    python bench/brain_nfe.py [--model brain-t1-small] [--n 12] [--cache DIR] [--quick]

All solvers start from the same noise, with the clipping that `brain generate` uses. Two questions
are asked of every budget:

- How far is the set from held-out simulated heads? Frechet distance in fixed random features of the
  T1 channel, energy distance of all channels, and the mean W1 / sd of brain volume and tissue
  fractions. Beside them stands the distance of DDIM at 256 evaluations. A set of n volumes has a
  distance of its own, also if it were perfect; it is the same for all solvers, as n and noise are.
- How far is each volume from where the flow really ends? Root mean square over all voxels and
  channels, against the best general solver at 100 evaluations.

A budget has reached DDIM-256 if it, and every larger one, is at most 5 % above it. The last line is
`RESULT {json}`.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medsci.brain.frame import Frame
from medsci.brain.generation import regions
from medsci.brain.walk import clip_hooks, walk_of
from medsci.core.denoise import Denoiser
from medsci.core.solve import sample
from medsci.data.head_volumes import SimulatedHeadVolumes
from medsci.metrics.frechet import feature_frechet
from medsci.metrics.sets import energy_distance, wasserstein_over_sd
from medsci.models import ModelConfig, load_denoiser
from medsci.models.store import verify_model
from medsci.nets import RandomFeatures

AUTO = (5, 8, 10, 15, 20, 30)
DDIM = (10, 40, 256)
FINE = 100
HEADS = 8
BATCH = 4
SLACK = 1.05
GOAL = 10
Draw = Callable[..., Tensor]


def drawing(denoiser: Denoiser, config: ModelConfig, seed: int) -> Draw:
    """Return `draw(solver, n_evaluations, n_volumes)`."""
    shape = (config.network.out_channels, *config.training_size)

    def draw(solver: str, steps: int, n: int) -> Tensor:
        walk = walk_of(config, solver=solver, steps=steps)
        parts = []
        for first in range(0, n, BATCH):
            ids = range(first, min(first + BATCH, n))
            x = sample(
                denoiser,
                (len(ids), *shape),
                solver=walk.solver,
                grid=walk.grid,
                path=walk.path,
                seed=seed,
                ids=ids,
                hooks=clip_hooks("consistent", config.value_range, walk),
            )
            parts.append(x)
        return torch.cat(parts)

    return draw


def held_out(config: ModelConfig, n: int, cache: Path | None) -> Tensor:
    """Return draws of simulated heads that training has not seen, two or more of each."""
    n_heads = min(HEADS, -(-n // 2))
    source = SimulatedHeadVolumes(
        n_heads=n_heads,
        size=tuple(config.training_size),
        voxel_mm=float(config.voxel_size_mm[0]),
        split="validation",
        cache_dir=cache,
    )
    return torch.stack([source.draw(i % n_heads, 500_000 + i)["x0"] for i in range(n)])


def regions_of(volumes: Tensor, config: ModelConfig) -> dict[str, np.ndarray]:
    """Return brain volume and tissue fractions, one number per volume."""
    names = config.image_channels[1:]
    ml = Frame.of(config).voxel_ml
    rows = [regions((0.5 * v[1:] + 0.5).clamp(0, 1).numpy(), names, voxel_ml=ml) for v in volumes]
    keys = ["brain_ml", *(f"{name}_fraction" for name in names)]
    return {key: np.array([row.get(key, 0.0) for row in rows]) for key in keys}


def distances(real: Tensor, made: Tensor, config: ModelConfig) -> dict[str, float]:
    """Return the three distances of a set of volumes from held-out ones."""
    features = RandomFeatures(in_channels=1, widths=(16, 32, 64), spatial_dims=3)
    found = {
        "frechet": feature_frechet(
            real[:, :1], made[:, :1], features=features, standardise=True, batch_size=4
        ).value,
        "energy": energy_distance(real.numpy(), made.numpy()),
    }
    if len(config.image_channels) > 1:
        wanted, got = regions_of(real, config), regions_of(made, config)
        each = [wasserstein_over_sd(wanted[key], got[key]) for key in wanted]
        found["regions"] = float(np.mean(each))
    return found


def reached(values: dict[int, float], least: float) -> int | None:
    """Return the smallest budget from which on all are at most 5 % above `least`."""
    found = None
    for budget in sorted(values, reverse=True):
        if values[budget] > SLACK * least:
            break
        found = budget
    return found


def study(
    draw: Draw, real: Tensor, config: ModelConfig, *, n: int, budgets: dict[str, tuple[int, ...]]
) -> dict:
    """Draw with every budget, measure, print and return the table."""
    n_fine = min(n, BATCH)
    ends = draw("auto", FINE if max(budgets["ddim"]) > FINE else 2 * max(budgets["ddim"]), n_fine)
    real, more = real[:n], real[n:]
    floor = distances(real, more, config)
    print(f"{'real beside real':34s}" + _row(floor))
    table: dict[str, dict[int, dict[str, float]]] = {}
    for solver, steps in budgets.items():
        table[solver] = {}
        for k in steps:
            cpu = time.process_time()
            made = draw(solver, k, n)
            cpu = (time.process_time() - cpu) / n
            row = distances(real, made, config)
            row["rms"] = (made[:n_fine] - ends).square().mean().sqrt().item()
            row["cpu_seconds"] = cpu
            table[solver][k] = row
            print(f"{f'{solver}, {k} evaluations':34s}" + _row(row), flush=True)
    return {"real": floor, "table": table}


def _row(row: dict[str, float]) -> str:
    return "".join(f"{name} {value:<9.4g} " for name, value in row.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="brain-t1-small", help="name or folder of a model")
    parser.add_argument("--n", type=int, default=12, help="volumes of a set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="folder in which simulated heads are kept")
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--quick", action="store_true", help="few volumes, small budgets")
    options = parser.parse_args()
    torch.set_num_threads(1)
    denoiser = load_denoiser(options.model, precision=options.precision)
    config = verify_model(options.model).config
    n = 4 if options.quick else options.n
    budgets = {"ddim": (3, 8), "auto": (3, 5)} if options.quick else {"ddim": DDIM, "auto": AUTO}
    real = held_out(config, 2 * n, options.cache)
    print(f"{config.name}, sets of {n} volumes, seed {options.seed}, {options.precision}")
    result = study(drawing(denoiser, config, options.seed), real, config, n=n, budgets=budgets)
    table, most = result["table"], max(budgets["ddim"])
    enough = {
        name: reached({k: row[name] for k, row in table["auto"].items()}, least)
        for name, least in table["ddim"][most].items()
        if name != "cpu_seconds"
    }
    print(f"evaluations of auto to reach DDIM at {most}: {enough}")
    sets = [enough[name] for name in enough if name != "rms"]
    met = all(budget is not None and budget <= GOAL for budget in sets)
    summary = {"model": config.name, "n": n, "enough": enough, "goal": GOAL, "goal_met": met}
    print("RESULT " + json.dumps({**summary, **result}))


if __name__ == "__main__":
    main()
