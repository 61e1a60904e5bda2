"""A killed run leaves no file under a final name, at whatever point it is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SCRIPT = """
import sys, time
import numpy as np
import medsci.recon
import medsci.pipelines.recon as job
from medsci.recon.settings import ReconSettings

def load_prior(name, *, settings):
    return job.Prior(name, "a" * 64, "", object())

def posterior(kspace, prior, *, settings, progress=None):
    volume = kspace.to_volume(np.ones(kspace.image_shape, dtype=np.float32))
    truth = kspace.to_volume(kspace.reference)
    return medsci.recon.Posterior(mean=volume, std=volume, simple=volume, reference=truth)

def hang(*arguments, **options):
    temporary = next(a for a in arguments if hasattr(a, "name"))
    temporary.write_bytes(b"half of it")
    print("writing", flush=True)
    time.sleep(600)

job.load_prior, medsci.recon.posterior = load_prior, posterior
import medsci.pipelines.recon_results as results
setattr(results, sys.argv[1], hang)
from medsci.cli.main import main
sys.exit(main(["recon", "mri", "-i", "k.h5", "-o", "out/r.nii.gz", "--report", "out/p.html"]))
"""


@contextmanager
def running(folder: Path, during: str) -> Iterator[subprocess.Popen[str]]:
    """Start a run that hangs while it writes, wait until it does, and never leave it behind."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, during],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("during", ["write_nifti", "write_report", "write_json"])
def test_kill_during_the_write(tmp_path, kspace_of, during):
    kspace_of(tmp_path / "k.h5")
    with running(tmp_path, during) as process:
        os.kill(process.pid, signal.SIGKILL)
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert any("half" in (tmp_path / "out" / n).read_text(errors="replace") for n in left)
    assert not {"r.nii.gz", "r_std.nii.gz", "r.json", "p.html"} & set(left)
    assert all(name.startswith(".") for name in left), "what is left is hidden"


def test_ctrl_c_cleans_up_and_exits_130(tmp_path, kspace_of):
    kspace_of(tmp_path / "k.h5")
    with running(tmp_path, "write_report") as process:
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "error: interrupted" in err
    assert list((tmp_path / "out").iterdir()) == []
