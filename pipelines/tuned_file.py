"""Options of a solver that a search has found, as a small file that a reconstruction reads."""

__all__ = ["FORMAT_VERSION", "read_tuned", "write_tuned"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medsci.errors import InvalidInputError, UsageError
from medsci.pipelines.outputs import existing_file
from medsci.pipelines.scans import Domain

FORMAT_VERSION = 1


def write_tuned(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record to a file that is there already; equal records give equal bytes."""
    import yaml

    head = (
        "# Options of a solver; 'score' compares them with its defaults, more is better.\n"
        f"# Use them with 'medsci recon {record['domain']} --settings FILE'.\n"
    )
    body = yaml.safe_dump({"format_version": FORMAT_VERSION, **record}, sort_keys=False)
    path.write_text(head + body, encoding="utf-8", newline="\n")


def read_tuned(
    path: str | Path, *, domain: Domain | None = None
) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Read which solver to run, and with which options.

    Args:
        path: what `medsci recon tune` wrote, or a file of the same form made by hand: it needs
            `format_version`, `solver` and `options`.
        domain: refuse what was tuned for the other one.

    Returns:
        The solver and its options, name and text, as `ReconSettings` takes them; no options where
        the defaults are best.

    Raises:
        InvalidInputError: the file is absent, not of this form, or for another domain, or the
            solver has no such option or not with that value.
    """
    from medsci.inverse.methods import settings_of

    file = existing_file(path)
    found = _mapping(file)
    version = found.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise InvalidInputError(
            f"{file}: format_version is {version!r}; this version of medsci reads "
            f"{FORMAT_VERSION}, as 'medsci recon tune' writes it"
        )
    made_for = found.get("domain")
    if domain is not None and made_for not in (None, domain):
        raise InvalidInputError(
            f"{file}: these options are for {made_for}, and this is {domain}; tune on scans of "
            "that kind"
        )
    solver, options = found.get("solver"), found.get("options")
    if not isinstance(solver, str) or not isinstance(options, dict):
        raise InvalidInputError(
            f"{file}: solver={solver!r}, options={options!r} came; give the name of a solver, and "
            "options as 'name: value' below 'options:' ({} for none)"
        )
    words = tuple((str(name), _text(value, where=f"{file}: {name}")) for name, value in
                  options.items())  # fmt: skip
    try:
        settings_of(solver, dict(words))
    except UsageError as error:
        raise InvalidInputError(f"{file}: {error}") from error
    return solver, words


def _mapping(file: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = " ".join(str(error).split())
        raise InvalidInputError(f"{file}: this is not YAML ({line}); name another file") from error
    if not isinstance(found, dict):
        raise InvalidInputError(
            f"{file}: this is no file of settings; give one that 'medsci recon tune' wrote"
        )
    return found


def _text(value: object, *, where: str) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | str):
        return str(value)
    raise InvalidInputError(f"{where} is {value!r}; give a number or a word")
