"""Drawing samples with any solver: what was asked for arrives, noise depends on nothing else."""

import pytest
import torch
from contracts.linear_gaussian import PATHS, LinearGaussian
from torch import Tensor, nn

from medsci.core import Slicewise
from medsci.errors import UsageError
from medsci.inverse.methods import METHODS
from medsci.recon.drawing import denoiser_of, draw, misfit_of, plain_settings, walk_of
from medsci.recon.orientation import View
from medsci.recon.settings import ReconSettings


class Oracle(nn.Module):
    """The exact denoiser of the problem, as a network."""

    def __init__(self, problem: LinearGaussian) -> None:
        super().__init__()
        self.exact = problem.prior(PATHS["vp"])
        self.path = self.exact.path
        self.largest = 0

    def forward(self, x: Tensor, t: float) -> Tensor:
        self.largest = max(self.largest, len(x))
        return self.exact(x, t)


@pytest.fixture(scope="module")
def problem():
    return LinearGaussian()


def drawn(problem, denoiser=None, **settings):
    chosen = ReconSettings(n_steps=4, **settings)
    return draw(
        problem.measured(), denoiser or Oracle(problem), settings=chosen, walk=walk_of(chosen),
        view=View(),
    )  # fmt: skip


class TestWalk:
    """Steps and CG steps reach every solver that has them."""

    @pytest.mark.parametrize("solver", METHODS)
    def test_steps(self, solver):
        walk = walk_of(ReconSettings(n_samples=1, solver=solver, n_steps=7))
        assert getattr(walk, "n_iter" if solver == "pnp" else "n_steps") == 7

    @pytest.mark.parametrize("solver", ["dds3d", "mbir", "diffpir", "pigdm", "pnp"])
    def test_cg(self, solver):
        walk = plain_settings(walk_of(ReconSettings(n_samples=1, solver=solver, n_cg=3)))
        (name,) = [name for name in walk if name.endswith("n_cg")]
        assert walk[name] == 3

    @pytest.mark.parametrize("solver", ["red-diff", "dps", "ddrm", "flowchef"])
    def test_cg_where_there_is_none(self, solver):
        with pytest.raises(UsageError, match=f"n_cg=3 came and {solver} has none"):
            walk_of(ReconSettings(n_samples=1, solver=solver, n_cg=3))

    def test_an_option_outranks_the_general_one_and_the_base_stays(self):
        base = walk_of(ReconSettings(options=(("eta", "0.5"),)))
        asked = ReconSettings(n_steps=7, options=(("n_steps", "9"),))
        found = walk_of(asked, base=base)
        assert (found.n_steps, found.eta) == (9, 0.5)


class TestDraw:
    """Each sample has noise of its own, and only of its own."""

    def test_samples_do_not_depend_on_how_many_are_drawn(self, problem):
        two, n_calls = drawn(problem, n_samples=2)
        three, _ = drawn(problem, n_samples=3)
        assert torch.equal(two, three[:2])
        assert two.shape == (2, problem.n, 2, 3)
        assert n_calls == 4
        assert not torch.equal(two[0], two[1])

    @pytest.mark.parametrize("chunk", [1, 3])
    def test_nor_on_the_chunk_which_bounds_the_network(self, problem, chunk):
        whole, parts = Oracle(problem), Oracle(problem)
        expected, _ = drawn(problem, whole, n_samples=1, chunk=problem.n)
        found, _ = drawn(problem, parts, n_samples=1, chunk=chunk)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        assert (whole.largest, parts.largest) == (problem.n, chunk)

    def test_another_seed_is_another_sample(self, problem):
        first, second = (drawn(problem, n_samples=1, seed=seed)[0] for seed in (0, 1))
        assert float((first - second).abs().max()) > 1e-3

    def test_progress_counts_over_all_samples(self, problem):
        told = []
        settings = ReconSettings(n_samples=2, n_steps=4)
        draw(
            problem.measured(), Oracle(problem), settings=settings, walk=walk_of(settings),
            view=View(), tell=lambda *words: told.append(words),
        )  # fmt: skip
        assert [done for done, _, _ in told] == list(range(1, 9))
        assert {total for _, total, _ in told} == {8}
        assert told[-1][2] == "sample 2 of 2"


def test_the_view_is_undone_for_the_network_alone(problem):
    """A network that sees turned slices and knows them turned gives what the plain one gives."""
    plain = Slicewise(Oracle(problem), chunk=2)

    class Turned(nn.Module):
        path = plain.path

        def forward(self, x: Tensor, t: float) -> Tensor:
            return plain(x.transpose(-2, -1).flip(-1), t).flip(-1).transpose(-2, -1)

    settings = ReconSettings(n_samples=1, n_steps=4)
    view = View(transpose=True, flip=(-2,))
    common = {"settings": settings, "walk": walk_of(settings)}
    expected, _ = draw(problem.measured(), plain, view=View(), **common)
    found, _ = draw(problem.measured(), Turned(), view=view, **common)
    torch.testing.assert_close(found, expected)
    wrong, _ = draw(problem.measured(), Turned(), view=View(transpose=True), **common)
    assert float((wrong - expected).abs().max()) > 1e-3


def test_misfit_by_formula(problem):
    measured = problem.measured()
    image = torch.from_numpy(problem.truth).unflatten(1, (2, 3))
    left = ((problem.truth @ problem.a.T - problem.y) ** 2).sum() ** 0.5
    found = misfit_of(measured, image)
    assert found["relative_data_misfit"] == pytest.approx(left / (problem.y**2).sum() ** 0.5)
    expected = left / (problem.noise * problem.y.size**0.5)
    assert found["misfit_over_noise"] == pytest.approx(expected)
    assert 0.5 < expected < 1.5, "of the truth about 1"
    assert misfit_of(measured, 0 * image)["relative_data_misfit"] == pytest.approx(1.0)


def test_settings_as_plain_values():
    found = plain_settings(walk_of(ReconSettings(n_samples=1, solver="red-diff")))
    assert found["lr"] == 0.1
    assert "lam" not in found, "None says nothing"
    assert all(isinstance(value, bool | int | float | str) for value in found.values())
    nested = plain_settings(walk_of(ReconSettings()))
    assert nested["consistency_n_cg"] >= 1


def test_a_network_is_its_own_denoiser(problem):
    oracle = Oracle(problem)
    assert denoiser_of(oracle, ReconSettings()) is oracle
