"""Pictures and self-contained HTML reports. Names are imported when they are first used."""

__all__ = [
    "BrainPictures",
    "Cell",
    "Column",
    "Figure",
    "KeyNumber",
    "ReconImages",
    "Report",
    "Score",
    "Section",
    "Table",
    "brain_report",
    "curve",
    "format_number",
    "recon_report",
    "recon_score",
    "render_html",
    "slice_mosaic",
    "three_planes",
    "write_report",
]

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medsci.report.brain import BrainPictures, brain_report
    from medsci.report.curves import curve
    from medsci.report.document import (
        Cell,
        Column,
        Figure,
        KeyNumber,
        Report,
        Section,
        Table,
        format_number,
    )
    from medsci.report.html import render_html, write_report
    from medsci.report.planes import slice_mosaic, three_planes
    from medsci.report.recon import ReconImages, Score, recon_report, recon_score

_HOME = {
    "BrainPictures": "brain",
    "Cell": "document",
    "Column": "document",
    "Figure": "document",
    "KeyNumber": "document",
    "ReconImages": "recon",
    "Report": "document",
    "Score": "recon",
    "Section": "document",
    "Table": "document",
    "brain_report": "brain",
    "curve": "curves",
    "format_number": "document",
    "recon_report": "recon",
    "recon_score": "recon",
    "render_html": "html",
    "slice_mosaic": "planes",
    "three_planes": "planes",
    "write_report": "html",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")


def __dir__() -> list[str]:
    return sorted(__all__)
