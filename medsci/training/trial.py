"""A dry run: build everything a recipe names, measure it, keep nothing."""

__all__ = ["try_out"]

import time

import torch

from medsci.core.rng import Rng
from medsci.training.build import build_denoiser, build_objective, build_source
from medsci.training.recipe import TrainRecipe
from medsci.training.run import resolve_device
from medsci.training.stream import SliceStream

_N_STEPS = 3


def try_out(recipe: TrainRecipe, *, device: str = "auto") -> str:
    """Return a few lines: parameters, data scale, seconds per step and for the whole run.

    The first step is left out of the timing. The standard deviation of the drawn data is what
    `sigma_data` should be near.
    """
    kind, devices = resolve_device(device)
    place = torch.device(f"{kind}:{devices[0]}" if isinstance(devices, list) else kind)
    if recipe.trainer.threads is not None:
        torch.set_num_threads(recipe.trainer.threads)
    denoiser = build_denoiser(recipe).to(place)
    objective = build_objective(recipe)
    optimiser = torch.optim.AdamW(denoiser.parameters(), lr=recipe.optimiser.learning_rate)
    stream = SliceStream(build_source(recipe, split="train"), seed=recipe.seed)
    size = recipe.trainer.batch_size
    data_times, step_times, spread = [], [], []
    for step in range(_N_STEPS + 1):
        started = time.perf_counter()
        numbers = range(step * size, (step + 1) * size)
        x0 = torch.stack([stream[number][1] for number in numbers]).to(place)
        drawn = time.perf_counter()
        loss, _ = objective(denoiser, x0, rng=Rng(recipe.seed, ids=numbers), step=0)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        spread.append(float(x0.std()))
        data_times.append(drawn - started)
        step_times.append(time.perf_counter() - drawn)
    data_s, step_s = (min(times[1:]) for times in (data_times, step_times))
    n_parameters = sum(p.numel() for p in denoiser.parameters())
    total = recipe.trainer.max_steps * (data_s + step_s) / 60.0
    return "\n".join(
        [
            f"network     {n_parameters / 1e6:.2f} M parameters",
            f"data        {tuple(x0.shape)}, standard deviation {sum(spread) / len(spread):.3f} "
            f"(sigma_data is {recipe.sigma_data})",
            f"first loss  {float(loss.detach()):.4f}",
            f"per step    {step_s:.3f} s network + {data_s:.3f} s data",
            f"whole run   {recipe.trainer.max_steps} steps, about {total:.0f} min",
        ]
    )
