# %% [markdown]
# # Bring your own operator
#
# What a solver asks of a measurement is `A x`, its exact adjoint, and the data. Here a camera that
# moved: every image is the sum of three shifted copies, and a stripe of the detector is dead. The
# prior is a closed form, so that the best possible answer is known. Runs in seconds on one core;
# `OUT` names a folder for the picture.

# %%
import os
from pathlib import Path as FilePath

import matplotlib
import numpy as np
import torch
from torch import Tensor

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from medsci.core import Path, Rng
from medsci.core.check import StationaryMixtureOracle
from medsci.inverse import METHODS, Measurement, solve
from medsci.operators import LinearOp, MaskOp

generator = torch.Generator().manual_seed(0)
N = 32


# %% [markdown]
# ## The operator
# Two methods. `A @ B` composes, so the dead stripe is the mask that is there already.


# %%
class ThreeExposures(LinearOp):
    """Average an image with two copies shifted along its rows, cyclically."""

    shifts = (0, 3, 7)

    def forward(self, x: Tensor) -> Tensor:
        """Return the blurred image."""
        return sum(torch.roll(x, shift, dims=-1) for shift in self.shifts) / len(self.shifts)

    def adjoint(self, y: Tensor) -> Tensor:
        """Shift back and average."""
        return sum(torch.roll(y, -shift, dims=-1) for shift in self.shifts) / len(self.shifts)


alive = torch.ones(N, N, dtype=torch.bool)
alive[:, 20:26] = False
op = MaskOp(alive) @ ThreeExposures()

# %% [markdown]
# The one thing that must hold: `<A x, y> = <x, A^H y>`. Solvers that meet an approximate adjoint do
# not fail, they converge to something else.

# %%
u, v = torch.randn((2, 1, N, N), generator=generator, dtype=torch.float64)
left, right = float((op(u) * v).sum()), float((u * op.adjoint(v)).sum())
assert abs(left - right) < 1e-12 * float(op(u).norm() * v.norm())
print(f"<A x, y> = {left:.12f}, <x, A^H y> = {right:.12f}, |A| = {op.norm(u):.3f}")

# %% [markdown]
# ## A prior with a closed form, and data
# Six blobs with a texture. Any trained denoiser would stand here: `load_denoiser("ct-2d")`.

# %%
at = torch.arange(N, dtype=torch.float32)
centres = 6.0 + 20.0 * torch.rand((6, 2), generator=generator)
blobs = [
    torch.exp(-((at[:, None] - r) ** 2 + (at - c) ** 2) / 30.0).unsqueeze(0) for r, c in centres
]
frequency = torch.fft.fftfreq(N) * N
power = (1.0 + (frequency[:, None] ** 2 + frequency**2) / 16.0) ** -1.5
power = power * (0.1**2 / power.mean())
prior = StationaryMixtureOracle(Path.vp_cosine(), torch.stack(blobs), spectrum=power)
truth = prior.sample(4, 0.0, generator=generator)[:, 0]

noise = 0.02
y = op(truth) + noise * torch.randn(truth.shape, generator=generator) * alive
measured, norm = Measurement(y, op, noise=noise, n_data=4 * int(alive.sum())).normalised()

# %% [markdown]
# ## Every solver, one call
# `misfit` is about 1 where the data are met as well as their noise allows.


# %%
def psnr(image: Tensor) -> float:
    """Return the PSNR for a data range of 1."""
    return float(-10.0 * torch.log10((image - truth).square().mean()))


images = {"blurred": y}
for method in ("dds3d", "red-diff", "flowchef", "diffpir", "pigdm", "pnp"):
    options = METHODS[method].load()[1]()
    found = solve(measured, prior, rng=Rng(0, range(4)), method=method, settings=options)
    images[method] = found.image
    print(
        f"{method:9s} {psnr(found.image):5.2f} dB, misfit {measured.misfit(found.image):.2f}, "
        f"{found.n_calls} calls"
    )
best = max(psnr(image) for name, image in images.items() if name != "blurred")
assert best > psnr(y) + 8.0

# %% [markdown]
# The control: with the wrong operator the same solver has nothing to stand on.

# %%
wrong, _ = Measurement(y, MaskOp(alive), noise=noise).normalised()
missed = solve(wrong, prior, rng=Rng(0, range(4)), method="dds3d").image
assert psnr(missed) < best - 5.0

# %%
fig, axes = plt.subplots(2, 4, figsize=(9, 5))
shown = {"truth": truth, **images}
for axis, (name, image) in zip(axes.flat, shown.items(), strict=False):
    axis.imshow(image[0].numpy(), cmap="gray", vmin=0, vmax=1.2)
    axis.set_title(name if name == "truth" else f"{name}, {psnr(image):.1f} dB", fontsize=9)
for axis in axes.flat:
    axis.axis("off")
fig.tight_layout()
if os.environ.get("OUT"):
    fig.savefig(FilePath(os.environ["OUT"]) / "own_operator.png", dpi=100)
assert np.isfinite(best)
