"""Small searches, for tests of jobs and commands."""

from medsci.pipelines.tune_job import TuneJob
from medsci.recon.settings import ReconSettings


def job_of(*ranges, options=(), solver="red-diff", seed=0, domain="ct", **changes) -> TuneJob:
    fixed = tuple({"n_steps": "15", **dict(options)}.items())
    settings = ReconSettings(
        n_samples=1, solver=solver, options=fixed, seed=seed, precision="float32", device="cpu"
    )
    known = {"slices": 2, "budget": 6} | changes
    return TuneJob(domain, settings=settings, ranges=ranges, **known)
