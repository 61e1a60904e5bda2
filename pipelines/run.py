"""What was done, as data: the record that goes beside every result."""

__all__ = ["Run", "draw_seed", "sha256_of", "sidecar_of"]

import hashlib
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, final

import medsci

Option: TypeAlias = str | int | float | Path | None

_SUFFIXES = (".nii.gz", ".nii", ".h5", ".hdf5")


@final
@dataclass(frozen=True)
class Run:
    """One case of one command: enough to do it again and to tell two results apart.

    A record names files, never folders, machines, people or times, so it may be shared, and two
    equal runs give equal bytes. Wall times are printed (`--json`) and recorded on request only.

    Args:
        action: the words after `medsci`, for example `("recon", "mri")`.
        input: the input file; it is hashed.
        output: the main output file.
        seed: the one number that all randomness comes from; None where there is none.
        device: where it ran, "cpu" or "cuda:0".
        options: option name as on the command line -> resolved value; None is left out.
        model: name and sha256 of the weights, where weights were used.
    """

    action: tuple[str, ...]
    input: Path
    output: Path
    seed: int | None = None
    device: str = "cpu"
    options: Mapping[str, Option] = field(default_factory=dict)
    model: Mapping[str, str] | None = None

    def command(self) -> str:
        """Give the command that repeats this run, seed included, with file names only."""
        words = ["medsci", *self.action, "-i", self.input.name, "-o", self.output.name]
        for name, value in {**self.options, "seed": self.seed}.items():
            if value is not None:
                words += [f"--{name}", _word(value)]
        return shlex.join(words)

    def provenance(self) -> dict[str, Any]:
        """Give the `MedsciProvenance` object of a sidecar."""
        known = {name: value for name, value in self.options.items() if value is not None}
        record: dict[str, Any] = {
            "Version": medsci.__version__,
            "Command": self.command(),
            "Inputs": [{"Name": self.input.name, "Sha256": sha256_of(self.input)}],
            "Seed": self.seed,
            "Device": self.device,
            "Options": {n: _word(v) if isinstance(v, Path) else v for n, v in known.items()},
        }
        return record if self.model is None else {**record, "Model": dict(self.model)}


def sidecar_of(output: Path) -> Path:
    """Name the sidecar of a file: `recon.nii.gz` -> `recon.json`, in the same folder."""
    for suffix in _SUFFIXES:
        if output.name.endswith(suffix):
            return output.with_name(output.name.removesuffix(suffix) + ".json")
    return output.with_name(output.name + ".json")


def sha256_of(path: Path) -> str:
    """Hash a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def draw_seed() -> int:
    """Draw a seed from the system, for a run that was given none; record it."""
    return secrets.randbelow(2**31)


def _word(value: str | int | float | Path) -> str:
    return value.name if isinstance(value, Path) else str(value)
