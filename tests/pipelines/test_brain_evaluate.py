"""Folders in, a page and its figures out: whole, repeatable, and refused in plain words."""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import typer
from contracts.phantom_heads import phantom_head
from typer.testing import CliRunner

from medsci.cli.brain_evaluate import evaluate as command
from medsci.errors import ExitCode, InvalidInputError, MedsciError, OutputExistsError, UsageError
from medsci.imaging import write_nifti
from medsci.pipelines.brain_evaluate import EvaluateJob, evaluate_volumes
from medsci.pipelines.brain_evaluate_files import find_volumes, label_names, samples_of
from medsci.pipelines.failure import explain

SECTIONS = [
    "What they look like",
    "Distances, beside real against real",
    "Diversity",
    "Memorisation",
    "Volumes of regions",
    "Distributions of these volumes",
    "Intensities",
    "How it was measured",
    "Provenance",
]
DOT = b"\x89PNG\r\n\x1a\n"  # what a picture begins with
TABLE = "index\tname\n0\tbackground\n1\tventricle\n2\tshell\n3\tinside\n"


def fill(folder, seeds, *, labels=True):
    for seed in seeds:
        volume, label = phantom_head(seed, n=22)
        write_nifti(volume, folder / f"sub-{seed:03d}_T1w.nii.gz")
        if labels:
            write_nifti(label, folder / f"sub-{seed:03d}_dseg.nii.gz")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("heads")
    (fill(root / "generated", range(100, 106)) / "dseg.tsv").write_text(TABLE, encoding="utf-8")
    fill(root / "train", range(100, 103), labels=False)
    return fill(root / "real", range(6)), root / "generated", root / "train"


@pytest.fixture(scope="module")
def made(folders, tmp_path_factory):
    """The page and the figures of one comparison."""
    page = tmp_path_factory.mktemp("out") / "report.html"
    report = evaluate_volumes(folders[0], folders[1], page, job=EvaluateJob(splits=2))
    return report, page, json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))


class Page(HTMLParser):
    """Headings and pictures of a page, and whether every tag that opens closes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.pictures = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.pictures.append(dict(attrs))
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def test_the_page_opens_with_every_section_and_picture(made):
    page = Page(made[1].read_text(encoding="utf-8"))
    assert page.open == []
    assert page.headings == SECTIONS
    assert len(page.pictures) == 7  # two mosaics, four regions, one histogram
    for picture in page.pictures:
        kind, _, data = picture["src"].partition("base64,")
        assert kind == "data:image/png;"
        assert base64.b64decode(data).startswith(b"\x89PNG")
        assert picture["alt"]


def test_the_page_says_what_it_rests_on(made):
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", made[1].read_text(encoding="utf-8")))
    for words in (
        "6 generated volumes, 6 real volumes",
        "There are only 6 real and 6 generated volumes",
        "fixed random 3 x 3 convolutions",
        "22 × 22 × 22 voxels of 8 × 8 × 8 mm",
        "No training set was given, so the real volumes stand for it",
        "sub-101_T1w.nii.gz",
        "ventricle",
    ):
        assert words in text


def test_figures_stand_beside_with_what_ran_on_what(made, folders):
    report, page, figures = made
    assert (report.status, report.outputs["figures"]) == ("done", page.with_suffix(".json"))
    found = figures["Evaluation"]
    assert [r["name"] for r in found["regions"]] == ["head", "ventricle", "shell", "inside"]
    assert found["n_splits"] == 2
    assert len(figures["Files"]["real"]) == 6
    record = figures["MedsciProvenance"]
    assert record["Command"].startswith("medsci brain evaluate real generated -o report.html")
    assert record["Inputs"]["generated"]["N"] == 6
    assert str(folders[0].parent) not in page.with_suffix(".json").read_text(encoding="utf-8")
    assert str(folders[0].parent) not in page.read_text(encoding="utf-8")
    json.dumps(report.as_dict(), allow_nan=False)


def test_the_command_repeats_it_byte_for_byte(made, folders, tmp_path):
    app = typer.Typer()
    app.command()(command)
    again = tmp_path / "report.html"
    words = [str(folders[0]), str(folders[1]), "-o", str(again), "--splits", "2", "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["result"]["n_generated"] == 6
    assert again.read_bytes() == made[1].read_bytes()
    assert again.with_suffix(".json").read_bytes() == made[1].with_suffix(".json").read_bytes()
    refused = CliRunner().invoke(app, words)
    assert explain(refused.exception).code == ExitCode.OUTPUT_EXISTS
    skipped = CliRunner().invoke(app, [*words, "--skip-existing"])
    assert json.loads(skipped.stdout.splitlines()[-1])["status"] == "skipped"


def test_copies_of_a_training_folder_are_warned_about(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("medsci.report.brain.three_planes", lambda *_, **__: DOT)
    page = tmp_path / "r.html"
    job = EvaluateJob(train=folders[2], labels="none", splits=1, seed=3)
    evaluate_volumes(folders[0], folders[1], page, job=job)
    found = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))["Evaluation"]
    assert found["memorisation"]["against"] == "train"
    assert found["memorisation"]["n_copies"] == 3
    assert [r["name"] for r in found["regions"]] == ["head"]
    text = page.read_text(encoding="utf-8")
    assert "3 of 6 generated volumes are a training volume" in text
    assert "No label maps were measured" in text
    assert "--train train --seed 3" in text


def test_images_are_told_from_maps_by_their_names(tmp_path):
    volume = phantom_head(0, n=12)[0]
    for name in ("a_T1w", "a_dseg", "b", "b_dseg", "c_T1w", "c_mask", "c_hallucination"):
        write_nifti(volume, tmp_path / "deep" / f"{name}.nii.gz")
    write_nifti(volume, tmp_path / "other" / "b.nii")
    files = find_volumes(tmp_path)
    assert [p.name for p in files.images] == ["a_T1w.nii.gz", "b.nii.gz", "c_T1w.nii.gz", "b.nii"]
    assert [p and p.name for p in files.labels] == ["a_dseg.nii.gz", "b_dseg.nii.gz", None, None]
    assert files.n_left_out == 4
    twice = find_volumes(str(tmp_path / "*" / "b.*"))
    assert twice.names == ("b.nii.gz", "b.nii")


def test_headers_are_read_without_voxels_and_one_more_axis_is_dropped(tmp_path):
    volume = phantom_head(0, n=12)[0]
    turned = volume.to_orientation("LPS")
    write_nifti(turned.with_array(turned.array[..., None]), tmp_path / "a.nii.gz")
    (sample,) = samples_of(find_volumes(tmp_path / "a.nii.gz"))
    assert sample.shape == (12, 12, 12)
    np.testing.assert_allclose(sample.affine, turned.affine, atol=1e-5)
    np.testing.assert_array_equal(sample.load().array, turned.array)


def test_names_of_labels_come_from_tables_that_agree(tmp_path):
    volume = phantom_head(0, n=12)[0]
    sets = []
    for side in ("real", "generated"):
        for name in ("a", "a_dseg"):
            write_nifti(volume, tmp_path / side / f"{name}.nii.gz")
        sets.append(find_volumes(tmp_path / side))
    assert label_names(*sets) == ({}, {})
    names = {0: "background", 1: "ventricle", 2: "shell", 3: "inside"}
    (tmp_path / "real" / "dseg.tsv").write_text(TABLE, encoding="utf-8")
    assert label_names(*sets) == (names, names)
    other = tmp_path / "generated" / "dseg.tsv"
    other.write_text("index\tname\n1\tinside\n2\tshell\n3\tventricle\n", encoding="utf-8")
    assert label_names(*sets)[1] == {1: "inside", 2: "shell", 3: "ventricle"}
    other.write_text("index\tname\n1\tgrey\n", encoding="utf-8")
    with pytest.raises(InvalidInputError, match="generated ones grey; use one naming"):
        label_names(*sets)


def broken(kind, volume):
    """Return an image that nothing can be compared with."""
    array = volume.array.copy()
    if kind == "series":
        return volume.with_array(np.stack([array, array], -1))
    if kind == "constant":
        return volume.with_array(np.zeros_like(array))
    if kind == "nan":
        array[3, 3, 3] = np.inf
    return volume.with_array(array)


def bad_set(kind, folder, tmp_path):
    """Return a set that cannot be compared."""
    place = tmp_path / kind
    place.mkdir()
    if kind == "no folder":
        return tmp_path / "nowhere"
    if kind == "one":
        return folder / "sub-001_T1w.nii.gz"
    if kind == "damaged":
        for seed in range(4):
            (place / f"{seed}.nii.gz").write_bytes(b"\x1f\x8b not an image")
    if kind in ("series", "nan", "constant", "unlabelled"):
        for seed in range(3):
            write_nifti(phantom_head(seed, n=22)[0], place / f"{seed}.nii.gz")
        write_nifti(broken(kind, phantom_head(7, n=22)[0]), place / "bad.nii.gz")
    if kind in ("only maps", "unlabelled"):
        write_nifti(phantom_head(7, n=22)[1], place / "bad_dseg.nii.gz")
    return place


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("empty", "no NIfTI file at"),
        ("no folder", "no NIfTI file at"),
        ("only maps", "none of an image"),
        ("one", "1 generated volume came"),
        ("series", "bad.nii.gz has shape .* one 3D volume"),
        ("nan", "bad.nii.gz holds 1 values"),
        ("constant", "bad.nii.gz is constant"),
        ("unlabelled", "3 of 4 generated volumes have no label map"),
        ("damaged", "0.nii.gz"),
    ],
)
def test_bad_input_is_one_line_and_exit_4(folders, tmp_path, kind, words):
    bad = bad_set(kind, folders[0], tmp_path)
    with pytest.raises(MedsciError, match=words) as caught:
        evaluate_volumes(folders[0], bad, tmp_path / "r.html")
    assert explain(caught.value).code == ExitCode.INVALID_INPUT
    assert "\n" not in str(caught.value)
    assert list(tmp_path.glob("r.*")) == []


def test_outputs_are_checked_before_anything_is_read(made, folders, tmp_path):
    with pytest.raises(UsageError, match=r"name it \*\.html"):
        evaluate_volumes(folders[0], folders[1], tmp_path / "r.pdf")
    with pytest.raises(OutputExistsError):
        evaluate_volumes(folders[0], folders[1], made[1])
