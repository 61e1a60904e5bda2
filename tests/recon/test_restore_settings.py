"""Settings say what is wrong with them, and inputs too."""

import logging
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging import Volume
from medsci.recon.restoration import restore
from medsci.recon.restore_problem import slices_of
from medsci.recon.restore_settings import PriorUnits, RestoreSettings

GOOD = Volume(
    np.pad(np.random.default_rng(0).uniform(50, 100, (16, 16, 3)), ((2, 2), (2, 2), (0, 0))),
    np.eye(4),
)
MASK = replace(GOOD, array=np.pad(np.ones((2, 2, 3)), ((4, 14), (4, 14), (0, 0))))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"task": "superres", "factor": 0}, "from 2"),
        ({"task": "deblur"}, "needs the width"),
        ({"task": "deblur", "fwhm_mm": -1.0}, "positive width"),
        ({"task": "deblur", "fwhm_mm": float("nan")}, "positive width"),
        ({"task": "denoise", "noise": -1.0}, "standard deviation"),
        ({"task": "denoise", "noise": float("inf")}, "standard deviation"),
        ({"task": "denoise", "n_samples": 0}, "at least 1"),
        ({"task": "denoise", "n_steps": 0}, "at least 1"),
        ({"task": "denoise", "method": "n4"}, "is for the task bias"),
        ({"task": "inpaint", "method": "mmse"}, "is for the task denoise"),
        ({"task": "bias", "method": "dds3d"}, "choose n4 or prior"),
        ({"task": "bias", "n_samples": 2}, "n4 draws no samples"),
        ({"task": "denoise", "options": {"eta": "1"}}, "no further options"),
    ],
)
def test_refuses(more, words):
    with pytest.raises(UsageError, match=words):
        RestoreSettings(**more)


@pytest.mark.parametrize(
    ("task", "method"),
    [("denoise", "mmse"), ("inpaint", "dds3d"), ("superres", "dds3d"), ("bias", "n4")],
)
def test_every_task_has_a_method(task, method):
    chosen = RestoreSettings(task=task)
    assert chosen.chosen == method
    assert chosen.needs_prior == (method != "n4")


def test_units_of_a_stored_model():
    config = SimpleNamespace(
        image_channels=("real", "imaginary"), window_hu=None, voxel_size_mm=(1.0, 1.0)
    )
    assert PriorUnits.of(config) == PriorUnits(2, None, (1.0, 1.0))
    with pytest.raises(UsageError, match="3 image channels"):
        PriorUnits(3)


def broken(array) -> Volume:
    return Volume(array, np.eye(4))


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        (broken(np.ones((16, 16, 3, 2))), "one volume of three axes"),
        (broken(np.full((16, 16, 3), np.nan)), "NaN or infinite"),
        (broken(np.ones((16, 16, 3), np.complex64)), "magnitude"),
        (broken(np.ones((16, 16, 3))), "there is no image"),
        (broken(np.random.default_rng(0).uniform(size=(4, 16, 3))), "at least 8 x 8"),
        (broken(-np.random.default_rng(0).uniform(1, 2, size=(16, 16, 3))), "bright where"),
    ],
)
def test_refuses_images(volume, words):
    from torch import nn

    with pytest.raises(InvalidInputError, match=words):
        restore(volume, nn.Identity(), settings=RestoreSettings(task="denoise"), units=None)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (None, "give one"),
        (replace(MASK, array=np.zeros(MASK.shape)), "empty"),
        (replace(MASK, array=np.ones(MASK.shape)), "covers its slices whole"),
        (Volume(np.ones((20, 20, 2)), np.eye(4)), "mask has shape"),
        (replace(MASK, affine=np.diag([1.0, 1, 2, 1])), "lies elsewhere"),
        (replace(MASK, array=np.full(MASK.shape, np.nan)), "voxels of the mask are NaN"),
    ],
)
def test_refuses_masks(mask, words):
    from medsci.recon.restore_problem import problem_of

    slices = slices_of(GOOD, PriorUnits())
    with pytest.raises(InvalidInputError, match=words):
        problem_of(slices, RestoreSettings(task="inpaint"), volume=GOOD, mask=mask)


def test_hounsfield_units_are_asked_for():
    with pytest.raises(InvalidInputError, match="no Hounsfield units"):
        slices_of(GOOD, PriorUnits(1, (-1000.0, 1000.0)))


def test_warns_of_other_pixels_and_unknown_orientation(caplog):
    coarse = replace(GOOD, affine=np.diag([2.0, 2.0, 2.0, 1.0]), sform_code=0)
    with caplog.at_level(logging.WARNING):
        slices_of(coarse, PriorUnits(2, None, (1.0, 1.0)))
    assert "trained at 1 mm" in caplog.text
    assert "orientation" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        slices_of(GOOD, PriorUnits(2, None, (1.0, 1.0)))
    assert not caplog.text


def test_a_mask_is_for_inpainting_only():
    from torch import nn

    with pytest.raises(InvalidInputError, match="only inpaint"):
        restore(GOOD, nn.Identity(), settings=RestoreSettings(task="denoise"), mask=MASK)
