"""A compiled network is compiled once, whatever walks it, in how many steps and on which grid."""

import shutil
import warnings

import numpy as np
import pytest
import torch
from contracts.catalogue import PATH, SOLVERS
from torch import nn
from torch._dynamo.testing import CompileCounter

from medsci.core.denoise.denoiser import Denoiser
from medsci.core.denoise.wrappers import Guided
from medsci.core.process import Path
from medsci.core.solve import Rng, grid

X = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(0))
GRIDS = {
    "angle": lambda n: grid.angle(PATH, n, sigma_min=0.01, sigma_max=80.0),
    "uniform": lambda n: grid.uniform(n, t_max=0.98, t_min=0.02),
}


class Net(nn.Module):
    """A small network that looks at state and time."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.on_x, self.on_time = nn.Linear(8, 8), nn.Linear(1, 8)

    def forward(self, x: torch.Tensor, code: torch.Tensor, label: torch.Tensor | None = None):
        h = torch.tanh(self.on_x(x) + self.on_time(1e-3 * code[:, None])[:, None])
        return h if label is None else h + label[:, None, None]


@pytest.fixture
def count():
    """Compilations so far, from a fresh compiler."""
    torch._dynamo.reset()
    yield CompileCounter()
    torch._dynamo.reset()


def walk(denoise, solver, n, spacing="angle", **cond):
    plan = solver.plan(PATH, GRIDS[spacing](n))
    return plan.run(denoise, X, rng=Rng(0, range(3)), cond=cond)


def compiled(count, **options) -> Denoiser:
    net = Net()
    net.compile(backend=count)
    return Denoiser(net, path=PATH, **options)


def test_one_graph_serves_every_solver_step_and_grid(count):
    denoise, plain = compiled(count), Denoiser(Net(), path=PATH)
    for name, solver in SOLVERS.items():
        for steps, spacing in ((5, "angle"), (10, "angle"), (20, "angle"), (10, "uniform")):
            end = walk(denoise, solver, steps, spacing)
            assert count.frame_count == 1, f"{name} compiled again at {steps} steps"
        torch.testing.assert_close(end, walk(plain, solver, 10, "uniform"), rtol=0, atol=0)


@pytest.mark.parametrize("code", ["time", "unit_time", "sigma_hat", "log_sigma_hat"])
def test_every_time_code_is_a_tensor_in_the_graph(count, code):
    denoise = compiled(count, time_code=code)
    for n in (2, 5, 10):
        walk(denoise, SOLVERS["v 2"], n)
        assert count.frame_count == 1


def test_rows_of_a_table_are_tensors_in_the_graph(count):
    path = Path.tabulated(torch.linspace(0.999, 0.01, 100).tolist())
    net = Net()
    net.compile(backend=count)
    denoise = Denoiser(net, path=path, pred="x0", time_code="nearest_row")
    for n in (2, 5, 10):
        SOLVERS["x0 2"].plan(path, grid.indices(100, n)).run(denoise, X)
        assert count.frame_count == 1


def test_guidance_with_an_interval_knows_two_batch_sizes(count):
    denoise = compiled(count)
    guided = Guided(denoise, scale=2.0, null={"label": torch.zeros(1)}, interval=(0.2, 3.0))
    seen = []
    for n in (6, 6, 10, 20):
        walk(guided, SOLVERS["x0 2"], n, label=torch.ones(3))
        seen.append(count.frame_count)
    assert seen[0] <= 2
    assert len(set(seen)) == 1


def test_moved_to_another_path_it_is_the_same_graph(count):
    denoise = compiled(count)
    for n in (2, 5, 10):
        path = Path.rectified()
        plan = SOLVERS["v 2"].plan(path, grid.ratio(path, n, sigma_min=0.01, sigma_max=80.0))
        plan.run(denoise.on_path(path), X)
        assert count.frame_count == 1


def test_weights_keep_their_names(count):
    assert compiled(count).net.state_dict().keys() == Net().state_dict().keys()


def test_a_network_told_a_number_is_compiled_for_every_step(count):
    """The control, and the reason for compiling the network alone: times would be constants."""

    @torch.compile(backend=count)
    def denoise(x, t):
        return torch.tanh(x) * float(np.cos(t))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        walk(denoise, SOLVERS["x0 2"], 2)
        first = count.frame_count
        walk(denoise, SOLVERS["x0 2"], 5)
    assert count.frame_count >= first + 3


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler of torch needs one for C++")
def test_machine_code_gives_the_same_walk(count):
    net = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net.compile()
        end = walk(Denoiser(net, path=PATH), SOLVERS["v 2"], 8)
    plain = walk(Denoiser(Net(), path=PATH), SOLVERS["v 2"], 8)
    torch.testing.assert_close(end, plain, rtol=1e-4, atol=1e-5)
