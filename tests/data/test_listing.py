"""Cases from folders, tables and BIDS trees, their conditions, and the split by subject."""

import nibabel as nib
import numpy as np
import pytest
import torch

from medsci.data.bids import Bids
from medsci.data.listing import check_disjoint, list_cases
from medsci.data.nifti_slices import NiftiSlices
from medsci.data.nifti_volumes import NiftiVolumes
from medsci.errors import InvalidInputError, UsageError


def touch(path, value=1.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.zeros((8, 9, 6), dtype=np.float32)
    data[2:6, 2:7, 1:5] = value
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    return path


@pytest.fixture
def bids(tmp_path):
    root = tmp_path / "study"
    for subject in ("01", "02", "03"):
        for session in ("pre", "post"):
            stem = root / f"sub-{subject}/ses-{session}/anat/sub-{subject}_ses-{session}"
            touch(stem.with_name(stem.name + "_T1w.nii.gz"))
        touch(root / f"sub-{subject}/ses-pre/anat/sub-{subject}_ses-pre_run-1_FLAIR.nii.gz")
        touch(root / f"sub-{subject}/ses-pre/perf/sub-{subject}_ses-pre_T1w.nii.gz")
    touch(root / "derivatives/sub-01/anat/sub-01_T1w.nii.gz")
    (root / "participants.tsv").write_text(
        "participant_id\tage\tsex\nsub-01\t31\tF\nsub-02\t45.5\tM\nsub-03\t60\tF\nsub-99\t1\tM\n"
    )
    return root


def table(folder, n_subjects=8, header="image,subject,age,site\n", name="list.csv"):
    lines = [header]
    for index in range(n_subjects):
        for visit in range(2):
            touch(folder / f"images/p{index}_{visit}.nii.gz", value=1.0 + index)
            lines.append(
                f"images/p{index}_{visit}.nii.gz,p{index},{30 + index},{'BA'[index % 2]}\n"
            )
    (folder / name).write_text("".join(lines))
    return folder / name


def test_bids_takes_the_suffix_and_leaves_derivatives(bids):
    names = [case.path.name for case in list_cases(bids, bids=Bids("FLAIR"))]
    assert names == [f"sub-0{i}_ses-pre_run-1_FLAIR.nii.gz" for i in (1, 2, 3)]
    cases = list_cases(bids, bids=Bids("T1w"))
    assert len(cases) == 9
    assert cases.subjects == ("01", "02", "03")
    assert not any("derivatives" in str(case.path) for case in cases)


def test_bids_narrows_by_datatype_session_and_subject(bids):
    assert len(list_cases(bids, bids=Bids("T1w", datatype="anat"))) == 6
    choice = Bids("T1w", datatype="anat", sessions=("ses-post",), subjects=("02", "sub-03"))
    cases = list_cases(bids, bids=choice)
    assert [(case.subject, case.session) for case in cases] == [("02", "post"), ("03", "post")]


def test_participants_give_conditions_to_every_draw(bids):
    choice = Bids("T1w", datatype="anat", sessions=("pre",))
    cases = list_cases(bids, bids=choice, conditions=("age", "sex"))
    assert cases.vocabulary == {"sex": ("F", "M")}
    assert [case.conditions for case in cases] == [
        {"age": 31.0, "sex": 0}, {"age": 45.5, "sex": 1}, {"age": 60.0, "sex": 0},
    ]  # fmt: skip
    drawn = NiftiVolumes(cases).draw(1, 4)
    assert set(drawn) == {"x0", "age", "sex"}
    assert drawn["age"].dtype == torch.float32
    assert drawn["age"].item() == 45.5
    assert drawn["sex"].dtype == torch.int64
    assert drawn["sex"].item() == 1
    assert drawn["x0"].shape == (1, 8, 9, 6)


def test_a_slice_carries_the_conditions_of_its_own_volume(bids):
    cases = list_cases(bids, bids=Bids("FLAIR"), conditions=("age",))
    source = NiftiSlices(cases, size=(8, 8))
    ages = [source.draw(item, 0)["age"].item() for item in range(source.n_items)]
    assert ages == [31.0] * 4 + [45.5] * 4 + [60.0] * 4


def test_a_table_gives_its_further_columns(tmp_path):
    cases = list_cases(table(tmp_path))
    assert cases.condition_names == ("age", "site")
    assert cases.vocabulary == {"site": ("A", "B")}
    assert dict(cases.cases[0].conditions) == {"age": 30.0, "site": 1}
    assert list_cases(tmp_path / "list.csv", conditions=("site",)).condition_names == ("site",)
    assert list_cases(tmp_path / "list.csv", conditions=()).condition_names == ()


@pytest.mark.parametrize(("separator", "name"), [("\t", "l.tsv"), (";", "l.csv"), (",", "l.csv")])
def test_tables_of_every_separator_and_with_a_mark_at_the_front(tmp_path, separator, name):
    touch(tmp_path / "a b.nii.gz")
    text = separator.join(("image", "note")) + "\r\n" + separator.join(("a b.nii.gz", '"x, y"'))
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n\r\n")
    cases = list_cases(tmp_path / name)
    assert cases.vocabulary == {"note": ("x, y",)}


def test_the_split_is_by_subject_and_complete(tmp_path):
    path = table(tmp_path, n_subjects=20)
    sides = [
        list_cases(path, split=s, validation_fraction=0.3, conditions=())
        for s in ("train", "validation")
    ]
    assert not set(sides[0].subjects) & set(sides[1].subjects)
    assert len(sides[0]) + len(sides[1]) == 40
    check_disjoint(*sides)
    other = list_cases(path, split="validation", validation_fraction=0.3, split_seed=1)
    assert other.subjects != sides[1].subjects


def test_added_subjects_leave_the_others_where_they_are(tmp_path):
    few = table(tmp_path, n_subjects=20, name="few.csv")
    many = table(tmp_path, n_subjects=30, name="many.csv")
    kept = [
        set(list_cases(p, split="validation", validation_fraction=0.3).subjects)
        for p in (few, many)
    ]
    old = {f"p{i}" for i in range(20)}
    assert kept[1] & old == kept[0]
    assert len(kept[1]) > len(kept[0])


def test_the_share_of_validation_is_the_fraction(tmp_path):
    from medsci.data.splitting import split_subjects

    sides = split_subjects(map(str, range(4000)), fraction=0.2, where=tmp_path)
    share = sum(side == "validation" for side in sides.values()) / 4000
    assert share == pytest.approx(0.2, abs=4 * (0.16 / 4000) ** 0.5)
    assert sorted(split_subjects("ab", fraction=1e-9, where=tmp_path).values()) == [
        "train", "validation",
    ]  # fmt: skip
    assert sorted(split_subjects("ab", fraction=1.0, where=tmp_path).values()) == [
        "train", "validation",
    ]  # fmt: skip


def test_a_split_column_is_followed_and_labels_are_shared(tmp_path):
    for name in "abc":
        touch(tmp_path / f"{name}.nii.gz")
    path = tmp_path / "list.csv"
    path.write_text("image,split,site\na.nii.gz,train,Z\nb.nii.gz,validation,Y\nc.nii.gz,train,X\n")
    train, validation = (list_cases(path, split=s) for s in ("train", "validation"))
    assert [c.path.name for c in train] == ["a.nii.gz", "c.nii.gz"]
    assert train.vocabulary == validation.vocabulary == {"site": ("X", "Y", "Z")}
    assert validation.cases[0].conditions["site"] == 1


def test_a_vocabulary_of_training_is_kept(tmp_path):
    touch(tmp_path / "a.nii.gz")
    (tmp_path / "l.csv").write_text("image,site\na.nii.gz,7\n")
    cases = list_cases(tmp_path / "l.csv", vocabulary={"site": ("3", "7")})
    assert cases.cases[0].conditions == {"site": 1}
    with pytest.raises(InvalidInputError, match=r"'7', unknown in training"):
        list_cases(tmp_path / "l.csv", vocabulary={"site": ("3", "5")})


def test_subjects_of_a_folder_are_its_folders_else_its_files(tmp_path):
    touch(tmp_path / "ann/t1.nii.gz")
    touch(tmp_path / "ann/late/t1.nii.gz")
    touch(tmp_path / "bob/t1.nii.gz")
    touch(tmp_path / "eve.nii.gz")
    touch(tmp_path / "sub-07_T1w.nii")
    expected = ("07", "ann", "bob", "eve")
    assert list_cases(tmp_path).subjects == expected
    assert list_cases(sorted(tmp_path.rglob("*.nii*"))).subjects == expected
    assert list_cases(str(tmp_path / "*/*.nii.gz")).subjects == ("ann", "bob")


def test_a_file_found_twice_is_one_case(tmp_path):
    one = touch(tmp_path / "one.nii.gz")
    assert len(list_cases([tmp_path, one, str(tmp_path / "*.gz")])) == 1


def test_lists_that_share_a_subject_are_refused(tmp_path):
    one, two = touch(tmp_path / "a/sub-1_T1w.nii"), touch(tmp_path / "b/sub-1_T2w.nii")
    other = touch(tmp_path / "b/sub-2_T2w.nii")
    check_disjoint(list_cases(one), list_cases(other))
    with pytest.raises(InvalidInputError, match=r"subject 1 .* training and in the validation"):
        check_disjoint(list_cases(one), list_cases(two))


def test_a_split_without_a_rule_is_refused(tmp_path):
    touch(tmp_path / "one.nii.gz")
    with pytest.raises(UsageError, match="set validation_fraction"):
        list_cases(tmp_path, split="train")
    with pytest.raises(InvalidInputError, match=r"one subject .*cannot be split"):
        list_cases(tmp_path, split="train", validation_fraction=0.5)
