import numpy as np
import pytest
import torch

from medsci.data.ct_phantom import head_slice, trunk_slice
from medsci.data.ct_slices import SimulatedCt
from medsci.data.head_template import LABELS
from medsci.errors import InvalidInputError


def source(**changes) -> SimulatedCt:
    settings = {"volumes": (), "shares": (0.0, 0.0, 1.0), "size": (64, 64), "seed": 3}
    return SimulatedCt(**(settings | changes))


def test_draw_depends_on_item_and_seed_alone() -> None:
    one, two = source(), source()
    first = one.draw(2, 5)
    two.draw(0, 1)
    assert first.shape == (1, 64, 64)
    assert torch.equal(first, two.draw(2, 5))
    assert not torch.allclose(first, one.draw(2, 6))
    assert not torch.allclose(first, source(split="validation").draw(2, 5))
    with pytest.raises(IndexError, match="items 0 to 4095"):
        one.draw(4096, 0)


def test_window_maps_hounsfield_units_to_zero_and_one() -> None:
    wide, narrow = source(), source(window_hu=(-1000.0, 0.0))
    assert torch.allclose(2.0 * wide.draw(1, 1), narrow.draw(1, 1), atol=1e-5)
    drawn = torch.stack([wide.draw(i, i) for i in range(12)])
    assert float(drawn.min()) >= 0.0
    air = (drawn < 0.05).float().mean()
    water = ((drawn > 0.45) & (drawn < 0.56)).float().mean()
    assert 0.1 < float(air) < 0.9
    assert float(water) > 0.05


def test_coarse_pixels_see_more_of_the_body() -> None:
    def edges(pixel_mm: float) -> float:
        drawn = [source(pixel_mm=(pixel_mm, pixel_mm)).draw(i, i) for i in range(8)]
        return float(np.mean([x.diff(dim=-1).abs().mean() for x in drawn]))

    assert edges(4.0) > 2.0 * edges(0.5)


def test_head_has_bone_between_skin_and_brain() -> None:
    generator = np.random.default_rng(0)
    labels = np.zeros((64, 64), dtype=np.uint8)
    for half, name in ((28, "skin"), (26, "fat"), (23, "bone"), (19, "fluid"), (17, "white")):
        labels[32 - half : 32 + half, 32 - half : 32 + half] = LABELS.index(name)
    image = head_slice(labels, generator)
    mean = {name: image[labels == LABELS.index(name)].mean() for name in ("bone", "white", "fat")}
    assert mean["bone"] > 600.0 > mean["white"] > 10.0 > mean["fat"]
    assert image.min() >= -1000.0


def test_trunks_have_a_spine_at_the_back() -> None:
    images = np.stack([trunk_slice(np.random.default_rng(seed), size=160) for seed in range(16)])
    bone = (images > 250.0).mean(axis=0)
    middle = bone[:, 60:100]
    assert middle[:60].mean() > 3.0 * middle[80:].mean()  # rows run from posterior to anterior


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="window_hu"):
        source(window_hu=(5.0, 5.0))
    with pytest.raises(ValueError, match="pixel_mm"):
        source(pixel_mm=(2.0, 1.0))
    with pytest.raises(ValueError, match="shares"):
        source(shares=(1.0, 0.0, 0.0))


def test_a_volume_that_is_absent_says_how_to_get_it(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("MEDSCI_DATA", str(tmp_path))
    lacking = source(volumes=("chest-ct-1",), shares=(1.0, 0.0, 0.0))
    with pytest.raises(InvalidInputError, match="pip download"):
        lacking.draw(0, 0)
