"""The table "paper -> one line of medsci" of docs/core.md, as data that runs.

    python docs/core_papers.py          write the table into docs/core.md
    python docs/core_papers.py --check  fail if the file is not what this one says

`SETUP` makes the names that the lines use; every line is one expression, and `holds` says what must
be true of its value. `tests/docs/test_core_papers.py` runs them all, and the controlled ones once
more with a denoiser and a teacher that know nothing, for which they must fail. The objectives are
shown at their minimum: a student written down in closed form, for a teacher of normal data.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path as FilePath
from typing import Any

BEGIN, END = "<!-- papers: begin -->", "<!-- papers: end -->"
PAGE = FilePath(__file__).with_name("core.md")

SETUP = """
import torch
from medsci.core import *
from medsci.core.check import *
from medsci.core.learn import *
from medsci.core.process import *
from medsci.core.solve import *
from medsci.core.steer import *
from medsci.nets import merge_adapters
from medsci.training.transport import Transport

path = Path.vp_cosine()
centres = 2.0 * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
covariances = 0.04 * torch.eye(2).repeat(4, 1, 1)
oracle = GaussianMixtureOracle(path, torch.ones(4), means=centres, covariances=covariances)
denoiser, shape, rng = oracle, (64, 2), Rng(0, range(64))  # your Denoiser(net, path=path) here
data = oracle.sample(64, 0.0, generator=torch.Generator().manual_seed(0))
levels = {"sigma_max": 80.0, "sigma_min": 0.002}
"""


@dataclass(frozen=True)
class Row:
    """One paper: what it is, where it is from, the line, and what must hold of its value."""

    paper: str
    source: str
    line: str
    holds: Callable[[Any, dict[str, Any]], bool]
    controlled: bool = False


def on_support(x: Any, names: dict[str, Any]) -> bool:
    """Tell whether nearly all samples lie at a mode, and every mode has some."""
    distance = ((x[:, None] - names["centres"]) ** 2).sum(-1)
    near, mode = distance.min(1)
    return bool((near < 16 * 0.04).float().mean() > 0.95) and len(mode.unique()) == 4


def sampler(paper: str, source: str, line: str) -> Row:
    """Return a row whose value are samples."""
    return Row(paper, source, line, on_support, controlled=True)


def below(limit: float, value: Any, names: dict[str, Any]) -> bool:
    """Tell whether a loss is zero, up to rounding, sampling or steps."""
    return abs(float(value)) < limit


def at_minimum(paper: str, source: str, line: str, *, limit: float = 1e-5) -> Row:
    """Return a row whose value is the loss of the exact student."""
    return Row(paper, source, line, partial(below, limit), controlled=True)


def weighed(value: Any, names: dict[str, Any], *, sigmoid: bool) -> bool:
    """Tell whether a student that is off by a half has the loss of the published weight."""
    ratio = (names["path"].alpha(value["t"]) / names["path"].sigma(value["t"])).square()
    weight = ratio / (1.0 + ratio) if sigmoid else ratio.clamp_max(5.0)
    return bool((value["loss"] - 0.25 * weight).abs().max() < 1e-3)


def dropped(value: Any, names: dict[str, Any]) -> bool:
    """Tell whether about a half lost a condition that moves the data by 1; the others are exact."""
    alpha, sigma = (c(value["t"]) for c in (names["path"].alpha, names["path"].sigma))
    without = (sigma / (sigma + 0.3 * alpha)).square()
    lost = value["loss"] > 0.5 * without
    exact = (value["loss"] - lost * without).abs().max() < 1e-4
    return bool(exact) and 0.3 < float(lost.double().mean()) < 0.7


ROWS: dict[str, list[Row]] = {
    "Sampling": [
        sampler(
            "The default at a budget of evaluations",
            "this page",
            "sample(denoiser, shape, steps=10)",
        ),
        sampler(
            "DDPM: ancestral sampling",
            "arXiv:2006.11239",
            "sample(denoiser, shape, solver=Ancestral(1.0), grid=grid.uniform(100))",
        ),
        sampler(
            "DDIM",
            "arXiv:2010.02502",
            'sample(denoiser, shape, solver=Multistep("eps", order=1), grid=grid.angle(path, 50))',
        ),
        sampler(
            "EDM: Heun on the Karras grid",
            "arXiv:2206.00364",
            'sample(denoiser, shape, solver=RungeKutta("heun", "eps"), '
            "grid=grid.karras(path, 20, **levels))",
        ),
        sampler(
            "DPM-Solver++ 2M",
            "arXiv:2211.01095",
            'sample(denoiser, shape, solver=Multistep("x0", order=2), '
            "grid=grid.log_snr(path, 20, **levels))",
        ),
        sampler(
            "DPM-Solver-3, single step",
            "arXiv:2206.00927",
            'sample(denoiser, shape, solver=RungeKutta("dpm3", "eps", "log_snr"), '
            "grid=grid.log_snr(path, 15, **levels))",
        ),
        sampler(
            "DEIS",
            "arXiv:2204.13902",
            'sample(denoiser, shape, solver=Multistep("eps", order=3), '
            "grid=grid.karras(path, 10, **levels))",
        ),
        sampler(
            "UniPC",
            "arXiv:2302.04867",
            'sample(denoiser, shape, solver=Multistep("x0", order=3, corrector=True), '
            "grid=grid.log_snr(path, 20, **levels))",
        ),
        sampler(
            "PNDM (F-PNDM)",
            "arXiv:2202.09778",
            'sample(denoiser, shape, solver=Multistep("eps", "index", order=4, warmup=True), '
            "grid=grid.log_snr(path, 30, **levels))",
        ),
        sampler(
            "GHVB: momentum against divergence artefacts",
            "arXiv:2307.11118",
            'sample(denoiser, shape, solver=Multistep("eps", order=3, momentum=Momentum(0.8)), '
            "grid=grid.log_snr(path, 20, **levels))",
        ),
        sampler(
            "SA-Solver: any amount of noise",
            "arXiv:2305.14267",
            "sample(denoiser, shape, solver=Sde(0.5, order=2), grid=grid.angle(path, 40))",
        ),
        sampler(
            "Multistep consistency sampling (renoise)",
            "arXiv:2303.01469",
            "sample(denoiser, shape, solver=renoise(), grid=grid.angle(path, 60))",
        ),
        sampler(
            "EVODiff (experimental; first order at best)",
            "arXiv:2509.26096",
            'sample(denoiser, shape, solver=Multistep("x0", order=1), '
            "grid=grid.karras(path, 40, **levels), hooks=[EvoDiff(path)])",
        ),
        sampler(
            "LML, as a tangential correction (experimental)",
            "arXiv:2505.24222",
            'sample(denoiser, shape, solver=Multistep("eps", order=1), '
            "grid=grid.karras(path, 60, **levels), hooks=[Tangential(path, 0.3)])",
        ),
        sampler(
            "AutoDiffusion: a searched grid",
            "arXiv:2309.10438",
            "sample(denoiser, shape, solver=(found := search_grid(denoiser, path, 6, "
            'x=rng.normal(shape, step=5), solvers=[Multistep("eps", order=3)], rng=rng)).solver, '
            "grid=found.grid)",
        ),
        sampler(
            "Painters: teleport through the Gaussian phase",
            "arXiv:2303.02490",
            "sample(denoiser, shape, steps=10, "
            "x=(at := teleport(GaussianOracle.fit(path, data), rng.normal(shape, step=-1), "
            "sigma_hat=5.0))[0], grid=grid.angle(path, 10, sigma_max=5.0))",
        ),
    ],
    "Processes": [
        Row(
            "Rectified flow: how straight are the paths",
            "arXiv:2209.03003",
            "straightness(flow_velocity(denoiser, path), data, rng.normal(shape, step=0), "
            "path=path)",
            lambda value, names: 0.01 < float(value) < 100.0,
        ),
        sampler(
            "Stochastic interpolants, as ODE or SDE",
            "arXiv:2303.08797",
            "interpolate(bridge.b, start, grid=grid.uniform(40), score=bridge.score, eps=0.5, "
            "rng=rng)",
        ),
        Row(
            "Stochastic interpolants, training",
            "arXiv:2303.08797",
            'InterpolantRegression(TwoSided("linear", "sqrt"), "b")(lambda x, t: 0.0 * x, data, '
            "x1=start, rng=rng, step=0)[0]",
            lambda value, names: float(value) == 0.0,  # minus half the mean square at the minimum
        ),
        Row(
            "PFGM++: Student-t noise on any path",
            "arXiv:2302.04265",
            "Linear(Path.ve(), StudentT(128.0)).prior(shape, rng)",
            lambda value, names: 20.0 < float(value.std()) < 300.0,
        ),
        Row(
            "RDDM: residual diffusion around an image",
            "arXiv:2308.13712",
            "sample(restorer, shape, solver=Multistep(order=1), grid=grid.uniform(5), "
            'cond={"mu": data})',
            lambda value, names: bool((value - names["data"]).abs().max() < 0.5),
        ),
        Row(
            "RDDM: residual and noise taken off in different order",
            "arXiv:2308.13712",
            "staircase(lambda x, a, b, mu: (mu - data, 0.0 * x), data, "
            'levels=stairs(Residual(), grid.uniform(5), order="residual_first"), '
            'cond={"mu": data})',
            lambda value, names: bool((value - names["data"]).abs().max() < 1e-5),
        ),
        Row(
            "MRS / IR-SDE: mean-reverting diffusion",
            "arXiv:2502.07856",
            "sample(Shift(reverter, data), shape, solver=Multistep(), grid=grid.uniform(10))",
            lambda value, names: bool((value - names["data"]).abs().max() < 0.5),
        ),
        Row(
            "Multiplicative (geometric Brownian) diffusion",
            "arXiv:2510.02730",
            "(gbm := Linear(Path.ve(0.8, 0.0, 0.5), chart=Log(1.0))).decode(sample(positive, "
            "shape, solver=Multistep(), grid=grid.uniform(10)))",
            lambda value, names: bool((value > -1.0).all()) and 0.2 < float(value.mean()) < 2.0,
        ),
        Row(
            "Latent diffusion",
            "arXiv:2112.10752",
            "(latent := Linear(path, chart=Latent(lambda x: x / 4, lambda u: 4 * u)))"
            ".decode(latent.encode(data))",
            lambda value, names: bool((value - names["data"]).abs().max() < 1e-5),
        ),
        Row(
            "Echo-DND: image and mask in one process",
            "this library",
            'bridge_walk(both, joint, joint.prior({"img": shape, "mask": shape}, rng), '
            "grid=grid.uniform(20), rng=rng)",
            lambda value, names: on_support(value["img"], names) and set(value) == {"img", "mask"},
        ),
    ],
    "Steering": [
        Row(
            "Classifier-free guidance",
            "arXiv:2207.12598",
            'sample(Guided(conditional, scale=2.0, null={"shift": none}), shape, steps=10, '
            'cond={"shift": label})',
            lambda value, names: bool(value.isfinite().all()),
        ),
        Row(
            "Guidance in a limited interval",
            "arXiv:2404.07724",
            'sample(Guided(conditional, scale=2.0, null={"shift": none}, interval=(0.2, 5.0)), '
            'shape, steps=10, cond={"shift": label})',
            lambda value, names: bool(value.isfinite().all()),
        ),
        Row(
            "FlowChef: guidance without a gradient through the network",
            "arXiv:2412.00100",
            "sample(denoiser, shape, steps=20, "
            "hooks=[SkipGradient(lambda x0: (x0[:, 0] - 2.0) ** 2, 0.3)])",
            lambda value, names: float((value[:, 0] - 2.0).abs().median()) < 0.3,
        ),
        Row(
            "Diffusion posterior sampling",
            "arXiv:2209.14687",
            "sample(WithGradient(denoiser), shape, steps=50, "
            "hooks=[Dps(lambda x0: (x0[:, 0] - 2.0) ** 2, 0.2)])",
            lambda value, names: float((value[:, 0] - 2.0).abs().median()) < 0.5,
        ),
        sampler(
            "RePaint: replacement with cycles",
            "arXiv:2201.09865",
            "sample(denoiser, shape, solver=Cycle(Ancestral(1.0), high=0.9, low=0.1, n=3), "
            "grid=grid.uniform(30), hooks=[Replace(mask, Renoised(path, data))])",
        ),
        sampler(
            "Cyclic one-way diffusion",
            "arXiv:2306.08247",
            "sample(denoiser, shape, solver=Cycle(Ancestral(0.1), high=0.7, low=0.5, n=5), "
            "grid=grid.uniform(50), hooks=[Replace(mask, record_inversion(denoiser, data, "
            'solver=Multistep("v", "ratio"), path=path, grid=grid.uniform(50)))])',
        ),
        sampler(
            "SDEdit: start in the middle",
            "arXiv:2108.01073",
            "sample(denoiser, shape, solver=Multistep(), grid=grid.uniform(10, t_max=0.5), "
            "x=path.perturb(data, 0.5, rng.normal(shape, step=0)))",
        ),
        Row(
            "Data consistency by conjugate gradients",
            "arXiv:2303.05754",
            "sample(denoiser, shape, steps=10, "
            "hooks=[DataConsistency(Proximal(normal, rhs, rho=0.1, solve=solve))])",
            lambda value, names: float((value[:, 0] - 2.0).abs().median()) < 0.3,
        ),
        Row(
            "Rollover budget forcing",
            "arXiv:2503.19385",
            "Rollover(lambda x0, rows: x0[:, 0], 60, n_start=5).run(Ancestral(1.0).plan(path, "
            "grid.uniform(20)), denoiser, start=start_of, rng=rng)",
            lambda value, names: bool((value.nfe == 60).all()),
        ),
        Row(
            "Hallucination score",
            "arXiv:2406.09358",
            "sample(denoiser, shape, solver=Multistep(), grid=grid.uniform(40), "
            "hooks=[(hallucination := Hallucination(15))])",
            on_support,
            controlled=True,
        ),
    ],
    "Knowing": [
        Row(
            "Exact likelihood by the probability flow",
            "arXiv:2011.13456",
            'log_likelihood(denoiser, data, solver=RungeKutta("rk4", "angle"), '
            "grid=grid.angle(path, 32, sigma_min=0.02)[::-1])",
            lambda value, names: bool(
                (value - names["oracle"].log_density(names["data"], 0.0128)).abs().median() < 0.2
            ),
        ),
        Row(
            "Painters: when each mode of a Gaussian appears",
            "arXiv:2303.02490",
            "appearance_times(GaussianOracle.fit(path, data))",
            lambda value, names: len(value) == 2,
        ),
        Row(
            "Gauge freedom: is the field conservative",
            "arXiv:2402.03845",
            "conservativity(lambda x: Gauge(oracle, turn).score(x, 0.5), data)",
            lambda value, names: float(value) > 1e-3,
        ),
        Row(
            "Gauge freedom: intrinsic dimension",
            "arXiv:2402.03845",
            "dimension_by_spectrum(denoiser, data[:4], path=path, t=0.02, rng=Rng(0, range(4)))"
            ".dimension",
            lambda value, names: bool((value >= 0).all()),
        ),
        Row(
            "GHVB: stability interval",
            "arXiv:2307.11118",
            "LinearMultistep.ghvb(3, beta=0.5).real_interval()",
            lambda value, names: abs(value + 0.7826) < 1e-4,
        ),
        Row(
            "Maximum mean discrepancy with its null level",
            "JMLR 13:723",
            "mmd_null(sample(denoiser, shape, steps=20), data, rng=Rng(0, range(200)))",
            lambda value, names: value.p_value > 0.001,
        ),
    ],
    "Training": [
        Row(
            "DDPM, flow matching: one regression",
            "arXiv:2006.11239",
            "Regression()(trained, data, rng=rng, step=0)[0]",
            lambda value, names: 0.0 < float(value) < 100.0,
        ),
        Row(
            "Immiscible diffusion",
            "arXiv:2406.12303",
            "Regression(coupling=Assignment())(trained, data, rng=rng, step=0)[0]",
            lambda value, names: 0.0 < float(value) < 100.0,
        ),
        Row(
            "Improved immiscible diffusion (mind law_shift)",
            "arXiv:2505.18521",
            "Regression(coupling=KNN(4))(trained, data, rng=rng, step=0)[0]",
            lambda value, names: 0.0 < float(value) < 100.0,
        ),
        at_minimum(
            "Minibatch optimal transport: finds the pairs that were reversed",
            "arXiv:2302.00482",
            "Regression(coupling=Transport())(straight, made, noise=noise.flip(0), rng=rng, "
            "step=0)[0]",
        ),
        Row(
            "Logit-normal times",
            "arXiv:2403.03206",
            "Regression(time_law=LogitNormal())(trained, data, rng=rng, step=0)[0]",
            lambda value, names: 0.0 < float(value) < 100.0,
        ),
        Row(
            "Min-SNR weights",
            "arXiv:2303.09556",
            "Regression(weight=MinSnr(5.0))(half_off, made, noise=noise, rng=rng, step=0)[1]",
            partial(weighed, sigmoid=False),
            controlled=True,
        ),
        Row(
            "Sigmoid weights",
            "arXiv:2410.19324",
            "Regression(weight=Sigmoid())(half_off, made, noise=noise, rng=rng, step=0)[1]",
            partial(weighed, sigmoid=True),
            controlled=True,
        ),
        Row(
            "Conditions left out in training, for guidance",
            "arXiv:2207.12598",
            'Regression(dropout=ConditionDropout(0.5, {"shift": 0.0}))(first_order, made + label, '
            'noise=noise, rng=rng, step=0, cond={"shift": label})[1]',
            dropped,
            controlled=True,
        ),
    ],
    "Fewer steps": [
        at_minimum(
            "Rectified flow: learn the pairs that the flow makes (reflow)",
            "arXiv:2209.03003",
            "Regression()(straight, (pairs := reflow_pairs(teacher, shape, rng=rng, steps=30))[0], "
            "noise=pairs[1], rng=rng, step=0)[0]",
        ),
        at_minimum(
            "Rectified flow: distil the pairs to one step",
            "arXiv:2209.03003",
            "OneStep()(straight, made, noise=noise, rng=rng, step=0)[0]",
        ),
        at_minimum(
            "rf++: U-shaped times, rounded norm and perceptual error",
            "arXiv:2405.20320",
            "Regression(UShape(4.0), PseudoHuberNorm(), weight=TimePower(0.0, 1.0), "
            "x0_metric=Perceptual(features), x0_weight=TimePower(-1.0))(straight, made, "
            "noise=noise, rng=rng, step=0)[0]",
            limit=1e-2,
        ),
        at_minimum(
            "Rectified diffusion: the pairs on the teacher's own path",
            "arXiv:2410.07303",
            "Regression()(first_order, made, noise=noise, rng=rng, step=0)[0]",
        ),
        at_minimum(
            "Rectified diffusion, phased (here one phase of 100 rungs)",
            "arXiv:2410.07303",
            'Phased(teacher, edges=(1.0, 0.0), ladder=100, on="chord")(first_order, data, rng=rng, '
            "step=0)[0]",
        ),
        Row(
            "InstaFlow: guided pairs that carry their condition",
            "arXiv:2309.06380",
            'reflow_pairs(Guided(teacher, scale=2.0, null={"shift": none}), shape, rng=rng, '
            'solver=Multistep(order=3), grid=grid.angle(path, 30), cond={"shift": label})',
            lambda value, names: bool(
                (value[0] - names["straight"](value[1], 1.0) - 2.0).abs().max() < 1e-2
            ),
            controlled=True,
        ),
        at_minimum(
            "SlimFlow: annealed reflow, at the end of the annealing",
            "arXiv:2407.12718",
            "Regression(coupling=Annealed(LinearAnneal(1000)))(straight, made, noise=noise, "
            "rng=rng, step=1000)[0]",
        ),
        at_minimum(
            "SlimFlow: one step on pairs, guided by two of the flow",
            "arXiv:2407.12718",
            "FlowGuided(first_order)(first_order, made, noise=noise, rng=rng, step=0)[0]",
        ),
        at_minimum(
            "MDT-dist: velocity matching",
            "arXiv:2509.04406",
            "VelocityMatching(teacher)(flow_map, data, rng=rng, step=0)[0]",
        ),
        at_minimum(
            "MDT-dist: velocity distillation",
            "arXiv:2509.04406",
            "VelocityDistill(teacher)(flow_map, data, rng=rng, step=0)[0]",
        ),
        at_minimum(
            "LCM: consistency distillation",
            "arXiv:2310.04378",
            "Consistency(teacher, grid=grid.uniform(200), skip=1)(flow_map, data, rng=rng, "
            "step=0)[0]",
            limit=1e-6,
        ),
        Row(
            "LCM-LoRA: a style and a sampler in one network",
            "arXiv:2311.05556",
            "(merged := deepcopy(layer), merge_adapters(merged, [(style, 0.5), (sampler, 1.0)]))"
            "[0](data)",
            lambda value, names: bool(
                (value - names["layer"](names["data"]) - names["data"]).abs().max() < 1e-5
            ),
        ),
        at_minimum(
            "MMD-DDM: the law of samples, through the whole walk",
            "arXiv:2301.07969",
            "MmdFinetune(grid.angle(path, 20), Multistep(order=2))(teacher, straight(noise, 1.0), "
            "rng=rng, step=0)[0]",
            limit=0.5,
        ),
        sampler(
            "Denoising diffusion GAN, EMDM: four steps with exact draws of x0",
            "arXiv:2112.07804",
            "BridgeGan(Linear(path), times=(1.0, 0.6, 0.3, 0.1, 0.0)).sample(drawing, shape, "
            "rng=rng)",
        ),
    ],
    "Networks of others": [
        Row(
            "A MONAI DiffusionModelUNet with its 1000-step schedule",
            "arXiv:2211.02701",
            'from_monai(net, pred="eps")(data, 0.5)',
            lambda value, names: value.shape == names["data"].shape,
        ),
        Row(
            "An EDM network",
            "arXiv:2206.00364",
            "from_edm(lambda x, sigma: x / (1 + sigma[:, None] ** 2))(data, 0.5)",
            lambda value, names: value.shape == names["data"].shape,
        ),
        Row(
            "Any function, moved to another path at equal signal-to-noise",
            "arXiv:2206.00364",
            'from_callable(lambda x, t: -x, path=path, pred="v").on_path(Path.rectified())'
            "(data, 0.5)",
            lambda value, names: value.shape == names["data"].shape,
        ),
    ],
}


TAUGHT = """
truth = torch.tensor([1.0, -0.5]), 0.3  # mean and standard deviation of normal data
taught = truth  # those the teacher knows
"""

HELPERS = """
from copy import deepcopy

import numpy as np

start = rng.normal(shape, step=7)  # the other side of a bridge
bridge = InterpolantOracle(TwoSided("linear", "sqrt"), oracle, second=GaussianMixtureOracle(
    path, torch.ones(1), means=torch.zeros(1, 2), covariances=torch.eye(2)[None]))
turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
mask = torch.tensor([True, False])
label, none = torch.ones(64, 1), torch.zeros(1, 1)


class Known:
    def __init__(self, path, answer):
        self.path, self.answer = path, answer

    def __call__(self, x, t, **cond):
        return self.answer(x, t, **cond)


restorer = Known(Residual(), lambda x, t, mu: mu)
reverter = Known(MeanReverting(), lambda x, t: data)
positive = Known(Path.ve(0.8, 0.0, 0.5), lambda u, t: torch.full_like(u, 0.6))
conditional = Known(path, lambda x, t, shift: denoiser(x - float(path.alpha(t)) * shift, t) + shift)
joint = Joint({"img": Linear(path), "mask": Bernoulli(path)})


def both(x, t, **cond):
    return {"img": denoiser(x["img"], t), "mask": torch.full(shape, 0.5)}


both.path = path


def normal(x):  # measured: the first coordinate, with value 2
    return x * torch.tensor([1.0, 0.0])


def solve(apply, b, x0):  # the operator is diagonal: one division
    return b / apply(torch.ones_like(b))


rhs = torch.tensor([2.0, 0.0]).expand(shape)


def start_of(rng):
    return rng.normal((len(rng.ids), 2), step=-1)


class Net(torch.nn.Module):
    def forward(self, x, timesteps, context=None):
        return 0.1 * x


net = Net()
trained = Denoiser(net, path=path)


class Answer(torch.nn.Module):  # the estimate of x0 of a state (b, 2) at times (b,), in closed form
    def __init__(self, path, law, rule, off=0.0):
        super().__init__()
        self.path, self.law, self.rule, self.off = path, law, rule, off

    def forward(self, x, t, shift=0.0):
        a, s = (c(t)[:, None] for c in (self.path.alpha, self.path.sigma))
        mean, sd = self.law[0] + shift, self.law[1]
        return mean + self.off + self.rule(a, s, sd) * (x - a * mean)


def answering(path, law, rule, off=0.0):
    known = {"pred": "x0", "unit_input": False, "time_code": "unit_time"}
    return Denoiser(Answer(path, law, rule, off), path=path, **known)


def posterior(a, s, sd):  # the conditional mean
    return a * sd**2 / (a**2 * sd**2 + s**2)


def end(a, s, sd):  # the end of the flow
    return sd / (a**2 * sd**2 + s**2).sqrt()


def paired(a, s, sd):  # what goes with the noise of a pair
    return sd / (a * sd + s)


teacher = answering(path, taught, posterior)
flow_map = answering(Path.rectified(), truth, end)
straight = answering(Path.rectified(), truth, paired)
first_order, half_off = answering(path, truth, paired), answering(path, truth, paired, 0.5)
made, noise = reflow_pairs(teacher, shape, rng=rng, steps=30)
layer, unit = torch.nn.Sequential(torch.nn.Linear(2, 2)), torch.eye(2)
style, sampler = (  # adapters of one layer: W + scale up down
    {"0.lora_down": unit[i:i + 1], "0.lora_up": unit[:, i:i + 1], "0.lora_scale": torch.tensor(c)}
    for i, c in ((0, 2.0), (1, 1.0)))


def features(x):  # maps (b, channels, places) of a vector
    return [torch.stack([x, x**2, torch.ones_like(x)], 1)]


def drawing(x, t, latent):  # exact draws of x0 given the state
    return oracle.posterior_sample(x, t, rng=Rng(round(1e6 * t), range(len(x))))
"""

BLIND = """
oracle = denoiser = GaussianMixtureOracle(
    path, torch.ones(1), means=torch.zeros(1, 2), covariances=torch.eye(2)[None])
taught = torch.zeros(2), 1.0
"""


def namespace(*, blind: bool = False) -> dict[str, Any]:
    """Return the names that the lines use; `blind` puts ones that know nothing in place."""
    names: dict[str, Any] = {}
    exec(SETUP + TAUGHT, names)
    if blind:
        exec(BLIND, names)
    exec(HELPERS, names)
    return names


def value_of(row: Row, names: dict[str, Any]) -> Any:
    """Run the line of a row."""
    return eval(row.line, dict(names))


def table() -> str:
    """Return the markdown between the marks of the page."""
    lines = ["```python", SETUP.strip(), "```", ""]
    for topic, rows in ROWS.items():
        lines += [f"**{topic}**", "", "| paper | source | one line |", "|---|---|---|"]
        lines += [f"| {row.paper} | {row.source} | `{row.line}` |" for row in rows]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def written(page: str) -> str:
    """Return the page with the table between its marks."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table()}{END}{after}"


def main() -> int:
    """Write the table, or compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    now = PAGE.read_text()
    wanted = written(now)
    if parser.parse_args().check:
        return int(now != wanted)
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
