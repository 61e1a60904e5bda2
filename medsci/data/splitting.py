"""Which subjects are kept for validation."""

__all__ = ["split_subjects"]

import hashlib
from collections.abc import Iterable
from pathlib import Path

from medsci.errors import InvalidInputError


def split_subjects(
    subjects: Iterable[str], *, fraction: float | int, seed: int = 0, where: Path
) -> dict[str, str]:
    """Return `train` or `validation` for each subject, by a hash of its name and the seed.

    A subject's hash is uniform in [0, 1) and below `fraction` for validation, so other subjects
    coming or going leave it where it is; the lowest hash goes to validation and the highest to
    training in any case, so that neither side is empty.

    Raises:
        InvalidInputError: there are fewer than two subjects.
    """
    order = sorted((_hash(name, seed), name) for name in set(subjects))
    if len(order) < 2:
        raise InvalidInputError(
            f"{where} has one subject ({order[0][1] if order else 'none'}), which cannot be "
            "split; give more, or name the subjects in a table"
        )
    n_validation = sum(value < fraction for value, _ in order)
    n_validation = min(max(n_validation, 1), len(order) - 1)
    return {s: "validation" if i < n_validation else "train" for i, (_, s) in enumerate(order)}


def _hash(subject: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}:{subject}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64
