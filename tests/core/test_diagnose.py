"""Diagnoses on sequences whose order is known."""

import numpy as np
import pytest
import torch
from contracts.core import assert_order

from medsci.core.check import convergence_order, local_orders, relative_error


def test_orders_of_a_power_law():
    steps = [8, 16, 32, 64]
    errors = [3.0 * n**-2.5 for n in steps]
    np.testing.assert_allclose(local_orders(errors, steps), 2.5)
    assert convergence_order(errors, steps) == pytest.approx(2.5)


def test_only_the_last_runs_are_fitted():
    assert convergence_order([5.0, 5.0, 0.1, 0.05], [1, 2, 4, 8], last=2) == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf"), -1.0])
def test_an_order_needs_positive_errors(bad):
    with pytest.raises(ValueError, match="positive finite"):
        convergence_order([1.0, bad], [1, 2])


def test_rows_must_match():
    with pytest.raises(ValueError, match="equal rows"):
        local_orders([1.0], [1])


def test_relative_error_of_complex_samples():
    reference = torch.tensor([[3.0 + 4.0j], [0.0 + 1.0j]])
    torch.testing.assert_close(
        relative_error(reference * torch.tensor([[1.1], [1.0]]), reference),
        torch.tensor([0.1, 0.0]),
    )


def test_assert_order_fails_on_the_wrong_order():
    assert assert_order(lambda n: n**-2.0, expected=2) == pytest.approx(2.0)
    with pytest.raises(AssertionError, match="expected 3"):
        assert_order(lambda n: n**-2.0, expected=3)
