"""The page on generated volumes: what it warns of, and which words go with which numbers."""

import dataclasses

import numpy as np
import pytest
from contracts.phantom_heads import phantom_head

from medsci.brain.evaluating import EvaluateSettings, evaluate
from medsci.brain.frame import Frame
from medsci.brain.portrait import Describer
from medsci.brain.samples import Sample
from medsci.imaging import Volume
from medsci.report.brain import BrainPictures, NearestPair, brain_report
from medsci.report.brain_text import SIDES_UNKNOWN

DOT = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Note what would be drawn."""
    columns = []
    monkeypatch.setattr("medsci.report.brain_sections.curve", lambda *_, **__: DOT)
    monkeypatch.setattr(
        "medsci.report.brain.three_planes", lambda named, **_: columns.append(dict(named)) or DOT
    )
    return columns


@pytest.fixture(scope="module")
def samples():
    return [Sample.of(phantom_head(i, n=14)[0], name=f"head {i}") for i in range(9)]


@pytest.fixture(scope="module")
def found(samples):
    settings = EvaluateSettings(n_splits=2, n_pairs=3, n_deals=19)
    return evaluate(samples[:4], samples[4:8], settings=settings)


def pictures(samples, found, *, sure=True):
    describer = Describer(Frame(found.shape, found.voxel_mm), with_labels=False)
    volumes = [describer.scaled(sample)[0] for sample in samples]
    if not sure:
        volumes[0] = dataclasses.replace(volumes[0], sform_code=0, qform_code=0)
    pair = NearestPair(generated=volumes[4], train=volumes[1], names=("g", "t"), ratio=0.5)
    return BrainPictures(
        real=volumes[:2], generated=volumes[4:6], names=(["a", "b"], ["c", "d"]), pairs=[pair]
    )


def test_real_and_generated_share_one_picture_and_suspects_stand_beside_neighbours(
    samples, found, drawn
):
    shown = pictures(samples, found)
    report = brain_report(found, pictures=shown, provenance={"Seed": 0})
    assert [list(columns) for columns in drawn] == [
        ["real 1", "real 2", "generated 1", "generated 2"],
        ["generated 1", "nearest 1"],
    ]
    assert drawn[0]["generated 1"] is shown.generated[0]
    figure = report.sections[0].figures[0]
    assert "real 2: b; generated 1: c" in figure.caption
    assert "g and t, 0.50" in report.sections[3].figures[0].caption


def test_unknown_sides_are_said(samples, found):
    sure = brain_report(found, pictures=pictures(samples, found), provenance={})
    unsure = brain_report(found, pictures=pictures(samples, found, sure=False), provenance={})
    assert SIDES_UNKNOWN not in sure.warnings
    assert SIDES_UNKNOWN in unsure.warnings


def test_scaling_keeps_what_is_known_of_the_orientation(samples, found):
    describer = Describer(Frame(found.shape, found.voxel_mm), with_labels=False)
    volume = samples[0].load()
    unsure = Volume(volume.array, volume.affine, sform_code=0, qform_code=0)
    for each in (volume, unsure):
        scaled, window = describer.scaled(Sample.of(each, name="a"))
        assert scaled.has_orientation == each.has_orientation
        assert (scaled.array.min(), scaled.array.max()) == (0.0, 1.0)
        assert window == tuple(np.percentile(volume.array, (0.1, 99.9)))


def test_every_table_gives_its_numbers_of_volumes(samples, found):
    report = brain_report(found, pictures=pictures(samples, found), provenance={})
    rows = {row[0]: row for s in report.sections for t in s.tables for row in t.rows}
    for distance in (*found.distances, found.memorisation.ratio):
        row = rows[distance.title]
        assert row[3] == distance.n_matched == 2
        assert row[6] == "4, 4"
        assert "(" in str(row[1])
        assert "(" in str(row[2])
    assert "There are only 4 real and 4 generated" in report.warnings[0]


def test_words_of_the_training_set_go_with_one(samples, found):
    shown = pictures(samples, found)
    plain = brain_report(found, pictures=shown, provenance={}).sections[3].paragraphs[0]
    memory = dataclasses.replace(found.memorisation, against="train")
    trained = dataclasses.replace(found, train=tuple("uvwx"), memorisation=memory)
    report = brain_report(trained, pictures=shown, provenance={})
    assert "No training set was given" in plain
    assert "nearest training volume" in report.sections[3].paragraphs[0]
    assert "4 training volumes" in report.subtitle
