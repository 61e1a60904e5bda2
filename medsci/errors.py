"""Errors that a user of medsci is meant to read, and the exit code each one means.

A message says what is wrong, what came, and what to do. The command line prints it without a
traceback and exits with `exit_code`; a notebook sees an ordinary exception.
"""

__all__ = [
    "ExitCode",
    "InvalidInputError",
    "MedsciError",
    "OutputExistsError",
    "UsageError",
    "WeightsError",
]

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every medsci command."""

    DONE = 0
    INTERNAL = 1
    USAGE = 2
    SOME_CASES_FAILED = 3
    INVALID_INPUT = 4
    OUT_OF_MEMORY = 5
    WEIGHTS = 6
    OUTPUT_EXISTS = 7
    INTERRUPTED = 130
    TERMINATED = 143


class MedsciError(Exception):
    """Root of the errors that medsci raises on purpose."""

    exit_code = ExitCode.INTERNAL


class UsageError(MedsciError, ValueError):
    """Options that contradict each other, or a device that is asked for and absent."""

    exit_code = ExitCode.USAGE


class InvalidInputError(MedsciError, ValueError):
    """A file or array that cannot be what it should be."""

    exit_code = ExitCode.INVALID_INPUT


class WeightsError(MedsciError):
    """Weights that are missing, damaged or not the ones that were recorded."""

    exit_code = ExitCode.WEIGHTS


class OutputExistsError(MedsciError, FileExistsError):
    """An output that is already there and was not to be overwritten."""

    exit_code = ExitCode.OUTPUT_EXISTS
