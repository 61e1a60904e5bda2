# %% [markdown]
# # Bring your own prior
#
# A prior is anything that turns a noisy image into a clean one and knows how noisy it is:
# `prior(x, t) -> x0`, with a `path` that says what noise level `t` means. A network from elsewhere,
# a classical filter, a closed form. Here a translation-invariant wavelet filter, which needs no
# training, stands in for a network; then the same CT scan with the shipped prior. Runs in about a
# minute on one core; `OUT` names a folder for the picture.

# %%
import os
from pathlib import Path as FilePath

import matplotlib
import numpy as np
import pywt
import torch
from torch import Tensor, nn

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from medsci.core import Path, from_callable
from medsci.data.ct_phantom import trunk_slice
from medsci.imaging import Volume
from medsci.models import load_denoiser
from medsci.recon import ReconSettings, SimulateCtSettings, fbp_hu, posterior_ct
from medsci.recon.ct_simulation import simulate_ct

# %% [markdown]
# ## A scan
# A simulated trunk, 32 views.

# %%
body = trunk_slice(np.random.default_rng(12), size=160)
volume = Volume(body.T[:, :, None], np.diag([2.0, 2.0, 5.0, 1.0]))
scan = simulate_ct(volume, settings=SimulateCtSettings(n_views=32, photons=1e5, seed=0))


# %% [markdown]
# ## The filter as a prior
# It thresholds wavelet coefficients at the noise level it is told, averaged over shifts. Its state
# is `x0 + sigma z`, so its path is the variance-exploding one.


# %%
class WaveletFilter(nn.Module):
    """Denoise slices of range one by shrinking Haar coefficients, averaged over eight shifts."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path.ve(sigma_max=80.0)

    def forward(self, x: Tensor, t: float) -> Tensor:
        """Return x0."""
        level = 2.0 * float(self.path.sigma(t))
        shifts = ((0, 0), (1, 3), (2, 6), (3, 1), (5, 2), (6, 5), (7, 7), (4, 4))
        return torch.stack([self._once(x, level, shift) for shift in shifts]).mean(dim=0)

    def _once(self, x: Tensor, level: float, shift: tuple[int, int]) -> Tensor:
        moved = torch.roll(x, shift, dims=(-2, -1)).numpy()
        coarse, *details = pywt.wavedec2(moved, "haar", level=4, axes=(-2, -1))
        small = [tuple(pywt.threshold(d, level, "soft") for d in each) for each in details]
        back = torch.from_numpy(pywt.waverec2([coarse, *small], "haar", axes=(-2, -1)))
        return torch.roll(back, (-shift[0], -shift[1]), dims=(-2, -1))


settings = ReconSettings(n_samples=1, n_steps=30)
window = (-1000.0, 1000.0)
filtered = posterior_ct(scan, WaveletFilter(), settings=settings, window_hu=window)

# %% [markdown]
# ## A function is enough
# `from_callable` makes a denoiser of any function of `(x_t, t)`, whatever it predicts: noise,
# velocity, score or image.

# %%
same = WaveletFilter()
wrapped = from_callable(lambda x, t: same(x, float(t.flatten()[0])), path=same.path, pred="x0")
assert isinstance(wrapped, nn.Module)

# %% [markdown]
# ## The shipped prior
# One line changes. `posterior_ct(scan, "ct-2d")` would load it by name.

# %%
learnt = posterior_ct(scan, load_denoiser("ct-2d"), settings=settings, window_hu=window)
simple = fbp_hu(scan, window="hann")


def psnr(found: Volume) -> float:
    """Return the PSNR for a data range of 2000 HU."""
    error = found.array[:, :, 0].T - body
    return float(20.0 * np.log10(2000.0 / np.sqrt(np.mean(error**2))))


shown = {"FBP": simple, "wavelet filter": filtered.mean, "ct-2d": learnt.mean}
for name, found in shown.items():
    print(f"{name:15s} {psnr(found):5.2f} dB")
assert psnr(filtered.mean) > psnr(simple)
assert psnr(learnt.mean) > psnr(simple) + 4.0

# %%
fig, axes = plt.subplots(1, 4, figsize=(12, 3.4))
pictures = {"truth": body} | {
    f"{n}, {psnr(v):.1f} dB": v.array[:, :, 0].T for n, v in shown.items()
}
for axis, (name, image) in zip(axes, pictures.items(), strict=True):
    axis.imshow(image, cmap="gray", vmin=-1000, vmax=600, origin="lower")
    axis.set_title(name, fontsize=9)
    axis.axis("off")
fig.tight_layout()
if os.environ.get("OUT"):
    fig.savefig(FilePath(os.environ["OUT"]) / "own_prior.png", dpi=100)
