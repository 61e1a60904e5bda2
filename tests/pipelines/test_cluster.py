"""Clusters: one that runs already, SLURM as far as it goes without SLURM, and none at all."""

import logging
from pathlib import Path

import pytest
from cohort_works import Reversing

from medsci.errors import ExitCode, UsageError
from medsci.pipelines.cases import Case, run_cases
from medsci.pipelines.engine import Engine

pytest.importorskip("distributed")

from distributed import LocalCluster

from medsci.pipelines.cluster import connect, slurm_cluster


@pytest.fixture
def running():
    """A cluster that somebody else started: one process, two threads, its own limits."""
    with LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=True,
        dashboard_address=None,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        silence_logs=logging.CRITICAL + 1,
        memory_limit=0,
    ) as cluster:
        yield cluster


def test_a_running_cluster_by_address_and_by_file(running, tmp_path, caplog):
    inputs = [tmp_path / f"{name}.txt" for name in "abc"]
    for path in inputs:
        path.write_text(path.name)
    file = tmp_path / "cluster.json"
    file.write_text(f'{{"address": "{running.scheduler_address}"}}')
    places = {"one": running.scheduler_address, "two": str(file)}
    for folder, scheduler in places.items():
        cases = [Case(p, tmp_path / folder / f"{p.stem}.out") for p in inputs]
        work = Reversing(kills=frozenset(["b.txt"]) if folder == "one" else frozenset())
        engine = Engine("dask", scheduler=scheduler)
        code = run_cases(cases, work, batch=True, tell=lambda _: None, engine=engine)
        assert code == ExitCode.DONE
        names = sorted(p.name for p in (tmp_path / folder).iterdir())
        assert names == [f"{n}.{end}" for n in "abc" for end in ("out", "side")]
    assert sum("died during b.txt" in r.getMessage() for r in caplog.records) == 1
    assert running.status.name == "running", "it is left as it was found"


@pytest.mark.parametrize(
    ("scheduler", "words"),
    [("tcp://127.0.0.1:9", "no scheduler answers at"), ("nowhere", "neither an address")],
)
def test_no_scheduler(scheduler, words, monkeypatch):
    monkeypatch.setattr("medsci.pipelines.cluster._SECONDS_TO_CONNECT", 1)
    with (
        pytest.raises(UsageError, match=words),
        connect(Engine("dask", scheduler=scheduler)),
    ):
        pass


class Stub:
    """Notes how it was made and scaled."""

    def __init__(self, **options):
        self.options, self.n = options, None

    def scale(self, n):
        self.n = n


def test_slurm_is_made_of_dasks_own_configuration():
    cluster = slurm_cluster(Engine("dask", scheduler="slurm", workers=5), make=Stub)
    assert cluster.n == 5
    assert cluster.options["scheduler_options"]["dashboard"] is False
    assert set(cluster.options) == {"scheduler_options"}, "all else is the configuration's"


def test_slurm_that_is_not_configured():
    def make(**_):
        raise ValueError("You must specify how many cores to use per job")

    with pytest.raises(UsageError, match=r"how many cores.*jobqueue\.yaml"):
        slurm_cluster(Engine("dask", scheduler="slurm"), make=make)


def test_the_jobs_that_slurm_would_be_given():
    """The real class, down to the script of a job; nothing is submitted."""
    jobqueue = pytest.importorskip("dask_jobqueue")
    import dask

    def make(**options):
        cluster = jobqueue.SLURMCluster(**options)
        scripts.append(cluster.job_script())
        cluster.scale = lambda n: asked.append(n)
        return cluster

    scripts, asked = [], []
    slurm = {"cores": 1, "processes": 1, "memory": "2GB", "queue": "short", "walltime": "01:00:00"}
    settings = {f"jobqueue.slurm.{key}": value for key, value in slurm.items()}
    options = {"jobqueue.slurm.scheduler-options": {"host": "127.0.0.1"}}
    with (
        dask.config.set({**settings, **options}),
        slurm_cluster(Engine("dask", scheduler="slurm", workers=3), make=make),
    ):
        assert asked == [3]
    assert "#SBATCH -p short" in scripts[0]
    assert "--nthreads 1" in scripts[0]


def test_relative_paths_never_reach_other_peoples_workers():
    cases = [Case(Path("a.txt"), Path("a.out"))]
    engine = Engine("dask", scheduler="tcp://127.0.0.1:9")
    with pytest.raises(UsageError, match=r"a\.txt is relative"):
        run_cases(cases, Reversing(), batch=True, tell=lambda _: None, engine=engine)
