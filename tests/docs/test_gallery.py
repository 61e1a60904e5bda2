"""Every gallery script runs, in under a minute, and leaves its picture."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "docs" / "gallery").glob("*.py"))


def seconds_of_children():
    """Return processor time, which a busy machine does not stretch as it does a clock."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_runs(script, tmp_path):
    out = str(tmp_path)
    before = seconds_of_children()
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        env={"OUT": out, "OMP_NUM_THREADS": "1", "PATH": "", "MPLCONFIGDIR": out},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert seconds_of_children() - before < 60.0
    assert (tmp_path / f"{script.stem}.png").stat().st_size > 10_000


def test_there_are_scripts_of_cells():
    assert SCRIPTS
    for script in SCRIPTS:
        assert script.read_text(encoding="utf-8").startswith("# %% [markdown]")
