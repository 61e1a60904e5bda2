"""Minimisers of quadratic losses by their normal equations, in one evaluation."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def minimise(loss: Callable[[], Tensor], *parameters: nn.Parameter) -> None:
    """Set parameters to the minimiser of a loss that is quadratic in them.

    The one of least norm where there are several: what the loss does not see becomes zero.
    """
    for parameter in parameters:
        parameter.data.zero_()
    slopes = torch.autograd.grad(loss(), parameters, create_graph=True)
    start = torch.cat([slope.flatten() for slope in slopes])
    rows = [torch.autograd.grad(s, parameters, retain_graph=True) for s in start]
    curvature = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    best = torch.linalg.lstsq(curvature, -start.detach(), driver="gelsd").solution
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, part in zip(parameters, best.split(sizes), strict=True):
        parameter.data.copy_(part.reshape(parameter.shape))
