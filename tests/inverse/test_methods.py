"""The table of methods says the truth, and options written as text arrive as settings."""

import dataclasses
import inspect

import pytest
import torch
from contracts.linear_gaussian import PATHS, LinearGaussian
from torch import Tensor

from medsci.core import Rng
from medsci.errors import UsageError
from medsci.inverse.measurement import Measurement
from medsci.inverse.methods import METHODS, method_of, options_of, settings_of, solve
from medsci.operators import IdentityOp

STEPS = {"pnp": "n_iter"}


def few_steps(name: str, n: int = 6):
    return settings_of(name, {STEPS.get(name, "n_steps"): str(n)})


class Watched:
    """A prior that remembers how it was called."""

    def __init__(self, prior) -> None:
        self.prior = prior
        self.path = prior.path
        self.n_calls = 0
        self.differentiated = False

    def __call__(self, x: Tensor, t: float) -> Tensor:
        self.n_calls += 1
        self.differentiated |= x.requires_grad and torch.is_grad_enabled()
        return self.prior(x, t)


@pytest.fixture(scope="module")
def problem():
    return LinearGaussian()


def run(name: str, problem: LinearGaussian, *, seed: int = 0):
    prior = Watched(problem.prior(PATHS["vp"]))
    measured = problem.measured()
    if name == "ddrm":  # it needs an operator of known decomposition
        measured = Measurement(
            torch.from_numpy(problem.truth).unflatten(1, (2, 3)), IdentityOp(), 0.1
        )
    rng = Rng(seed, range(problem.n))
    return solve(measured, prior, rng=rng, method=name, settings=few_steps(name)), prior


@pytest.mark.parametrize("name", METHODS)
class TestTable:
    """What stands in the table is what the solvers are."""

    def test_one_signature_for_all(self, name):
        function, kind = METHODS[name].load()
        parameters = inspect.signature(function).parameters
        assert list(parameters)[:2] == ["measured", "prior"]
        assert {"rng", "settings", "progress"} <= set(parameters)
        for later in list(parameters)[2:]:
            assert parameters[later].kind == inspect.Parameter.KEYWORD_ONLY
            assert later == "rng" or parameters[later].default is not inspect.Parameter.empty
        assert dataclasses.is_dataclass(kind)
        assert kind() == kind()
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(kind(), dataclasses.fields(kind)[0].name, 1)

    def test_whether_it_differentiates_and_how_often_it_asks(self, name, problem):
        found, prior = run(name, problem)
        assert prior.differentiated == METHODS[name].gradient
        assert prior.n_calls == found.n_calls > 0

    def test_whether_other_seeds_are_other_samples(self, name, problem):
        first, second, again = (run(name, problem, seed=seed)[0].image for seed in (0, 1, 0))
        assert torch.equal(first, again)
        if METHODS[name].samples:
            assert float((first - second).abs().max()) > 1e-6

    def test_the_default_of_every_option_reads_back(self, name):
        _, kind = METHODS[name].load()
        written = {option: str(value) for option, value in options_of(name).items()}
        assert settings_of(name, written) == kind()
        assert not hasattr(kind(), "samples"), "would hide the number of samples in a record"

    def test_nan_is_nowhere_a_number(self, name):
        for option, default in options_of(name).items():
            if isinstance(default, float):
                with pytest.raises(UsageError, match=option):
                    settings_of(name, {option: "nan"})


def test_solve_is_the_method_and_refuses_settings_of_another(problem):
    function, _ = METHODS["flowchef"].load()
    prior, rng = problem.prior(PATHS["flow"]), problem.rng()
    known = few_steps("flowchef")
    direct = function(problem.measured(), prior, rng=rng, settings=known).image
    named = solve(problem.measured(), prior, rng=rng, method="flowchef", settings=known).image
    assert torch.equal(direct, named)
    other = solve(problem.measured(), prior, rng=rng, method="dds3d", settings=few_steps("dds3d"))
    assert not torch.equal(other.image, named)
    with pytest.raises(UsageError, match="DpsSettings"):
        solve(problem.measured(), prior, rng=rng, method="dps", settings=known)


def test_unknown_methods_get_the_nearest_name():
    with pytest.raises(UsageError, match="did you mean red-diff"):
        method_of("reddiff")
    with pytest.raises(UsageError, match="choose one of dds3d"):
        method_of("zzz")


class TestOptions:
    """Text becomes values of the right type, or one line that says what is wrong."""

    @pytest.mark.parametrize(
        ("method", "text", "value"),
        [
            ("red-diff", {"lam": "0.05"}, 0.05),
            ("red-diff", {"lam": "none"}, None),
            ("red-diff", {"r_data": "n/m"}, "n/m"),
            ("red-diff", {"r_data": "2.5"}, 2.5),
            ("red-diff", {"weight": "sqrt"}, "sqrt"),
            ("red-diff", {"antithetic": "TRUE"}, True),
            ("red-diff", {"n-avg": "3"}, 3),
            ("dps", {"n_steps": "7"}, 7),
        ],
    )
    def test_values(self, method, text, value):
        (name,) = text
        found = getattr(settings_of(method, text), name.replace("-", "_"))
        assert found == value
        assert type(found) is type(value)

    @pytest.mark.parametrize(
        ("method", "text", "words"),
        [
            ("red-diff", {"lambda": "1"}, "did you mean lam"),
            ("dds3d", {"n_setps": "1"}, "did you mean n_steps"),
            ("dds3d", {"n_cg": "1"}, "did you mean consistency.n_cg"),
            ("dds3d", {"consistency.n_gc": "1"}, "did you mean consistency.n_cg"),
            ("dds3d", {"consistency": "1"}, "dds3d has no option 'consistency'"),
            ("dds3d", {"n_steps.x": "1"}, "dds3d has no option 'n_steps.x'"),
            ("dds3d", {"qqq": "1"}, "it has n_steps, sigma_max"),
            ("red-diff", {"betas": "0.9"}, "red-diff has no option 'betas'"),
            ("red-diff", {"n_steps": "5.5"}, "n_steps takes a whole number"),
            ("red-diff", {"weight": "cubic"}, "takes linear, sqrt, square"),
            ("red-diff", {"antithetic": "1"}, "takes true or false"),
            ("red-diff", {"r_data": "m/n"}, "takes a number or n/m"),
            ("red-diff", {"lr": "-1"}, "red-diff: lr=-1.0 came; give a positive step"),
            ("dds3d", {"consistency.n_cg": "0"}, "dds3d: n_cg=0, n_sweeps=1 came"),
        ],
    )
    def test_errors(self, method, text, words):
        with pytest.raises(UsageError) as caught:
            settings_of(method, text)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("order", [1, -1])
    def test_options_that_only_fit_together_may_come_in_any_order(self, order):
        pair = list({"sigma_max": "0.01", "sigma_min": "0.005"}.items())[::order]
        assert settings_of("dds3d", dict(pair)).sigma_max == 0.01
        with pytest.raises(UsageError, match="sigma_min"):  # control: alone it does not fit
            settings_of("dds3d", dict([pair[0] if order == 1 else pair[1]]))

    def test_what_is_not_asked_for_stays_as_tuned(self):
        tuned = settings_of("dds3d", {"n_steps": "41", "consistency.threshold": "0.5"})
        found = settings_of("dds3d", {"consistency.n_cg": "3"}, base=tuned)
        assert (found.n_steps, found.consistency.threshold) == (41, 0.5)
        assert found.consistency.n_cg == 3 != tuned.consistency.n_cg
