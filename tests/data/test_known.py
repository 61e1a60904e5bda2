import gzip
import io
import plistlib
import tarfile

import numpy as np
import pytest
import SimpleITK

from medsci.data import registry
from medsci.data.known import read_data
from medsci.errors import InvalidInputError


@pytest.fixture
def placed(monkeypatch, tmp_path):
    """Return a function that makes a registry entry of a file below MEDSCI_DATA."""

    def place(name: str) -> object:
        entry = registry.DataEntry("made-up", "a volume", "", name, "make it", "", "own", "none")
        monkeypatch.setattr(registry, "_ENTRIES", (entry,))
        monkeypatch.setenv("MEDSCI_DATA", str(tmp_path))
        return tmp_path / name

    return place


def test_nrrd_keeps_its_place_in_the_world(placed) -> None:
    path = placed("image.nrrd")
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing((0.5, 0.6, 5.0))
    image.SetOrigin((10.0, -20.0, 30.0))
    SimpleITK.WriteImage(image, str(path))
    volume = read_data("made-up")
    assert np.array_equal(volume.array, array.T)
    assert np.allclose(volume.affine @ (1, 1, 1, 1), (-10.5, 19.4, 35.0, 1.0))  # LPS became RAS


def test_invesalius_rows_run_to_the_front(placed) -> None:
    path = placed("head.inv3")
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    plist = {"matrix": {"dtype": "int16", "shape": [3, 4, 5]}, "spacing": [0.9, 0.8, 1.5]}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in (
            ("main.plist", plistlib.dumps(plist)),
            ("matrix.dat", array.tobytes()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    path.write_bytes(gzip.compress(buffer.getvalue()))
    volume = read_data("made-up")
    assert volume.orientation == ("L", "A", "S")
    assert np.array_equal(volume.array, array.transpose(2, 1, 0))
    assert np.allclose(np.abs(np.diag(volume.affine)[:3]), (0.9, 0.8, 1.5))


def test_absent_and_unknown_are_told_apart(placed) -> None:
    placed("nothing.nii.gz")
    with pytest.raises(InvalidInputError, match="not on this machine; get it by: make it"):
        read_data("made-up")
    with pytest.raises(InvalidInputError, match="no data are registered"):
        read_data("other")
