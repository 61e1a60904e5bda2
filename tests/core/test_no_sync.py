"""Inside the loop nothing waits for the device: no value of a tensor reaches the host."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from contracts.catalogue import (
    DECIDING,
    HOOKS,
    PATH,
    READING,
    SOLVERS,
    THROUGH_THE_NETWORK,
    WRAPPERS,
    denoiser,
)
from contracts.guard import NoSync, SyncError
from torch import Tensor, nn

import medsci.core
from medsci.core import solve, steer
from medsci.core.solve import Multistep, Rng, grid
from medsci.core.steer import Hook
from medsci.core.steer.dps import WithGradient

SHAPE = (3, 1, 6, 7)
TIMES = grid.angle(PATH, 8, sigma_min=0.01, sigma_max=80.0)


@contextmanager
def refused(device: str) -> Iterator[None]:
    """Refuse syncs on the device: by the guards, or on a GPU by its driver."""
    if device != "cuda":
        with NoSync():
            yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


# Tensors on `meta` have no values at all: whatever reads one fails.
everywhere = pytest.mark.parametrize(
    "device", ["cpu", "meta", pytest.param("cuda", marks=pytest.mark.gpu)]
)


def walk(device, *, solver=SOLVERS["x0 2"], hooks=(), wrapper=None, through=False) -> Tensor:
    x = torch.ones(SHAPE, device=device)
    denoise = denoiser() if wrapper is None else WRAPPERS[wrapper](x)
    path, label = denoise.path, torch.zeros(SHAPE[0], device=device)
    plan = solver.plan(path, TIMES)
    made = [HOOKS[name](x) for name in hooks]
    cond = {"label": torch.zeros_like(x) if "SelfConditioned" in hooks else label}
    call = WithGradient(denoise) if through else denoise
    if device == "cuda":
        plan.run(call, x, rng=Rng(0, range(SHAPE[0])), hooks=made, cond=cond)  # libraries start
    with refused(device):
        return plan.run(call, x, rng=Rng(0, range(SHAPE[0])), hooks=made, cond=cond)


@everywhere
@pytest.mark.parametrize("name", SOLVERS)
def test_solvers(name, device):
    end = walk(device, solver=SOLVERS[name])
    assert end.shape == SHAPE
    assert end.device.type == device


@everywhere
@pytest.mark.parametrize("name", HOOKS)
def test_hooks(name, device):
    through = name in THROUGH_THE_NETWORK
    if through and device == "meta":
        pytest.skip("tensors without memory look like aliases, so x0 is copied and its graph lost")
    end = walk(device, hooks=[name], through=through)
    assert end.shape == SHAPE


@everywhere
@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers(name, device):
    assert walk(device, wrapper=name).shape == SHAPE


def classes(module: object, base: type) -> set[str]:
    found = {name: getattr(module, name) for name in module.__all__}
    return {n for n, c in found.items() if isinstance(c, type) and issubclass(c, base)}


def test_the_catalogue_is_complete():
    assert classes(steer, Hook) - {"Hook"} <= HOOKS.keys() | READING.keys()
    assert classes(medsci.core, nn.Module) <= WRAPPERS.keys()
    makers = {name for name in solve.__all__ if hasattr(getattr(solve, name), "plan")}
    known = {type(solver).__name__ for solver in SOLVERS.values()}
    assert makers - {"AbstractSolver"} <= known | DECIDING.keys()


# The controls: everything that reads a value is caught


class Peek(Hook):
    def __init__(self, look):
        self.look = look

    def after(self, state):
        self.look(state.x)


LOOKS = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "int": lambda x: int(x.sum()),
    "bool": lambda x: bool((x > 0).all()),
    "if": lambda x: 1 if x.sum() > 0 else 2,
    "index": lambda x: [1, 2, 3][(x.sum() > 1e9).long()],
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "cpu": lambda x: x.cpu(),
    "isin": lambda x: 0.5 in x,
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "argwhere": lambda x: torch.argwhere(x > 0),
    "unique": lambda x: torch.unique(x),
    "equal": lambda x: torch.equal(x, x),
    "allclose": lambda x: torch.allclose(x, x),
    "select": lambda x: torch.masked_select(x, x > 0),
    "mask": lambda x: x[x > 0],
    "masked write": lambda x: x.clone().__setitem__(x > 0, x[:1, 0, 0, 0]),
    "repeat": lambda x: torch.repeat_interleave(torch.ones(2).long()),
    "inverse": lambda x: torch.linalg.inv(torch.eye(2) + x[0, 0, :2, :2]),
}


@pytest.mark.parametrize("name", LOOKS)
def test_whatever_reads_a_value_is_caught(name):
    plan = Multistep().plan(PATH, TIMES)
    with pytest.raises(SyncError, match="waits for the device"), NoSync():
        plan.run(denoiser(), torch.ones(SHAPE), hooks=[Peek(LOOKS[name])])
    plan.run(denoiser(), torch.ones(SHAPE), hooks=[Peek(LOOKS[name])])  # outside it is allowed


def test_a_denoiser_that_reads_is_caught():
    plan = Multistep().plan(PATH, TIMES)
    reading = lambda x, t: x / float(x.std())  # noqa: E731
    with pytest.raises(SyncError), NoSync():
        plan.run(reading, torch.ones(SHAPE))


def test_what_stays_on_the_device_is_let_through():
    x = torch.randn(SHAPE)
    with NoSync():
        torch.where(x > 0, x, 0.0).masked_fill(x < -1.0, 2.0)
        x.index_select(0, torch.tensor([0, 2]))[:, [0]].sort().values.cumsum(0)
        torch.linalg.inv_ex(torch.eye(2).expand(3, 2, 2)).inverse.sum()
        x.to(torch.float64).clamp(-1, 1).std().to(x.dtype)
