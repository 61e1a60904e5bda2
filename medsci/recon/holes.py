"""What a mask says is to be replaced."""

__all__ = ["holes_of"]

import numpy as np
from jaxtyping import Bool

from medsci.errors import InvalidInputError
from medsci.imaging import Volume


def holes_of(mask: Volume, volume: Volume) -> Bool[np.ndarray, "i j k"]:
    """Return where a mask on the same grid is not 0.

    Raises:
        InvalidInputError: it lies elsewhere, holds NaN, or marks nothing.
    """
    if mask.shape[:3] != volume.shape[:3] or set(mask.shape[3:]) - {1}:
        raise InvalidInputError(
            f"the mask has shape {mask.shape} but the image {volume.shape}; "
            "draw it on, or resample it to, the grid of the image"
        )
    if not mask.same_geometry(volume):
        raise InvalidInputError(
            f"the mask ({mask!r}) lies elsewhere than the image ({volume!r}); resample it to the "
            "grid of the image"
        )
    if mask.n_nonfinite:
        raise InvalidInputError(f"{mask.n_nonfinite} voxels of the mask are NaN; write 0 or 1")
    holes = np.asarray(mask.array.reshape(mask.shape[:3]) != 0)
    if not holes.any():
        raise InvalidInputError("the mask is empty; mark what is to be replaced by 1")
    return holes
