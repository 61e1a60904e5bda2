"""Turn a report into one HTML file that needs nothing else: no server, no network, no script."""

__all__ = ["render_html", "write_report"]

import base64
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from medsci.report.document import Report, format_number

_TEMPLATE = "report.html.j2"


def render_html(report: Report) -> str:
    """Return the report as one HTML page.

    Equal reports give equal text: no clock, no random identifier. All text is escaped; pictures are
    embedded; a content security policy forbids the page to load anything or to run scripts.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["base64"] = _base64
    environment.filters["number"] = format_number
    source = files("medsci.report").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    template = environment.from_string(source)
    return template.render(report=report, provenance=list(_flatten(report.provenance))) + "\n"


def write_report(report: Report, path: Path | str, *, overwrite: bool = False) -> Path:
    """Write the page to `path` in one step and return the path.

    Raises:
        OutputExistsError: the file is there and `overwrite` is off.
    """
    from medsci.imaging import atomic_path

    final = Path(path)
    with atomic_path(final, overwrite=overwrite) as temporary:
        Path(temporary).write_bytes(render_html(report).encode("utf-8"))
    return final


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _flatten(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield `(dotted.key, text)` for every leaf; a list of plain values is one leaf."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if any(isinstance(inner, Mapping) for inner in value):
            for number, inner in enumerate(value):
                yield from _flatten(inner, f"{prefix}[{number}]")
        else:
            yield prefix, ", ".join(_plain(inner) for inner in value)
    else:
        yield prefix, _plain(value)


def _plain(value: object) -> str:
    """Spell a provenance value exactly: it may have to be typed in again."""
    if value is None:
        return "–"
    return repr(value) if isinstance(value, float) else str(value)
