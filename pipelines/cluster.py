"""A Dask cluster to work on: processes of this machine, SLURM jobs, or one that runs already."""

__all__ = ["connect", "slurm_cluster"]

import logging
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster

from medsci.errors import UsageError
from medsci.pipelines.device import n_cores
from medsci.pipelines.engine import Engine

_SILENT = logging.CRITICAL + 1
_SECONDS_TO_CONNECT = 15


@contextmanager
def connect(engine: Engine) -> Iterator[Client]:
    """Give a client of the engine's cluster; what was started for it ends with the block.

    Raises:
        UsageError: no scheduler answers, or SLURM is not configured.
    """
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        cluster: Any
        if engine.scheduler == "local":
            cluster = stack.enter_context(_local_cluster(engine))
        elif engine.scheduler == "slurm":
            stack.enter_context(dask.config.set(_own_limits(engine)))
            cluster = stack.enter_context(slurm_cluster(engine))
        else:
            cluster = None
        yield stack.enter_context(_client(engine, cluster))


@contextmanager
def _client(engine: Engine, cluster: Any) -> Iterator[Client]:
    where: dict[str, Any] = {"address": cluster}
    if cluster is None:
        path = Path(engine.scheduler)
        where = {"scheduler_file": str(path)} if path.is_file() else {"address": engine.scheduler}
        if "://" not in engine.scheduler and not path.is_file():
            raise UsageError(
                f"--scheduler {engine.scheduler} is neither an address like tcp://HOST:8786, nor a "
                "scheduler file, nor slurm or local"
            )
    try:
        client = Client(**where, timeout=_SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:  # ValueError: an address that is none
        raise UsageError(
            f"no scheduler answers at {engine.scheduler} ({error}); check the address, and that "
            "this machine may reach it"
        ) from error
    try:
        yield client
    finally:
        client.close(timeout=5)


@contextmanager
def _local_cluster(engine: Engine) -> Iterator[LocalCluster]:
    """Start worker processes of one thread each that listen on this machine only."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="medsci-"))
        stack.enter_context(dask.config.set(_own_limits(engine)))
        with _interrupts_blocked():
            cluster = LocalCluster(
                n_workers=engine.workers or n_cores(),
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=None,
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0", "dashboard": False},
                memory_limit=0,  # Dask would pause and kill at limits that it guesses
                local_directory=folder,
                silence_logs=_SILENT,
            )
        stack.callback(cluster.close, timeout=10)
        yield cluster


def slurm_cluster(engine: Engine, *, make: Callable[..., Any] | None = None) -> Any:
    """Start a scheduler here and ask SLURM for workers, as `jobqueue.slurm` of Dask's files says.

    Args:
        engine: tells how many workers; as many as cores of this machine if it does not.
        make: what to call instead of `dask_jobqueue.SLURMCluster`.

    Raises:
        UsageError: the configuration does not say what a job needs, or SLURM is not there.
    """
    if make is None:
        from dask_jobqueue import SLURMCluster

        make = SLURMCluster
    options = dict(dask.config.get("jobqueue.slurm.scheduler-options", {}) or {})
    options |= {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    try:
        cluster = make(scheduler_options=options)
        cluster.scale(n=engine.workers or n_cores())
    except (ValueError, TypeError, OSError) as error:
        raise UsageError(
            f"no SLURM cluster could be made: {error}; set cores, processes (as many as cores) and "
            "memory under jobqueue: slurm: in ~/.config/dask/jobqueue.yaml"
        ) from error
    return cluster


def _own_limits(engine: Engine) -> dict[str, Any]:
    """Give what our own scheduler and workers do otherwise than Dask's defaults."""
    limits: dict[str, Any] = {
        "distributed.scheduler.allowed-failures": engine.retries,
        "distributed.scheduler.worker-saturation": 1.0,  # none waits behind a case that kills
    }
    if engine.scheduler == "local":  # a dead process is seen at once, a busy one is not dead
        limits["distributed.scheduler.worker-ttl"] = None
    return limits


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Let what is started in the block not see Ctrl-C, which a terminal sends to all of it.

    Threads and processes inherit what is blocked; this thread sees the signal after the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # it would unblock the signal in the thread that starts it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's own log lines back for the block."""
    names = [n for n in logging.root.manager.loggerDict if n.split(".")[0] in _CHATTY]
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(_SILENT)
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


_CHATTY = ("distributed", "dask_jobqueue", "tornado", "asyncio")
