"""What to search: what cannot work is refused before the work, in one line."""

import pytest
from contracts.tune_jobs import job_of

from medsci.errors import UsageError
from medsci.inverse.methods import METHODS, options_of
from medsci.pipelines.tune_job import RANGES, TuneJob
from medsci.recon.settings import ReconSettings


@pytest.mark.parametrize("solver", METHODS)
def test_every_solver_has_ranges_that_it_takes(solver):
    job = TuneJob("mri", settings=ReconSettings(solver=solver, n_samples=1))
    assert job.space == RANGES[solver]
    known = options_of(solver)
    counts = [n for n in job.space if isinstance(known[n], int)]
    assert counts == [], "counts are searched on request only"


@pytest.mark.parametrize(
    ("ranges", "changes", "words"),
    [
        ([("lamb", 0.1, 1.0)], {}, "no option 'lamb'; did you mean lam"),
        ([("lam", 1.0, 0.1)], {}, "lam=1:0.1 came; give 0 < low < high"),
        ([("lam", 0.0, 0.1)], {}, "give 0 < low < high"),
        ([("lam", float("nan"), 0.1)], {}, "give 0 < low < high"),
        ([("weight", 0.1, 1.0)], {}, "weight of red-diff is no number"),
        ([("antithetic", 0.1, 1.0)], {}, "antithetic of red-diff is no number"),
        ([("n_steps", 10.0, 20.0)], {}, "n_steps came with a range and with a value"),
        ([("inner", 1.2, 1.8)], {}, "no whole number"),
        ([("lam", 0.1, 1.0), ("lam", 0.1, 2.0)], {}, "two ranges"),
        ([("sigma_min", 0.1, 500.0)], {}, "red-diff: .*sigma_min"),
        ([], {"budget": 0}, "budget=0 came; give at least 2"),
        ([], {"slices": 0}, "slices=0 came"),
        ([], {"solver": "ddrm"}, "none is known of projections"),
        ([], {"solver": "red-dif"}, "did you mean red-diff"),
        ([], {"options": {"lamb": "1"}.items()}, "did you mean lam"),
        ([], {"options": {"lam": "1", "lr": "0.1"}.items()}, "is fixed; give a range"),
    ],
)
def test_jobs(ranges, changes, words):
    with pytest.raises(UsageError, match=words) as caught:
        job_of(*ranges, **changes)
    assert "\n" not in str(caught.value)
