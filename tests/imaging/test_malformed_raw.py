"""Raw files that cannot be read: each gives one helpful line, and exit code 4 at the command line.

What can be wrong inside our own format, fastMRI's and DICOM is tested next to them; here are the
other formats of k-space, and the way through the command line for all of them.
"""

import re

import h5py
import numpy as np
import pytest
from ismrmrd_samples import ROW, Scan, bit, noise_lines, save
from kspace_samples import MASK, noise, sample

from medsci.errors import ExitCode, InvalidInputError
from medsci.imaging import read_kspace, write_kspace
from medsci.imaging.bart import write_cfl

SCAN = Scan(n_read=8, n_phase=6, n_slices=2)
THICK = Scan(n_read=8, n_phase=6, n_partitions=4)


def raw(folder, *, scan=SCAN, edit=None, xml=None, more=(), keep=None):
    """An ISMRMRD file of the scan; `edit(head, samples)` returns what is written instead."""
    lines = [line for n, line in enumerate(scan.lines()) if keep is None or keep(n, line[0])]
    lines = [line if edit is None else edit(*line) for line in lines]
    return save(folder / "raw.h5", [*more, *lines], xml or scan.xml())


def head(**changes):
    """An edit of headers."""

    def edit(one, samples):
        for name, value in changes.items():
            target = one["idx"] if name not in one.dtype.names else one
            target[name] = value
        return one, samples

    return edit


def odd_lines(change):
    """The same for lines of odd counter only."""

    def edit(one, samples):
        return change(one, samples) if one["idx"]["kspace_encode_step_1"] % 2 else (one, samples)

    return edit


def fewer_coils(one, samples):
    one["active_channels"] = 2
    return one, samples[:2]


def shorter(one, samples):
    return one, samples[:, :5]


def turned(one, samples):
    if one["idx"]["slice"] == 1:
        one["slice_dir"], one["read_dir"] = one["read_dir"].copy(), one["slice_dir"].copy()
    return one, samples


def far_away(one, samples):
    if one["idx"]["slice"] == 1:
        one["position"] += 20 * SCAN.directions[:, 2]
    return one, samples


def two_coils_of_noise():
    narrow = Scan(n_read=8, coils=np.ones(2))
    return list(noise_lines(narrow, np.random.default_rng(0), np.eye(2)))


def quiet_noise(**options):
    return list(noise_lines(SCAN, np.random.default_rng(0), np.eye(3), **options))


def dead_coil():
    return list(noise_lines(SCAN, np.random.default_rng(0), np.diag([1.0, 0.0, 1.0])))


def infinite_noise():
    return [(one, samples * np.inf) for one, samples in quiet_noise(n=1)]


def table(folder, *, dtype=ROW, xml=None):
    with h5py.File(folder / "raw.h5", "w") as file:
        file["dataset/xml"] = np.bytes_(xml or SCAN.xml())
        file.create_dataset("dataset/data", shape=(2,), dtype=dtype)
    return folder / "raw.h5"


def without(name):
    inner = ROW["head"]
    kept = [(n, inner[n]) for n in inner.names if n != name]
    return np.dtype([("head", np.dtype(kept)), ("data", ROW["data"])])


def cut(path, part):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    return path


ISMRMRD = {
    "no imaging lines": (lambda d: raw(d, edit=head(flags=bit(19))), "none of the 12 readouts"),
    "only navigators": (lambda d: raw(d, edit=head(flags=bit(23))), "is an imaging line"),
    "no readouts": (lambda d: save(d / "raw.h5", [], SCAN.xml()), "none of the 0 readouts"),
    "radial": (lambda d: raw(d, xml=SCAN.xml(trajectory="radial")), "is radial, and only cart"),
    "spiral": (lambda d: raw(d, xml=SCAN.xml(trajectory="Spiral")), "is spiral, and only cart"),
    "broken xml": (lambda d: raw(d, xml="<ismrmrdHeader"), "no valid UTF-8 XML"),
    "no encoding": (lambda d: raw(d, xml="<ismrmrdHeader/>"), "no encoding section"),
    "field of view 0": (
        lambda d: raw(d, xml=SCAN.xml().replace("<x>96.0</x>", "<x>0</x>")),
        "'0' for encodedSpace/fieldOfView_mm/x",
    ),
    "centre in words": (
        lambda d: raw(d, xml=SCAN.xml(centre="half")), "'half' for encodingLimits",
    ),
    "version 2": (lambda d: raw(d, edit=head(version=2)), "of ISMRMRD version 2"),
    "mixed coils": (lambda d: raw(d, edit=odd_lines(fewer_coils)), "have 2 and 3 coils"),
    "readout cut short": (lambda d: raw(d, edit=shorter), "its header says 3 coils x 16 samples"),
    "readout too long": (
        lambda d: raw(d, xml=SCAN.xml().replace("<x>16</x>", "<x>12</x>")),
        "readout of 16 samples with its centre at 8 does not fit",
    ),
    "centre outside": (lambda d: raw(d, edit=head(center_sample=14)), "does not fit into"),
    "line outside": (
        lambda d: raw(d, edit=head(kspace_encode_step_1=9)), "kspace_encode_step_1 is 9",
    ),
    "nothing but one line": (
        lambda d: raw(d, keep=lambda n, h: h["idx"]["kspace_encode_step_1"] == 0),
        "no centre lines",
    ),
    "several repetitions": (
        lambda d: raw(d, edit=odd_lines(head(repetition=3))), "repetition 0, 3; choose one",
    ),
    "several slabs": (
        lambda d: raw(d, scan=THICK, edit=odd_lines(head(slice=1))), "slice 0, 1; choose one",
    ),
    "slices sampled differently": (
        lambda d: raw(d, keep=lambda n, h: n != 0), "sampled on different lines",
    ),
    "undersampled twice": (
        lambda d: raw(d, scan=THICK, keep=lambda n, h: h["idx"]["kspace_encode_step_2"] != 1),
        "undersampled along kspace_encode_step_2",
    ),
    "localiser": (lambda d: raw(d, edit=turned), "slices are not parallel"),
    "uneven slices": (
        lambda d: raw(d, scan=Scan(n_read=8, n_phase=6, n_slices=3), edit=far_away),
        "away from an even stack",
    ),
    "noise of fewer coils": (lambda d: raw(d, more=two_coils_of_noise()), "scan has 2 coils and"),
    "noise too short": (lambda d: raw(d, more=quiet_noise(n=1, n_samples=4)), "has 4 samples"),
    "a coil that is off": (lambda d: raw(d, more=dead_coil()), r"coils \[1\] show no noise"),
    "infinite noise": (lambda d: raw(d, more=infinite_noise()), "noise scan holds NaN"),
    "infinite samples": (
        lambda d: raw(d, edit=lambda h, s: (h, s * np.nan)), "NaN or infinite samples",
    ),
    "all zero": (lambda d: raw(d, edit=lambda h, s: (h, 0 * s)), "nothing but zeros; check"),
    "no data in the table": (lambda d: table(d, dtype=np.dtype([("x", "f4")])), "lacks data, head"),
    "header without flags": (lambda d: table(d, dtype=without("flags")), "lacks flags"),
    "cut short": (lambda d: cut(raw(d), 0.7), "cut short, damaged or not HDF5"),
}  # fmt: skip


def pair(folder, array=None, *, header=None, size=None):
    """A BART pair, damaged as asked."""
    array = noise((8, 10, 1, 2)) if array is None else array
    path = write_cfl(array, folder / "raw")
    if header is not None:
        (folder / "raw.hdr").write_text(header)
    if size is not None:
        path.write_bytes(path.read_bytes()[:size])
    return path


def lonely(folder, suffix):
    (pair(folder).with_suffix(suffix)).unlink()
    return folder / "raw.cfl"


def two_fold():
    samples = noise((8, 10, 4, 2))
    samples[:, :, 1] = 0
    return samples


BART = {
    "no header": (lambda d: lonely(d, ".hdr"), "raw.hdr is missing; BART data are a pair"),
    "no data": (lambda d: lonely(d, ".cfl"), "raw.cfl is missing; BART"),
    "data cut short": (lambda d: pair(d, size=100), "has 100 bytes, raw.hdr .8 x 10 x 1 x 2"),
    "header of another": (lambda d: pair(d, header="# Dimensions\n4 4\n"), "needs 128; copy"),
    "header is prose": (lambda d: pair(d, header="eight by ten\n"), "no BART header"),
    "dimensions in words": (lambda d: pair(d, header="# Dimensions\n8 ten\n"), "no BART header"),
    "negative dimension": (lambda d: pair(d, header="# Dimensions\n8 -10\n"), "must be 1 to 16"),
    "radial": (lambda d: pair(d, noise((1, 8, 10, 2))), "no readout .*grid them first"),
    "echoes": (lambda d: pair(d, noise((8, 10, 1, 2, 1, 3))), "5: 3.*pick the rest"),
    "partitions left out": (lambda d: pair(d, two_fold()), "along partitions"),
    "no number": (lambda d: pair(d, noise((8, 10)) * np.nan), "NaN or infinite"),
    "zero": (lambda d: pair(d, 0 * noise((8, 10))), "mask is empty"),
}  # fmt: skip


def arrays(folder, *, name="raw.npz", **changes):
    content = {"kspace": noise() * MASK, "mask": MASK, "affine": np.eye(4), **changes}
    np.savez(folder / name, **{k: v for k, v in content.items() if v is not None})
    return folder / name


def pickled(folder):
    np.savez(folder / "raw.npz", kspace=np.array([{"a": 1}], dtype=object))
    return folder / "raw.npz"


def written(folder, content, name="raw.h5"):
    (folder / name).write_bytes(content)
    return folder / name


NUMPY = {
    "no kspace": (lambda d: arrays(d, kspace=None), "array kspace is missing; there is affine"),
    "magnitude": (lambda d: arrays(d, kspace=np.ones((3, 2, 8, 10))), "must be complex"),
    "two axes": (lambda d: arrays(d, kspace=noise((8, 10))), "shape .8, 10., but it must"),
    "mask of another size": (lambda d: arrays(d, mask=np.ones(9)), "phase-encoding lines"),
    "mask of a number": (lambda d: arrays(d, mask=np.float32(1)), "phase-encoding lines"),
    "mask of weights": (lambda d: arrays(d, mask=MASK * 0.5), "must hold True and False"),
    "mask without a centre": (
        lambda d: arrays(d, mask=np.arange(10) < 3, kspace=noise() * (np.arange(10) < 3)),
        "no centre lines",
    ),
    "samples off the mask": (lambda d: arrays(d, kspace=noise()), "mask says were not acquired"),
    "maps of another size": (lambda d: arrays(d, maps=noise((3, 2, 8, 9))), "coil maps have"),
    "maps without a number": (lambda d: arrays(d, maps=noise() * np.nan), "coil maps array holds"),
    "affine of 3": (lambda d: arrays(d, affine=np.eye(3)), "affine must be"),
    "affine without volume": (lambda d: arrays(d, affine=np.diag([1, 1, 0, 1.0])), "affine must"),
    "reference of another size": (
        lambda d: arrays(d, reference=np.ones((3, 4, 4))), "the reference is",
    ),
    "pickled objects": (pickled, "no NumPy file of plain numbers"),
    "npz cut short": (lambda d: cut(arrays(d), 0.5), "cut short, damaged or no NumPy"),
    "npy cut short": (
        lambda d: written(d, b"\x93NUMPY\x01\x00v\x00{'descr': '<c8', 'fortran"), "cut short",
    ),
}  # fmt: skip


def dicom(folder):
    return written(folder, bytes(128) + b"DICM" + bytes(300))


def nifti(folder):
    return written(folder, bytes(344) + b"n+1\0" + bytes(300))


def off_size(folder):
    path = write_kspace(sample(), folder / "raw.h5")
    with h5py.File(path, "r+") as file:
        file["maps"] = np.zeros((3, 2, 8, 11), np.complex64)
    return path


def zeros(name):
    def make(folder):
        path = write_kspace(sample(maps=noise(seed=1)), folder / "raw.h5")
        with h5py.File(path, "r+") as file:
            file[name][...] = 0
        return path

    return make


def groups_only(folder):
    with h5py.File(folder / "raw.h5", "w") as file:
        file.create_group("dataset/xml")
        file.create_group("dataset/data")
    return folder / "raw.h5"


OTHERS = {
    "groups for datasets": (groups_only, "dataset kspace is missing; the file has .'dataset'."),
    "DICOM": (dicom, "this is DICOM, not k-space"),
    "NIfTI": (nifti, "this is NIfTI, not k-space"),
    "compressed": (lambda d: written(d, b"\x1f\x8b" + bytes(50)), "a compressed file, not k-sp"),
    "text": (lambda d: written(d, b"kspace\n" * 99), "not HDF5"),
    "zero samples": (zeros("kspace"), "k-space holds nothing but zeros; check"),
    "zero maps": (zeros("maps"), "coil maps hold nothing but zeros; leave"),
    "maps of another matrix": (off_size, "coil maps have shape"),
}  # fmt: skip

CASES = {
    f"{kind}: {name}": case
    for kind, cases in (("ismrmrd", ISMRMRD), ("bart", BART), ("numpy", NUMPY), ("other", OTHERS))
    for name, case in cases.items()
}


def check_line(message, name, words):
    assert re.search(words, message), message
    assert name in message
    assert "\n" not in message
    assert re.search("[;:] ", message.split(name, 1)[1]), "problem, then remedy"
    assert len(message) < 420


@pytest.mark.filterwarnings("ignore::medsci.imaging.GeometryWarning")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("case", CASES)
def test_one_helpful_line(tmp_path, case):
    make, words = CASES[case]
    path = make(tmp_path)
    with pytest.raises(InvalidInputError, match=words) as caught:
        read_kspace(path)
    assert caught.value.exit_code == ExitCode.INVALID_INPUT == 4
    check_line(str(caught.value), "raw.", words)


def test_there_are_enough_cases():
    assert len(CASES) >= 50


def test_control_what_is_damaged_here_is_read_when_whole(tmp_path):
    assert read_kspace(raw(tmp_path, more=quiet_noise())).n_coils == 3
    assert read_kspace(raw(tmp_path, scan=THICK)).n_slices == 4
    assert read_kspace(pair(tmp_path), spacing_mm=(1, 1, 1)).n_coils == 2
    assert read_kspace(arrays(tmp_path)).n_slices == 3


@pytest.mark.filterwarnings("ignore::medsci.imaging.GeometryWarning")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("case", [name for name in CASES if "no data" not in name][::2])
def test_at_the_command_line(tmp_path, capfd, case):
    from medsci.cli.main import main

    (tmp_path / "in").mkdir()
    make, words = CASES[case]
    path = make(tmp_path / "in")
    before = sorted(tmp_path.rglob("*"))
    code = main(["recon", "mri", "-i", str(path), "-o", str(tmp_path / "out.nii.gz")])
    out, err = capfd.readouterr()
    assert code == 4
    assert out == ""
    (line,) = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert line.startswith("error: ")
    check_line(line, "raw.", words)
    assert sorted(tmp_path.rglob("*")) == before
