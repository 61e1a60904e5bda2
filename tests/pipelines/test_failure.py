"""Each class of failure has its own exit code and one readable message."""

import errno

import pytest
import torch

from medsci import errors
from medsci.errors import ExitCode
from medsci.pipelines.failure import explain

CASES = [
    (errors.UsageError("u"), 2, "u"),
    (errors.InvalidInputError("i"), 4, "i"),
    (errors.WeightsError("w"), 6, "w"),
    (errors.OutputExistsError("o"), 7, "o"),
    (errors.MedsciError("m"), 1, "m"),
    (MemoryError(), 5, "--chunk"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 5, "CUDA out of"),
    (FileNotFoundError(errno.ENOENT, "No such file", "x.h5"), 4, "x.h5"),
    (IsADirectoryError(errno.EISDIR, "Is a directory", "d"), 4, "d"),
    (PermissionError(errno.EACCES, "Permission denied", "p"), 1, "Permission denied: p"),
    (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (ZeroDivisionError("division by zero"), 1, "ZeroDivisionError: division by zero"),
    (RuntimeError("first line\nsecond line"), 1, "first line"),
]


@pytest.mark.parametrize(("error", "code", "words"), CASES, ids=lambda v: type(v).__name__)
def test_code_and_words(error, code, words):
    failure = explain(error)
    assert failure.code == code
    assert words in failure.message
    assert "\n" not in failure.message


def test_torch_running_out_of_memory_on_the_cpu_is_known_by_its_words():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert explain(caught.value).code == ExitCode.OUT_OF_MEMORY


def test_another_runtime_error_is_internal():
    assert explain(RuntimeError("cannot allocate a name")).code == ExitCode.INTERNAL
