"""Bridge GAN: exact steps from exact posterior draws, and losses with their known optimum."""

import math

import pytest
import torch
from torch import nn

from medsci.core.check.distribution import Rbf, ks_distance, mmd, mmd_null
from medsci.core.check.mixture import GaussianMixtureOracle
from medsci.core.denoise.denoiser import Denoiser
from medsci.core.learn.bridge_gan import BridgeGan
from medsci.core.learn.metric import SquaredError
from medsci.core.process.path import Path
from medsci.core.process.process import Linear
from medsci.core.process.shifted import Residual
from medsci.core.rng import Rng
from medsci.core.solve import Ancestral, sample
from medsci.core.solve.grid import uniform

DOUBLE = torch.float64
PATH = Path.vp_linear()
LONG = (0.5, 0.2)  # a step that is far too long for a bridge from the mean
NEAR = (0.3, 0.2)  # one whose two states depend on each other strongly


def mixture(dtype=DOUBLE):
    return GaussianMixtureOracle(
        PATH,
        torch.tensor([0.3, 0.7], dtype=dtype),
        means=torch.tensor([[-1.0], [1.0]], dtype=dtype),
        covariances=torch.tensor([[0.02], [0.02]], dtype=dtype),
    )


def data(n, seed=0, dtype=DOUBLE):
    return mixture(dtype).sample(n, 0.0, generator=torch.Generator().manual_seed(seed))


def drawing(x_t, t, *, latent):
    """Draw x0 given x_t exactly."""
    rng = Rng(77, range(len(x_t)))
    return mixture().posterior_sample(x_t, t[0].item(), rng=rng)


def averaging(x_t, t, *, latent):
    """Return the mean of x0 given x_t, what a denoiser knows."""
    return mixture()(x_t, t[0].item())


def verdict_on(generator, n=600):
    gan = BridgeGan(Linear(PATH), LONG)
    pairs = gan.pairs(generator, data(n), rng=Rng(0, range(n)))
    fresh = mixture().sample(n, LONG[1], generator=torch.Generator().manual_seed(5))
    return mmd_null(pairs.fake, fresh, rng=Rng(1, range(200)))


def test_exact_draws_of_x0_make_an_exact_step():
    found = verdict_on(drawing)
    assert found.p_value > 0.05
    assert found.value < found.level


def test_the_mean_in_place_of_a_draw_does_not():
    found = verdict_on(averaging)
    assert found.p_value < 0.01
    assert found.value > 5.0 * found.level


def test_exact_draws_make_the_joint_law_of_both_states():
    """Fake pairs are real pairs; fake states of other noisy states are not."""
    n = 600
    pairs = BridgeGan(Linear(PATH), NEAR).pairs(drawing, data(n), rng=Rng(0, range(n)))
    half = n // 2
    real = torch.cat([pairs.real, pairs.x_t], 1)[:half]
    fake = torch.cat([pairs.fake, pairs.x_t], 1)[half:]
    shuffled = torch.cat([pairs.fake.roll(1, 0), pairs.x_t], 1)[half:]
    assert mmd_null(real, fake, rng=Rng(1, range(200))).p_value > 0.05
    assert mmd_null(real, shuffled, rng=Rng(1, range(200))).p_value < 0.01


def test_the_real_pair_is_noise_added_twice():
    """`x_s = a_s x0 + s_s z`, `x_t = (a_t / a_s) x_s + sqrt(s_t^2 - (a_t s_s / a_s)^2) z'`."""
    n, (t, s) = 10000, LONG
    x0 = torch.full((n, 1), 0.7, dtype=DOUBLE)
    pairs = BridgeGan(Linear(PATH), LONG).pairs(averaging, x0, rng=Rng(0, range(n)))
    a_t, a_s, s_t, s_s = PATH.alpha(t), PATH.alpha(s), PATH.sigma(t), PATH.sigma(s)
    ratio = a_t / a_s
    fresh = math.sqrt(s_t**2 - (ratio * s_s) ** 2)
    rest = (pairs.x_t - ratio * pairs.real) / fresh
    first = (pairs.real - a_s * x0) / s_s

    def normal(x):
        return 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))

    for z in (first, rest):
        assert ks_distance(z[:, 0], normal).p_value > 0.01
    assert abs((first * rest).mean()) < 3.0 / math.sqrt(n), "the second noise knows the first"
    assert abs((first * pairs.x_t).mean()) > 0.1


class Plain(nn.Module):
    """A network with a gain at every time; it may listen to the latent."""

    def __init__(self, loud=0.0):
        super().__init__()
        self.gain, self.loud = nn.Parameter(torch.tensor(0.3, dtype=DOUBLE)), loud

    def forward(self, x, code, latent):
        noise = latent.sum(1).reshape(-1, *(1,) * (x.ndim - 1)) / math.sqrt(latent.shape[1])
        return self.gain * torch.cos(code / 1000.0).reshape(noise.shape) * x + self.loud * noise


def player(loud=0.0):
    return Denoiser(Plain(loud), path=PATH, pred="x0", unit_input=False)


def test_a_generator_that_ignores_its_latent_is_ancestral_sampling():
    """The limit of a single narrow mode: the same numbers, noise included."""
    gan = BridgeGan(Linear(PATH), times=tuple(uniform(5)))
    ours = gan.sample(player(), (6, 3), rng=Rng(4, range(6)), dtype=DOUBLE)

    def silent(x, t):
        return player()(x, t, latent=x.new_zeros(len(x), 1))

    options = {"path": PATH, "grid": uniform(5), "seed": 4, "dtype": DOUBLE}
    theirs = sample(silent, (6, 3), solver=Ancestral(eta=1.0), **options)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    loud = gan.sample(player(0.1), (6, 3), rng=Rng(4, range(6)), dtype=DOUBLE)
    assert (loud - theirs).abs().max() > 1e-2
    ddim = sample(silent, (6, 3), solver=Ancestral(eta=0.0), **options)
    assert (ddim - theirs).abs().max() > 1e-2


def test_samples_do_not_depend_on_their_batch_nor_pairs_on_their_neighbours():
    gan, rng = BridgeGan(Linear(PATH)), Rng(4, range(6))
    whole, part = (
        gan.sample(player(0.1), (len(ids), 3), rng=Rng(4, ids)) for ids in (range(6), (4, 2))
    )
    torch.testing.assert_close(whole[[4, 2]], part)
    x0 = data(6)
    pairs, some = (
        gan.pairs(player(0.1), x0, rng=rng),
        gan.pairs(player(0.1), x0[[4, 2]], rng=Rng(4, (4, 2))),
    )
    assert len(set(pairs.t.tolist())) > 2
    for name in ("x_t", "t", "real", "fake", "x0_hat"):
        torch.testing.assert_close(getattr(pairs, name)[[4, 2]], getattr(some, name))


class Quadratic(nn.Module):
    """All quadratics of two numbers; logistic regression on them is convex."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(6, dtype=DOUBLE))

    def forward(self, x_s, x_t, t):
        a, b = x_s[:, 0], x_t[:, 0]
        return torch.stack([a * a, a * b, b * b, a, b, torch.ones_like(a)], 1) @ self.weights


WRONG_MEAN, WRONG_SD = 0.2, 0.4


def guess(x_t, t, *, latent):
    """A generator that says x0 is N(.2, .4^2), whatever it sees."""
    return WRONG_MEAN + WRONG_SD * latent[:, :1]


def fitted_discriminator(*, shuffle=False, n=2500, sd=0.8):
    """Fit the discriminator's loss to convergence; return how far it is from the log-ratio."""
    gan = BridgeGan(Linear(PATH), NEAR, gamma=0.0, latent_dim=1)
    x0 = sd * torch.randn(n, 1, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    judge, rng = Quadratic(), Rng(0, range(n))

    def judged(x_s, x_t, t):
        return judge(x_s, x_t.roll(1, 0) if shuffle else x_t, t)

    optimiser = torch.optim.LBFGS(judge.parameters(), max_iter=18, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss, _ = gan.discriminator_loss(judged, x0, generator=guess, rng=rng, step=1)
        loss.backward()
        return loss

    def noise(seed):
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(x0.shape, dtype=DOUBLE, generator=generator)

    optimiser.step(closure)
    x_t = PATH.perturb(x0, NEAR[0], noise(0))
    x_s = 0.8 * x_t + 0.5 * noise(1)
    with torch.no_grad():
        found, exact = judge(x_s, x_t, None), log_ratio(x_s, x_t, sd=sd)[:, 0]
    return ((found - exact).square().mean().sqrt() / exact.std()).item()


def log_ratio(x_s, x_t, *, sd):
    """Return `ln q(x_s | x_t) - ln p_G(x_s | x_t)` for data of N(0, sd^2) and `guess`."""
    a_t, a_s, s_t, s_s = (float(f(c)) for f in (PATH.alpha, PATH.sigma) for c in NEAR)
    ratio = a_t / a_s
    var_s, var_t = a_s**2 * sd**2 + s_s**2, a_t**2 * sd**2 + s_t**2
    slope = ratio * var_s / var_t
    real = torch.distributions.Normal(slope * x_t, math.sqrt(var_s - slope**2 * var_t))
    fresh = s_s / s_t * math.sqrt(s_t**2 - (ratio * s_s) ** 2)
    kept = math.sqrt(s_s**2 - fresh**2) / s_t
    on_x0 = a_s - kept * a_t
    mean = on_x0 * WRONG_MEAN + kept * x_t
    fake = torch.distributions.Normal(mean, math.hypot(on_x0 * WRONG_SD, fresh))
    return real.log_prob(x_s) - fake.log_prob(x_s)


def test_the_discriminator_finds_the_log_ratio():
    assert fitted_discriminator() < 0.15
    assert fitted_discriminator(shuffle=True) > 0.25, "it needs to know the noisier state"


class Judge(nn.Module):
    """`D = w x_s`, whose slope is `w` everywhere."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=DOUBLE))

    def forward(self, x_s, x_t, t):
        return (self.weight * x_s).flatten(1).sum(1)


def test_the_penalty_is_lazy_and_weighs_what_gamma_says():
    x0, rng = data(8), Rng(0, range(8))

    def penalties(**options):
        gan = BridgeGan(Linear(PATH), gamma=0.3, penalty_every=3, **options)
        run = [
            gan.discriminator_loss(Judge(2.0), x0, generator=player(), rng=rng, step=step)
            for step in range(6)
        ]
        return torch.stack([parts["penalty"].mean() for _, parts in run])

    found = penalties()
    torch.testing.assert_close(found[[1, 2, 4, 5]], torch.zeros(4, dtype=DOUBLE))
    assert found.mean().item() == pytest.approx(0.5 * 0.3 * 2.0**2)
    assert penalties(scale_penalty=False).mean().item() == pytest.approx(0.5 * 0.3 * 4.0 / 3.0)


def test_each_player_moves_alone_and_the_penalty_reaches_the_discriminator():
    gan, x0, rng = BridgeGan(Linear(PATH), gamma=1e6), data(6), Rng(0, range(6))
    generator, judge = player(0.1), Judge(2.0)
    loss, _ = gan.discriminator_loss(judge, x0, generator=generator, rng=rng, step=0)
    loss.backward()
    assert generator.net.gain.grad is None
    assert judge.weight.grad.item() == pytest.approx(1e6 * 15 * 2.0, rel=1e-3)
    loss, parts = gan.generator_loss(generator, x0, discriminator=judge, rng=rng, step=0)
    loss.backward()
    assert generator.net.gain.grad.abs() > 1e-6
    torch.testing.assert_close(parts["loss"].mean(), loss.detach())
    _, later = gan.generator_loss(generator, x0, discriminator=judge, rng=rng, step=1)
    assert (later["loss"] - parts["loss"]).abs().min() > 1e-9


def test_terms_are_metrics_of_the_estimate():
    x0, rng = data(6), Rng(0, range(6))
    plain = BridgeGan(Linear(PATH))
    both = BridgeGan(Linear(PATH), terms=((2.0, SquaredError()), (0.5, SquaredError())))
    found = [
        gan.generator_loss(player(), x0, discriminator=Judge(1.0), rng=rng, step=3)[1]
        for gan in (plain, both)
    ]
    torch.testing.assert_close(found[0]["loss"], found[0]["adversarial"])
    torch.testing.assert_close(found[0]["adversarial"], found[1]["adversarial"])
    seen = []

    def error(estimate, clean):
        seen.append((estimate, clean))
        return SquaredError()(estimate, clean)

    both = BridgeGan(Linear(PATH), terms=((2.5, error),))
    again = both.generator_loss(player(), x0, discriminator=Judge(1.0), rng=rng, step=3)[1]
    torch.testing.assert_close(again["loss"], found[1]["loss"])
    torch.testing.assert_close(seen[0][1], x0)
    expected = 2.5 * (seen[0][0] - x0).square().mean(1)
    torch.testing.assert_close(again["loss"] - again["adversarial"], expected.detach())


def test_conditions_and_shifted_paths():
    """On a path with a mean, `mu` reaches process and network, and images keep their shape."""
    path = Residual()
    gan, x0 = BridgeGan(Linear(path), times=(0.9, 0.5, 0.0)), torch.zeros(5, 1, 4, 4)
    mu = torch.arange(5.0).reshape(5, 1, 1, 1).expand_as(x0)
    seen = []

    def generator(x_t, t, *, latent, mu):
        seen.append((latent.shape, mu.shape))
        return 0.0 * x_t

    def judge(x_s, x_t, t, mu):
        return (x_s - mu).flatten(1).mean(1, keepdim=True)

    rng = Rng(0, range(5))
    loss, _ = gan.generator_loss(
        generator, x0, discriminator=judge, rng=rng, step=0, cond={"mu": mu}
    )
    assert torch.isfinite(loss)
    assert seen == [((5, 64), (5, 1, 4, 4))]
    with pytest.raises(ValueError, match="conditional mean"):
        gan.generator_loss(generator, x0, discriminator=judge, rng=rng, step=0)


def test_what_is_refused():
    with pytest.raises(ValueError, match="fall from 1"):
        BridgeGan(times=(0.2, 0.5))
    with pytest.raises(ValueError, match="weight >= 0"):
        BridgeGan(gamma=-1.0)
    with pytest.raises(ValueError, match=r"times\[0\] = 1"):
        BridgeGan(times=LONG).sample(player(), (2, 1), rng=Rng(0, range(2)))
    with pytest.raises(ValueError, match="one number per sample"):
        BridgeGan().generator_loss(
            player(), data(3), discriminator=lambda *a: a[0].sum(), rng=Rng(0, range(3)), step=0
        )


class Small(nn.Module):
    """A network of a number, its time and a latent."""

    def __init__(self, latent_dim):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(2 + latent_dim, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1)
        )

    def forward(self, x, code, latent):
        return self.body(torch.cat([x, code[:, None], latent], 1))


def trained(gan, *, n_steps, batch=128):
    from medsci.nets.discriminator import MlpDiscriminator

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        options = {"pred": "x0", "unit_input": False, "time_code": "unit_time"}
        generator = Denoiser(Small(gan.latent_dim), path=PATH, **options)
        judge = MlpDiscriminator(1, width=64, depth=2)
    players = [
        torch.optim.Adam(net.parameters(), lr=3e-3, betas=(0.5, 0.9)) for net in (judge, generator)
    ]
    draw, rng = torch.Generator().manual_seed(1), Rng(0, range(batch))
    for step in range(n_steps):
        for which, optimiser in enumerate(players):
            x0 = mixture(torch.float32).sample(batch, 0.0, generator=draw)
            turn = {"rng": rng, "step": step}
            if which == 0:
                loss, _ = gan.discriminator_loss(judge, x0, generator=generator, **turn)
            else:
                loss, _ = gan.generator_loss(generator, x0, discriminator=judge, **turn)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return generator


@pytest.mark.slow
def test_four_adversarial_steps_beat_the_limit_of_regression():
    """The exact mean is the best that regression can give; four steps of it smear the modes."""
    gan = BridgeGan(Linear(PATH), times=tuple(uniform(4)), latent_dim=4)
    data_law, n = mixture(torch.float32), 2000
    fresh = data_law.sample(n, 0.0, generator=torch.Generator().manual_seed(2))

    def regressed(x_t, t, *, latent):
        return data_law(x_t, t)

    def judged(generator):
        x = gan.sample(generator, (n, 1), rng=Rng(9, range(n)))
        inside = ((x - data_law.means.T).abs() < 3.0 * math.sqrt(0.02)).any(1).float().mean()
        return mmd(x, fresh, kernel=Rbf(0.3)).item(), inside.item()

    distance, inside = judged(trained(gan, n_steps=500))
    worse, fewer = judged(regressed)
    assert distance < 0.5 * worse
    assert inside > fewer + 0.1
