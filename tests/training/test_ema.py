"""The moving average against its closed form."""

import pytest
import torch
from torch import nn

from medsci.training import Ema


def run(ema, values):
    """Average a one-weight model that takes `values` after an initial zero."""
    model, average = nn.Linear(1, 1), nn.Linear(1, 1)
    for module in (model, average):
        for parameter in module.parameters():
            parameter.data.zero_()
    for update, value in enumerate(values):
        model.weight.data.fill_(value)
        ema.update(average, model, update=update)
    return float(average.weight.detach())


def test_a_constant_decay_is_a_geometric_series():
    decay = 0.1  # below the warm-up everywhere
    values = [1.0, -2.0, 0.5, 3.0]
    expected = sum((1 - decay) * decay ** (3 - k) * v for k, v in enumerate(values))
    assert run(Ema(decay), values) == pytest.approx(expected, rel=1e-6)


def test_warm_up_weights_are_the_product_of_their_decays():
    ema = Ema(0.999)
    values = torch.linspace(0.5, 2.0, 30).tolist()
    expected = 0.0
    for update, value in enumerate(values):
        decay = (1 + update) / (10 + update)
        expected = decay * expected + (1 - decay) * value
    assert run(ema, values) == pytest.approx(expected, rel=1e-5)


def test_warm_up_forgets_the_start_where_a_constant_decay_remembers_it():
    ema = Ema(0.999)
    kept = 1.0
    for update in range(300):
        kept *= ema.decay_at(update)
    assert kept < 1e-12
    assert 0.999**300 > 0.7


def test_decay_grows_to_its_value():
    ema = Ema(0.99)
    decays = [ema.decay_at(k) for k in range(2000)]
    assert decays[0] == pytest.approx(0.1)
    assert decays == sorted(decays)
    assert decays[-1] == 0.99


def test_buffers_are_copied_and_gradients_stay_out():
    model, average = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    model.running_mean += 3.0
    Ema(0.9).update(average, model, update=0)
    torch.testing.assert_close(average.running_mean, model.running_mean)
    assert average.weight.grad_fn is None
