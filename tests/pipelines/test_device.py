"""A device that is asked for and absent is an error that says what to do."""

import logging

import pytest
import torch

from medsci.errors import UsageError
from medsci.pipelines import device


@pytest.fixture
def without_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def with_two(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize("asked", ["cpu", "auto"])
def test_cpu_where_there_is_no_other(without_cuda, asked):
    assert device.choose_device(asked) == "cpu"


@pytest.mark.parametrize(
    ("asked", "given"), [("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1")]
)
def test_cuda_where_it_is(with_two, asked, given):
    assert device.choose_device(asked) == given


def test_absent_is_refused(without_cuda):
    with pytest.raises(UsageError, match=r"--device cuda .* finds 0 CUDA devices.*--device cpu"):
        device.choose_device("cuda")


def test_an_index_too_high_is_refused(with_two):
    with pytest.raises(UsageError, match="finds 2 CUDA"):
        device.choose_device("cuda:2")


@pytest.mark.parametrize("asked", ["gpu", "cuda:", "cuda:-1", "CPU", ""])
def test_an_unknown_name_is_refused(asked):
    with pytest.raises(UsageError, match="use auto, cpu, cuda or cuda:n"):
        device.choose_device(asked)


def test_threads():
    before = torch.get_num_threads()
    try:
        device.use_threads(None)
        assert torch.get_num_threads() == before
        device.use_threads(2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    with pytest.raises(UsageError, match="give 1 or more"):
        device.use_threads(0)


@pytest.mark.parametrize(("load", "warns"), [(0.1, False), (1e6, True), (None, False)])
def test_a_busy_machine_is_mentioned(monkeypatch, caplog, load, warns):
    monkeypatch.setattr(device, "load_average", lambda: load)
    with caplog.at_level(logging.WARNING, logger="medsci"):
        device.warn_if_busy()
    assert ("load average" in caplog.text) == warns
