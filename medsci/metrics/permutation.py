"""Test whether two sets of numbers have one law, and correct for many such tests.

Source: permutation tests, Phipson and Smyth 2010, doi:10.2202/1544-6115.1585; Holm 1979,
Scand. J. Statist. 6:65.
"""

__all__ = ["holm", "permutation_p"]

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Shaped

from medsci.errors import InvalidInputError
from medsci.metrics._arrays import Array, as_real

_DEALS = 256  # permutations held at once


def permutation_p(a: Array, b: Array, *, n_deals: int = 999, seed: int = 0) -> float:
    """Return the p-value of `W1(a, b)` if both sets of numbers had one law.

    The pool is dealt into two sets again and again; `p = (1 + deals at least as far) / (1 + deals)`
    is exact for any sizes: under one law, `p <= q` has a probability of at most q.

    Raises:
        InvalidInputError: empty, or values that are not finite.
    """
    left, right = as_real(a, name="a").ravel(), as_real(b, name="b").ravel()
    if min(left.size, right.size) == 0:
        raise InvalidInputError(f"{left.size} and {right.size} numbers came; give some of either")
    pool = np.concatenate([left, right])
    order = np.argsort(pool, kind="stable")
    gaps = np.diff(pool[order])
    in_a = (order < left.size)[None]
    value = _dealt_wasserstein(in_a, gaps)[0]
    generator, reached = np.random.default_rng(seed), 0
    close = 1e-12 * float(np.abs(gaps).sum())  # equal deals may differ in the last digit
    for start in range(0, n_deals, _DEALS):
        deals = np.repeat(in_a, min(_DEALS, n_deals - start), axis=0)
        dealt = _dealt_wasserstein(generator.permuted(deals, axis=1), gaps)
        reached += int((dealt >= value - close).sum())
    return (1.0 + reached) / (1.0 + n_deals)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return p-values corrected for their number: rejecting those below q errs at all with <= q.

    Valid for any dependence between the tests.
    """
    corrected, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = running
    return tuple(corrected)


def _dealt_wasserstein(
    in_a: Shaped[np.ndarray, "deals n"], gaps: Float64[np.ndarray, " n-1"]
) -> Float64[np.ndarray, " deals"]:
    """Return W1 of sorted numbers dealt into two sets, `int |F_a - F_b|`, for every deal."""
    n_a = int(in_a[0].sum())
    share = np.where(in_a, 1.0 / n_a, -1.0 / (in_a.shape[1] - n_a))
    return np.asarray(np.abs(np.cumsum(share, axis=1)[:, :-1]) @ gaps, dtype=np.float64)
