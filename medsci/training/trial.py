"""A dry run: build everything a recipe names, measure it, keep nothing."""

__all__ = ["try_out"]

import time

import torch

from medsci.core.rng import Rng
from medsci.training.assembly import build_parts, build_source, check_fit
from medsci.training.launch import find_machines
from medsci.training.module import networks_in
from medsci.training.recipe import TrainRecipe
from medsci.training.stream import SampleNumbers, SampleStream, split_batch, train_loader

_N_STEPS = 3


def try_out(recipe: TrainRecipe, *, device: str = "auto") -> str:
    """Return a few lines: parameters, data scale, seconds per step and for the whole run.

    One process does the work of one; the first step is left out of the timing. The standard
    deviation of the drawn data is what `sigma_data` should be near.
    """
    machines = find_machines(recipe.trainer, device=device)
    one = machines.devices[0] if isinstance(machines.devices, list) else 0
    place = torch.device(f"cuda:{one}" if machines.accelerator == "cuda" else "cpu")
    if recipe.trainer.threads is not None:
        torch.set_num_threads(recipe.trainer.threads)
    source = build_source(recipe, split="train")
    check_fit(recipe, {"train": source})
    parts = build_parts(recipe)
    denoiser = parts.denoiser.to(place)
    objective = parts.objective(denoiser)
    for network in networks_in(objective):
        network.to(place)
    trainable = [p for p in denoiser.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=recipe.optimiser.learning_rate)
    stream = SampleStream(source, seed=recipe.seed)
    numbers = SampleNumbers(
        lambda: 0,
        max_steps=_N_STEPS + 1,
        batch_size=recipe.trainer.batch_size,
        accumulate=recipe.trainer.accumulate,
        world_size=machines.n_processes,
    )
    data_times, step_times, spread = [], [], []
    batches = iter(train_loader(stream, numbers, workers=0))
    for _ in range(_N_STEPS + 1):
        started = time.perf_counter()
        ids, x0, noise, cond = split_batch({k: v.to(place) for k, v in next(batches).items()})
        drawn = time.perf_counter()
        rng = Rng(recipe.seed, ids=ids.tolist())
        loss, _ = objective(denoiser, x0, rng=rng, step=0, noise=noise, cond=cond)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        spread.append(float(x0.std()))
        data_times.append(drawn - started)
        step_times.append(time.perf_counter() - drawn)
    parts_per_step = recipe.trainer.accumulate
    data_s, step_s = (parts_per_step * min(times[1:]) for times in (data_times, step_times))
    n_all = sum(p.numel() for p in denoiser.parameters())
    n_trained = sum(p.numel() for p in trainable)
    total = recipe.trainer.max_steps * (data_s + step_s) / 60.0
    return "\n".join(
        [
            f"network     {n_all / 1e6:.2f} M parameters, {n_trained / 1e6:.2f} M trained",
            f"machines    {machines.n_processes} x {machines.accelerator}, {machines.strategy}",
            f"data        {source.n_items} items, {tuple(x0.shape)} per process and part, "
            f"standard deviation {sum(spread) / len(spread):.3f} "
            f"(sigma_data is {denoiser.sigma_data})",
            f"first loss  {float(loss.detach()):.4f}",
            f"per step    {step_s:.3f} s network + {data_s:.3f} s data",
            f"whole run   {recipe.trainer.max_steps} steps, about {total:.0f} min",
        ]
    )
