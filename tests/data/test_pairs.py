"""Files of pairs: what is written is drawn, in any process; what is no such file is said."""

import hashlib
import pickle

import h5py
import numpy as np
import pytest
import torch

from medsci.data.pairs import PairFile, PairInfo, write_pair_file
from medsci.errors import InvalidInputError, OutputExistsError, UsageError

INFO = PairInfo("tiny", "a" * 64, seed=3, steps=20, solver="ddim", guidance=2.5)


def batch(n=4, seed=0, shape=(2, 6, 5)):
    draw = torch.Generator().manual_seed(seed)
    x0, z = (torch.randn(n, *shape, generator=draw) for _ in range(2))
    return x0, z, {"label": torch.arange(n), "age": torch.rand(n, 3, generator=draw)}


def write(path, *, n=6, dtype="float16", overwrite=False):
    x0, z, cond = batch(n)
    with write_pair_file(path, n_items=n, info=INFO, dtype=dtype, overwrite=overwrite) as add:
        for start in range(0, n, 4):
            part = slice(start, start + 4)
            add(x0[part], z[part], {name: value[part] for name, value in cond.items()})
    return path


@pytest.fixture
def pairs(tmp_path):
    return write(tmp_path / "pairs.h5")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_written_is_drawn(tmp_path, dtype):
    source = PairFile(write(tmp_path / "p.h5", dtype=dtype))
    x0, z, cond = batch(6)
    assert source.n_items == 6
    assert source.item_shape == (2, 6, 5)
    assert source.info == INFO
    assert source.conditions == ("age", "label")
    for item in (5, 0, 3):
        drawn = source.draw(item, seed=item)
        kept = torch.float16 if dtype == "float16" else torch.float32
        assert torch.equal(drawn["x0"], x0[item].to(kept).float())
        assert torch.equal(drawn["noise"], z[item].to(kept).float())
        assert drawn["label"].item() == item
        assert drawn["label"].dtype == torch.int64
        torch.testing.assert_close(drawn["age"], cond["age"][item])
    assert not torch.equal(source.draw(0, 0)["x0"], source.draw(1, 0)["x0"])
    with h5py.File(source.path) as file:
        assert file["x0"].dtype == dtype
        assert file["x0"].chunks == (1, 2, 6, 5)
        assert file.attrs["format_version"] == 1


def test_equal_content_gives_equal_bytes(tmp_path):
    digests = {
        hashlib.sha256(write(tmp_path / name).read_bytes()).hexdigest() for name in ("a.h5", "b.h5")
    }
    assert len(digests) == 1


def test_every_process_opens_the_file_for_itself(pairs):
    source = PairFile(pairs)
    expected = source.draw(2, 0)["x0"]  # now it is open here
    again = pickle.loads(pickle.dumps(source))
    assert again._handle is None
    assert torch.equal(again.draw(2, 0)["x0"], expected)

    class Items(torch.utils.data.Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, i):
            return source.draw(i, 0)["x0"]

    loader = torch.utils.data.DataLoader(
        Items(), batch_size=2, num_workers=2, multiprocessing_context="fork"
    )
    assert torch.equal(
        torch.cat(list(loader)), torch.stack([source.draw(i, 0)["x0"] for i in range(6)])
    )


def test_nothing_half_written_is_left(tmp_path, pairs):
    before = pairs.read_bytes()

    def stop(path, error=None, **options):
        with write_pair_file(path, n_items=4, info=INFO, **options) as add:
            add(*batch(2))
            if error is not None:
                raise error

    with pytest.raises(KeyboardInterrupt):
        stop(tmp_path / "new.h5", KeyboardInterrupt())
    with pytest.raises(UsageError, match="2 pairs came and 4 were announced"):
        stop(pairs, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.h5"]
    assert pairs.read_bytes() == before


def test_batches_that_do_not_fit_are_refused(tmp_path):
    x0, z, cond = batch(2)

    def attempt(*second, **options):
        with write_pair_file(tmp_path / "p.h5", n_items=4, info=INFO, **options) as add:
            add(x0, z, cond)
            add(*second)

    with pytest.raises(InvalidInputError, match="batches of one shape"):
        attempt(*batch(2, shape=(2, 5, 5)))
    with pytest.raises(InvalidInputError, match="none before"):
        attempt(x0, z, cond | {"sex": torch.arange(2)})
    with pytest.raises(InvalidInputError, match="another name"):
        attempt(x0, z, {"noise": z})
    with pytest.raises(UsageError, match="5 pairs came"):
        attempt(*batch(3))
    with pytest.raises(InvalidInputError, match="not finite as float16"):
        attempt(1e6 * x0, z, cond)
    with pytest.raises(InvalidInputError, match="not finite as float32"):
        attempt(x0 / 0.0, z, cond, dtype="float32")
    attempt(1e6 * x0, z, cond, dtype="float32")  # the control
    with pytest.raises(OutputExistsError):
        attempt(x0, z, cond)
    with (
        pytest.raises(UsageError, match=r"must end in \.h5"),
        write_pair_file(tmp_path / "p.npz", n_items=4, info=INFO),
    ):
        pass
    with (
        pytest.raises(UsageError, match="one or more"),
        write_pair_file(tmp_path / "q.h5", n_items=0, info=INFO),
    ):
        pass


def missing(path):
    path.unlink()


def folder(path):
    path.unlink()
    path.mkdir()


def empty(path):
    path.write_bytes(b"")


def cut_short(path):
    path.write_bytes(path.read_bytes()[:2000])


def text(path):
    path.write_text("x0,noise\n")


def edit(change):
    def spoil(path):
        with h5py.File(path, "r+") as file:
            change(file)

    return spoil


def without(name):
    return edit(lambda file: file.__delitem__(name))


def attribute(name, value):
    return edit(lambda file: file.attrs.__setitem__(name, value))


def replaced(name, value):
    def change(file):
        del file[name]
        file[name] = value

    return edit(change)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (missing, "does not exist"),
        (folder, "is a folder"),
        (empty, "is empty"),
        (cut_short, "cut short, damaged or not HDF5"),
        (text, "cut short, damaged or not HDF5"),
        (without("x0"), "dataset x0 is missing"),
        (without("noise"), "dataset noise is missing"),
        (edit(lambda file: file.attrs.__delitem__("medsci_format")), "no medsci file"),
        (attribute("medsci_format", "kspace"), "medsci kspace file"),
        (attribute("format_version", 9), "format_version is 9"),
        (edit(lambda file: file.attrs.__delitem__("sha256")), "attribute is missing"),
        (attribute("steps", "many"), "wrong type"),
        (replaced("noise", np.zeros((6, 2, 6, 4), np.float16)), "x0 has shape"),
        (replaced("x0", np.zeros((6, 2, 6, 5), np.int16)), "real floats"),
        (replaced("cond", np.zeros(6)), "must be a group"),
        (replaced("cond/label", np.zeros(5)), "one entry for each of 6 pairs"),
        (replaced("cond/label", "woman"), "no list of numbers"),
    ],
)
def test_files_that_are_no_pairs(pairs, spoil, words):
    PairFile(pairs)
    spoil(pairs)
    with pytest.raises(InvalidInputError, match=words) as caught:
        PairFile(pairs)
    assert str(pairs) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_items_that_cannot_be_drawn(pairs):
    source = PairFile(pairs)
    for item in (-1, 6):
        with pytest.raises(InvalidInputError, match="with 6 pairs"):
            source.draw(item, 0)
    with h5py.File(pairs, "r+") as file:
        file["x0"][3, 0, 0, 0] = np.nan
    source = PairFile(pairs)
    assert source.draw(2, 0)["x0"].isfinite().all()
    with pytest.raises(InvalidInputError, match="x0 of item 3 holds NaN"):
        source.draw(3, 0)
