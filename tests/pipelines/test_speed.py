"""The speed-up is a ratio of medians, and is one where the policy takes float32."""

import time
from types import SimpleNamespace

import pytest
import torch

import medsci.core.precision
import medsci.models
from medsci.errors import UsageError
from medsci.pipelines.speed import network_speed


@pytest.fixture
def sleepers(monkeypatch):
    """A model that needs 6 ms a call in float32 and 2 ms in bfloat16."""
    network = SimpleNamespace(spatial_dims=2, in_channels=2)
    info = SimpleNamespace(config=SimpleNamespace(network=network, training_size=(8, 6)))
    shapes = []

    def load(name, *, device, precision):
        def call(x, t):
            shapes.append(tuple(x.shape))
            time.sleep(0.006 if precision == "float32" else 0.002)

        return call

    monkeypatch.setattr(medsci.models, "verify_model", lambda name: info)
    monkeypatch.setattr(medsci.models, "load_denoiser", load)
    return shapes


@pytest.mark.parametrize(("auto", "least"), [(torch.bfloat16, 1.5), (torch.float32, 1.0)])
def test_ratio(sleepers, monkeypatch, auto, least):
    monkeypatch.setattr(medsci.core.precision, "resolve_precision", lambda *_: auto)
    found = network_speed("any", size=(8, 6), batch=2, device="cpu", n_rounds=3)
    assert set(sleepers) == {(2, 2, 8, 6)}
    assert len(sleepers) == 8, "three rounds and one to warm up, of two formats"
    assert found.float32_ms >= 6
    assert found.speed_up >= least
    assert (found.speed_up == 1.0) == (auto == torch.float32)


def test_the_size_is_that_of_training_and_of_the_networks_dimensions(sleepers):
    assert network_speed("any", batch=2, device="cpu", n_rounds=1).size == (8, 6)
    with pytest.raises(UsageError, match="2 dimensions"):
        network_speed("any", size=(8, 6, 4), device="cpu", n_rounds=1)


def test_positive_numbers_only():
    with pytest.raises(UsageError, match="positive"):
        network_speed("any", batch=0)
