"""Sets of volumes: alike, copied, collapsed, blurred, mislabelled, on other grids, and broken."""

import dataclasses
import gc
import json
import weakref

import numpy as np
import pytest
from contracts.phantom_heads import phantom_head

from medsci.brain.evaluating import EvaluateSettings, evaluate
from medsci.brain.portrait import sharpness
from medsci.brain.samples import Sample, common_frame, placed
from medsci.errors import InvalidInputError, UsageError
from medsci.imaging import Volume

USUAL = EvaluateSettings(n_pairs=15, n_deals=199)
QUICK = EvaluateSettings(n_splits=2, n_pairs=6, n_deals=199)


def heads(seeds, *, labelled=True, **how):
    made = [(i, *phantom_head(i, **how)) for i in seeds]
    return [Sample.of(v, name=f"head {i}", labels=x if labelled else None) for i, v, x in made]


def changed(samples, change):
    """The same samples, their images changed."""
    return [
        Sample.of(change(s.load()), name=s.name, labels=s.load_labels() if s.load_labels else None)
        for s in samples
    ]


@pytest.fixture(scope="module")
def real():
    return heads(range(12))


@pytest.fixture(scope="module")
def new():
    return heads(range(100, 112))


@pytest.fixture(scope="module")
def usual(real, new):
    """The control of most tests: other heads of the same law."""
    return evaluate(real, new, settings=USUAL)


def distance(found, key):
    return next(d for d in found.distances if d.key == key)


def region(found, name):
    return next(r for r in found.regions if r.name == name)


def test_new_heads_of_one_law_do_not_stand_out(usual):
    assert not any(d.stands_out for d in usual.distances)
    assert not usual.diversity.stands_out
    assert not usual.memorisation.stands_out
    assert usual.memorisation.ratio.value == pytest.approx(1.0, abs=0.15)
    assert all(min(r.ks_p_holm, r.permutation_p_holm) > 0.2 for r in usual.regions)
    assert [r.name for r in usual.regions] == ["head", "label 1", "label 2", "label 3"]
    assert usual.region_kind == "labels"
    assert usual.warnings == ()
    assert {(d.n_real, d.n_generated, d.n_matched) for d in usual.distances} == {(12, 12, 6)}
    assert (usual.shape, usual.voxel_mm, usual.n_resampled) == ((24, 24, 24), (8.0, 8.0, 8.0), 0)


def test_a_set_against_itself_is_at_distance_zero_and_all_copies(real):
    found = evaluate(real, real, settings=QUICK)
    assert [d.value for d in found.distances] == pytest.approx([0.0] * 4, abs=1e-9)
    assert all(r.distance.value == 0.0 and r.ks == 0.0 and r.ks_p == 1.0 for r in found.regions)
    assert found.diversity.real == found.diversity.generated
    memory = found.memorisation
    assert (memory.ratio.value, memory.n_closer, memory.n_copies) == (0.0, 12, 12)
    assert memory.stands_out
    assert "12 of 12 generated volumes are a real volume" in " ".join(found.warnings)


def test_copies_of_the_training_set_are_found_and_named(real, new):
    train = heads(range(200, 212), labelled=False)
    rng = np.random.default_rng(0)
    noisy = changed(train, lambda v: v.with_array(v.array + rng.normal(0, 0.5, v.shape)))
    mixed = noisy[4:6] + [dataclasses.replace(s, load_labels=None) for s in new[:10]]
    found = evaluate(real, mixed, train=train, settings=QUICK).memorisation
    assert found.against == "train"
    assert [(near.generated, near.train) for near in found.closest[:2]] in (
        [(0, 4), (1, 5)],
        [(1, 5), (0, 4)],
    )
    assert found.closest[1].ratio < 0.05 < 0.5 < found.closest[2].ratio
    assert found.n_copies == 2
    assert found.ratio.value < 0.9
    control = evaluate(real, heads(range(100, 112), labelled=False), train=train, settings=QUICK)
    assert control.memorisation.ratio.value == pytest.approx(1.0, abs=0.15)
    assert control.memorisation.n_copies == 0


def test_real_volumes_that_were_trained_on_are_named(real, new):
    found = evaluate(real[:6], new[:6], train=real[:3] + new[6:8], settings=QUICK)
    assert "3 of 6 real volumes are in the training set" in " ".join(found.warnings)
    with pytest.raises(InvalidInputError, match="the model has not seen"):
        evaluate(real[:4], new[:4], train=real[:4], settings=QUICK)


def test_collapse_shows_in_the_similarity_of_pairs(real, usual):
    one = phantom_head(100)[0].array
    alike = changed(heads(range(100, 112)), lambda v: v.with_array(0.15 * v.array + 0.85 * one))
    found = evaluate(real, alike, settings=QUICK).diversity
    assert found.stands_out
    assert found.matched.low > found.halves.high + 0.2
    assert found.generated > 0.9 > usual.diversity.generated + 0.2
    twins = evaluate(real, heads([100] * 12), settings=QUICK)
    assert twins.diversity.generated == pytest.approx(1.0)
    assert "12 generated volumes equal another one of their set" in " ".join(twins.warnings)


def test_blur_shows_in_features_and_histogram_and_not_in_volumes(real, usual):
    found = evaluate(real, heads(range(100, 112), blur=0.6), settings=QUICK)
    for key in ("frechet", "histogram", "sharpness"):
        assert distance(found, key).stands_out
        assert distance(found, key).value > 4 * distance(usual, key).value
    assert found.sharpness[1] < 0.9 * found.sharpness[0]
    noise = np.random.default_rng(0).normal(0, 30, (24, 24, 24))
    noisy = evaluate(
        real,
        changed(heads(range(100, 112)), lambda v: v.with_array(np.abs(v.array + noise))),
        settings=QUICK,
    )
    assert distance(noisy, "sharpness").stands_out
    assert noisy.sharpness[1] > 1.1 * noisy.sharpness[0]
    assert all(region(found, f"label {i}").permutation_p_holm > 0.2 for i in (1, 2, 3))


def test_swapped_labels_show_in_their_volumes_and_not_in_the_head(real, new):
    swap = np.array([0, 2, 1, 3], np.uint8)
    swapped = [
        Sample.of(s.load(), name=s.name, labels=x.with_array(swap[x.array]))
        for s, x in ((s, s.load_labels()) for s in new)
    ]
    found = evaluate(real, swapped, settings=QUICK)
    for name in ("label 1", "label 2"):
        assert region(found, name).ks_p_holm < 1e-4
        assert region(found, name).permutation_p_holm <= 4 / 200
        assert region(found, name).distance.stands_out
    for name in ("label 3", "head"):
        assert min(region(found, name).ks_p_holm, region(found, name).permutation_p_holm) > 0.2


def test_sharpness_of_a_wave_by_hand():
    """Of sin(k x): Laplacian 2 (1 - cos k) sin(k x), central difference sin(k) cos(k x)."""
    k = 2 * np.pi / 8
    wave = np.sin(k * (np.arange(512) + 0.5))[:, None, None] * np.ones((1, 3, 3))
    inner = sharpness(wave.astype(np.float32))
    assert inner == pytest.approx(2 * (1 - np.cos(k)) / np.sin(k), rel=0.01)
    assert sharpness((5 * wave + 3).astype(np.float32)) == pytest.approx(inner, rel=1e-5)


def test_smaller_heads_show_in_every_volume_and_voxel_by_voxel(real):
    found = evaluate(real, heads(range(100, 112), size=0.8), settings=QUICK)
    for name in ("head", "label 2", "label 3"):
        assert region(found, name).permutation_p_holm < 0.03
    assert distance(found, "energy").stands_out


def test_volumes_of_labels_are_counted_in_ml(real, usual):
    labels = [s.load_labels() for s in real]
    expected = [np.count_nonzero(x.array == 3) * 0.512 for x in labels]
    assert region(usual, "label 3").real_ml == pytest.approx(expected)


def test_brain_and_ventricles_are_measured_where_tissues_are_named(real):
    """The phantom's one fluid is its ventricle; labels may be numbered in any order."""
    names, order = {4: "white", 9: "fluid", 2: "grey"}, np.array([0, 9, 2, 4], np.uint8)
    sets = []
    for some in (real[:4], real[4:8]):
        maps = [s.load_labels() for s in some]
        numbered = [x.with_array(order[x.array]) for x in maps]
        pairs = zip(some, numbered, strict=True)
        made = [Sample.of(s.load(), name=s.name, labels=x) for s, x in pairs]
        sets.append([dataclasses.replace(s, label_names=names) for s in made])
    found = evaluate(*sets, settings=QUICK)
    ml = {r.name: np.array(r.real_ml) for r in found.regions}
    assert set(ml) == {"head", "fluid", "grey", "white", "brain", "ventricles"}
    np.testing.assert_allclose(ml["brain"], ml["fluid"] + ml["grey"] + ml["white"])
    np.testing.assert_allclose(ml["ventricles"], ml["fluid"], rtol=0.15)


def test_without_label_maps_only_the_head_is_measured_and_the_report_says_so(real):
    found = evaluate(real[:10], heads(range(100, 110), labelled=False), settings=QUICK)
    assert [r.name for r in found.regions] == ["head"]
    assert found.region_kind == "head"
    assert "generated volumes have no label maps" in found.warnings[0]
    silent = evaluate(real[:4], real[:4], settings=dataclasses.replace(QUICK, labels="none"))
    assert (len(silent.regions), "label" in " ".join(silent.warnings)) == (1, False)


def test_few_volumes_are_warned_about(real, new):
    found = evaluate(real[:5], new[:4], settings=QUICK)
    assert "only 5 real and 4 generated" in found.warnings[0]
    assert found.distances[0].n_matched == 2


def test_axis_order_origin_and_brightness_do_not_matter(real, new, usual):
    def other(volume):
        turned = volume.to_orientation("PSL")
        return Volume(7 * turned.array + 300, turned.affine, sform_code=1)

    turned = [Sample.of(other(s.load()), name=s.name, labels=s.load_labels()) for s in new]
    found = evaluate(real, turned, settings=QUICK)
    for key in ("frechet", "energy", "histogram"):
        assert distance(found, key).value == pytest.approx(distance(usual, key).value, rel=1e-3)
    assert found.n_resampled == 0
    mirrored = changed(new, lambda v: v.with_array(v.array[::-1]))
    wrong = evaluate(real, mirrored, settings=QUICK)
    assert abs(distance(wrong, "energy").value / distance(usual, "energy").value - 1) > 0.02
    assert found.intensities.generated_window[0] == pytest.approx(300, abs=1)


def test_other_grids_are_put_on_the_coarsest_and_smallest(real, new):
    def finer(volume):  # voxels of 4 mm, every value eight times: the same image
        array = volume.array.repeat(2, 0).repeat(2, 1).repeat(2, 2)
        step = np.diag([0.5, 0.5, 0.5, 1.0])
        step[:3, 3] = -0.25
        return Volume(array, volume.affine @ step, sform_code=1)

    cropped = changed(new[:6], lambda v: v.slab(2, 2, 22)) + changed(new[6:], finer)
    cropped = [dataclasses.replace(s, load_labels=None) for s in cropped]
    found = evaluate(real, cropped, settings=QUICK)
    assert found.shape == (24, 24, 20)
    assert found.voxel_mm == (8.0, 8.0, 8.0)
    assert found.n_resampled == 18  # but the six that were cropped to it
    assert "18 of 24 volumes do not lie on the common grid" in " ".join(found.warnings)


def test_placing_centres_boxes_and_keeps_values_where_it_can():
    volume = phantom_head(3)[0]
    frame, n_off = common_frame([Sample.of(volume, name="a")] * 2)
    assert n_off == 0
    np.testing.assert_array_equal(placed(volume, frame), volume.array)
    smaller, _ = common_frame([Sample.of(volume.slab(0, 4, 20), name="b")])
    np.testing.assert_array_equal(placed(volume, smaller), volume.array[4:20])


def test_oblique_volumes_are_turned_to_the_world():
    blob = np.zeros((32, 32, 32), np.float32)
    blob[26:28, 15:17, 15:17] = 1.0  # on the axis to the right, at 11 voxels
    volume = Volume(blob, np.diag([2.0, 2.0, 2.0, 1.0]), sform_code=1)
    angle = np.deg2rad(12.0)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    oblique = Volume(volume.array, turn @ volume.affine, sform_code=1)
    frame, n_off = common_frame([Sample.of(volume, name="a"), Sample.of(oblique, name="b")])
    assert n_off == 1
    found = placed(oblique, frame)
    centre = [np.average(np.arange(n), weights=found.sum(others)) - (n - 1) / 2
              for n, others in zip(found.shape, ((1, 2), (0, 2), (0, 1)), strict=True)]  # fmt: skip
    assert centre == pytest.approx([11 * np.cos(angle), 11 * np.sin(angle), 0.0], abs=0.1)


def test_volumes_are_read_one_at_a_time_and_let_go(real, new):
    alive, most, reads = [], 0, []

    def watched(sample):
        def load():
            nonlocal most
            volume = sample.load()
            copy = volume.with_array(volume.array.copy())
            alive.append(weakref.ref(copy.array))
            if sum(ref() is not None for ref in alive) > 2:
                gc.collect()
            most = max(most, sum(ref() is not None for ref in alive))
            reads.append(sample.name)
            return copy

        return dataclasses.replace(sample, load=load, load_labels=None)

    evaluate([watched(s) for s in real[:5]], [watched(s) for s in new[:5]], settings=QUICK)
    assert len(reads) == len(set(reads)) == 10
    assert most <= 2


def test_equal_seeds_give_equal_figures_and_others_other_splits(real, new, usual):
    assert evaluate(real, new, settings=USUAL) == usual
    other = evaluate(real, new, settings=dataclasses.replace(QUICK, seed=1))
    assert distance(other, "energy").value == distance(usual, "energy").value
    assert distance(other, "energy").baseline != distance(usual, "energy").baseline


def test_figures_are_json_also_where_real_volumes_do_not_vary(real, new):
    same = real[0].load_labels()
    flat = [Sample.of(s.load(), name=s.name, labels=same) for s in real[:6]]
    found = evaluate(flat, new[:6], settings=QUICK)
    assert region(found, "label 1").distance.value == float("inf")
    content = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert (
        next(r for r in content["regions"] if r["name"] == "label 1")["distance"]["value"] is None
    )
    assert content["diversity"]["n_scales"] == 2


def broken(kind):
    volume = phantom_head(50)[0]
    array = volume.array.copy()
    if kind == "series":
        return volume.with_array(np.stack([array, array], -1))
    if kind == "complex":
        return volume.with_array(array.astype(np.complex64))
    if kind == "constant":
        return volume.with_array(np.full_like(array, 5.0))
    if kind == "nearly constant":
        array[:] = 0
        array[3, 3, 3] = 9
        return volume.with_array(array)
    if kind == "slice":
        return volume.slab(1, 3, 4)
    array[4, 5, 6] = np.nan
    return volume.with_array(array)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("series", "one 3D volume per file"),
        ("complex", "real intensities"),
        ("constant", "5 everywhere"),
        ("nearly constant", "0.2 %"),
        ("slice", "11 along every axis"),
        ("nan", "1 values that are NaN"),
    ],
)
def test_a_broken_volume_is_refused_by_name(real, new, kind, words):
    bad = Sample.of(broken(kind), name="the bad one")
    with pytest.raises(InvalidInputError, match=words) as caught:
        evaluate(real[:4], [*heads(range(3), labelled=False), bad], settings=QUICK)
    assert kind == "slice" or "the bad one" in str(caught.value)


def test_what_else_is_refused(real, new):
    with pytest.raises(InvalidInputError, match="1 real volume came"):
        evaluate(real[:1], new, settings=QUICK)
    with pytest.raises(InvalidInputError, match="0 generated volumes came"):
        evaluate(real, [], settings=QUICK)
    with pytest.raises(InvalidInputError, match="training set is empty"):
        evaluate(real, new, train=[], settings=QUICK)
    unlabelled = [*new[:9], *(dataclasses.replace(s, load_labels=None) for s in new[9:])]
    with pytest.raises(InvalidInputError, match="3 of 12 generated volumes have no label map"):
        evaluate(real, unlabelled, settings=QUICK)
    soft = [Sample.of(s.load(), name=s.name, labels=s.load()) for s in new[:4]]
    with pytest.raises(InvalidInputError, match="different values"):
        evaluate(real[:4], soft, settings=QUICK)
    with pytest.raises(UsageError, match="at least one"):
        EvaluateSettings(n_splits=0)
