"""Dropped conditions: how often, all together, and the guidance that they make possible."""

import math

import pytest
import torch
from contracts.core import DOUBLE, assert_batch_invariant, draw
from contracts.quadratic import minimise
from torch import nn

from medsci.core.denoise import Guided
from medsci.core.denoise.denoiser import Denoiser
from medsci.core.learn.condition import ConditionDropout
from medsci.core.learn.objective import Regression
from medsci.core.process.path import Path
from medsci.core.rng import Rng

N = 20000
NULL = 2


def conditions(n):
    return {
        "label": torch.arange(n) % 2,
        "age": draw(n, 3, seed=1) + 10.0,
        "site": torch.arange(n) % 5,
    }


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_conditions_go_together_with_their_probability(p):
    cond = conditions(N)
    null = {"label": NULL, "age": torch.zeros(1, 3, dtype=DOUBLE)}
    kept, dropped = ConditionDropout(p, null)(cond, rng=Rng(0, range(N)), step=4)
    share = dropped.double().mean().item()
    assert share == pytest.approx(p, abs=4.5 * math.sqrt(p * (1 - p) / N) + 1e-12)
    assert torch.equal(kept["label"], torch.where(dropped, NULL, cond["label"]))
    assert torch.equal(kept["age"], torch.where(dropped[:, None], 0.0, cond["age"]))
    assert kept["site"] is cond["site"]
    assert torch.equal(cond["label"], torch.arange(N) % 2)  # the caller's stay
    for label in (0, 1):  # whatever the condition was
        inside = dropped[cond["label"] == label].double().mean().item()
        assert inside == pytest.approx(p, abs=4.5 * math.sqrt(2 * p * (1 - p) / N) + 1e-12)


def test_a_sample_loses_its_condition_in_any_batch_and_anew_at_every_step():
    drop = ConditionDropout(0.5, {"label": NULL})

    def labels(ids, step=0):
        cond = {"label": torch.as_tensor(list(ids)) % 2}
        return drop(cond, rng=Rng(5, ids), step=step)[0]["label"]

    assert_batch_invariant(labels, ids=(1, 2, 3, 0, 4, 6))
    assert not torch.equal(labels(range(99)), labels(range(99), step=1))


def test_what_has_no_null_or_does_not_come_is_an_error():
    with pytest.raises(ValueError, match=r"without \['age'\]"):
        ConditionDropout(0.1, {"age": 0.0})({"label": torch.ones(2)}, rng=Rng(0, [0, 1]), step=0)
    with pytest.raises(ValueError, match="p=1"):
        ConditionDropout(1.5, {"label": 2})
    with pytest.raises(ValueError, match="null came empty"):
        ConditionDropout(0.1, {})


class Lines(nn.Module):
    """One line per label, the null included: `f = slope x + offset`."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(3, 2, dtype=DOUBLE))

    def forward(self, x, code, *, label):
        slope, offset = self.table[label].unbind(1)
        return slope[:, None] * x + offset[:, None]


MEAN, SPREAD, T = 1.5, 0.5, 0.55  # data N(+-MEAN, SPREAD^2), by label


def trained(dropout):
    """Return the denoiser that minimises the regression at time T, by its normal equations."""
    path = Path.vp_cosine()
    model = Denoiser(Lines(), path=path, pred="v", unit_input=False)
    n = 4000
    label = torch.arange(n) % 2
    x0 = MEAN * (2.0 * label[:, None] - 1.0) + draw(n, 16, seed=3, scale=SPREAD)

    class At:
        def __call__(self, path, rng, *, step):
            return torch.full((len(rng.ids),), T, dtype=DOUBLE)

    objective = Regression(At(), dropout=dropout)

    def loss():
        return objective(model, x0, rng=Rng(0, range(n)), step=0, cond={"label": label})[0]

    minimise(loss, model.net.table)
    return model


def linear_mean(x, mean, variance):
    """Return the best line to x0 from x, for data of that mean and variance."""
    alpha, sigma = Path.vp_cosine().alpha(T), Path.vp_cosine().sigma(T)
    gain = alpha * variance / (alpha**2 * variance + sigma**2)
    return mean + gain * (x - alpha * mean)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_a_network_trained_with_dropout_can_be_guided(scale):
    """Classes and null reach their closed forms, so guidance is `u + scale (c - u)` of them."""
    null = {"label": torch.tensor([NULL])}
    model = trained(ConditionDropout(0.3, null))
    x, label = draw(6, 4, seed=9), torch.tensor([0, 1, 0, 1, 1, 0])
    with torch.no_grad():
        ours = Guided(model, scale=scale, null=null)(x, T, label=label)
    signs = (2.0 * label[:, None] - 1.0).double()
    c = linear_mean(x, MEAN * signs, SPREAD**2)
    u = linear_mean(x, 0.0, SPREAD**2 + MEAN**2)  # of the mixture of both
    torch.testing.assert_close(ours, u + scale * (c - u), atol=0.1, rtol=0.0)
    blind = trained(None)  # control: without dropout nobody has seen the null
    with torch.no_grad():
        other = Guided(blind, scale=scale, null=null)(x, T, label=label)
    assert scale == 1.0 or not torch.allclose(other, u + scale * (c - u), atol=0.3, rtol=0.0)


def test_validation_keeps_conditions():
    model = trained(ConditionDropout(0.3, {"label": NULL}))
    cond, x0 = {"label": torch.arange(8) % 2}, draw(8, 4)
    t, rng = torch.full((8,), T, dtype=DOUBLE), Rng(0, range(8))
    plain = Regression().at(model, x0, t, rng=rng, step=0, cond=cond)
    always = Regression(dropout=ConditionDropout(1.0, {"label": NULL}))
    assert torch.equal(always.at(model, x0, t, rng=rng, step=0, cond=cond), plain)
    none = {"label": torch.full((8,), NULL)}
    loss, seen = always(model, x0, rng=rng, step=0, cond=cond)
    lost = Regression().at(model, x0, seen["t"], rng=rng, step=0, cond=none)
    torch.testing.assert_close(loss, lost.mean())
