"""What needs no network answers at once: nothing heavy is imported."""

import resource
import subprocess
import sys

import pytest

HEAVY = (
    "torch", "nibabel", "monai", "matplotlib", "lightning", "pytorch_lightning", "scipy", "dask",
    "distributed", "ot", "tensorboard",
)  # fmt: skip
QUICK = [
    ["--help"],
    ["--version"],
    ["recon", "--help"],
    ["recon", "mri", "--help"],
    ["recon", "ct", "--help"],
    ["recon", "simulate", "mri", "--help"],
    ["recon", "simulate", "ct", "--help"],
    ["recon", "tune", "ct", "--help"],
    ["recon", "baseline", "--help"],
    ["brain", "prep", "--help"],
    ["brain", "train", "--help"],
    ["brain", "generate", "--help"],
    ["brain", "evaluate", "--help"],
    ["convert", "--help"],
    ["train", "--help"],
    ["models", "--help"],
    ["models", "list"],
    ["data", "list"],
    ["doctor"],
]
CODE = """
import sys
from medsci.cli.main import main
code = main(sys.argv[2:])
heavy = [name for name in sys.argv[1].split(",") if name in sys.modules]
sys.stderr.write("HEAVY " + ",".join(heavy))
sys.exit(code)
"""


def run(arguments, code=CODE):
    return subprocess.run(
        [sys.executable, "-c", code, ",".join(HEAVY), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("arguments", QUICK, ids=" ".join)
def test_imports_nothing_heavy(arguments):
    done = run(arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("HEAVY "), done.stderr


def test_the_check_would_see_a_heavy_import():
    done = run(["--version"], code="import matplotlib\n" + CODE)
    assert done.stderr.endswith("HEAVY matplotlib")


@pytest.mark.parametrize("arguments", [["--help"], ["doctor"], ["models", "list"]], ids=" ".join)
def test_answers_in_half_a_second(arguments):
    """CPU time of the whole process, best of five: wall time would measure the neighbours too."""
    taken = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(arguments)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if taken[-1] < 0.5:
            break
    assert min(taken) < 0.5, taken
