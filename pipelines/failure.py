"""What a failure means to the person who started the job: an exit code and one message."""

__all__ = ["Failure", "explain"]

from dataclasses import dataclass
from typing import final

from medsci.errors import ExitCode, MedsciError

_OUT_OF_MEMORY = "DefaultCPUAllocator: "  # how torch names a failed allocation on the CPU


@final
@dataclass(frozen=True)
class Failure:
    """One failed job, ready to be printed.

    Args:
        code: what the process exits with if this is the only job.
        message: what is wrong, what came, what to do, without a traceback.
    """

    code: ExitCode
    message: str


def explain(error: BaseException) -> Failure:
    """Turn any exception into an exit code and a message.

    Errors of `medsci.errors` speak for themselves; a missing file, exhausted memory, an interrupt
    and a refused write are told apart by their Python types; all else is an internal error.
    """
    if isinstance(error, MedsciError):
        return Failure(error.exit_code, str(error))
    if isinstance(error, KeyboardInterrupt):
        return Failure(ExitCode.INTERRUPTED, "interrupted; no output of the running case was kept")
    if _is_out_of_memory(error):
        return Failure(
            ExitCode.OUT_OF_MEMORY,
            f"out of memory ({_first_line(error)}); use a smaller --chunk, fewer --samples, or a "
            "machine with more memory",
        )
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return Failure(ExitCode.INVALID_INPUT, _of_file(error))
    if isinstance(error, OSError):
        return Failure(ExitCode.INTERNAL, _of_file(error))
    return Failure(
        ExitCode.INTERNAL,
        f"internal error, {type(error).__name__}: {_first_line(error)}; "
        "run again with -vv for the traceback and report it",
    )


def _is_out_of_memory(error: BaseException) -> bool:
    # torch is not imported here: CUDA's error is known by its name, the CPU's by its words.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY in str(error)


def _of_file(error: OSError) -> str:
    reason = error.strerror or _first_line(error)
    return f"{reason}: {error.filename}" if error.filename else reason


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"
