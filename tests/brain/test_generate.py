"""Volumes from noise: closed forms through the whole loop, conditions, and streams of their own."""

import math

import numpy as np
import pytest
import torch
from brain.tiny_generator import (
    SIZE,
    Normal,
    TwoModes,
    area_under_curve,
    config,
    published,
    stored,
)
from torch import nn

from medsci.brain.conditions import (
    asked_of,
    condition_rows,
    out_of_range,
    parse_conditions,
    standardised,
)
from medsci.brain.generation import (
    GenerateSettings,
    check_generator,
    generate,
    label_map,
    regions,
)
from medsci.core.rng import Rng
from medsci.errors import InvalidInputError, MedsciError, UsageError
from medsci.models import load_denoiser

PUSH = (0.15, -0.1)


def run(denoiser, description, *, n=2, rows=None, numbers=None, **settings):
    return list(
        generate(
            denoiser,
            description,
            numbers=range(1, n + 1) if numbers is None else numbers,
            settings=GenerateSettings(**{"seed": 3} | settings),
            rows=rows,
        )
    )


# A law in closed form


@pytest.mark.parametrize(
    ("n", "sd", "mean"), [(32, 0.45636, None), (64, 0.47799, None), (256, 0.49437, 0.19937)]
)
def test_the_published_walk_has_the_spread_that_was_worked_out(n, sd, mean):
    """Voxels N(0.2, 0.5^2), 256 rows: sd 0.49437; every step is affine, so one volume tells it.

    The numbers are for noise of variance 1 at the first row, which ours has to 2e-5.
    """
    description = published(value_range=(-8.0, 8.0))
    network = Normal.of(description, mean=0.2, sd=0.5)
    image = run(network, description, n=1, n_steps=n, clip="none")[0].image
    x = 16.0 * image.astype(np.float64) - 8.0
    noise = Rng(3, [0]).normal((1, 1, *SIZE), step=-1).numpy().astype(np.float64)[0, 0]
    slope, start = np.polyfit(noise.ravel(), x.ravel(), 1)
    assert slope == pytest.approx(sd, abs=1e-4)
    if mean is not None:
        assert start == pytest.approx(mean, abs=1e-4)
    others = {32: 0.45794, 64: 0.47918, 256: 0.49617}  # rows counted from the first one
    assert abs(slope - others[n]) > 1e-3


def test_mean_and_spread_of_the_voxels_are_those_of_the_data():
    """N(-0.3, 0.1^2) in [-1, 1] is N(0.35, 0.05^2) in [0, 1]: within 4.5 standard errors."""
    description = config()
    made = run(Normal.of(description, mean=-0.3, sd=0.1), description, n=4, n_steps=40)
    voxels = np.concatenate([one.image.ravel() for one in made]).astype(np.float64)
    error = 0.05 / math.sqrt(voxels.size)
    assert abs(voxels.mean() - 0.35) < 4.5 * error + 1e-4
    assert abs(voxels.std() - 0.05) < 4.5 * error / math.sqrt(2.0) + 5e-4
    assert made[0].overshoot == (0.0, 0.0)
    shares = np.concatenate([one.fractions.ravel() for one in made]).astype(np.float64)
    assert shares.mean() == pytest.approx(0.35, abs=1e-3)


def test_values_beyond_the_range_are_told_of():
    description = config()
    network = Normal.of(description, mean=0.9, sd=0.2)
    free, clipped = (run(network, description, n=1, clip=c)[0] for c in ("none", "consistent"))
    assert free.overshoot[1] > 0.05
    assert clipped.overshoot == (0.0, 0.0)
    for one in (free, clipped):
        assert one.image.dtype == np.float32
        assert 0.0 <= one.image.min() <= one.image.max() <= 1.0


# Streams


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    stored(folder)
    return load_denoiser(folder / "tiny-head", precision="float32")


def bits(made):
    return [(one.number, one.image.tobytes(), one.fractions.tobytes()) for one in made]


@pytest.mark.parametrize("solver", ["auto", "ancestral"])
def test_a_volume_is_its_seed_and_number_to_the_last_bit(network, solver):
    """On the CPU, in float32: batches of 1, 2 and 4, more volumes, backwards, and one alone."""
    options = {"n_steps": 5, "solver": solver, "maps": True}
    three = run(network, config(), n=3, batch=2, **options)
    alone = run(network, config(), n=3, batch=1, **options)
    assert bits(three) == bits(alone)
    for one, other in zip(three, alone, strict=True):
        np.testing.assert_array_equal(one.hallucination, other.hallucination)
    assert bits(three) == bits(run(network, config(), n=5, batch=4, **options))[:3]
    assert bits(three)[::-1] == bits(run(network, config(), numbers=[3, 2, 1], **options))
    assert bits(three)[1:2] == bits(run(network, config(), numbers=[2], **options))
    assert bits(three)[0][1] != bits(three)[1][1]
    other = run(network, config(), n=1, **options | {"seed": 4})
    assert bits(other)[0][1] != bits(three)[0][1]


def test_conditions_do_not_mix_between_the_volumes_of_a_batch(network):
    rows = np.array([[1500.0, np.nan], [np.nan, np.nan], [1100.0, 0.3]])
    together = run(network, config(), n=3, rows=rows, batch=3, n_steps=4, guidance=2.0)
    for number in (1, 2, 3):
        alone = run(network, config(), numbers=[number], rows=rows[[number - 1]], n_steps=4,
                    guidance=2.0 if number != 2 else 1.0)  # fmt: skip
        assert bits(alone) == bits(together)[number - 1 : number]


# Conditions


def test_conditions_move_the_volumes_as_far_as_they_say():
    """The oracle's mean moves by 0.15 per sd of brain_ml, and by W times that under guidance."""
    description = config()
    network = Normal.of(description, sd=0.05, push=PUSH)
    plain = run(network, description, n=1, n_steps=10)[0].image
    for value, fluid, guidance in ((1400.0, np.nan, 1.0), (1400.0, 0.25, 1.0), (1400.0, 0.25, 2.0)):
        rows = np.array([[value, fluid]])
        made = run(network, description, n=1, rows=rows, n_steps=10, guidance=guidance)[0]
        moved = 2.0 * (made.image.astype(np.float64) - plain)
        expected = guidance * (PUSH[0] + (0.0 if np.isnan(fluid) else PUSH[1]))
        assert moved.mean() == pytest.approx(expected, abs=2e-3)
    deaf = Normal.of(description, sd=0.05)  # the control: a network that does not listen
    rows = np.array([[1400.0, 0.25]])
    same = run(deaf, description, n=1, rows=rows, n_steps=10)[0].image
    assert np.abs(same - plain).max() < 1e-6


def test_a_stored_network_hears_its_conditions(network):
    rows = np.array([[1600.0, np.nan]])
    plain, told, strict, nothing = (
        run(network, config(), n=1, n_steps=4, **more)[0].image
        for more in ({}, {"rows": rows}, {"rows": rows, "guidance": 3.0}, {"rows": rows * np.nan})
    )
    assert np.abs(told - plain).max() > 1e-3
    assert np.abs(strict - told).max() > 1e-3
    np.testing.assert_array_equal(nothing, plain)


def test_what_is_asked_is_told_in_standard_deviations():
    covariates = config().covariates
    rows = condition_rows(covariates, n=2, given={"fluid_fraction": 0.3})
    np.testing.assert_array_equal(rows, [[np.nan, 0.3], [np.nan, 0.3]])
    np.testing.assert_allclose(standardised(covariates, rows), [[np.nan, 2.0], [np.nan, 2.0]])
    assert asked_of(covariates, rows[0]) == {"fluid_fraction": 0.3}
    assert out_of_range(covariates, rows) == []
    far = condition_rows(covariates, n=1, given={"brain_ml": 2000.0, "fluid_fraction": 0.05})
    texts = out_of_range(covariates, far)
    assert len(texts) == 2
    assert "brain_ml=2000 is outside the range of training, 1000 to 1700 ml" in texts[0]


def test_a_table_has_a_row_for_every_volume(tmp_path):
    path = tmp_path / "wanted.tsv"
    path.write_text("fluid_fraction\tbrain_ml\n0.2\tn/a\n\t1250\n")
    rows = condition_rows(config().covariates, n=2, given={}, table=path)
    np.testing.assert_array_equal(rows, [[np.nan, 0.2], [1250.0, np.nan]])
    with pytest.raises(InvalidInputError, match="2 rows for 3 volumes"):
        condition_rows(config().covariates, n=3, given={}, table=path)
    with pytest.raises(UsageError, match="give it once"):
        condition_rows(config().covariates, n=2, given={"brain_ml": 1300.0}, table=path)
    path.write_text("brain_ml\n1200\nmany\n")
    with pytest.raises(InvalidInputError, match=r"line 3: brain_ml is 'many'"):
        condition_rows(config().covariates, n=2, given={}, table=path)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["brain_ml"], "NAME=VALUE"),
        (["=3"], "NAME=VALUE"),
        (["brain_ml="], "NAME=VALUE"),
        (["brain_ml=big"], "finite number"),
        (["brain_ml=nan"], "finite number"),
        (["brain_ml=inf"], "finite number"),
        (["brain_ml=1", "brain_ml=2"], "came twice"),
    ],
)
def test_words_that_are_no_conditions(words, says):
    with pytest.raises(UsageError, match=says):
        parse_conditions(words)


def test_names_that_the_model_does_not_know():
    with pytest.raises(UsageError, match="did you mean brain_ml"):
        condition_rows(config().covariates, n=1, given={"brain": 1.0})
    with pytest.raises(UsageError, match="takes no conditions"):
        condition_rows((), n=1, given={"brain_ml": 1.0})


# What comes out


def test_labels_are_the_largest_share_and_background_is_what_is_left():
    fractions = np.zeros((3, 2, 2, 2), np.float32)
    fractions[:, 0, 0, 0] = (0.2, 0.5, 0.3)
    fractions[:, 1, 0, 0] = (0.3, 0.1, 0.1)  # half of it is something else
    fractions[:, 1, 1, 1] = (0.9, 0.9, 0.2)  # more than a voxel: the largest still counts
    labels = label_map(fractions)
    assert labels.dtype == np.uint8
    assert (labels[0, 0, 0], labels[1, 0, 0], labels[0, 1, 1]) == (2, 0, 0)
    assert labels[1, 1, 1] == 1


def test_region_volumes_are_those_of_the_fractions():
    fractions = np.full((3, 10, 10, 10), 0.004, np.float32)  # a whisper of tissue in the air
    fractions[:, 3:7, 3:7, 3:7] = np.array([0.1, 0.5, 0.3])[:, None, None, None]
    found = regions(fractions, ("fluid", "grey", "white"), voxel_ml=0.064)
    assert found["brain_ml"] == pytest.approx(64 * 0.9 * 0.064, rel=0.04)
    assert found["grey_ml"] == pytest.approx(64 * 0.5 * 0.064, rel=0.04)
    assert found["fluid_fraction"] == pytest.approx(0.1 / 0.9, abs=0.01)
    shares = [found[f"{name}_fraction"] for name in ("fluid", "grey", "white")]
    assert sum(shares) == pytest.approx(1.0, abs=2e-4)
    whisper = (3 * 0.004 * (1000 - 64)) * 0.064
    assert whisper > 0.15 * found["brain_ml"], "which a plain sum would have added"
    nothing = regions(np.zeros((1, 3, 3, 3), np.float32), ("grey",), voxel_ml=1.0)
    assert nothing == {"brain_ml": 0.0, "grey_ml": 0.0}


def test_the_map_of_doubt_is_large_where_voxels_end_between_the_modes():
    description = config(training_size=(20, 25, 20), sigma_data=0.6)
    network = TwoModes(Normal.of(description, sd=1.0).path, width=0.1)
    made = run(network, description, n=1, maps=True)[0]
    between = network.between(made.image).ravel()
    assert 20 < between.sum() < 600
    score = made.hallucination.ravel()
    assert score.shape == between.shape
    assert area_under_curve(score, between) > 0.95
    shuffled = np.random.default_rng(0).permutation(score)
    assert area_under_curve(shuffled, between) == pytest.approx(0.5, abs=0.1)
    assert run(network, description, n=1)[0].hallucination is None


def test_progress_counts_every_evaluation():
    seen = []
    description = config()
    made = generate(
        Normal.of(description, sd=0.1), description, numbers=[1, 2, 3],
        settings=GenerateSettings(seed=0, n_steps=4, batch=2),
        progress=lambda done, total, text: seen.append((done, total, text)),
    )  # fmt: skip
    assert len(list(made)) == 3
    assert [done for done, _, _ in seen] == list(range(1, 9))
    assert {total for _, total, _ in seen} == {8}
    assert {text for _, _, text in seen} == {"volume 1 to 2", "volume 3"}


# Refusals


class Broken(nn.Module):
    """Return what no image can be."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def forward(self, x, t):
        return x * math.nan


def test_numbers_that_are_not_finite_are_not_written_off_as_an_image():
    description = config()
    with pytest.raises(MedsciError, match="not finite"):
        run(Broken(Normal.of(description, sd=1.0).path), description, n=1, n_steps=2)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"guidance": -1.0}, "0 or more"),
        ({"guidance": math.nan}, "0 or more"),
        ({"guidance": math.inf}, "0 or more"),
        ({"batch": 0}, "1 or more"),
        ({"n_steps": 0}, "1 or more"),
        ({"clip": "ddim"}, "use consistent"),
        ({"guidance": 2.0}, "without a condition"),
    ],
)
def test_settings_that_mean_nothing(settings, says):
    description = config()
    with pytest.raises(UsageError, match=says):
        run(Normal.of(description, sd=1.0), description, n=1, **settings)


def test_every_channel_must_have_a_name():
    with pytest.raises(UsageError, match="names every channel"):
        check_generator(config(image_channels=("t1",)))
    frame, names = check_generator(published())
    assert (frame.orientation, names) == ("LPS", ("intensity",))


def test_models_without_a_range_are_stretched():
    description = published(value_range=None)
    made = run(Normal.of(description, mean=3.0, sd=0.5), description, n=1, n_steps=8)[0]
    assert (made.image.min(), made.image.max()) == (0.0, 1.0)
    assert torch.is_tensor(torch.from_numpy(made.image))
