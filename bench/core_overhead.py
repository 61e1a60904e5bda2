"""What a sampler adds to the network, in time and in memory, ours beside diffusers' and MONAI's.

    python bench/core_overhead.py [--quick]

Time: the network is `x * 0.9` on (4, 1, 16, 16) float32, 50 steps, one thread. All loops run in
turn within one process, many rounds; CPU time is taken, so that neighbours on the machine count
little, and it is given in bare network calls as well, which are slowed down alike. The time of the
bare call is measured in the same way and subtracted. Schedules are built beforehand on both sides.

Volume: the same on (1, 1, 96, 96, 96), 10 steps, in milliseconds per step, and the most memory
alive beside the input, the network's own output included, in volumes. It is counted from the
tensors' storages after every operation, so it does not depend on the allocator.

A library that is not installed is named as absent. The last line is `RESULT {json}`.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path as FilePath

import torch
from torch import Tensor

from medsci.core.process import Path
from medsci.core.solve import Ancestral, Multistep, Rng, RungeKutta, Sde, grid

sys.path.insert(0, str(FilePath(__file__).parent.parent / "tests"))
from contracts.guard import LiveMemory

STEPS, VOLUME_STEPS = 50, 10
SHAPE, VOLUME = (4, 1, 16, 16), (1, 1, 96, 96, 96)
GOAL_RATIO = 8.0
GOAL_US = {
    "medsci x0 order 1 (DDIM)": 6.0,
    "medsci x0 order 2": 6.0,
    "medsci x0 order 3": 6.0,
    "medsci x0 order 2, corrector": 10.0,
    "medsci v order 2": 10.0,
}
GOAL_VOLUMES = {  # x, x0, and one direction for every order above the first
    "medsci x0 order 1 (DDIM)": 2.0,
    "medsci x0 order 2": 3.0,
    "medsci x0 order 3": 4.0,
    "medsci v order 2": 3.0,
    "medsci Ancestral(1)": 2.0,
}
Loops = dict[str, Callable[[], object]]


def network(x: Tensor, t: float | Tensor) -> Tensor:
    return x * 0.9


class TimestepsNetwork(torch.nn.Module):
    """The same network under the names by which MONAI's inferer calls it."""

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the state times 0.9."""
        return x * 0.9


def ours(x: Tensor, steps: int) -> Loops:
    path = Path.vp_cosine()
    times = grid.uniform(steps)
    half = grid.uniform(steps // 2)  # two evaluations a step
    solvers = {
        "medsci x0 order 1 (DDIM)": Multistep("x0", order=1).plan(path, times),
        "medsci x0 order 2": Multistep("x0", order=2).plan(path, times),
        "medsci x0 order 3": Multistep("x0", order=3).plan(path, times),
        "medsci x0 order 2, corrector": Multistep("x0", corrector=True).plan(path, times),
        "medsci v order 2": Multistep("v", "ratio", order=2).plan(path, times),
        "medsci Heun": RungeKutta("heun").plan(path, half),
        "medsci Ancestral(1)": Ancestral(1.0).plan(path, times),
        "medsci Sde order 2": Sde(1.0, order=2).plan(path, times),
    }
    rng = Rng(0, range(x.shape[0]))
    return {name: lambda p=plan: p.run(network, x, rng=rng) for name, plan in solvers.items()}


def bare(x: Tensor, steps: int) -> Callable[[], None]:
    times = grid.uniform(steps)[:-1].tolist()

    def loop() -> None:
        with torch.no_grad():
            for t in times:
                network(x, t)

    return loop


def with_diffusers(x: Tensor, steps: int) -> Callable[[], object]:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(prediction_type="sample", clip_sample=False)
    scheduler.set_timesteps(steps)

    def loop() -> Tensor:
        state = x
        with torch.no_grad():
            for t in scheduler.timesteps:
                state = scheduler.step(network(state, t), t, state).prev_sample
        return state

    return loop


def with_diffusers_2m(x: Tensor, steps: int) -> Callable[[], object]:
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", solver_order=2, prediction_type="sample"
    )
    scheduler.set_timesteps(steps)

    def loop() -> Tensor:
        state = x
        scheduler._step_index = None  # it counts steps, and would go on where it stopped
        scheduler.lower_order_nums = 0
        scheduler.model_outputs = [None] * 2
        with torch.no_grad():
            for t in scheduler.timesteps:
                state = scheduler.step(network(state, t), t, state).prev_sample
        scheduler.model_outputs = [None] * 2
        return state

    return loop


def with_monai(x: Tensor, steps: int) -> Callable[[], object]:
    from monai.inferers import DiffusionInferer
    from monai.networks.schedulers import DDIMScheduler

    scheduler = DDIMScheduler(num_train_timesteps=1000, prediction_type="sample", clip_sample=False)
    scheduler.set_timesteps(steps)
    inferer, net = DiffusionInferer(scheduler), TimestepsNetwork()

    def loop() -> object:
        with torch.no_grad():
            return inferer.sample(
                input_noise=x, diffusion_model=net, scheduler=scheduler, verbose=False
            )

    return loop


PEERS = {
    "diffusers DDIM": with_diffusers,
    "diffusers DPM++2M": with_diffusers_2m,
    "MONAI DDIM": with_monai,
}


def all_loops(x: Tensor, steps: int) -> tuple[Loops, list[str]]:
    """Return every loop by name, the bare network first, and the names of absent peers."""
    loops: Loops = {"bare network call": bare(x, steps), **ours(x, steps)}
    absent = []
    for name, make in PEERS.items():
        try:
            loops[name] = make(x, steps)
        except ImportError:
            absent.append(name)
    return loops, absent


def measure(loops: Loops, rounds: int, steps: int) -> dict[str, list[float]]:
    """Return CPU microseconds per step of every round, the loops taken in turn."""
    for loop in loops.values():
        loop()
    taken: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(rounds):
        for name, loop in loops.items():
            start = time.process_time()
            loop()
            taken[name].append((time.process_time() - start) / steps * 1e6)
    return taken


def volumes(loops: Loops, x: Tensor) -> dict[str, float]:
    """Return the most memory alive inside each loop, in units of x."""
    peaks = {}
    for name, loop in loops.items():
        with LiveMemory() as memory:
            loop()
        peaks[name] = memory.peak / x.nbytes
    return peaks


def time_part(rounds: int) -> dict[str, object]:
    """Measure, print and return microseconds per step on a small state."""
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    loops, absent = all_loops(x, STEPS)
    taken = measure(loops, rounds, STEPS)
    network_us, *_ = (min(taken[name]) for name in loops)
    network_median = statistics.median(taken["bare network call"])
    names = list(loops)[1:]
    least = {name: min(taken[name]) - network_us for name in names}
    print(f"{STEPS} steps of {SHAPE} float32, {rounds} rounds, CPU microseconds per step")
    print(f"bare network call: min {network_us:.2f}, median {network_median:.2f}; subtracted below")
    print(f"{'loop':32s} {'min':>8s} {'median':>8s} {'calls':>7s} {'x order 1':>10s} {'goal':>6s}")
    first = least["medsci x0 order 1 (DDIM)"]
    for name in names:
        median = statistics.median(taken[name]) - network_median
        goal = f"{GOAL_US[name]:6.0f}" if name in GOAL_US else ""
        print(
            f"{name:32s} {least[name]:8.2f} {median:8.2f} {least[name] / network_us:7.1f} "
            f"{least[name] / first:10.1f} {goal}"
        )
    for name in absent:
        print(f"{name:32s}   absent (pip install 'medsci[bench]')")
    peers = [name for name in PEERS if name in least]
    order_2 = least["medsci x0 order 2"]
    met = all(least[name] <= goal for name, goal in GOAL_US.items())
    return {
        "unit": "us_per_step_min_cpu",
        "network_call": round(network_us, 3),
        "overhead": {name: round(us, 3) for name, us in least.items()},
        "overhead_in_network_calls": {n: round(us / network_us, 2) for n, us in least.items()},
        "ratio_to_order_1": {name: round(least[name] / first, 2) for name in peers},
        "ratio_of_2m_to_order_2": round(least["diffusers DPM++2M"] / order_2, 1)
        if "diffusers DPM++2M" in least
        else None,
        "absent": absent,
        "goal": {"us": GOAL_US, "ratio": GOAL_RATIO},
        "goal_met": met and all(least[name] >= GOAL_RATIO * first for name in peers),
    }


def volume_part(rounds: int) -> dict[str, object]:
    """Measure, print and return milliseconds per step and memory for a volume."""
    x = torch.randn(VOLUME, generator=torch.Generator().manual_seed(0))
    loops, _ = all_loops(x, VOLUME_STEPS)
    taken = measure(loops, rounds, VOLUME_STEPS)
    peaks = volumes(loops, x)
    network_ms = min(taken["bare network call"]) / 1e3
    print(f"\n{VOLUME_STEPS} steps of {VOLUME} float32, {rounds} rounds; memory in volumes")
    print(f"bare network call: {network_ms:.2f} ms, subtracted below; its output is 1 volume")
    print(f"{'loop':32s} {'ms/step':>8s} {'volumes':>8s} {'goal':>6s}")
    names = list(loops)[1:]
    spent = {name: min(taken[name]) / 1e3 - network_ms for name in names}
    for name in names:
        goal = f"{GOAL_VOLUMES[name]:6.0f}" if name in GOAL_VOLUMES else ""
        print(f"{name:32s} {spent[name]:8.2f} {peaks[name]:8.2f} {goal}")
    return {
        "ms_per_step": {name: round(ms, 3) for name, ms in spent.items()},
        "volumes": {name: round(peaks[name], 3) for name in names},
        "goal": GOAL_VOLUMES,
        "goal_met": all(peaks[name] <= goal for name, goal in GOAL_VOLUMES.items()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for a check")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    result = time_part(60 if quick else 400)
    result["volume"] = volume_part(3 if quick else 10)
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
