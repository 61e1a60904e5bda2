"""Joint processes: parts noised apart, by name, and denoised together."""

import math

import pytest
import torch
from contracts.core import DOUBLE, draw
from torch.testing import assert_close

from medsci.core import Linear, Path, Rng, grid
from medsci.core.process.bernoulli import Bernoulli
from medsci.core.process.joint import Joint
from medsci.core.process.noise import StudentT
from medsci.core.process.process import Process
from medsci.core.process.shifted import Residual
from medsci.core.solve.bridge import bridge_walk

IMG, MASK = Linear(Path.vp_cosine()), Bernoulli(Path.vp_cosine())
JOINT = Joint({"img": IMG, "mask": MASK})
SHAPES = {"img": (3, 2, 4), "mask": (3, 1, 4)}


def clean() -> dict[str, torch.Tensor]:
    return {"img": draw(3, 2, 4), "mask": (draw(3, 1, 4, seed=1) > 0.0).double()}


def test_a_part_is_noised_as_it_would_be_alone() -> None:
    rng, x0 = Rng(0, range(3)), clean()
    states, noises = JOINT.perturb(x0, torch.tensor([0.2, 0.5, 0.9]), rng, step=3)
    assert_close(states["img"], IMG.path.perturb(
        x0["img"], torch.tensor([0.2, 0.5, 0.9]), noises["img"]))  # fmt: skip
    assert set(states["mask"].unique().tolist()) <= {0.0, 1.0}
    assert isinstance(JOINT, Process)


@pytest.mark.parametrize("what", ["prior", "perturb", "bridge"])
def test_order_and_company_of_the_parts_do_not_matter(what) -> None:
    rng, x0 = Rng(0, range(3)), clean()

    def call(joint, names):
        some = {n: x0[n] for n in names}
        if what == "prior":
            return joint.prior({n: SHAPES[n] for n in names}, rng)
        if what == "perturb":
            return joint.perturb(some, 0.4, rng)[0]
        return joint.bridge(some, some, t=0.8, s=0.4, rng=rng, step=2)

    forward = call(JOINT, ("img", "mask"))
    backward = call(Joint({"mask": MASK, "img": IMG}), ("mask", "img"))
    alone = call(Joint({"img": IMG}), ("img",))
    for name in SHAPES:
        assert torch.equal(forward[name], backward[name])
    assert torch.equal(forward["img"], alone["img"])


def test_parts_have_independent_noise() -> None:
    joint = Joint({"one": IMG, "two": IMG})
    _, z = joint.perturb({n: torch.zeros(1, 40000) for n in ("one", "two")}, 0.5, Rng(0, [0]))
    pair = torch.cat([z["one"], z["two"]])
    assert abs(float(torch.corrcoef(pair)[0, 1])) < 4.5 / math.sqrt(40000)
    same = Linear(Path.vp_cosine()).perturb(torch.zeros(1, 40000), 0.5, Rng(0, [0]))[1]
    assert float(torch.corrcoef(torch.cat([same, same]))[0, 1]) == pytest.approx(1.0)  # control


def test_one_call_denoises_all_and_both_laws_come_out() -> None:
    """A mask m ~ Bernoulli(.3) and an image x | m ~ N(2 m - 1, .5^2): a joint law, one denoiser."""
    prior, sd, n, calls = 0.3, 0.5, 40000, []
    joint = Joint({"img": Linear(Path.rectified()), "mask": Bernoulli(lambda t: (1.0 - t) ** 2)})

    def denoise(x, t):
        calls.append(t)
        alpha, sigma = 1.0 - t, t
        spread, gamma = alpha**2 * sd**2 + sigma**2, (1.0 - t) ** 2
        log_odds = math.log(prior / (1.0 - prior)) + 2.0 * alpha * x["img"] / spread
        log_odds = log_odds + (2.0 * x["mask"] - 1.0) * math.log((1.0 + gamma) / (1.0 - gamma))
        p = torch.sigmoid(log_odds)
        gain = alpha * sd**2 / spread
        x0 = [m + gain * (x["img"] - alpha * m) for m in (-1.0, 1.0)]
        return {"img": (1.0 - p) * x0[0] + p * x0[1], "mask": p}

    rng, times = Rng(1, [0]), grid.uniform(100)
    start = joint.prior({"img": (1, n), "mask": (1, n)}, rng, dtype=DOUBLE)
    end = bridge_walk(denoise, joint, start, grid=times, rng=rng)
    assert len(calls) == 100
    assert float(end["mask"].mean()) == pytest.approx(prior, abs=0.01)
    certain = (end["mask"] - 0.5).abs() > 0.45
    assert float(certain.double().mean()) > 0.95
    for value in (0, 1):  # and the image belongs to its mask
        x = end["img"][certain & ((end["mask"] > 0.5) == bool(value))]
        assert float(x.mean()) == pytest.approx(2.0 * value - 1.0, abs=0.04)
        assert float(x.std()) == pytest.approx(sd, rel=0.08)


def test_each_part_has_its_own_mean() -> None:
    joint = Joint({"a": Linear(Residual(1e-8)), "b": Linear(Residual(1e-8)), "c": IMG})
    x0 = {n: torch.zeros(2, 3, dtype=DOUBLE) for n in "abc"}
    mu = {"a": torch.ones(2, 3, dtype=DOUBLE), "b": torch.full((2, 3), 5.0, dtype=DOUBLE)}
    states, _ = joint.perturb(x0, 1.0, Rng(0, [0, 1]), cond={"mu": mu, "label": 3})
    assert_close(states["a"], mu["a"], rtol=0.0, atol=1e-3)
    assert_close(states["b"], mu["b"], rtol=0.0, atol=1e-3)
    shared, _ = joint.perturb(x0, 1.0, Rng(0, [0, 1]), cond={"mu": mu["a"]})
    assert_close(shared["b"], mu["a"], rtol=0.0, atol=1e-3)
    with pytest.raises(ValueError, match="no mu came"):
        joint.perturb(x0, 1.0, Rng(0, [0, 1]), cond={"mu": {"a": mu["a"]}})


def test_laws_may_differ_between_parts() -> None:
    joint = Joint({"a": Linear(Path.ve(1.0), StudentT(1.0)), "b": Linear(Path.ve(1.0))})
    x = joint.prior({"a": (500, 1), "b": (500, 1)}, Rng(0, range(500)))
    assert float(x["a"].abs().max()) > 20.0 > 6.0 > float(x["b"].abs().max())


@pytest.mark.parametrize("names", [("img",), ("img", "mask", "extra")])
def test_says_how_to_fix(names) -> None:
    with pytest.raises(ValueError, match="one entry per part"):
        JOINT.perturb({n: draw(3, 1, 4) for n in names}, 0.5, Rng(0, range(3)))
    with pytest.raises(ValueError, match="at least one process"):
        Joint({})
