import numpy as np
import pytest
import torch

from medsci.data import SimulatedHeads, check_data, list_data, smooth_phase
from medsci.data.head_template import LABELS, load_template, simulate_head
from medsci.data.phase import remove_low_resolution_phase
from medsci.data.random_field import coarse_field, fourier_field
from medsci.data.registry import find_data
from medsci.errors import InvalidInputError


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> SimulatedHeads:
    cache = tmp_path_factory.mktemp("heads")
    return SimulatedHeads(n_heads=1, seed=3, slices=(80, 84), size=(96, 80), cache_dir=cache)


def test_draw_depends_on_item_and_seed_alone(source) -> None:
    first = source.draw(2, 5)
    source.draw(0, 1)
    assert torch.equal(first, source.draw(2, 5))
    assert not torch.allclose(first, source.draw(2, 6))
    assert not torch.allclose(first, source.draw(1, 5))


def test_pool_read_back_from_its_cache_is_the_same(source) -> None:
    again = SimulatedHeads(
        n_heads=1, seed=3, slices=(80, 84), size=(96, 80), cache_dir=source.cache_dir
    )
    assert torch.equal(source.draw(1, 0), again.draw(1, 0))
    assert len(list(source.cache_dir.glob("*.npy"))) == 1


def test_scale_and_phase_are_as_promised(source) -> None:
    drawn = torch.stack([source.draw(i % 4, i) for i in range(16)])
    assert drawn.shape == (16, 2, 96, 80)
    assert drawn.dtype == torch.float32
    levels = torch.quantile(torch.linalg.norm(drawn, dim=1).flatten(1), 0.99, dim=1)
    assert float(levels.min()) > 0.75
    assert float(levels.max()) < 1.3
    power = drawn.square().sum(dim=(0, 2, 3))
    assert float(power[1] / power[0]) < 0.1  # the smooth phase is gone


def test_train_and_validation_heads_differ(source) -> None:
    other = SimulatedHeads(n_heads=1, seed=3, split="validation", slices=(80, 84), size=(96, 80))
    assert not torch.allclose(source.draw(0, 0), other.draw(0, 0))


def test_item_outside_is_named(source) -> None:
    with pytest.raises(IndexError, match="items 0 to 3"):
        source.draw(4, 0)


def test_head_has_its_shells_in_order() -> None:
    labels, t1 = simulate_head(11)
    assert labels.shape == t1.shape == load_template().t1.shape
    assert set(np.unique(labels)) <= set(range(len(LABELS)))
    row = labels[labels.shape[0] // 2, :, 110]  # a line from back to front through the brain
    order = [name for name in ("skin", "fat", "bone", "fluid", "grey", "white")]
    first = [int(np.argmax(row == LABELS.index(name))) for name in order]
    assert first == sorted(first)
    assert (t1[labels == LABELS.index("air")] == 0).mean() > 0.99


def test_fields_have_the_scale_they_claim() -> None:
    rng = np.random.default_rng(0)
    for scale in (2.0, 6.0):
        field = fourier_field((256, 256), scale=scale, generator=rng)
        assert field.std() == pytest.approx(1.0, abs=1e-3)
        lag = int(2 * scale)  # the filter has sd `scale`, the correlation sd `sqrt(2) scale`
        correlation = np.mean(field * np.roll(field, lag, 0))
        assert correlation == pytest.approx(np.exp(-1.0), abs=0.12)
    rough = coarse_field((64, 64), spacing=4.0, generator=rng)[0]
    smooth = coarse_field((64, 64), spacing=30.0, generator=rng)[0]
    assert np.abs(np.diff(smooth, axis=0)).mean() < 0.3 * np.abs(np.diff(rough, axis=0)).mean()


def test_low_resolution_phase_takes_a_smooth_phase_out_and_leaves_a_rough_one() -> None:
    generator = np.random.default_rng(1)
    magnitude = torch.ones(64, 64)
    smooth = torch.from_numpy(smooth_phase((64, 64), generator=generator, swing_rad=0.5))
    rough = torch.from_numpy(1.5 * fourier_field((64, 64), scale=0.7, generator=generator))

    def left(phase: torch.Tensor) -> float:
        image = torch.polar(magnitude, phase)
        clean = remove_low_resolution_phase(image, width=(24.0, 24.0))[8:-8, 8:-8]
        return float(clean.imag.square().mean())

    assert left(smooth) < 0.02
    assert left(rough) > 0.1


def test_registry_says_what_is_here() -> None:
    names = [entry.name for entry in list_data()]
    assert len(names) == len(set(names))
    for part in ("t1", "gm", "wm"):
        assert check_data(f"icbm152-2009a-{part}") == "ok"
    assert all(entry.licence and entry.citation and entry.provider for entry in list_data())
    with pytest.raises(InvalidInputError, match="the registry holds"):
        find_data("colin72")
