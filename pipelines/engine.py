"""Where the cases of a job are done: in this process, or on the workers of a Dask cluster."""

__all__ = ["LOCAL", "Engine", "engine_of"]

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from medsci.errors import UsageError


@final
@dataclass(frozen=True)
class Engine:
    """How `run_cases` does its cases.

    Attributes:
        kind: `local`, one after the other in this process, or `dask`.
        scheduler: of Dask: `local` starts processes here, `slurm` submits jobs as Dask's own
            configuration says, all else is the address or the scheduler file of a running cluster.
        workers: how many to start; as many as cores if None. A running cluster has its own.
        retries: how often a case is started again after the death of its worker. A running
            cluster counts by itself (`distributed.scheduler.allowed-failures`).
    """

    kind: Literal["local", "dask"] = "local"
    scheduler: str = "local"
    workers: int | None = None
    retries: int = 3

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers is {self.workers}; give 1 or more")
        if self.retries < 0:
            raise UsageError(f"retries={self.retries} came; give 0 or more")
        if self.kind == "local" and (self.scheduler, self.workers) != ("local", None):
            raise UsageError("--scheduler and --workers belong to --engine dask; add it")
        if self.workers is not None and not self.starts_workers:
            raise UsageError(
                f"--workers counts processes to start, but {self.scheduler} is a running cluster "
                "with its own; leave it out"
            )

    @property
    def starts_workers(self) -> bool:
        """Whether the workers live and die with this run."""
        return self.scheduler in ("local", "slurm")

    @property
    def is_here(self) -> bool:
        """Whether every case runs on this machine, in this folder."""
        return self.kind == "local" or self.scheduler == "local"

    def check_paths(self, paths: Iterable[Path]) -> None:
        """Refuse relative paths where workers have working folders of their own.

        Raises:
            UsageError: a path is relative and the workers are not ours.
        """
        for path in paths:
            if not self.is_here and not path.is_absolute():
                raise UsageError(
                    f"the workers of --scheduler {self.scheduler} are given paths as they are, and "
                    f"{path} is relative to a folder they do not know; give absolute paths in a "
                    "folder that every worker sees"
                )


LOCAL = Engine()
"""One case after the other in this process."""


def engine_of(
    kind: Literal["local", "dask"], *, scheduler: str | None = None, workers: int | None = None
) -> Engine:
    """Make an engine of the options of a command.

    Raises:
        UsageError: options contradict each other, or the libraries for a cluster are missing.
    """
    engine = Engine(kind, scheduler or "local", workers)
    wanted = ["dask", "distributed"] if kind == "dask" else []
    wanted += ["dask_jobqueue"] if engine.scheduler == "slurm" else []
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--engine dask needs {' and '.join(missing)}, absent here; "
            "pip install 'medsci[cluster]'"
        )
    return engine
