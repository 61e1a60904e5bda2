"""Wrappers keep the scale of the data, which the choice of a grid is made by."""

import torch
from torch import nn
from torch.testing import assert_close

from medsci.core.denoise import Guided, Tiled
from medsci.core.process import Path
from medsci.core.solve import sample

RF = Path.rectified()


def test_wrapped_denoisers_are_walked_on_the_grid_of_their_data():
    class Scaled(nn.Module):
        path, sigma_data = RF, 0.25

        def forward(self, x, t, **cond):
            return x / (1.0 + 16.0 * t**2)

    class Unscaled(Scaled):
        sigma_data = 1.0

    def drawn(denoiser):
        return sample(denoiser, (2, 3), steps=6, seed=0, dtype=torch.float64)

    plain = Scaled()
    wrapped = Guided(plain, scale=1.0, null={"label": 0.0})
    assert wrapped.sigma_data == Tiled(plain, tile=(2,), overlap=(0,)).sigma_data == 0.25
    assert_close(drawn(wrapped), drawn(plain))
    assert not torch.allclose(drawn(plain), drawn(Unscaled()))
