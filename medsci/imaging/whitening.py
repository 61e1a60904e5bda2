"""Noise covariance of receive coils, and the matrix that makes their noise white.

Coils see the same body and couple to each other, so their noise is correlated and of unequal
power. With `C = E[n n^H] = L L^H` (Cholesky), `W = L^-1` gives noise `W n` whose covariance is the
identity: independent, and of variance 1 for a complex sample (1/2 for each part).

Source: Pruessmann et al. 2001, doi:10.1002/mrm.1241, appendix B.
"""

__all__ = ["noise_covariance", "whitening_matrix"]

import numpy as np
from jaxtyping import Complex128, Shaped

from medsci.errors import InvalidInputError


def noise_covariance(
    noise: Shaped[np.ndarray, "n_coils n_samples"], *, variance_factor: float = 1.0
) -> Complex128[np.ndarray, "n_coils n_coils"]:
    """Estimate `C = E[n n^H]` from samples that hold nothing but noise.

    Args:
        noise: one row for each coil.
        variance_factor: noise variance of the scan over that of these samples. White noise goes
            with the bandwidth, thus `dwell time of the samples / dwell time of the scan`, divided
            by the receiver's relative noise bandwidth.

    Raises:
        InvalidInputError: too few samples to tell the coils apart, or values that are no numbers.
    """
    n_coils, n_samples = noise.shape
    if n_samples < 2 * n_coils:
        raise InvalidInputError(
            f"the noise scan has {n_samples} samples for {n_coils} coils, and at least "
            f"{2 * n_coils} are needed for their covariance; give a longer noise scan"
        )
    if not np.isfinite(noise).all():
        raise InvalidInputError(
            "the noise scan holds NaN or infinite samples; remove those readouts"
        )
    wide = noise.astype(np.complex128)
    return variance_factor * (wide @ wide.conj().T) / n_samples


def whitening_matrix(
    covariance: Shaped[np.ndarray, "n_coils n_coils"],
) -> Complex128[np.ndarray, "n_coils n_coils"]:
    """Return W with `W C W^H = 1`, lower triangular with a positive diagonal.

    Raises:
        InvalidInputError: the covariance is not Hermitian, or not positive definite, as with a coil
            that is switched off.
    """
    matrix = np.asarray(covariance, dtype=np.complex128)
    size = np.abs(matrix).max()
    if not np.isfinite(size) or np.abs(matrix - matrix.conj().T).max() > 1e-5 * size:
        raise InvalidInputError(
            "the noise covariance is not Hermitian and finite; give E[n n^H] of the coils"
        )
    powers = np.diag(matrix).real
    if not powers.min() > 1e-12 * powers.max():
        dead = np.flatnonzero(~(powers > 1e-12 * powers.max())).tolist()
        raise InvalidInputError(f"coils {dead} show no noise, so they are off; leave them out")
    try:
        lower = np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError as error:
        raise InvalidInputError(
            "the noise covariance is not positive definite: a coil is a copy or combination of "
            "others; leave it out, or give a longer noise scan"
        ) from error
    return np.linalg.solve(lower, np.eye(len(matrix), dtype=np.complex128))
