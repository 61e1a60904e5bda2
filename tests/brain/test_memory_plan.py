"""Memory plans: what is promised is what is taken, and what fits is what is chosen."""

import json
import math
import subprocess
import sys

import pytest
import torch
from contracts.guard import LiveMemory

from medsci.brain.memory import TooLargeError, memory_at_hand, plan
from medsci.core.denoise import Tiled
from medsci.errors import ExitCode, UsageError
from medsci.models.config import ModelConfig
from medsci.models.store import fresh_denoiser
from medsci.nets.config import MonaiUNetConfig, UNet3dConfig
from medsci.nets.footprint import footprint
from medsci.nets.unet import build_network

TINY = MonaiUNetConfig(
    channels=(8, 16), res_blocks=(1, 1), attention_levels=(1,), head_channels=8, norm_groups=4
)
SMALL = UNet3dConfig(in_channels=4, out_channels=4, channels=(16, 32), res_blocks=(1, 1))
PUBLISHED = MonaiUNetConfig()


def model(network=TINY, size=(16, 24, 16)):
    return ModelConfig(
        name="some", network=network, path={"kind": "vp_cosine"}, training_size=size,
        image_channels=("intensity",) * network.in_channels,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("network", "dtype", "training"),
    [
        (TINY, torch.float32, True),
        (TINY, torch.bfloat16, False),
        (SMALL, torch.float32, False),
        (SMALL, torch.bfloat16, True),
    ],
    ids=lambda value: getattr(value, "kind", str(value)),
)
def test_the_count_is_that_of_a_real_run(network, dtype, training):
    """Tensors alive, byte for byte, but for what convolutions take inside: less than a third."""
    size, batch = (16, 24, 16), 2
    net = build_network(network).train(training).requires_grad_(training)
    x = torch.randn(batch, network.in_channels, *size)
    if dtype == torch.bfloat16:
        x = x.contiguous(memory_format=torch.channels_last_3d)
    low = torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)
    with torch.set_grad_enabled(training), LiveMemory() as memory:
        with low:
            out = net(x, torch.zeros(batch))
        if training:
            loss = out.float().square().mean()
            del out
            loss.backward()
    found = footprint(network, size, batch=batch, dtype=dtype, training=training)
    assert 0.999 * memory.peak <= found.activations <= 1.35 * memory.peak
    assert found.weights == sum(4 * p.numel() for p in net.parameters())
    assert (found.saved > 0.5 * found.activations) == training


def test_memory_follows_batch_and_size_and_precision():
    config = model()
    peaks = [plan(config, batch=n, available_gib=10.0, precision="float32") for n in (1, 2, 4)]
    one, two, four = (p.activations_gib for p in peaks)
    assert 0.0 < one < two < four
    assert two == pytest.approx(2 * one) == four / 2
    assert peaks[0].weights_gib == peaks[2].weights_gib
    large = plan(config, size=(32, 48, 32), available_gib=10.0, precision="float32")
    assert large.activations_gib == pytest.approx(8 * one, rel=0.05)
    low = plan(config, available_gib=10.0, precision="bfloat16")
    assert 0.4 * one < low.activations_gib < 0.7 * one
    step = plan(config, training=True, available_gib=10.0, precision="float32")
    assert step.activations_gib > 3 * one
    assert step.weights_gib == pytest.approx(4 * peaks[0].weights_gib)


def test_attention_is_linear_in_the_voxels():
    """The control is plain attention: 8 channels a head, 4096 tokens, twice the rows each."""
    network = TINY.model_copy(update={"channels": (8, 16), "head_channels": 4})
    half = footprint(network, (16, 16, 64))
    full = footprint(network, (32, 16, 64))
    assert full.activations == pytest.approx(2 * half.activations, rel=0.02)
    plain = 4 * (16 * 8 * 32) ** 2 * 4  # heads x tokens^2 x bytes
    assert full.activations < plain / 8


def test_what_fits_is_chosen_in_the_order_of_its_price():
    config = model(size=(160, 128, 128))
    whole = plan(config, batch=4, available_gib=100.0, precision="float32")
    assert (whole.mode, whole.batch) == ("plain", 4)
    one = plan(config, available_gib=100.0, precision="float32")
    fewer = plan(config, batch=4, available_gib=2.5 * one.peak_gib, precision="float32")
    assert (fewer.mode, fewer.batch, fewer.asked) == ("plain", 2, 4)
    tight = one.peak_gib  # of which nine tenths may be taken
    sliced = plan(config, batch=4, available_gib=tight, precision="float32")
    assert (sliced.mode, sliced.batch) == ("sliced", 1)
    assert all(p.fits for p in (whole, one, fewer, sliced))
    with pytest.raises(TooLargeError, match="bfloat16 instead of float32, or the mode tiled"):
        plan(config, available_gib=0.5 * tight, precision="float32")
    tiled = plan(config, available_gib=0.5 * tight, precision="float32", mode="tiled")
    assert math.prod(tiled.tile) < 160 * 128 * 128
    assert TooLargeError.exit_code == ExitCode.OUT_OF_MEMORY


def test_training_checkpoints_before_it_takes_a_smaller_batch():
    config = model(size=(48, 48, 48))
    common = {"batch": 4, "training": True, "precision": "float32"}
    whole = plan(config, available_gib=100.0, **common)
    assert (whole.mode, whole.batch, whole.states_gib) == ("plain", 4, 0.0)
    less = plan(config, available_gib=whole.peak_gib, **common)
    assert (less.mode, less.batch) == ("checkpointed", 4)
    assert less.peak_gib < 0.7 * whole.peak_gib
    fewer = plan(config, available_gib=less.peak_gib, **common)
    assert (fewer.mode, fewer.batch) == ("checkpointed", 3)


def test_a_plan_puts_a_denoiser_into_its_mode():
    config = model(size=(32, 32, 32))
    x = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    denoiser = fresh_denoiser(config, seed=0, precision="float32").eval()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.02)
        expected = denoiser(x, 0.5)
        common = {"precision": "float32", "available_gib": 1.0}
        tiled = plan(config, mode="tiled", **common).prepare(denoiser)
        assert isinstance(tiled, Tiled)
        assert not torch.allclose(tiled(x, 0.5), expected, rtol=1e-4, atol=1e-4)
        assert tiled(x, 0.5).shape == x.shape
        sliced = plan(config, mode="sliced", **common).prepare(denoiser)
        torch.testing.assert_close(sliced(x, 0.5), expected, rtol=1e-5, atol=1e-5)
    assert any("forward" in vars(module) for module in denoiser.modules())


def test_it_says_so_in_plain_words():
    lines = plan(model(), batch=3, available_gib=4.0, precision="float32").lines()
    assert lines[0].startswith("some, sampling at 16 x 24 x 16 voxels, batch 3, float32: ")
    assert "GiB of 4.0 GiB available" in lines[1]
    few = plan(model(), batch=10**6, available_gib=0.05, precision="float32")
    assert "of 1000000 asked for" in few.lines()[0]
    step = plan(model(), training=True, mode="checkpointed", available_gib=4.0)
    assert "training" in step.lines()[0]
    assert "states" not in step.lines()[1]
    assert 0.0 < memory_at_hand() < 1e5


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"batch": 0}, "1 or more"),
        ({"size": (16, 16)}, "3 dimensions"),
        ({"mode": "checkpointed"}, "for sampling choose one of"),
        ({"mode": "sliced", "training": True}, "for training choose one of"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(fields, words):
    with pytest.raises(UsageError, match=words):
        plan(model(), available_gib=1.0, **fields)


RUN = """
import json, sys, torch
from medsci.models.config import ModelConfig
from medsci.models.store import fresh_denoiser
from medsci.brain.memory import plan
config = ModelConfig.model_validate_json(sys.argv[1])
precision, mode, training = sys.argv[2], sys.argv[3], sys.argv[4] == "training"
torch.set_num_threads(1)
denoiser = fresh_denoiser(config, seed=0, precision=precision).train(training)
denoiser.requires_grad_(training)
promised = plan(config, precision=precision, mode=mode, available_gib=100.0, training=training)
promised.prepare(denoiser)
x = torch.randn(1, config.network.in_channels, *config.training_size)
def status(key):
    rows = open("/proc/self/status").read().splitlines()
    return next(int(row.split()[1]) / 2**20 for row in rows if row.startswith(key))
with torch.set_grad_enabled(training):
    denoiser(x[..., :16, :16, :16], 0.5)  # libraries set themselves up
    before = status("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")
    out = denoiser(x, 0.5)
    if training:
        out.square().mean().backward()
print(json.dumps([promised.activations_gib, status("VmHWM") - before]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process from /proc")
@pytest.mark.parametrize(
    ("network", "size", "precision", "mode", "purpose"),
    [
        (PUBLISHED, (48, 64, 48), "float32", "plain", "sampling"),
        (PUBLISHED, (96, 112, 96), "float32", "plain", "sampling"),
        (PUBLISHED, (96, 112, 96), "bfloat16", "plain", "sampling"),
        (PUBLISHED, (96, 112, 96), "float32", "sliced", "sampling"),
        (PUBLISHED, (96, 112, 96), "bfloat16", "sliced", "sampling"),
        (UNet3dConfig(in_channels=4, out_channels=4), (48, 56, 48), "float32", "plain", "sampling"),
        (
            UNet3dConfig(in_channels=4, out_channels=4),
            (96, 112, 96),
            "float32",
            "plain",
            "sampling",
        ),
        (PUBLISHED, (64, 80, 64), "float32", "checkpointed", "training"),
        (PUBLISHED, (48, 64, 48), "float32", "plain", "training"),
    ],
)
def test_the_promise_is_within_a_quarter_of_the_resident_memory(
    network, size, precision, mode, purpose
):
    """One evaluation in a process of its own, whose large blocks go back to the system at once."""
    config = model(network, size).model_dump_json()
    alone = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(2**18)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, config, precision, mode, purpose],
        env=alone,
        capture_output=True,
        text=True,
        check=True,
    )
    promised, taken = json.loads(done.stdout.splitlines()[-1])
    assert promised == pytest.approx(taken, rel=0.25)
