"""Microseconds per step that a sampler adds to the network, ours beside diffusers' and MONAI's.

    python bench/core_overhead.py [--quick]

The network is `x * 0.9` on (4, 1, 16, 16) float32, 50 steps, one thread. All loops run in turn
within one process, many rounds; CPU time is taken, so that neighbours on the machine count little.
The time of the bare network call is measured in the same way and subtracted. Schedules are built
beforehand on both sides. A library that is not installed is named as absent. The last line is
`RESULT {json}`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from medsci.core.process import Path
from medsci.core.solve import Ancestral, Multistep, Rng, grid

STEPS = 50
SHAPE = (4, 1, 16, 16)
GOAL_US, GOAL_RATIO = 6.0, 8.0


def network(x: Tensor, t: float | Tensor) -> Tensor:
    return x * 0.9


class TimestepsNetwork(torch.nn.Module):
    """The same network under the names by which MONAI's inferer calls it."""

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the state times 0.9."""
        return x * 0.9


def ours(x: Tensor) -> dict[str, Callable[[], object]]:
    path = Path.vp_cosine()
    times = grid.uniform(STEPS)
    solvers = {
        "medsci x0 order 1 (DDIM)": Multistep("x0", order=1),
        "medsci x0 order 2": Multistep("x0", order=2),
        "medsci x0 order 3": Multistep("x0", order=3),
        "medsci x0 order 2, corrector": Multistep("x0", order=2, corrector=True),
        "medsci v order 2": Multistep("v", "ratio", order=2),
        "medsci Ancestral(1)": Ancestral(1.0),
    }
    rng = Rng(0, range(SHAPE[0]))
    plans = {name: solver.plan(path, times) for name, solver in solvers.items()}
    return {name: lambda p=plan: p.run(network, x, rng=rng) for name, plan in plans.items()}


def bare(x: Tensor) -> Callable[[], None]:
    times = grid.uniform(STEPS)[:-1].tolist()

    def loop() -> None:
        with torch.no_grad():
            for t in times:
                network(x, t)

    return loop


def with_diffusers(x: Tensor) -> Callable[[], object]:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(prediction_type="sample", clip_sample=False)
    scheduler.set_timesteps(STEPS)

    def loop() -> Tensor:
        state = x
        with torch.no_grad():
            for t in scheduler.timesteps:
                state = scheduler.step(network(state, t), t, state).prev_sample
        return state

    return loop


def with_monai(x: Tensor) -> Callable[[], object]:
    from monai.inferers import DiffusionInferer
    from monai.networks.schedulers import DDIMScheduler

    scheduler = DDIMScheduler(num_train_timesteps=1000, prediction_type="sample", clip_sample=False)
    scheduler.set_timesteps(STEPS)
    inferer, net = DiffusionInferer(scheduler), TimestepsNetwork()

    def loop() -> object:
        with torch.no_grad():
            return inferer.sample(
                input_noise=x, diffusion_model=net, scheduler=scheduler, verbose=False
            )

    return loop


def measure(loops: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return CPU microseconds per step of every round, the loops taken in turn."""
    for loop in loops.values():
        loop()
    taken: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(rounds):
        for name, loop in loops.items():
            start = time.process_time()
            loop()
            taken[name].append((time.process_time() - start) / STEPS * 1e6)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for a check")
    rounds = 60 if parser.parse_args().quick else 400
    torch.set_num_threads(1)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    loops: dict[str, Callable[[], object]] = {"bare network call": bare(x), **ours(x)}
    peers, absent = [], []
    for name, make in {"diffusers DDIM": with_diffusers, "MONAI DDIM": with_monai}.items():
        try:
            loops[name] = make(x)
            peers.append(name)
        except ImportError:
            absent.append(name)
    taken = measure(loops, rounds)
    network_us = min(taken["bare network call"])
    network_median = statistics.median(taken["bare network call"])
    least = {name: min(values) - network_us for name, values in taken.items()}
    print(f"{STEPS} steps of {SHAPE} float32, {rounds} rounds, CPU microseconds per step")
    print(f"bare network call: min {network_us:.2f}, median {network_median:.2f}; subtracted below")
    print(f"{'loop':32s} {'min':>8s} {'median':>8s} {'x order 1':>10s}")
    first = least["medsci x0 order 1 (DDIM)"]
    for name in list(loops)[1:]:
        median = statistics.median(taken[name]) - network_median
        print(f"{name:32s} {least[name]:8.2f} {median:8.2f} {least[name] / first:10.1f}")
    for name in absent:
        print(f"{name:32s}   absent (pip install 'medsci[bench]')")
    result = {
        "unit": "us_per_step_min_cpu",
        "network_call": round(network_us, 3),
        "overhead": {name: round(us, 3) for name, us in least.items() if name in list(loops)[1:]},
        "ratio_to_order_1": {name: round(least[name] / first, 2) for name in peers},
        "absent": absent,
        "goal": {"us": GOAL_US, "ratio": GOAL_RATIO},
        "goal_met": first <= GOAL_US and all(least[name] >= GOAL_RATIO * first for name in peers),
    }
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
