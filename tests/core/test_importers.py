"""Networks from elsewhere: told the time as in their training, and stepped as by their formulas."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from contracts.core import draw
from torch import nn
from torch.testing import assert_close

from medsci.core.denoise.checkpoint import load_weights
from medsci.core.denoise.importers import from_diffusers, from_monai
from medsci.core.denoise.schedules import alphas_bar_of, zero_terminal_snr
from medsci.core.process import Path
from medsci.core.solve import Ancestral, Multistep, Rng, grid, sample

SCHEDULES = ["linear_beta", "scaled_linear_beta", "sigmoid_beta", "cosine"]
MONAI_PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}


def small_unet(seed: int) -> nn.Module:
    """Return MONAI's network, as small as it gets, with a cross-attention condition."""
    from monai.networks.nets import DiffusionModelUNet

    torch.manual_seed(seed)
    net = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        num_res_blocks=1,
        channels=(8,),
        attention_levels=(True,),
        norm_num_groups=4,
        num_head_channels=8,
        with_conditioning=True,
        cross_attention_dim=3,
    )
    for weight in net.parameters():  # parts of it start at zero, and would hide time and context
        if not weight.any():
            nn.init.normal_(weight, std=0.3)
    return net.eval()


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    return small_unet(0)


def monai_scheduler(kind: str, schedule: str = "linear_beta", **options):
    from monai.networks import schedulers

    return getattr(schedulers, kind)(
        num_train_timesteps=1000, schedule=schedule, clip_sample=False, **options
    )


class Spy(nn.Module):
    """A network that keeps the times it is told, and answers with a bend of state and time."""

    def __init__(self):
        super().__init__()
        self.told: list[torch.Tensor] = []
        self.gain = nn.Parameter(torch.tensor(0.7))

    def forward(self, x, timesteps, context=None):
        self.told.append(timesteps)
        shape = (-1, *(1,) * (x.ndim - 1))
        out = torch.tanh(self.gain * x + 1e-3 * timesteps.reshape(shape))
        return out if context is None else out + context


# Schedules


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_tables_are_those_of_monai(schedule):
    theirs = monai_scheduler("DDPMScheduler", schedule).alphas_cumprod.double().numpy()
    ours = alphas_bar_of(schedule, 1000)
    np.testing.assert_allclose(ours, theirs, rtol=2e-4)  # theirs is a product in float32
    np.testing.assert_allclose(1 - ours, 1 - theirs, rtol=2e-3)
    other = alphas_bar_of("linear" if schedule != "linear_beta" else "cosine", 1000)
    assert abs(other / theirs - 1.0).max() > 0.05  # the control


def test_zero_terminal_snr():
    """The last row is noise alone, the first is kept, and the roots are stretched linearly."""
    plain = np.sqrt(alphas_bar_of("scaled_linear"))
    stretched = np.sqrt(zero_terminal_snr(plain**2))
    assert stretched[-1] == 0.0
    assert stretched[0] == pytest.approx(plain[0], rel=1e-14)
    slope = np.diff(stretched) / np.diff(plain)
    np.testing.assert_allclose(slope, slope[0], rtol=1e-9)
    path = from_monai(Spy(), pred="v", alphas_bar=stretched**2).path
    assert float(path.alpha(1.0)) == 0.0


def test_schedules_say_how_to_fix():
    with pytest.raises(ValueError, match="choose one of"):
        alphas_bar_of("exponential")
    with pytest.raises(ValueError, match="at least 2"):
        alphas_bar_of("linear", 1)
    with pytest.raises(ValueError, match=r"inside \(0, 1\)"):
        alphas_bar_of("linear", beta_end=1.5)


# MONAI


def test_the_network_is_told_its_rows_and_conditions(unet):
    denoiser = from_monai(unet, pred="eps")
    x, context = draw(2, 1, 8, 8, dtype=torch.float32), draw(2, 4, 3, dtype=torch.float32)
    with torch.no_grad():
        for row in (0, 1, 417, 999):
            ours = denoiser.predict(x, (row + 1) / 1000, context=context)
            theirs = unet(x, torch.full((2,), row), context=context)  # integers, as in training
            assert torch.equal(ours, theirs)
        other = unet(x, torch.full((2,), 998), context=context)
        assert not torch.equal(ours, other)  # the control: the row beside
        assert not torch.equal(ours, denoiser.predict(x, 1.0, context=context.flip(0)))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("pred", MONAI_PREDICTIONS)
def test_one_step_of_ddim_is_monais(pred, schedule):
    """At the pair of rows that its formula means, `i` and `i - 1000 // n`."""
    scheduler = monai_scheduler("DDIMScheduler", schedule, prediction_type=MONAI_PREDICTIONS[pred])
    scheduler.set_timesteps(20)
    net = Spy()
    denoiser = from_monai(net, pred=pred, alphas_bar=scheduler.alphas_cumprod)
    x = draw(2, 1, 8, 8, dtype=torch.float32)
    for row in (999, 523, 49):
        times = np.array([row + 1, row + 1 - 50]) / 1000
        for solver in (Multistep("x0", order=1), Ancestral(0.0)):
            ours = solver.plan(denoiser.path, times).run(denoiser, x)
            with torch.no_grad():
                theirs, _ = scheduler.step(net(x, torch.full((2,), row)), row, x)
            if pred == "eps" and schedule == "cosine" and row == 999:
                continue  # alphas_bar = 2e-9 there: noise says nothing about data in float32
            assert_close(ours, theirs, rtol=2e-4, atol=2e-4)
        beside = Ancestral(0.0).plan(denoiser.path, times - [0.0, 0.02 * (row > 100)])
        if row > 100:
            assert not torch.allclose(beside.run(denoiser, x), theirs, rtol=1e-3, atol=1e-3)


def test_monai_visits_other_rows_than_its_formula_means():
    """The reason to compare single steps: its step of 50 rows is taken on a grid of 52 or 53."""
    scheduler = monai_scheduler("DDIMScheduler")
    scheduler.set_timesteps(20)
    gaps = -torch.diff(scheduler.timesteps)
    assert set(gaps.tolist()) == {52, 53}
    assert 1000 // 20 == 50
    ours = -np.diff(grid.indices(1000, 20, spacing="linspace")[:-1]) * 1000
    np.testing.assert_allclose(ours, gaps.numpy())  # and we step by what we visit


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_stochastic_steps_are_monais(eta):
    """DDIM with eta: the same mean and the same noise, drawn from the same generator."""
    scheduler = monai_scheduler("DDIMScheduler", prediction_type="sample")
    scheduler.set_timesteps(20)
    net = Spy()
    denoiser = from_monai(net, pred="x0", alphas_bar=scheduler.alphas_cumprod)
    x, row = draw(1, 1, 8, 8, dtype=torch.float32), 523
    rng = Rng(3, (0,))
    with torch.no_grad():
        answer = net(x, torch.full((1,), row))
    theirs, _ = scheduler.step(answer, row, x, eta=eta, generator=rng._generator(0, 0, 0))
    plan = Ancestral(eta).plan(denoiser.path, np.array([524, 474]) / 1000)
    assert_close(plan.run(denoiser, x, rng=rng), theirs, rtol=1e-5, atol=1e-5)
    other = plan.run(denoiser, x, rng=Rng(4, (0,)))
    assert not torch.allclose(other, theirs, rtol=1e-2, atol=1e-2)


def test_ancestral_steps_are_those_of_ddpm():
    scheduler = monai_scheduler("DDPMScheduler", prediction_type="epsilon")
    net = Spy()
    denoiser = from_monai(net, pred="eps", alphas_bar=scheduler.alphas_cumprod)
    x, rng = draw(1, 1, 8, 8, dtype=torch.float32), Rng(3, (0,))
    for row in (999, 400, 1):
        with torch.no_grad():
            answer = net(x, torch.full((1,), row))
        theirs, _ = scheduler.step(answer, row, x, generator=rng._generator(0, 0, 0))
        plan = Ancestral(1.0).plan(denoiser.path, np.array([row + 1, row]) / 1000)
        assert_close(plan.run(denoiser, x, rng=rng), theirs, rtol=1e-4, atol=1e-4)


def test_rows_between_rows():
    x = draw(2, 1, 4, 4, dtype=torch.float32)
    for index, expected in (("float", 416.6), ("round", 417)):
        net = Spy()
        from_monai(net, index=index)(x, 0.4176)
        assert net.told[0].is_floating_point() == (index == "float")
        assert net.told[0].tolist() == pytest.approx([expected] * 2, rel=1e-6)


def test_a_whole_walk_visits_the_rows_of_its_grid():
    net = Spy()
    end = sample(
        from_monai(net, pred="v"), (2, 1, 4, 4), solver=Multistep(), grid=grid.indices(1000, 7)
    )
    rows = [int(told[0]) for told in net.told]
    assert rows == [round(1000 - k * 1000 / 7) - 1 for k in range(7)]
    assert torch.isfinite(end).all()


def test_wrong_tables_are_refused():
    table = alphas_bar_of("linear", 100)
    with pytest.raises(ValueError, match=r"shape \(100,\) but n_rows=1000"):
        from_monai(Spy(), alphas_bar=table)
    with pytest.raises(ValueError, match="must fall strictly"):
        from_monai(Spy(), alphas_bar=table[::-1], n_rows=100)
    with pytest.raises(ValueError, match="must fall strictly"):
        from_monai(Spy(), alphas_bar=1.0 - np.linspace(1e-4, 2e-2, 100)[::-1], n_rows=100)


# Diffusers


class Answers(nn.Module):
    """The calling convention of diffusers' networks."""

    def __init__(self, kind="object"):
        super().__init__()
        self.inner, self.kind = Spy(), kind

    def forward(self, sample, timestep, encoder_hidden_states=None):
        out = self.inner(sample, timestep, encoder_hidden_states)
        return {"object": SimpleNamespace(sample=out), "tuple": (out,), "tensor": out}[self.kind]


@pytest.mark.parametrize("kind", ["object", "tuple", "tensor"])
def test_answers_of_every_kind_are_opened(kind):
    unet, x = Answers(kind), draw(2, 1, 4, 4, dtype=torch.float32)
    config = {"prediction_type": "v_prediction", "beta_schedule": "scaled_linear"}
    state = draw(2, 1, 4, 4, seed=1, dtype=torch.float32)
    denoiser = from_diffusers(unet, config)
    ours = denoiser(x, 0.5, encoder_hidden_states=state)
    plain = from_monai(unet.inner, pred="v", schedule="scaled_linear")
    assert torch.equal(ours, plain(x, 0.5, context=state))
    assert unet.inner.told[0].tolist() == [499.0, 499.0]


def test_settings_of_a_scheduler():
    unet = Answers()
    betas = np.linspace(1e-4, 2e-2, 50)
    given = from_diffusers(unet, {"trained_betas": betas.tolist(), "prediction_type": "sample"})
    np.testing.assert_allclose(given.path.alphas_bar, np.cumprod(1 - betas))
    assert given.pred == "x0"
    zero = from_diffusers(unet, {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"})
    assert float(zero.path.alpha(1.0)) == 0.0
    flow = from_diffusers(unet, {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0})
    assert (flow.path, flow.pred) == (Path.rectified(), "flow")
    x = draw(1, 1, 4, 4, dtype=torch.float32)
    unet.inner.told.clear()
    assert_close(flow(x, 0.25), x - 0.25 * unet.inner(x, torch.tensor([250.0])))
    assert unet.inner.told[0].tolist() == [250.0]
    with pytest.raises(ValueError, match="prediction_type 'noise' came"):
        from_diffusers(unet, {"prediction_type": "noise"})


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
def test_one_step_of_diffusers(schedule, zero, prediction):
    schedulers = pytest.importorskip("diffusers.schedulers.scheduling_ddim")
    scheduler = schedulers.DDIMScheduler(
        beta_schedule=schedule if schedule != "sigmoid" else "linear",
        prediction_type=prediction,
        clip_sample=False,
        rescale_betas_zero_snr=zero,
        timestep_spacing="trailing",
        trained_betas=None
        if schedule != "sigmoid"
        else 1e-4 + 0.0199 / (1 + np.exp(-np.linspace(-6, 6, 1000))),
    )
    scheduler.set_timesteps(20)
    unet, x = Answers(), draw(2, 1, 8, 8, dtype=torch.float32)
    denoiser = from_diffusers(unet, scheduler.config)
    for row in (949, 499, 49):
        times = np.array([row + 1, row - 49]) / 1000
        with torch.no_grad():
            answer = unet(x, torch.full((2,), row)).sample
        theirs = scheduler.step(answer, row, x).prev_sample
        ours = Ancestral(0.0).plan(denoiser.path, times).run(denoiser, x)
        assert_close(ours, theirs, rtol=3e-4, atol=3e-4)


# Checkpoints


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_weights_inside_a_checkpoint(prefix, tmp_path):
    trained, fresh = Spy(), Spy()
    with torch.no_grad():
        trained.gain.fill_(-3.0)
    state = {prefix + name: value for name, value in trained.state_dict().items()}
    torch.save({"epoch": 3, "ema": {"unet": state}}, tmp_path / "last.pt")
    checkpoint = torch.load(tmp_path / "last.pt", weights_only=True)
    denoiser = from_monai(load_weights(fresh, checkpoint, key="ema.unet"))
    x = draw(2, 1, 4, 4, dtype=torch.float32)
    assert torch.equal(denoiser(x, 0.5), from_monai(trained)(x, 0.5))
    assert not torch.equal(denoiser(x, 0.5), from_monai(Spy())(x, 0.5))  # the control
    load_weights(Spy(), state)


def test_checkpoints_say_how_to_fix():
    state = Spy().state_dict()
    with pytest.raises(ValueError, match=r"no 'model' of key=.* is \['epoch', 'unet'\]"):
        load_weights(Spy(), {"unet": state, "epoch": 1}, key="model")
    with pytest.raises(ValueError, match=r"name one of \['epoch', 'unet'\]"):
        load_weights(Spy(), {"unet": state, "epoch": 1})
    with pytest.raises(ValueError, match="first 'extra'"):
        load_weights(Spy(), {**state, "extra": torch.zeros(1)})
    with pytest.raises(ValueError, match="first 'gain'"):
        load_weights(Spy(), {"gain": torch.zeros(2)})


def test_monai_weights_load_by_name(unet):
    other = small_unet(1)
    x, context = draw(1, 1, 8, 8, dtype=torch.float32), draw(1, 4, 3, dtype=torch.float32)
    with torch.no_grad():
        trained = from_monai(unet)(x, 0.5, context=context)
        assert not torch.allclose(from_monai(other)(x, 0.5, context=context), trained)
        load_weights(other, {"unet_state_dict": unet.state_dict()}, key="unet_state_dict")
        assert torch.equal(from_monai(other)(x, 0.5, context=context), trained)
