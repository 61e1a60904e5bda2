"""The law of deformations: its own formulas, folding, and the real warp it is matched to."""

from dataclasses import replace

import numpy as np
import pytest

from medsci.data.deformation_law import (
    SMOOTHING_MM,
    DeformationLaw,
    DeformationStatistics,
    measure_deformation,
    real_warp,
)
from medsci.data.random_field import coarse_field
from medsci.data.registry import check_data, find_data

SHAPE = (60, 66, 60)
needs_warp = pytest.mark.skipif(
    find_data("oasis-to-t1-warp") is None, reason="nitransforms is not installed"
)


def _draw(law: DeformationLaw, seed: int, *, spacing_mm: float = 3.0) -> np.ndarray:
    return law.draw(SHAPE, spacing_mm=spacing_mm, generator=np.random.default_rng(seed))


def test_a_draw_depends_on_its_generator_alone() -> None:
    law = DeformationLaw()
    assert np.array_equal(_draw(law, 1), _draw(law, 1))
    assert not np.allclose(_draw(law, 1), _draw(law, 2))
    assert _draw(law, 1).shape == (3, *SHAPE)


def test_grid_of_half_the_spacing_sees_the_same_deformation() -> None:
    law, fine = DeformationLaw(), (119, 131, 119)
    coarse = law.draw(SHAPE, spacing_mm=3.0, generator=np.random.default_rng(4))
    half = law.draw(fine, spacing_mm=1.5, generator=np.random.default_rng(4))
    np.testing.assert_allclose(half[:, ::2, ::2, ::2], coarse, atol=1e-4)


@pytest.mark.parametrize("width", [6.0, 14.0])
def test_one_scale_has_its_amplitude_width_and_change_of_volume(width: float) -> None:
    law = DeformationLaw((width,), (0.5,), axis_factors=(1.0, 1.0, 1.0))
    drawn = [_draw(law, seed) for seed in range(3)]
    assert np.std(drawn) == pytest.approx(0.5, rel=0.1)
    # a random field of this width has a gradient of a / (sqrt(2) s) along every axis
    expected = np.sqrt(3.0 / 2.0) * 0.5 / width
    measured = np.mean([measure_deformation(u, 3.0).log_jacobian_std for u in drawn])
    assert measured == pytest.approx(expected, rel=0.15)
    kept = np.mean([measure_deformation(u, 3.0).kept[1] for u in drawn])
    formula = (width**2 / (width**2 + SMOOTHING_MM[1] ** 2)) ** 1.5
    assert kept == pytest.approx(formula, rel=0.15)
    other = ((2.0 * width) ** 2 / ((2.0 * width) ** 2 + SMOOTHING_MM[1] ** 2)) ** 1.5
    assert abs(kept / other - 1.0) > 0.2  # the control: another width would be seen


def test_strong_deformations_do_not_fold_where_the_bare_field_does() -> None:
    law = DeformationLaw((8.0,), (7.0,), axis_factors=(1.0, 1.0, 1.0))
    assert measure_deformation(_draw(law, 0), 3.0).folded < 1e-3
    bare = DeformationLaw((8.0,), (0.01,), axis_factors=(1.0, 1.0, 1.0))
    field = 700.0 * _draw(bare, 0)  # what the velocity would be as a displacement
    assert measure_deformation(field, 3.0).folded > 0.02
    assert measure_deformation(_draw(DeformationLaw(), 0), 3.0).folded == 0.0


def test_affine_is_taken_off_before_measuring() -> None:
    law = DeformationLaw(turn_deg=(3.0, 3.0, 4.0), log_scale=0.045, shift_mm=3.0)
    plain = measure_deformation(_draw(replace(law, turn_deg=(0.0,) * 3, log_scale=0.0), 5), 3.0)
    moved = measure_deformation(_draw(law, 5), 3.0)
    assert moved.std_mm == pytest.approx(plain.std_mm, rel=0.02)
    assert moved.range_mm == pytest.approx(plain.range_mm, rel=0.02)
    assert np.std(_draw(law, 5)) > 1.2 * np.std(_draw(DeformationLaw(), 5))


def _numbers(found: DeformationStatistics) -> np.ndarray:
    mean_std = float(np.sqrt(np.square(found.std_mm).mean()))
    return np.array([mean_std, *found.kept[:4], found.log_jacobian_std])


@pytest.fixture(scope="module")
def real() -> tuple[DeformationStatistics, tuple[int, ...], float, np.ndarray]:
    field, spacing, mask = real_warp()
    assert field.shape == (3, 108, 146, 128)
    assert spacing == 2.0
    assert measure_deformation(field, spacing, mask=mask).folded == 0.0
    half, mask = field[:, ::2, ::2, ::2], mask[::2, ::2, ::2]  # quick, and alike for both
    return measure_deformation(half, 4.0, mask=mask), half.shape[1:], 4.0, mask


@needs_warp
def test_default_law_matches_the_real_warp_and_the_old_fields_do_not(real) -> None:
    found, shape, spacing, mask = real
    assert check_data("oasis-to-t1-warp") == "ok"

    def measured(field: np.ndarray) -> np.ndarray:
        return _numbers(measure_deformation(field, spacing, mask=mask))

    law = DeformationLaw(lattice_mm=spacing)
    draws = [
        law.draw(shape, spacing_mm=spacing, generator=np.random.default_rng(seed))
        for seed in range(8)
    ]
    off = np.mean([measured(u) for u in draws], axis=0) / _numbers(found) - 1.0
    assert np.abs(off).max() < 0.12
    generator = np.random.default_rng(7)
    old = sum(
        0.75 * a * coarse_field(shape, spacing=s / spacing, generator=generator, channels=3)
        for s, a in ((48.0, 5.0), (22.0, 2.4), (10.0, 1.2))
    )
    missed = np.abs(measured(old) / _numbers(found) - 1.0) > 0.15
    assert missed.sum() >= 3


def test_wrong_laws_are_named() -> None:
    with pytest.raises(ValueError, match="one of each per scale"):
        DeformationLaw((4.0, 8.0), (1.0,))
    with pytest.raises(ValueError, match="at least the lattice"):
        DeformationLaw((1.0,), (1.0,))
