"""Sizes of images: padding to a multiple, and blocks of pixels as channels."""

__all__ = ["depth_to_space", "pad_to_multiple", "space_to_depth"]

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def pad_to_multiple(x: Float[Tensor, "b c *space"], multiple: int) -> Float[Tensor, "b c *out"]:
    """Lengthen every side at its end to a multiple, by reflection.

    Where a side is shorter than what it lacks, all sides are lengthened by replication.
    """
    lacks = [-size % multiple for size in x.shape[2:]]
    if not any(lacks):
        return x
    short = any(lack >= size for lack, size in zip(lacks, x.shape[2:], strict=True))
    ends = [end for lack in reversed(lacks) for end in (0, lack)]
    return functional.pad(x, ends, mode="replicate" if short else "reflect")


def space_to_depth(
    x: Float[Tensor, "b c i j k"], factor: int
) -> Float[Tensor, "b c_out i_out j_out k_out"]:
    """Fold cubes of `factor` voxels into channels, in the order (c, i, j, k) of the cube.

    Source: after Shi et al. 2016, arXiv:1609.05158, in three dimensions.
    """
    b, c, i, j, k = x.shape
    f = factor
    cubes = x.reshape(b, c, i // f, f, j // f, f, k // f, f)
    return cubes.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, c * f**3, i // f, j // f, k // f)


def depth_to_space(
    x: Float[Tensor, "b c i j k"], factor: int
) -> Float[Tensor, "b c_out i_out j_out k_out"]:
    """Undo `space_to_depth`."""
    b, c, i, j, k = x.shape
    f = factor
    cubes = x.reshape(b, c // f**3, f, f, f, i, j, k)
    return cubes.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, c // f**3, i * f, j * f, k * f)
