import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medsci.errors import ExitCode, InvalidInputError, OutputExistsError, UsageError
from medsci.imaging import atomic_path, write_json, write_text


def test_final_name_appears_only_at_the_end(tmp_path):
    final = tmp_path / "a.bin"
    with atomic_path(final) as temporary:
        temporary.write_bytes(b"half")
        assert temporary.parent == final.parent
        assert temporary.suffix == final.suffix
        assert not final.exists()
    assert final.read_bytes() == b"half"
    assert list(tmp_path.iterdir()) == [final]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_exception_leaves_nothing_and_keeps_the_old_file(tmp_path, error):
    final = tmp_path / "a.bin"
    final.write_bytes(b"old")

    def fail():
        with atomic_path(final, overwrite=True) as temporary:
            temporary.write_bytes(b"new")
            raise error

    with pytest.raises(error):
        fail()
    assert final.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [final]


def test_existing_output_is_refused_before_any_work(tmp_path):
    final = tmp_path / "a.bin"
    final.write_bytes(b"old")
    before = final.stat()
    with pytest.raises(OutputExistsError, match="overwrite") as caught, atomic_path(final):
        pytest.fail("the block must not run")
    assert caught.value.exit_code == ExitCode.OUTPUT_EXISTS == 7
    after = final.stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    with atomic_path(final, overwrite=True) as temporary:
        temporary.write_bytes(b"new")
    assert final.read_bytes() == b"new"


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path, links, monkeypatch):
    def no_links(*_args):
        raise OSError("not supported")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    final = tmp_path / "a.bin"

    def collide():
        with atomic_path(final) as temporary:
            temporary.write_bytes(b"mine")
            final.write_bytes(b"theirs")

    with pytest.raises(OutputExistsError):
        collide()
    assert final.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [final]
    with atomic_path(tmp_path / "b.bin") as temporary:
        temporary.write_bytes(b"mine")
    assert (tmp_path / "b.bin").read_bytes() == b"mine"


def test_folders_links_and_permissions(tmp_path):
    with pytest.raises(UsageError, match="is a folder"), atomic_path(tmp_path, overwrite=True):
        pass
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputExistsError), atomic_path(tmp_path / "dangling"):
        pass
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="may write"), atomic_path(tmp_path / "file" / "a.bin"):
        pass
    with atomic_path(tmp_path / "new" / "deep" / "a.bin") as temporary:
        temporary.write_bytes(b"x")
    ordinary = tmp_path / "ordinary"
    ordinary.write_bytes(b"x")
    mode = stat.S_IMODE((tmp_path / "new" / "deep" / "a.bin").stat().st_mode)
    assert mode == stat.S_IMODE(ordinary.stat().st_mode)


_KILLED = """
import os, signal, sys
from medsci.imaging import atomic_path
with atomic_path(sys.argv[1], overwrite=True) as temporary:
    temporary.write_bytes(b"half")
    print(temporary.name, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("old", [None, b"old"])
def test_kill_9_never_leaves_a_partial_file(tmp_path, old):
    final = tmp_path / "a.bin"
    if old is not None:
        final.write_bytes(old)
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(final)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / done.stdout.strip()).read_bytes() == b"half"  # it was killed in the middle
    assert (final.read_bytes() if final.exists() else None) == old


def test_json_is_plain_ordered_and_deterministic(tmp_path):
    content = {"b": np.float64(0.1), "a": np.arange(3), "n": np.int64(7), "text": "µm", "x": None}
    first = write_json(tmp_path / "1.json", content).read_bytes()
    assert first == write_json(tmp_path / "2.json", content).read_bytes()
    loaded = json.loads(first)
    assert list(loaded) == list(content)
    assert loaded == {"b": 0.1, "a": [0, 1, 2], "n": 7, "text": "µm", "x": None}


@pytest.mark.parametrize("bad", [float("nan"), np.float32("inf"), Path("/somewhere"), {1, 2}])
def test_json_refuses_what_it_cannot_say(tmp_path, bad):
    with pytest.raises(InvalidInputError, match=r"cannot write a\.json"):
        write_json(tmp_path / "a.json", {"key": bad})
    assert list(tmp_path.iterdir()) == []


def test_text(tmp_path):
    assert write_text(tmp_path / "a.txt", "é\n").read_bytes() == "é\n".encode()
