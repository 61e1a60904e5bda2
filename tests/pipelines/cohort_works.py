"""Quick work for tests of the cohort engine: importable by worker processes."""

import logging
import os
import signal
import time
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from medsci.errors import InvalidInputError
from medsci.imaging import write_text
from medsci.pipelines.cases import Case, CaseReport


def write(case: Case, *, overwrite: bool) -> CaseReport:
    """Two files, the main one last, from the input alone."""
    text = case.input.read_text()
    side = case.output.with_suffix(".side")
    write_text(side, text.upper(), overwrite=overwrite)
    write_text(case.output, text[::-1], overwrite=overwrite)
    files = {"side": side, "main": case.output}
    return CaseReport(case.input.name, "done", outputs=files, result={"length": len(text)})


@dataclass(frozen=True)
class Reversing:
    """Reverse a text. Names the cases that kill their worker (the first time, or always)."""

    kills: frozenset[str] = frozenset()
    always: frozenset[str] = frozenset()
    bad: frozenset[str] = frozenset()
    when: str = "before"
    notes: Path | None = None
    seconds: float = 0.0
    seen: list[str] = field(default_factory=list)

    @cached_property
    def loaded(self) -> int:
        self.note("load", str(os.getpid()))
        return os.getpid()

    def note(self, kind: str, text: str) -> None:
        """One line per event in a file that all processes append to."""
        if self.notes is not None:
            with self.notes.open("a") as file:
                file.write(f"{kind} {text}\n")

    def __call__(self, case: Case) -> CaseReport:
        return self.do(case, overwrite=False)

    def files(self, case: Case) -> dict[str, Path]:
        return {"side": case.output.with_suffix(".side"), "main": case.output}

    def again(self, case: Case) -> CaseReport:
        self.note("again", case.input.name)
        return self.do(case, overwrite=True)

    def finished(self, case: Case) -> CaseReport:
        self.note("finished", case.input.name)
        length, files = len(case.output.read_text()), self.files(case)
        return CaseReport(case.input.name, "done", outputs=files, result={"length": length})

    def do(self, case: Case, *, overwrite: bool) -> CaseReport:
        assert self.loaded == os.getpid()
        self.note("begin", case.input.name)
        logging.getLogger("medsci.test").info("at work on %s", case.input.name)
        time.sleep(self.seconds)
        name = case.input.name
        if name in self.bad:
            raise InvalidInputError(f"{name} is bad; mend it")
        dies = name in self.always or (name in self.kills and not overwrite)
        if dies and self.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if dies and self.when == "between":
            case.output.with_suffix(".side").write_text("half of it")
            case.output.with_name(f".tmp-0123456789ab-{case.output.name}").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        report = write(case, overwrite=overwrite)
        if dies and self.when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return report


def warn(case: Case) -> CaseReport:
    """Warn of something."""
    warnings.warn("the edge is near", UserWarning, stacklevel=1)
    return CaseReport(case.input.name, "done")
