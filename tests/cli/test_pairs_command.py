"""`models pairs`: options reach the job, progress goes to stderr, and --help imports nothing."""

import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from medsci.cli.pairs import pairs
from medsci.pipelines.cases import CaseReport


@pytest.fixture
def run(monkeypatch):
    """Run the command with a job that writes down how it was called."""
    import medsci.pipelines.pairs as job

    calls = []

    def make_pairs(model, output, *, settings, overwrite, progress):
        calls.append((model, output.name, settings, overwrite))
        if progress is not None:
            progress(settings.n, settings.n, "pairs")
        return CaseReport(model, "done", outputs={"pairs": output}, result={"pairs": settings.n})

    monkeypatch.setattr(job, "make_pairs", make_pairs)
    app = typer.Typer()
    app.command()(pairs)

    def call(*words):
        return CliRunner().invoke(app, [str(word) for word in words]), calls

    return call


def test_options_reach_the_job(run):
    done, calls = run(
        "brain", "-n", 12, "-o", "p.h5", "--steps", 8, "--size", 64, 48, "--seed", 5, "--batch", 3,
        "--device", "cpu", "--precision", "float32", "--guidance", 2.5, "--labels", 4,
        "--dtype", "float32", "--overwrite", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    model, output, settings, overwrite = calls[0]
    assert (model, output, overwrite) == ("brain", "p.h5", True)
    assert (settings.n, settings.steps, settings.size, settings.seed) == (12, 8, (64, 48), 5)
    assert (settings.batch, settings.device, settings.precision) == (3, "cpu", "float32")
    assert (settings.guidance, settings.labels, settings.label) == (2.5, 4, None)
    assert settings.dtype == "float32"
    assert json.loads(done.stdout)["result"] == {"pairs": 12}
    assert "pairs: 12/12" in done.stderr


def test_defaults_and_a_drawn_seed(run):
    _, calls = run("brain", "-o", "p.h5")
    run("brain", "-o", "p.h5", "-q")
    settings = [call[2] for call in calls]
    assert (settings[0].n, settings[0].steps, settings[0].size) == (4096, 20, None)
    assert calls[0][3] is False
    assert settings[0].seed != settings[1].seed


@pytest.mark.parametrize(
    "words",
    [["--steps", 1], ["-n", 0], ["--size", 4], ["--precision", "int8"], ["--guidance", -1]],
    ids=str,
)
def test_wrong_options_are_refused_by_the_parser(run, words):
    done, calls = run("brain", "-o", "p.h5", *words)
    assert done.exit_code == 2
    assert not calls


def test_help_imports_nothing_heavy():
    code = (
        "import sys, typer\n"
        "from medsci.cli.pairs import pairs\n"
        "app = typer.Typer(); app.command()(pairs)\n"
        "try:\n    app(['--help'])\n"
        "finally:\n    print(sorted({'torch', 'h5py', 'scipy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "--guidance" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
