"""Seconds and memory per volume: our loop beside MONAI's inferer, and what our options gain.

    python bench/brain_speed.py [--quick] [--no-compile]

Both loops take the same DDIM steps, with clipping, on the same network object: the architecture of
the published head generators at 48 x 64 x 48, random weights, in float32, one thread. They run in
turn, many rounds; each round gives a ratio, so that neighbours on the machine count little. CPU
time is taken for the same reason. Memory is counted from the storages of tensors after every
operation, weights aside, so it does not depend on the allocator.

Then what a user gains: bfloat16, channels-last weights with it, a compiled network, several volumes
at once, slabs. How few steps are enough is measured by `bench/brain_nfe.py`.

MONAI's scheduler takes another neighbouring step than ours where the number of steps does not
divide 1000, so the two volumes differ; the work is the same. The last line is `RESULT {json}`.
"""

import argparse
import copy
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path as FilePath

import torch
from torch import Tensor, nn

from medsci.brain.walk import clip_hooks, walk_of
from medsci.core.denoise import Denoiser
from medsci.core.solve import sample
from medsci.models.config import ModelConfig, build_path
from medsci.nets.config import MonaiUNetConfig
from medsci.nets.sliced import slice_activations
from medsci.nets.unet import build_network

sys.path.insert(0, str(FilePath(__file__).parent.parent / "tests"))
from contracts.guard import LiveMemory

GOAL = 1.0
QUICK = MonaiUNetConfig(channels=(8, 16, 32), res_blocks=(1, 1, 1), attention_levels=(2,))
Loop = Callable[[], object]


def described(network: MonaiUNetConfig, size: tuple[int, ...]) -> ModelConfig:
    return ModelConfig(
        name="speed",
        network=network,
        path={"kind": "tabulated"},
        prediction="v",
        time_code="row",
        unit_input=False,
        image_channels=("t1",),
        training_size=size,
        value_range=(-1.0, 1.0),
    )


def random_network(config: MonaiUNetConfig) -> nn.Module:
    """Return the network with random numbers in the layers, also those that start at zero."""
    net = build_network(config).eval().requires_grad_(requires_grad=False)
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        if not parameter.any():
            parameter.normal_(std=0.02, generator=generator)
    return net


def our_loop(
    config: ModelConfig, net: nn.Module, x: Tensor, *, steps: int, precision: str = "float32"
) -> Loop:
    denoiser = Denoiser(
        net,
        path=build_path(config.path),
        pred=config.prediction,
        time_code=config.time_code,
        unit_input=config.unit_input,
        precision=precision,
    )
    walk = walk_of(config, solver="ddim", steps=steps)
    hooks = clip_hooks("consistent", config.value_range, walk)
    options = {"solver": walk.solver, "grid": walk.grid, "path": walk.path, "hooks": hooks}
    return lambda: sample(denoiser, tuple(x.shape), x=x, **options)


def monai_loop(net: nn.Module, x: Tensor, *, steps: int) -> Loop:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.inferers import DiffusionInferer
        from monai.networks.schedulers import DDIMScheduler

    scheduler = DDIMScheduler(
        num_train_timesteps=1000,
        prediction_type="v_prediction",
        beta_start=1e-4,
        beta_end=2e-2,
    )
    scheduler.set_timesteps(steps)
    inferer = DiffusionInferer(scheduler)

    def loop() -> object:
        with torch.no_grad():
            return inferer.sample(
                input_noise=x, diffusion_model=net.unet, scheduler=scheduler, verbose=False
            )

    return loop


def bare_loop(net: nn.Module, x: Tensor, *, steps: int) -> Loop:
    times = torch.linspace(999.0, 0.0, steps)

    def loop() -> None:
        with torch.no_grad():
            for t in times:
                net.unet(x, t[None])

    return loop


def measured(loops: dict[str, Loop], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return CPU and wall seconds of every round; the loops in turn, the order turned around."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
    for index in range(rounds):
        names = list(loops) if index % 2 == 0 else list(reversed(loops))
        for name in names:
            cpu, wall = time.process_time(), time.perf_counter()
            loops[name]()
            taken[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return taken


def peak_of(loop: Loop) -> float:
    """Return the most MiB of tensors alive inside a loop."""
    with LiveMemory() as memory:
        loop()
    return memory.peak / 2**20


def peer_part(net: nn.Module, config: ModelConfig, *, steps: int, rounds: int) -> dict:
    """Measure, print and return our loop beside MONAI's."""
    x = torch.randn(1, 1, *config.training_size, generator=torch.Generator().manual_seed(1))
    loops = {
        "medsci": our_loop(config, net, x, steps=steps),
        "MONAI": monai_loop(net, x, steps=steps),
        "bare network": bare_loop(net, x, steps=steps),
    }
    taken = measured(loops, rounds + 1)
    taken = {name: rows[1:] for name, rows in taken.items()}  # the first round warms up
    both = zip(taken["MONAI"], taken["medsci"], strict=True)
    ratios = sorted(theirs[0] / ours[0] for theirs, ours in both)
    seconds = {name: statistics.median(row[0] for row in rows) for name, rows in taken.items()}
    wall = {name: statistics.median(row[1] for row in rows) for name, rows in taken.items()}
    peaks = {
        "medsci": peak_of(our_loop(config, net, x, steps=2)),
        "MONAI": peak_of(monai_loop(net, x, steps=2)),
    }
    print(f"{steps} DDIM steps, float32, {rounds} rounds; CPU and wall seconds per volume")
    for name in loops:
        peak = f"{peaks[name]:8.0f} MiB" if name in peaks else ""
        print(f"{name:14s} {seconds[name]:8.2f} {wall[name]:8.2f} {peak}")
    middle = statistics.median(ratios)
    print(f"MONAI / medsci: {middle:.3f} (rounds {ratios[0]:.3f} to {ratios[-1]:.3f})")
    return {
        "cpu_seconds": seconds,
        "wall_seconds": wall,
        "peak_mib": peaks,
        "ratio": middle,
        "ratio_of_rounds": ratios,
        "goal": GOAL,
        "goal_met": round(middle, 2) >= GOAL and peaks["medsci"] <= peaks["MONAI"],
    }


def gain_part(net: nn.Module, config: ModelConfig, *, rounds: int, compiled: bool) -> dict:
    """Measure, print and return the gain of every option over our float32, per evaluation."""
    x = torch.randn(1, 1, *config.training_size, generator=torch.Generator().manual_seed(1))
    laid, cut = copy.deepcopy(net), copy.deepcopy(net)
    for module in laid.modules():
        if isinstance(module, nn.Conv3d):
            form = torch.channels_last_3d
            module.weight.data = module.weight.data.contiguous(memory_format=form)
    slice_activations(cut)
    four = x.repeat(4, 1, 1, 1, 1)
    low = {"steps": 2, "precision": "bfloat16"}
    loops = {
        "float32": our_loop(config, net, x, steps=2),
        "float32, batch 4": our_loop(config, net, four, steps=2),
        "float32, slabs": our_loop(config, cut, x, steps=2),
        "bfloat16": our_loop(config, net, x, **low),
        "bfloat16, channels-last weights": our_loop(config, laid, x, **low),
        "bfloat16, batch 4": our_loop(config, laid, four, **low),
    }
    notes = {}
    if compiled:
        fast = copy.deepcopy(net)
        fast.compile()
        loops["float32, compiled"] = our_loop(config, fast, x, steps=2)
        start = time.perf_counter()
        try:
            loops["float32, compiled"]()
            notes["compile_seconds"] = round(time.perf_counter() - start, 1)
        except (RuntimeError, OSError) as error:  # no compiler, or one that fails
            del loops["float32, compiled"]
            notes["compile_absent"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    taken = measured(loops, rounds + 1)
    print(f"\nper volume and evaluation, {rounds} rounds, gain over float32 of the same round")
    table = {}
    for name, rows in taken.items():
        share = 8 if "batch 4" in name else 2  # volumes times evaluations
        each = [row[0] / share for row in rows[1:]]
        base = [row[0] / 2 for row in taken["float32"][1:]]
        gains = sorted(b / e for b, e in zip(base, each, strict=True))
        table[name] = {"cpu_seconds": statistics.median(each), "gain": statistics.median(gains)}
        if "compiled" not in name:
            table[name]["peak_mib"] = peak_of(loops[name])
        print(
            f"{name:34s} {table[name]['cpu_seconds']:8.3f} s {table[name]['gain']:6.2f}x "
            f"({gains[0]:.2f} to {gains[-1]:.2f}) {table[name].get('peak_mib', 0):8.0f} MiB"
        )
    for name, note in notes.items():
        print(f"{name}: {note}")
    return {"options": table, **notes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small network, few rounds")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = QUICK if options.quick else MonaiUNetConfig()
    config = described(network, (24, 32, 24) if options.quick else (48, 64, 48))
    net = random_network(network)
    result = peer_part(net, config, steps=8, rounds=2 if options.quick else 6)
    compiled = not (options.quick or options.no_compile)
    result |= gain_part(net, config, rounds=2 if options.quick else 5, compiled=compiled)
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
