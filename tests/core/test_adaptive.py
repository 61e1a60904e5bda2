"""Adaptive steps: the tolerance is kept, the cost grows as the order says, samples stay alone."""

import numpy as np
import pytest
import torch
from contracts.core import draw, gaussian16, median_error, mixture64

from medsci.core.process import Path
from medsci.core.solve import Adaptive
from medsci.core.solve import adaptive as tableau

RF, VE = Path.rectified(), Path.ve()


def test_the_tableau_satisfies_its_order_conditions():
    """Rows sum to their nodes; quadrature conditions to order 5, of the error to order 4."""
    c = np.array(tableau.NODES)
    for node, row in zip(c[1:], tableau.MATRIX, strict=True):
        assert sum(row) == pytest.approx(node, abs=1e-14)
    b, e = np.array(tableau.RESULT), np.array(tableau.ERROR)
    nodes = np.append(c, 1.0)
    for k in range(5):
        assert b @ c**k == pytest.approx(1.0 / (k + 1), abs=1e-14)
    for k in range(4):
        assert e @ nodes**k == pytest.approx(0.0, abs=1e-14)
    assert abs(e @ nodes**4) > 1e-4


@pytest.mark.parametrize("basis", ["angle", "v"])
def test_the_error_follows_the_tolerance(basis):
    """From pure noise to a little noise on a Gaussian, against the exact flow."""
    oracle, x = gaussian16(RF), draw(4, 16)
    exact = oracle.flow(x, 1.0, 0.01)
    errors, costs = [], []
    for tolerance in (1e-3, 1e-5, 1e-7):
        solver = Adaptive(tolerance, atol=tolerance, basis=basis)
        result = solver.walk(oracle, x, path=RF, t=1.0, s=0.01)
        errors.append(median_error(result.x, exact))
        costs.append(np.mean(result.nfe))
    assert errors[0] < 2e-3
    assert errors[1] < 2e-5
    assert errors[2] < 2e-7
    assert costs[0] < costs[1] < costs[2] < 8.0 * costs[0]  # order 5: 10^(4/5) = 6.3


def test_counts_are_what_was_called():
    calls = []
    oracle = gaussian16(RF)

    def counted(x, t):
        calls.append(t)
        return oracle(x, t)

    result = Adaptive(1e-5).walk(counted, draw(3, 16), path=RF, t=1.0, s=0.1)
    assert sum(result.nfe) == len(calls)
    for times, nfe, rejected in zip(result.times, result.nfe, result.rejected, strict=True):
        assert nfe == 1 + 6 * (len(times) - 1 + rejected)
        assert times[0] == 1.0
        assert times[-1] == 0.1
        assert np.all(np.diff(times) < 0.0)


def test_steps_go_where_the_flow_bends():
    """A hard spot in the middle: the accepted steps are shorter there than elsewhere."""

    def bend(x, t):
        return x * float(np.tanh(60.0 * (0.5 - t)))

    result = Adaptive(1e-5, atol=1e-5).walk(bend, draw(1, 4), path=RF, t=0.9, s=0.1)
    times = result.times[0]
    widths, middles = -np.diff(times), 0.5 * (times[1:] + times[:-1])
    near = np.abs(middles - 0.5) < 0.05
    assert widths[near].max() < 0.5 * widths[~near].max()
    assert result.rejected[0] > 0


def test_samples_do_not_depend_on_their_batch():
    """Alone and in a batch the same bits; walking together they share steps and differ."""
    oracle, x = mixture64(RF), draw(4, 64)
    solver = Adaptive(1e-4)
    whole = solver.walk(oracle, x, path=RF, t=1.0, s=0.05).x
    alone = solver.walk(oracle, x[2:3], path=RF, t=1.0, s=0.05).x
    torch.testing.assert_close(whole[2:3], alone, rtol=0, atol=0)
    shared = Adaptive(1e-4, together=True).walk(oracle, x, path=RF, t=1.0, s=0.05)
    assert len(shared.nfe) == 1
    assert (shared.x - whole).abs().max() > 0.0
    torch.testing.assert_close(shared.x, whole, rtol=0.05, atol=0.01)


def test_there_and_back():
    oracle, x = gaussian16(VE), draw(2, 16, scale=80.0)
    solver = Adaptive(1e-7, atol=1e-7)
    down = solver.walk(oracle, x, path=VE, t=1.0, s=0.2).x
    up = solver.walk(oracle, down, path=VE, t=0.2, s=1.0).x
    assert median_error(up, x) < 1e-6


def test_clean_data_is_reached_by_one_denoising_step():
    oracle, x = gaussian16(RF), draw(3, 16)
    result = Adaptive(1e-6, atol=1e-6).walk(oracle, x, path=RF, t=1.0, s=0.0)
    assert result.times[0][-1] == 0.0
    assert median_error(result.x, oracle.flow(x, 1.0, 0.0)) < 1e-4


def test_entries_of_cond_reach_the_denoiser():
    def denoise(x, t, *, gain):
        return gain * x

    x = draw(2, 3)
    solver = Adaptive(1e-4)
    one = solver.walk(denoise, x, path=RF, t=0.9, s=0.1, cond={"gain": 0.2}).x
    two = solver.walk(denoise, x, path=RF, t=0.9, s=0.1, cond={"gain": 0.8}).x
    assert (one - two).abs().max() > 0.1


def test_impossible_walks():
    oracle, x = gaussian16(RF), draw(1, 16)
    with pytest.raises(ValueError, match="tolerance above 0"):
        Adaptive(0.0, atol=0.0)
    with pytest.raises(ValueError, match="choose one of"):
        Adaptive(basis="x0")
    with pytest.raises(ValueError, match="raise rtol"):
        Adaptive(1e-9, atol=1e-9, max_steps=5).walk(oracle, x, path=RF, t=1.0, s=0.1)
    with pytest.raises(ValueError, match="little noise"):
        Adaptive().walk(oracle, x, path=RF, t=0.0, s=1.0)
    with pytest.raises(ValueError, match="take 'angle' or 'v'"):
        Adaptive(basis="eps").walk(oracle, x, path=RF, t=1.0, s=0.1)
