"""The peers of `bench/nfe_error.py`: every library's solvers with every built-in grid and ending.

A row takes a target and a number of evaluations and returns where it arrived, or None if it cannot
run with so few. Peers get the noise level that they really use, not the integer step they would
round it to, and float64 states. A library that does not import raises ImportError.
"""

import importlib
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from nfe_targets import DOUBLE, GRIDS, HIGH, LOW, TOP, VE, End, Method, Target, walk
from torch import Tensor

from medsci.core.solve import Multistep


def _own_frame(sigma: float, frame: str) -> tuple[float, float]:
    """Return `(alpha, sigma / alpha)` of a scheduler's own sigma."""
    if frame == "flow":
        sigma = min(sigma, TOP / (1.0 + TOP))  # 1 is infinite noise
        return 1.0 - sigma, sigma / (1.0 - sigma)
    return (1.0 if frame == "ve" else (1.0 + sigma**2) ** -0.5), sigma


def _output(kind: str, y: Tensor, x0: Tensor, level: float) -> Tensor:
    """Return what a network of this kind would have predicted."""
    if kind == "x0":
        return x0
    noise = (y - x0) / level
    if kind == "edm":  # F of the preconditioning with sigma_data = 1/2
        wide = math.hypot(level, 0.5)
        return (x0 - (0.5 / wide) ** 2 * y) * (wide / (0.5 * level))
    return noise if kind == "eps" else noise - x0


def _diffusers(
    target: Target, n: int, *, make: Callable[[], Any], frame: str, kind: str, early: bool
) -> End:
    """Run a scheduler; `early` stops it at its smallest level, before the step to zero."""
    scheduler = make()
    heun = "Heun" in type(scheduler).__name__
    scheduler.set_timesteps((n + 1) // 2 if heun else n + early)
    scheduler.set_begin_index(0)  # or it looks its own step up, and misses among equal integers
    sigmas = [float(sigma) for sigma in scheduler.sigmas]
    alpha, start = _own_frame(sigmas[0], frame)
    x = alpha * target.at(start)
    used = len(scheduler.timesteps) - (early and not heun)
    for i, t in enumerate(scheduler.timesteps[:used]):
        alpha, level = _own_frame(sigmas[i], frame)
        f = _output(kind, x / alpha, target.denoise(x / alpha, level), level)
        x = scheduler.step(f, t, x).prev_sample
    alpha, level = _own_frame(sigmas[used], frame)
    return End(x / alpha, start, level)


def _with_table(
    target: Target, n: int, *, make: Callable[[], Any], kind: str, extra: int = 0
) -> End | None:
    """Run DDIM or PNDM, of diffusers or MONAI, on the 1000-step table it was made with."""
    scheduler = make()
    if n - extra < (4 if extra > 1 else 1):
        return None
    scheduler.set_timesteps(n - extra)
    steps = [int(t) for t in scheduler.timesteps]
    table = scheduler.alphas_cumprod.to(DOUBLE)
    alpha = table[steps[0]].sqrt().item()
    start = math.sqrt(1.0 / alpha**2 - 1.0)
    x = alpha * target.at(start)
    if len(steps) > n:
        return None
    for t in steps:
        alpha = table[t].sqrt().item()
        level = math.sqrt(1.0 / alpha**2 - 1.0)
        f = _output(kind, x / alpha, target.denoise(x / alpha, level), level)
        moved = scheduler.step(f, t, x)
        x = moved[0] if isinstance(moved, tuple) else moved.prev_sample
    last = float(scheduler.final_alpha_cumprod)
    return End(x / last**0.5, start, math.sqrt(1.0 / last - 1.0))


def diffusers_rows() -> dict[str, Method]:
    """Return the schedulers of diffusers with every built-in grid, order and ending."""
    import diffusers as d

    d.utils.logging.set_verbosity_error()
    levels = np.geomspace(LOW, HIGH, 1000)  # a table that starts and ends where the problem does
    bars = np.append(1.0, 1.0 / (1.0 + levels**2))
    betas = 1.0 - bars[1:] / bars[:-1]
    rows: dict[str, Method] = {}

    def add(name: str, cls: Any, frame: str, kind: str, **options: Any) -> None:
        for early in (False, True) if frame != "flow" else (False,):
            label = f"{name}{', to sigma_min' if early else ''}"
            make = partial(cls, **options)
            rows[label] = partial(_diffusers, make=make, frame=frame, kind=kind, early=early)

    grids = {"karras": "vp", "exponential": "vp", "beta": "vp", "flow": "flow", "lu": "vp"}
    families = {
        "DPM++2M": (d.DPMSolverMultistepScheduler, {"solver_order": 2}),
        "DPM++3M": (d.DPMSolverMultistepScheduler, {"solver_order": 3}),
        "DEIS-2": (d.DEISMultistepScheduler, {"solver_order": 2}),
        "DEIS-3": (d.DEISMultistepScheduler, {"solver_order": 3}),
        "UniPC-2": (d.UniPCMultistepScheduler, {"solver_order": 2}),
        "UniPC-3": (d.UniPCMultistepScheduler, {"solver_order": 3}),
        "DPM++ single 3": (d.DPMSolverSinglestepScheduler, {"solver_order": 3}),
    }
    for name, (cls, options) in families.items():
        for label, frame in grids.items():
            if label == "lu" and cls is not d.DPMSolverMultistepScheduler:
                continue
            kind = "flow" if frame == "flow" else "x0"
            options = {**options, "trained_betas": betas}
            options["prediction_type"] = "flow_prediction" if frame == "flow" else "sample"
            flag = "use_lu_lambdas" if label == "lu" else f"use_{label}_sigmas"
            add(f"{name} {label}", cls, frame, kind, **options, **{flag: True})
    edm = {"sigma_min": LOW, "sigma_max": HIGH}
    for order in (2, 3):
        for schedule in ("karras", "exponential"):
            add(
                f"EDM DPM++{order}M {schedule}",
                d.EDMDPMSolverMultistepScheduler,
                "ve",
                "edm",
                solver_order=order,
                sigma_schedule=schedule,
                **edm,
            )
    for name, cls in {
        "Euler": d.EulerDiscreteScheduler,
        "Heun": d.HeunDiscreteScheduler,
        "LMS": d.LMSDiscreteScheduler,
    }.items():
        add(f"{name} karras", cls, "ve", "eps", trained_betas=betas, use_karras_sigmas=True)
    add("flow-match Euler", d.FlowMatchEulerDiscreteScheduler, "flow", "flow")
    for spacing in ("trailing", "leading"):
        make = partial(d.DDIMScheduler, clip_sample=False, timestep_spacing=spacing)
        rows[f"DDIM {spacing}"] = partial(_with_table, make=make, kind="eps")
    make = partial(d.PNDMScheduler, skip_prk_steps=True, set_alpha_to_one=True)
    rows["PNDM skip"] = partial(_with_table, make=make, kind="eps", extra=1)
    make = partial(d.PNDMScheduler, set_alpha_to_one=True)
    rows["PNDM full"] = partial(_with_table, make=make, kind="eps", extra=9)
    return rows


def _monai_flow(target: Target, n: int, *, make: Callable[[], Any]) -> End:
    """Run the rectified flow of MONAI from pure noise to data, each step to the next time."""
    scheduler = make()
    scheduler.set_timesteps(n)
    times = [float(t) for t in scheduler.timesteps] + [0.0]
    x = (target.at(TOP) - target.at(TOP).mean(0)) / TOP
    for t, s in itertools.pairwise(times):
        noise = t / scheduler.num_train_timesteps
        if noise < 1.0:
            level = noise / (1.0 - noise)
            y = x / (1.0 - noise)
            x0 = target.denoise(y, level)
            f = x0 - (y - x0) / level
        else:  # alpha = 0: the mean of the data is all that is known
            x0 = target.denoise(x * TOP, TOP)
            f = x0 - x
        x, _ = scheduler.step(f, t, x, s)
    return End(x, math.inf, 0.0)


def monai_rows() -> dict[str, Method]:
    """Return the schedulers of MONAI on its 1000-step table."""
    from monai.networks import schedulers as m

    flow = partial(m.RFlowScheduler, use_discrete_timesteps=False)
    ddim = partial(m.DDIMScheduler, clip_sample=False)
    return {
        "DDIM": partial(_with_table, make=ddim, kind="eps"),
        "PNDM skip": partial(
            _with_table, make=partial(m.PNDMScheduler, skip_prk_steps=True), kind="eps", extra=1
        ),
        "PNDM full": partial(_with_table, make=m.PNDMScheduler, kind="eps", extra=9),
        "RFlow": partial(_monai_flow, make=flow),
    }


def _azula(target: Target, n: int, *, make: Callable[..., Any], schedule: Any) -> End:
    from azula.denoise import Denoiser, DiracPosterior

    class Exact(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.schedule = schedule

        def forward(self, x: Tensor, t: Tensor, **_: Any) -> Any:
            alpha, sigma = (float(c) for c in schedule(t))
            return DiracPosterior(mean=target.denoise(x / alpha, sigma / alpha))

    sampler = make(Exact(), steps=n, silent=True, dtype=DOUBLE)
    (a, s), (a_end, s_end) = (
        tuple(float(c) for c in schedule(torch.tensor(t, dtype=DOUBLE))) for t in (1.0, 0.0)
    )
    return End(sampler(a * target.at(s / a)) / a_end, s / a, s_end / a_end)


def azula_rows() -> dict[str, Method]:
    """Return the samplers of azula on every schedule it has, from 80 to .002."""
    import azula.noise as noise
    import azula.sample as sampler

    a, s = 1.0 / HIGH, LOW
    schedules = {
        "VE": noise.VESchedule(sigma_min=LOW, sigma_max=HIGH),
        "VP": noise.VPSchedule(alpha_min=(1.0 + HIGH**2) ** -0.5, sigma_min=s),
        "RF": noise.RectifiedSchedule(alpha_min=a, sigma_min=s),
        "cosine": noise.CosineSchedule(alpha_min=(1.0 + HIGH**2) ** -0.5, sigma_min=s),
        "decay": noise.DecaySchedule(alpha_min=a, sigma_min=s),
    }
    makers: dict[str, Any] = {"DDIM": sampler.DDIMSampler}
    for name in ("vAB", "zEAB", "xEAB", "REAB"):
        for order in (2, 3, 4):
            makers[f"{name}{order}"] = partial(getattr(sampler, f"{name}Sampler"), order=order)
    return {
        f"{name} {label}": partial(_azula, make=make, schedule=schedule)
        for name, make in makers.items()
        for label, schedule in schedules.items()
    }


def _k_diffusion(
    target: Target, n: int, *, run: Callable[..., Tensor], evaluations: int, levels: Any
) -> End | None:
    steps = n // evaluations
    if steps < 1:
        return None
    sigmas = levels(steps + 1)[: steps + 1].to(DOUBLE)  # without the appended zero
    y = target.at(float(sigmas[0]))

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        return target.denoise(x, float(sigma.flatten()[0]))

    return End(run(model, y, sigmas, disable=True), float(sigmas[0]), float(sigmas[-1]))


def k_diffusion_rows() -> dict[str, Method]:
    """Return the deterministic samplers of k-diffusion on its grids."""
    sampling = importlib.import_module("k_diffusion.sampling")
    grids = {
        f"karras {rho:g}": partial(
            sampling.get_sigmas_karras, sigma_min=LOW, sigma_max=HIGH, rho=rho
        )
        for rho in (5.0, 7.0, 9.0)
    }
    grids["exponential"] = partial(sampling.get_sigmas_exponential, sigma_min=LOW, sigma_max=HIGH)
    runs = {"euler": 1, "heun": 2, "dpm_2": 2, "lms": 1, "dpmpp_2m": 1}
    return {
        f"{name} {label}": partial(
            _k_diffusion,
            run=getattr(sampling, f"sample_{name}"),
            evaluations=count,
            levels=levels,
        )
        for name, count in runs.items()
        for label, levels in grids.items()
    }


def _flow_matching(
    target: Target, n: int, *, method: str, evaluations: int, first: int, levels: Any
) -> End | None:
    from flow_matching.solver import ODESolver

    steps = (n - first) // evaluations
    if steps < 1:
        return None
    ratio = VE.sigma(levels(steps)) / (1.0 + VE.sigma(levels(steps)))

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        noise = 1.0 - float(t)
        level, y = noise / (1.0 - noise), x / (1.0 - noise)
        x0 = target.denoise(y, level)
        return x0 - (y - x0) / level

    times = torch.tensor(1.0 - ratio, dtype=DOUBLE)
    x = ODESolver(velocity).sample(
        target.at(HIGH) * float(times[0]), None, method=method, time_grid=times
    )
    return End(x / float(times[-1]), HIGH, LOW)


def flow_matching_rows() -> dict[str, Method]:
    """Return the fixed-step solvers behind flow_matching, on uniform time and two other grids."""
    importlib.import_module("flow_matching.solver")
    counts = {"euler": (1, 0), "midpoint": (2, 0), "heun2": (2, 0), "heun3": (3, 0), "rk4": (4, 0)}
    return {
        f"{method} @ {label}": partial(
            _flow_matching, method=method, evaluations=per, first=first, levels=levels
        )
        for method, (per, first) in counts.items()
        for label, levels in GRIDS.items()
    }


def _dpmpp_2m(target: Target, n: int, *, levels: Callable[[int], np.ndarray]) -> End:
    """DPM-Solver++(2M) as k-diffusion walks it: two-point extrapolation of x0.

    Source: Lu et al. 2022, algorithm 2, arXiv:2211.01095.
    """
    sigma = VE.sigma(levels(n))
    y, before = target.at(float(sigma[0])), None
    for i in range(n):
        x0 = target.denoise(y, float(sigma[i]))
        guess = x0
        if before is not None:
            lean = 0.5 * math.log(sigma[i] / sigma[i + 1]) / math.log(sigma[i - 1] / sigma[i])
            guess = x0 + lean * (x0 - before)
        shrink = float(sigma[i + 1] / sigma[i])
        y, before = shrink * y + (1.0 - shrink) * guess, x0
    return End(y, float(sigma[0]), float(sigma[-1]))


def rule_rows() -> dict[str, Method]:
    """Return published rules of peers in our own words, for where the peer does not import."""
    v3, eps3 = Multistep("v", "ratio", order=3, lower_final=False), Multistep("eps", order=3)
    lms = Multistep("eps", "sigma", order=3, lower_final=False)
    return {
        "azula vAB3, RF": partial(walk, solver=v3, levels=GRIDS["ratio"]),
        "azula zEAB3, VE": partial(walk, solver=eps3, levels=GRIDS["log-SNR"]),
        "k-diffusion lms of order 3, Karras": partial(walk, solver=lms, levels=GRIDS["karras7"]),
        "k-diffusion dpmpp_2m, Karras": partial(_dpmpp_2m, levels=GRIDS["karras7"]),
        "k-diffusion dpmpp_2m, exponential": partial(_dpmpp_2m, levels=GRIDS["log-SNR"]),
    }


PEERS: dict[str, Callable[[], dict[str, Method]]] = {
    "diffusers": diffusers_rows,
    "MONAI": monai_rows,
    "azula": azula_rows,
    "k-diffusion": k_diffusion_rows,
    "flow_matching": flow_matching_rows,
    "re-expressed": rule_rows,
}
