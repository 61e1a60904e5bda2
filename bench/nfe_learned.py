"""Error against the number of evaluations on a learned network: the shipped prior of brain slices.

    python bench/nfe_learned.py [--quick]

Four slices are carried from sigma_hat = 80 to .01, in units of the standard deviation of the data,
along the probability flow of `brain-t1-2d` in float32. The reference is a corrected solve in 300
evaluations; a second one, in another basis and on another grid, says how far the reference itself
can be trusted. Printed is the median relative distance to it. The last line is `RESULT {json}`.
"""

import argparse
import json
from collections.abc import Callable

import numpy as np
import torch

from medsci.core import Multistep, Rng, RungeKutta, grid
from medsci.core.check import relative_error
from medsci.core.solve import AbstractSolver, auto
from medsci.models import load_denoiser

SHAPE = (4, 2, 96, 96)  # real and imaginary part
BUDGETS = (3, 5, 10, 20, 50)


def rows(denoiser: torch.nn.Module, ends: dict[str, float]) -> dict[str, Callable]:
    """Return a solver and a grid for every budget, by name."""
    path, sd = denoiser.path, denoiser.sigma_data

    def karras(solver: AbstractSolver, stages: int = 1) -> Callable:
        return lambda n: (solver, grid.karras(path, max(n // stages, 1), **ends))

    def level(solver: AbstractSolver) -> Callable:
        return lambda n: (solver, grid.log_snr(path, n, **ends))

    def default(spectrum: str) -> Callable:
        return lambda n: auto(path, n, **ends, sigma_data=sd, spectrum=spectrum)

    return {
        "auto (long spectrum: images)": default("long"),
        "auto (short spectrum: the wrong answer)": default("short"),
        "DDIM @ karras7": karras(Multistep("eps", order=1)),
        "Heun @ karras7": karras(RungeKutta("heun", "eps"), stages=2),
        "DPM++2M @ karras7": karras(Multistep("x0", order=2)),
        "DPM++2M @ log-SNR": level(Multistep("x0", order=2)),
        "UniPC-3 @ karras7": karras(Multistep("x0", order=3, corrector=True)),
        "UniPC-3 @ log-SNR": level(Multistep("x0", order=3, corrector=True)),
        "DEIS-3 @ karras7": karras(Multistep("eps", order=3)),
        "v order 3 @ karras7": karras(Multistep("v", order=3, sigma_data=sd)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="budgets 5 and 10 only")
    budgets = (5, 10) if parser.parse_args().quick else BUDGETS
    torch.set_num_threads(1)
    denoiser = load_denoiser("brain-t1-2d", precision="float32")
    path, sd = denoiser.path, denoiser.sigma_data
    ends = {"sigma_max": 80.0 * sd, "sigma_min": 0.01 * sd}
    start = float(path.time_at_sigma_hat(ends["sigma_max"]))
    x = Rng(0, range(SHAPE[0])).normal(SHAPE, step=-1) * float(path.sigma(start))

    def walk(solver: AbstractSolver, times: np.ndarray) -> torch.Tensor:
        return solver.plan(path, times).run(denoiser, x)

    fine = Multistep("v", order=3, corrector=True, sigma_data=3.0 * sd)
    end = walk(fine, grid.karras(path, 300, rho=10.0, **ends))
    other = Multistep("angle", order=3, corrector=True, sigma_data=sd)
    trust = relative_error(walk(other, grid.log_snr(path, 240, **ends)), end).median().item()
    print(f"median relative error; the reference is certain to {trust:.1e}")
    print(f"{'':42s}" + "".join(f"{n:>10d}" for n in budgets))
    table = {}
    for name, choose in rows(denoiser, ends).items():
        table[name] = [relative_error(walk(*choose(n)), end).median().item() for n in budgets]
        print(f"{name:42s}" + "".join(f"{value:10.1e}" for value in table[name]), flush=True)
    print("RESULT " + json.dumps({"budgets": budgets, "reference": trust, "errors": table}))


if __name__ == "__main__":
    main()
