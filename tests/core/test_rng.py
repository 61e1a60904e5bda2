import numpy as np
import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from medsci.core import Rng, mix64


def test_noise_of_a_sample_does_not_depend_on_its_batch() -> None:
    together = Rng(3, range(8)).normal((8, 5, 7), step=2)
    alone = torch.cat([Rng(3, [i]).normal((1, 5, 7), step=2) for i in range(8)])
    shuffled = Rng(3, [5, 1]).normal((2, 5, 7), step=2)
    assert torch.equal(together, alone)
    assert torch.equal(shuffled, together[[5, 1]])


@pytest.mark.parametrize("change", [{"seed": 4}, {"ids": 9}, {"step": 1}, {"tag": 1}])
def test_every_word_of_the_key_matters(change) -> None:
    def draw(*, seed: int = 3, ids: int = 0, step: int = 0, tag: int = 0) -> torch.Tensor:
        return Rng(seed, [ids]).normal((1, 4096), step=step, tag=tag)

    first, second = draw()[0], draw(**change)[0]
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.06


def test_laws() -> None:
    rng = Rng(0, range(2000))
    real = rng.normal((2000, 16), step=0, dtype=torch.float64).flatten().numpy()
    assert stats.kstest(real, "norm").pvalue > 0.01
    uniform = rng.uniform(step=0).numpy()
    assert stats.kstest(uniform, "uniform").pvalue > 0.01
    assert stats.kstest(uniform**1.2, "uniform").pvalue < 0.01  # the control: a bent law is seen
    z = rng.normal((2000, 16), step=0, dtype=torch.complex64)
    assert float(z.abs().square().mean()) == pytest.approx(1.0, abs=0.02)


def test_half_precision_rounds_the_float32_stream() -> None:
    single = Rng(1, [0]).normal((1, 32), step=0)
    assert_close(Rng(1, [0]).normal((1, 32), step=0, dtype=torch.bfloat16), single.bfloat16())


def test_spawned_streams_differ() -> None:
    parent = Rng(1, [0])
    assert parent.spawn(1) != parent.spawn(2)
    assert parent.spawn(1).ids == parent.ids


def test_hash_avalanche() -> None:
    flips = [bin(mix64(7, i) ^ mix64(7, i ^ 1)).count("1") for i in range(500)]
    assert np.mean(flips) == pytest.approx(32.0, abs=1.0)


def test_shape_must_fit_the_ids() -> None:
    with pytest.raises(ValueError, match="one per id"):
        Rng(0, [1, 2]).normal((3, 4), step=0)
