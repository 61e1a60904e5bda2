# %% [markdown]
# # A tour of the core
#
# Twenty-five narrow modes on a lattice, whose denoiser is known exactly, so that every picture can
# be checked against the truth. Put your own `Denoiser(net, path=path)` in place of the oracle and
# the rest stays as it is. Runs in under a minute; `OUT` names a folder for the picture.

# %%
import os
from pathlib import Path as FilePath

import matplotlib
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from medsci.core import Ancestral, Cycle, Multistep, Path, RungeKutta, grid, sample
from medsci.core.check import GaussianMixtureOracle, Smoothed, log_likelihood, support_distance
from medsci.core.steer import Hallucination, Renoised, Replace, SkipGradient

axis = torch.linspace(-1.4, 1.4, 5)
modes = torch.cartesian_prod(axis, axis)
sd = 0.05
path = Path.vp_cosine()
denoiser = GaussianMixtureOracle(
    path, torch.ones(25), means=modes, covariances=(sd**2 * torch.ones(25, 2)).diag_embed()
)
n = 400


def off_support(x: torch.Tensor) -> float:
    """Return the share of samples more than five standard deviations from every mode."""
    return (support_distance(x, modes, sd=sd) > 5.0).float().mean().item()


# %% [markdown]
# ## Samples by budget
# `steps` is all that is needed: solver and grid are chosen for it.

# %%
by_budget = {steps: sample(denoiser, (n, 2), steps=steps) for steps in (3, 5, 10, 20)}
shares = {steps: off_support(x) for steps, x in by_budget.items()}
print("off the support:", {steps: f"{share:.1%}" for steps, share in shares.items()})
assert shares[20] <= shares[3]

# %% [markdown]
# ## Steering
# Skip-gradient guidance pulls the first coordinate to 0.7, a mode; replacement keeps it at 1.4 and
# samples the other one conditionally.

# %%
pulled = sample(
    denoiser,
    (n, 2),
    steps=20,
    hooks=[SkipGradient(lambda x0: (x0[:, 0] - 0.7) ** 2, 0.3)],
)
known = torch.tensor([1.4, 0.0]).expand(n, 2)
completed = sample(
    denoiser,
    (n, 2),
    solver=Cycle(Ancestral(1.0), high=0.9, low=0.1, n=3),
    grid=grid.uniform(40),
    hooks=[Replace(torch.tensor([True, False]), Renoised(path, known))],
)
assert (completed[:, 0] == 1.4).all()
visited = modes[torch.cdist(completed, modes).argmin(1), 1].unique()
print("second coordinate, modes visited:", [round(v, 1) for v in visited.tolist()])

# %% [markdown]
# ## There and back
# Inversion is a plan on a rising grid.

# %%
solver = RungeKutta("rk4", "angle")
times = grid.angle(path, 60, sigma_min=0.02)
x = by_budget[20]
noise = solver.plan(path, times[::-1]).run(denoiser, x)
again = solver.plan(path, times).run(denoiser, noise)
print(f"there and back: {(again - x).abs().median():.1e}")

# %% [markdown]
# ## Likelihood, exactly
# The divergence rides along the flow.

# %%
few = x[:32].double()
exact_oracle = GaussianMixtureOracle(
    path,
    torch.ones(25, dtype=torch.float64),
    means=modes.double(),
    covariances=(sd**2 * torch.ones(25, 2, dtype=torch.float64)).diag_embed(),
)
fine = grid.angle(path, 200, sigma_min=0.02)[::-1]
found = log_likelihood(exact_oracle, few, solver=solver, grid=fine)
truth = exact_oracle.log_density(few, float(fine[0]))
print(f"log-likelihood: largest error {(found - truth).abs().max():.1e}")
assert (found - truth).abs().max() < 1e-2

# %% [markdown]
# ## Which samples to doubt
# A denoiser that is a little blurred, as trained ones are, leaves samples between the modes. Their
# estimates keep changing to the end, and the variance over the last steps tells them apart.

# %%
blurred = Smoothed(denoiser, path=path, bandwidth=0.1)
score = Hallucination(5)
doubtful = sample(
    blurred,
    (n, 2),
    solver=Multistep("x0", order=1),
    grid=grid.karras(path, 60, sigma_max=80.0, sigma_min=0.002),
    path=path,
    hooks=[score],
)
doubt = score.score()
bad = support_distance(doubtful, modes, sd=sd) > 5.0
half = doubt.median()
print(
    f"off the support: {bad.float().mean():.1%}; with more doubt than half: "
    f"{(doubt[bad] > half).float().mean():.0%} of these"
)

# %%
figure, panels = plt.subplots(2, 3, figsize=(10.5, 7), layout="constrained")
for panel, steps in zip(panels[0], (3, 5, 10), strict=True):
    panel.scatter(*by_budget[steps].T, s=4)
    panel.set_title(f"{steps} evaluations, {shares[steps]:.0%} off")
panels[1, 0].scatter(*pulled.T, s=4)
panels[1, 0].set_title("guided to 0.7")
panels[1, 1].scatter(*completed.T, s=4)
panels[1, 1].set_title("first coordinate kept at 1.4")
dots = panels[1, 2].scatter(*doubtful.T, s=4, c=doubt.log10(), cmap="viridis")
panels[1, 2].set_title("blurred denoiser, colour: doubt")
figure.colorbar(dots, ax=panels[1, 2], label="log10 variance of x0")
for panel in panels.flat:
    panel.set(xlim=(-2, 2), ylim=(-2, 2), aspect="equal")
if "OUT" in os.environ:
    figure.savefig(FilePath(os.environ["OUT"]) / "core_tour.png", dpi=110)
