"""The average of checkpoints: its closed form, what is copied, and what it is not."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from medsci.errors import InvalidInputError, OutputExistsError, UsageError, WeightsError
from medsci.models.averaging import ema_from_checkpoints
from medsci.training.ema import Ema


def write(folder, n, **more):
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(3, 4, generator=generator) for _ in range(n)]
    files = []
    for k, value in enumerate(weights):
        extra = {name: make(k) for name, make in more.items()}
        files.append(folder / f"epoch{k}.safetensors")
        save_file({"layer.weight": value, **extra}, files[-1])
    return files, torch.stack(weights).double()


@pytest.mark.parametrize("momentum", [0.1, 0.5, 1.0])
def test_the_closed_form(tmp_path, momentum):
    """`E_n = q^(n-1) W_1 + m sum_(k>1) q^(n-k) W_k`, with `q = 1 - m`."""
    n, q = 12, 1.0 - momentum
    files, weights = write(tmp_path, n)
    done = ema_from_checkpoints(files, tmp_path / "average.safetensors", momentum=momentum)
    share = torch.tensor([q ** (n - 1)] + [momentum * q ** (n - k) for k in range(2, n + 1)])
    assert float(share.sum()) == pytest.approx(1.0)
    expected = torch.einsum("k,kij->ij", share.double(), weights)
    found = load_file(done)["layer.weight"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    if momentum < 1.0:
        other = load_file(
            ema_from_checkpoints(files[::-1], tmp_path / "b.safetensors", momentum=momentum)
        )
        assert (other["layer.weight"] - found).abs().max() > 1e-2  # control: newest first


def test_buffers_and_integers_are_those_of_the_last_file(tmp_path):
    files, _ = write(
        tmp_path, 3,
        running=lambda k: torch.full((2,), float(k)),
        count=lambda k: torch.tensor(k),
    )  # fmt: skip
    plain = load_file(ema_from_checkpoints(files, tmp_path / "a.safetensors"))
    assert plain["count"].item() == 2
    assert plain["running"][0].item() == pytest.approx(0.9 * 0.1 + 0.1 * 2.0)
    kept = load_file(ema_from_checkpoints(files, tmp_path / "b.safetensors", buffers=("running",)))
    assert kept["running"].tolist() == [2.0, 2.0]


def test_it_is_not_the_average_of_every_step(tmp_path):
    """Weights that run along a line, a file per 50 steps: this average lags ten files behind."""
    ema, model, average = Ema(0.99), nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    files = []
    for step in range(1000):
        with torch.no_grad():
            model.weight.fill_(step / 1000.0)
        ema.update(average, model, update=step)
        if step % 50 == 49:
            files.append(tmp_path / f"{step}.safetensors")
            save_file(model.state_dict(), files[-1])
    late = load_file(ema_from_checkpoints(files, tmp_path / "average.safetensors"))["weight"]
    lag_of_files, lag_of_steps = 1.0 - float(late), 1.0 - average.weight.item()
    assert lag_of_steps == pytest.approx(0.1, abs=0.01)  # 1 / (1 - decay) steps
    memory = sum(0.9**k for k in range(1, len(files)))  # files, for a line of finite length
    assert lag_of_files == pytest.approx(0.05 * memory, abs=0.01)
    assert lag_of_files > 3.0 * lag_of_steps


def test_what_is_refused(tmp_path):
    files, _ = write(tmp_path, 2)
    out = tmp_path / "average.safetensors"
    ema_from_checkpoints(files, out)
    with pytest.raises(OutputExistsError, match="exists"):
        ema_from_checkpoints(files, out)
    ema_from_checkpoints(files, out, existing="replace")
    with pytest.raises(UsageError, match="no files"):
        ema_from_checkpoints([], out, existing="replace")
    with pytest.raises(UsageError, match=r"in \(0, 1\]"):
        ema_from_checkpoints(files, tmp_path / "c.safetensors", momentum=0.0)
    with pytest.raises(InvalidInputError, match="does not exist"):
        ema_from_checkpoints([tmp_path / "none.safetensors"], tmp_path / "c.safetensors")
    save_file({"layer.weight": torch.zeros(4, 4)}, tmp_path / "odd.safetensors")
    with pytest.raises(WeightsError, match="differ in 1 names or shapes"):
        ema_from_checkpoints([*files, tmp_path / "odd.safetensors"], tmp_path / "c.safetensors")
    save_file({"layer.weight": torch.full((3, 4), torch.nan)}, tmp_path / "nan.safetensors")
    with pytest.raises(WeightsError, match="not finite"):
        ema_from_checkpoints([*files, tmp_path / "nan.safetensors"], tmp_path / "c.safetensors")
    assert not (tmp_path / "c.safetensors").exists()
