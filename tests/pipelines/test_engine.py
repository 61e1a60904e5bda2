"""An engine is a small value that refuses what makes no sense, and says what to install."""

import importlib.util
from pathlib import Path

import pytest

from medsci.errors import UsageError
from medsci.pipelines.engine import LOCAL, Engine, engine_of


def test_the_default_is_this_process():
    assert engine_of("local") == LOCAL == Engine()
    assert LOCAL.is_here


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "local", "workers": 2}, "belong to --engine dask"),
        ({"kind": "local", "scheduler": "slurm"}, "belong to --engine dask"),
        ({"kind": "dask", "workers": 0}, "1 or more"),
        ({"kind": "dask", "retries": -1}, "0 or more"),
        ({"kind": "dask", "scheduler": "tcp://a:1", "workers": 2}, "running cluster"),
    ],
)
def test_contradictions_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        Engine(**options)


@pytest.mark.parametrize(
    ("scheduler", "absent", "words"),
    [
        (None, {"distributed"}, r"needs distributed, absent here; pip install 'medsci\[cluster\]'"),
        ("slurm", {"dask_jobqueue"}, "needs dask_jobqueue"),
        ("slurm", {"dask", "distributed"}, "needs dask and distributed"),
    ],
)
def test_a_missing_library_is_named(monkeypatch, scheduler, absent, words):
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in absent else object()
    )
    with pytest.raises(UsageError, match=words):
        engine_of("dask", scheduler=scheduler)
    assert engine_of("local") == LOCAL, "and nothing is missing for the local engine"


@pytest.mark.parametrize("scheduler", ["tcp://a:1", "slurm"])
def test_relative_paths_are_refused_where_workers_are_elsewhere(scheduler, tmp_path):
    with pytest.raises(UsageError, match=r"out/a\.nii is relative.*absolute paths"):
        Engine("dask", scheduler=scheduler).check_paths([tmp_path, Path("out/a.nii")])
    Engine("dask", scheduler=scheduler).check_paths([tmp_path])
    Engine("dask").check_paths([Path("out/a.nii")])
