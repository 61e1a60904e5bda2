"""What a generated volume shall be like: numbers by name, for all volumes or one row for each."""

__all__ = [
    "asked_of",
    "condition_rows",
    "out_of_range",
    "parse_conditions",
    "population_rows",
    "standardised",
]

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Float64

from medsci.errors import InvalidInputError, UsageError

if TYPE_CHECKING:
    from medsci.models.config import CovariateConfig

_NOT_GIVEN = ("", "n/a")


def parse_conditions(words: Sequence[str]) -> dict[str, float]:
    """Read `NAME=VALUE` words.

    Raises:
        UsageError: a word is of another form, its value is no finite number, or a name comes twice.
    """
    found: dict[str, float] = {}
    for word in words:
        name, sign, text = (part.strip() for part in word.partition("="))
        if not (name and sign and text):
            raise UsageError(f"the condition is {word!r}; give NAME=VALUE")
        if name in found:
            raise UsageError(f"the condition {name} came twice; give it once")
        found[name] = _number(text)
        if not math.isfinite(found[name]):
            raise UsageError(
                f"the condition {name} is {text!r}; give a finite number, or leave it out"
            )
    return found


def condition_rows(
    covariates: "Sequence[CovariateConfig]",
    *,
    n: int,
    given: Mapping[str, float],
    table: Path | None = None,
) -> Float64[np.ndarray, "n m"]:
    """Return one row per volume in the covariates' own units, NaN where nothing is asked.

    Args:
        covariates: of the model, in its order.
        n: volumes.
        given: the same for all of them, by name.
        table: CSV or TSV with one row per volume and covariates as columns; a cell that is empty
            or n/a asks for nothing.

    Raises:
        UsageError: the model has no covariates or none of that name, or one is given twice.
        InvalidInputError: the table cannot be read, has another number of rows, or holds a cell
            that is no finite number.
    """
    names = [covariate.name for covariate in covariates]
    if (given or table is not None) and not names:
        raise UsageError("the model takes no conditions; leave them out, or choose another model")
    rows = np.full((n, len(names)), np.nan)
    for name, value in given.items():
        rows[:, _place(name, names)] = value
    if table is None:
        return rows
    for name, column in _columns(table, n).items():
        if name in given:
            raise UsageError(f"{name} is given for all volumes and in {table.name}; give it once")
        rows[:, _place(name, names)] = column
    return rows


def standardised(
    covariates: "Sequence[CovariateConfig]", rows: Float64[np.ndarray, "n m"]
) -> Float32[np.ndarray, "n m"]:
    """Return `(value - mean) / std`, what the network is told; NaN stays NaN."""
    mean = np.array([covariate.mean for covariate in covariates])
    std = np.array([covariate.std for covariate in covariates])
    return ((rows - mean) / std).astype(np.float32)


def population_rows(
    covariates: "Sequence[CovariateConfig]",
    rows: Float64[np.ndarray, "n m"],
    *,
    seed: int,
    numbers: Sequence[int],
) -> Float64[np.ndarray, "n m"]:
    """Fill what was not asked for from the training population, given what was.

    The population is taken for Gaussian, with the means, spreads and correlations that the model
    states; what is missing is drawn from its conditional law and kept within the range of training.
    A network that is told nothing instead draws from what it learnt of unlabelled samples, which
    are few in its training, and varies less than the population.

    Args:
        covariates: of the model; without correlations nothing is filled.
        rows: what was asked, NaN elsewhere.
        seed: of the run.
        numbers: of the volumes; a row depends on its number and the seed alone.
    """
    correlation = np.array([covariate.correlation for covariate in covariates], dtype=np.float64)
    if correlation.size == 0:
        return rows
    told = np.array(standardised(covariates, rows), dtype=np.float64)
    for row, number in zip(told, numbers, strict=True):
        asked = np.isfinite(row)
        gain = correlation[:, asked] @ np.linalg.pinv(correlation[np.ix_(asked, asked)], rcond=1e-3)
        law = correlation - gain @ correlation[asked]
        scales, axes = np.linalg.eigh(0.5 * (law + law.T))
        root = axes * np.sqrt(np.maximum(scales, 0.0))  # a rounded matrix may dip below zero
        noise = np.random.default_rng([seed, number, 0xC0]).standard_normal(len(row))
        drawn = gain @ row[asked] + root @ noise
        row[~asked] = drawn[~asked]
    mean = np.array([covariate.mean for covariate in covariates])
    std = np.array([covariate.std for covariate in covariates])
    low = np.array([covariate.low for covariate in covariates])
    high = np.array([covariate.high for covariate in covariates])
    return np.where(np.isfinite(rows), rows, np.clip(mean + std * told, low, high))


def out_of_range(
    covariates: "Sequence[CovariateConfig]", rows: Float64[np.ndarray, "n m"]
) -> list[str]:
    """Return one warning per covariate that is asked for beyond what training has seen."""
    found = []
    for covariate, column in zip(covariates, rows.T, strict=True):
        beyond = column[(column < covariate.low) | (column > covariate.high)]
        if beyond.size:
            unit = f" {covariate.unit}" if covariate.unit else ""
            found.append(
                f"{covariate.name}={beyond[0]:g} is outside the range of training, "
                f"{covariate.low:g} to {covariate.high:g}{unit}; expect less of it"
            )
    return found


def asked_of(
    covariates: "Sequence[CovariateConfig]", row: Float64[np.ndarray, " m"]
) -> dict[str, float]:
    """Return what was asked for one volume, by name."""
    pairs = zip(covariates, row.tolist(), strict=True)
    return {covariate.name: value for covariate, value in pairs if math.isfinite(value)}


def _columns(path: Path, n: int) -> dict[str, list[float]]:
    from medsci.data.tables import read_table

    table = read_table(path)
    if len(table.rows) != n:
        raise InvalidInputError(
            f"{path} has {len(table.rows)} rows for {n} volumes; give one row per volume"
        )
    return {
        name: [_cell(cells[name], f"{path} line {line}: {name}") for line, cells in table.rows]
        for name in table.columns
    }


def _cell(text: str, where: str) -> float:
    if text.lower() in _NOT_GIVEN:
        return math.nan
    value = _number(text)
    if not math.isfinite(value):
        raise InvalidInputError(f"{where} is {text!r}; give a finite number, or n/a for none")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _place(name: str, names: Sequence[str]) -> int:
    from medsci.data.wording import nearest

    if name not in names:
        raise UsageError(f"the model takes no condition {name!r}; {nearest(name, names)}")
    return list(names).index(name)
