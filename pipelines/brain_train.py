"""Which data a packaged recipe of brains is trained on: one's own, or those it names itself."""

__all__ = ["data_overrides"]

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsci.errors import UsageError
from medsci.pipelines.train import packaged_recipe

if TYPE_CHECKING:
    from medsci.training.recipe.data import SimulatedHeadVolumesConfig


def data_overrides(
    recipe: str | os.PathLike[str], data: str | os.PathLike[str] | None
) -> list[str]:
    """Return the `key=value` overrides that point a recipe at prepared volumes.

    A recipe of `nifti_volumes` keeps all it says of them. One of simulated heads turns to volumes
    of the same grid with label maps `NAME_dseg.nii.gz` beside them (1 fluid, 2 grey matter, 3 white
    matter), from which channels and covariates are made as they are of simulated heads.

    Args:
        recipe: a file or the name of a packaged recipe.
        data: a folder of images, as `medsci brain prep` writes them, or a CSV or TSV table with a
            column `image`; None leaves the recipe's own data.

    Raises:
        InvalidInputError: there is no such recipe, or it is none.
        UsageError: there are no such data, or the recipe is not one of volumes.
    """
    if data is None:
        return []
    place = Path(data).expanduser()
    if not place.exists():
        raise UsageError(f"--data {data} does not exist; give a folder of NIfTI files or a table")
    from medsci.training.reading import load_recipe
    from medsci.training.recipe.data import NiftiVolumesConfig, SimulatedHeadVolumesConfig

    own = load_recipe(packaged_recipe(recipe)).data
    files = str(place.resolve())
    if isinstance(own, NiftiVolumesConfig):
        changes = {"files": files, "train": None, "validation": None}
        return [f"data.{key}={json.dumps(value)}" for key, value in changes.items()]
    if isinstance(own, SimulatedHeadVolumesConfig) and own.low_resolution_mm is None:
        return [f"data={json.dumps(_like_simulated(own, files))}"]
    raise UsageError(
        f"--data came and the recipe {recipe} trains on {own.kind}; choose one of volumes, such as "
        "brain_small or brain_flow_4mm"
    )


def _like_simulated(own: "SimulatedHeadVolumesConfig", files: str) -> dict[str, Any]:
    return {
        "kind": "nifti_volumes",
        "files": files,
        "size": list(own.size),
        "voxel_size_mm": [own.voxel_mm] * 3,
        "intensity": "minmax",
        "value_range": [-1.0, 1.0],
        "labels": {"suffix": "_dseg", "values": [1, 2, 3]},
        "tissue_covariates": own.covariates,
        "max_shift": max(1, round(5.0 / own.voxel_mm)),
        "max_rotation_deg": 5.0,
        "gain": 1.0,
    }
