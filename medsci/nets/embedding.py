"""Times and labels as vectors."""

__all__ = ["labels_or_none", "sinusoids"]

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def sinusoids(
    code: Float[Tensor, " b"] | Int[Tensor, " b"], width: int, *, longest: float = 1e4
) -> Float[Tensor, "b width"]:
    """Return `[cos(code w), sin(code w)]` with `w = longest^(-k / half)`, `k = 0 .. half - 1`.

    Source: Vaswani et al. 2017, sec. 3.5, arXiv:1706.03762, in the order of Dhariwal and Nichol.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=code.device)
    angles = code[:, None].float() * torch.exp(-math.log(longest) / half * steps)
    waves = torch.cat([angles.cos(), angles.sin()], dim=1)
    return torch.nn.functional.pad(waves, (0, width % 2))


def labels_or_none(
    label: Int[Tensor, " b"] | None, *, n_labels: int, null_label: bool, like: Tensor
) -> Int[Tensor, " b"] | None:
    """Return one label per sample of `like`: those given, or "none" for all, where there is one.

    Raises:
        ValueError: a label came and the network has none, or none came and the network needs one.
    """
    if not n_labels:
        if label is not None:
            raise ValueError("a label came, but the network has none (n_labels is 0); leave it out")
        return None
    if label is not None:
        return label
    if not null_label:
        raise ValueError(
            f"no label came; the network needs label=, numbers 0 to {n_labels - 1}, "
            "as it was trained without a label for none"
        )
    return torch.full((like.shape[0],), n_labels, dtype=torch.int64, device=like.device)
