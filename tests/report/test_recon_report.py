"""The reconstruction report says what was measured, warns where it must, and hides nothing."""

from dataclasses import replace

import numpy as np
import pytest

from medsci.errors import InvalidInputError
from medsci.imaging import Volume
from medsci.metrics import coverage, head_mask, psnr, ssim, uncertainty_correlation
from medsci.report import ReconImages, Score, recon_report, recon_score, render_html

SETTINGS = {
    "seed": 0,
    "acceleration": 4.0,
    "n_lines": 24,
    "n_coils": 8,
    "prior": "brain-t1-2d",
    "n_samples": 3,
    "own_knob": 0.25,
}


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    grid = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in (40, 44, 20)), indexing="ij")
    truth = np.where(grid[0] ** 2 + grid[1] ** 2 < 1, 500 + 200 * np.sin(9 * grid[0]), 0)
    scale = np.where(truth > 0, rng.uniform(2, 40, size=truth.shape), 0)
    draws = truth + scale * rng.normal(size=(3, *truth.shape))
    affine = np.diag([2.0, 2.0, 3.0, 1.0])

    def volume(array):
        return Volume(np.abs(array).astype(np.float32), affine)

    return ReconImages(
        reconstruction=volume(draws.mean(0)),
        std=volume(draws.std(0, ddof=1)),
        simple=volume(truth + 90 * rng.normal(size=truth.shape)),
        reference=volume(truth),
    )


@pytest.fixture(scope="module")
def report(images):
    return recon_report(images, settings=SETTINGS, provenance={})


def tables(report):
    return {table.title: table for section in report.sections for table in section.tables}


def summary(report):
    return {number.label: number for number in report.summary}


def test_numbers_are_those_of_the_metrics(images, report):
    truth, ours = images.reference.array, images.reconstruction.array
    mask = head_mask(truth, spacing_mm=(2.0, 2.0, 3.0))
    rows = {row[0]: row[1:] for row in tables(report)["Inside the head mask"].rows}
    expected = psnr(ours, truth, mask=mask)
    assert rows["reconstruction"][:2] == [expected, ssim(ours, truth, mask=mask)]
    assert rows["zero-filled"][0] == psnr(images.simple.array, truth, mask=mask)
    assert expected != pytest.approx(psnr(ours, truth), abs=0.1)  # control: the mask matters
    assert summary(report)["PSNR in the head"].value == expected
    gain = expected - rows["zero-filled"][0]
    assert summary(report)["PSNR in the head"].note.startswith(f"+{gain:.2f} against zero-filled")


def test_slices_are_taken_along_the_axis_that_is_named(images):
    mask = head_mask(images.reference.array)
    along_k = recon_score("a", images.reconstruction, images=images, mask=mask)
    along_i = recon_score(
        "a", images.reconstruction, images=replace(images, slice_axis=0), mask=mask
    )
    assert along_k.ssim != along_i.ssim
    assert along_k.psnr_db == along_i.psnr_db


def test_a_better_rival_is_not_hidden(images):
    scores = [
        Score(method="TV", psnr_db=40.0, ssim=0.9, data_misfit=0.02),
        Score(method="zero-filled", psnr_db=20.0, ssim=0.5),
        Score(method="ours", psnr_db=38.5, ssim=0.95, data_misfit=0.01, ours=True),
    ]
    report = recon_report(images, settings=SETTINGS, provenance={}, scores=scores)
    numbers = summary(report)
    assert numbers["PSNR in the head"].note == "−1.50 against TV (40.00)"
    assert numbers["SSIM in the head"].note == "+0.050 against TV (0.900)"
    assert numbers["Data misfit"].text == "1.00 %"
    table = tables(report)["Inside the head mask"]
    assert [c.title for c in table.columns] == ["Method", "PSNR", "SSIM", "Data misfit"]
    assert table.is_best(0, 1)
    assert not table.is_best(2, 1)
    assert table.rows[1][3] is None


def test_uncertainty_is_compared_with_the_true_error(images, report):
    rows = tables(report)["Uncertainty against the true error inside the head mask"].rows
    error = images.reconstruction.array - images.reference.array
    mask = head_mask(images.reference.array, spacing_mm=(2.0, 2.0, 3.0))
    std = images.std.array
    for row, factor in zip(rows[:2], (1.0, 2.0), strict=True):
        assert row[1] == pytest.approx(100 * coverage(std, error, factor=factor, mask=mask))
    assert rows[0][2] == pytest.approx(52.2, abs=0.1)  # three samples, not the Gaussian 68.3
    assert rows[2][1] == pytest.approx(uncertainty_correlation(std, error, mask=mask), abs=1e-6)
    text = render_html(report)
    assert "It is not an error bar" in text
    assert "of 3 reconstructions" in text
    assert "about 50 %" in text


def test_without_a_truth_nothing_is_claimed(images):
    real = replace(images, reference=None)
    scores = [Score(method="ours", data_misfit=0.01, ours=True)]
    report = recon_report(real, settings=SETTINGS, provenance={}, scores=scores)
    text = render_html(report)
    for word in ("PSNR", "SSIM", "|error|", "truth", "calibrated"):
        assert word not in text
    assert "standard deviation" in text
    assert set(summary(report)) == {"Data misfit", "Acceleration"}
    with pytest.raises(InvalidInputError, match="no reference"):
        recon_score("x", real.reconstruction, images=real, mask=None)


def test_a_single_sample_has_no_uncertainty_section(images):
    report = recon_report(replace(images, std=None), settings=SETTINGS, provenance={})
    assert "How sure it is" not in [section.title for section in report.sections]
    assert "uncertainty" not in render_html(report).lower()


def test_limits_and_what_the_prior_has_seen_stand_at_the_top(images, report):
    seen = "It has seen only the ICBM head."
    text = render_html(recon_report(images, settings=SETTINGS, provenance={}, prior_seen=seen))
    assert "not a medical device" in text
    assert text.index("Research use only") < text.index(seen) < text.index("PSNR")
    assert "trained on was not stated" in render_html(report)


def test_settings_are_labelled_and_none_is_lost(report):
    rows = tables(report)["Settings"].rows
    assert [row[0] for row in rows] == [
        "Acceleration R, nominal",
        "Phase-encode lines acquired",
        "Coils",
        "Prior",
        "Samples averaged",
        "Seed",
        "Own knob",
    ]
    assert [row[1] for row in rows] == ["4", "24", "8", "brain-t1-2d", "3", "0", "0.25"]


def test_unknown_sides_are_a_warning(images, report):
    lost = replace(images.reconstruction, sform_code=0, qform_code=0)
    other = recon_report(
        replace(images, reconstruction=lost), settings=SETTINGS, provenance={}, warnings=["first"]
    )
    assert other.warnings[0] == "first"
    assert "left and right are not known" in other.warnings[1]
    assert "Radiological" not in render_html(other)
    assert list(report.warnings) == []
    assert "Radiological" in render_html(report)


def test_equal_runs_give_equal_pages(images, report):
    again = recon_report(images, settings=SETTINGS, provenance={})
    assert render_html(again) == render_html(report)


def test_other_grids_are_refused(images):
    shifted = replace(images.reference, affine=np.diag([2.0, 2.0, 3.1, 1.0]))
    with pytest.raises(InvalidInputError, match="different grids"):
        recon_report(replace(images, reference=shifted), settings=SETTINGS, provenance={})
