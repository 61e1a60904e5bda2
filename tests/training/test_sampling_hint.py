"""How a few-step model says it is to be sampled, against laws known in closed form."""

import math

import pytest
import torch
from torch import nn

from medsci.core import Path, sample
from medsci.core.denoise import Denoiser
from medsci.models import ModelConfig, SamplerHint
from medsci.models.sampling import few_step, sampling_of
from medsci.training import DistillRecipe
from medsci.training.assembly import Sampler
from medsci.training.assembly.distillation import student_config

SPREAD = 0.4
N = 8_000


def config_of(hint=None, prediction="x0"):
    return ModelConfig.model_validate(
        {"name": "few", "network": {"kind": "mlp"}, "prediction": prediction,
         "path": {"kind": "vp_cosine"}, "sampler": hint}
    )  # fmt: skip


class FlowMap(nn.Module):
    """Where the probability flow of a Gaussian of spread s ends: `x s / sqrt(a^2 s^2 + b^2)`."""

    def forward(self, x, t):
        alpha, sigma = torch.cos(0.5 * math.pi * t), torch.sin(0.5 * math.pi * t)
        return x * (SPREAD / torch.sqrt((alpha * SPREAD) ** 2 + sigma**2))[:, None]


class Mean(nn.Module):
    """The posterior mean of the same Gaussian: `x a s^2 / (a^2 s^2 + b^2)`."""

    def forward(self, x, t):
        alpha, sigma = torch.cos(0.5 * math.pi * t), torch.sin(0.5 * math.pi * t)
        return x * (alpha * SPREAD**2 / ((alpha * SPREAD) ** 2 + sigma**2))[:, None]


def denoiser_of(net):
    return Denoiser(net, path=Path.vp_cosine(), pred="x0", time_code="unit_time", unit_input=False)


def spread_of(net, hint, *, steps=None):
    arguments = sampling_of(config_of(hint), steps=steps)
    drawn = sample(denoiser_of(net), (N, 2), seed=0, dtype=torch.float64, **arguments)
    return float(drawn.std())


def test_without_a_hint_the_best_general_solver_is_taken():
    assert sampling_of(config_of()) == {"steps": 20}
    assert sampling_of(config_of(), steps=7) == {"steps": 7}
    auto = SamplerHint(steps=9, solver="auto")
    assert sampling_of(config_of(auto)) == {"steps": 9}
    assert sampling_of(config_of(auto), steps=3) == {"steps": 3}


@pytest.mark.parametrize("solver", ["ddim", "renoise"])
def test_a_hint_gives_solver_and_number_and_gives_way_to_another_number(solver):
    hint = SamplerHint(steps=4, solver=solver)
    grid = sampling_of(config_of(hint))["grid"]
    assert grid.tolist() == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])
    assert len(sampling_of(config_of(hint), steps=2)["grid"]) == 3


def test_predictions_of_noise_start_short_of_pure_noise():
    for prediction, start in {
        "eps": 0.999,
        "score": 0.999,
        "v": 1.0,
        "edm": 1.0,
        "x0": 1.0,
    }.items():
        assert few_step("ddim", 1, prediction=prediction)[1][0] == pytest.approx(start)
    with pytest.raises(ValueError, match="choose ddim or renoise"):
        few_step("heun", 1, prediction="v")


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_perfect_flow_map_draws_the_right_law_at_any_number_of_steps(steps):
    hint = SamplerHint(steps=steps, solver="renoise")
    assert spread_of(FlowMap(), hint) == pytest.approx(SPREAD, rel=0.02)


def test_control_a_posterior_mean_sampled_as_a_flow_map_has_too_little_spread():
    assert spread_of(Mean(), SamplerHint(steps=4, solver="renoise")) < 0.8 * SPREAD


def test_ddim_of_a_posterior_mean_converges_and_needs_its_steps():
    errors = [abs(spread_of(Mean(), SamplerHint(steps=n, solver="ddim")) - SPREAD)
              for n in (1, 8, 64)]  # fmt: skip
    assert errors[0] > 0.9 * SPREAD  # one step from pure noise ends at the mean
    assert errors[1] < 0.25 * SPREAD
    assert errors[2] < errors[1] / 4


def test_control_a_flow_map_sampled_by_ddim_has_another_spread():
    assert abs(spread_of(FlowMap(), SamplerHint(steps=4, solver="ddim")) - SPREAD) > 0.05 * SPREAD


def test_pictures_in_training_are_drawn_as_the_hint_says():
    solver, times = few_step("renoise", 2, prediction="x0")
    sampler = Sampler(count=3, seed=5, solver=solver, grid=tuple(times.tolist()), shape=(2,))
    net = denoiser_of(FlowMap())
    net.register_parameter("unused", nn.Parameter(torch.zeros(1)))  # tells the number format
    expected = sample(net, (3, 2), seed=5, solver=solver, grid=times, dtype=torch.float32)
    torch.testing.assert_close(sampler(net, device="cpu"), expected)


@pytest.mark.parametrize(
    ("objective", "hint"),
    [
        ({"kind": "one_step"}, (1, "ddim")),
        ({"kind": "flow_guided"}, (1, "ddim")),
        ({"kind": "phased", "phases": 3}, (3, "ddim")),
        ({"kind": "mmd", "steps": 5}, (5, "ddim")),
        ({"kind": "reflow"}, (4, "ddim")),
        ({"kind": "consistency"}, (4, "renoise")),
    ],
)
def test_every_objective_says_how_its_students_are_sampled(objective, hint):
    recipe = DistillRecipe.model_validate(
        {"task": "distill", "name": "few", "teacher": "brain-t1-2d", "objective": objective,
         "data": {"kind": "pairs", "file": "none.h5"}, "trainer": {"max_steps": 1}}
    )  # fmt: skip
    found = student_config(recipe).sampler
    assert (found.steps, found.solver) == hint
