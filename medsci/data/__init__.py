"""Data: one's own files, what installed packages carry, and what is simulated."""

__all__ = [
    "ArraySource",
    "Augmentation",
    "Bids",
    "Case",
    "CaseList",
    "DataEntry",
    "DeformationLaw",
    "LabelFractions",
    "NiftiPatches",
    "NiftiSlices",
    "NiftiVolumes",
    "PairFile",
    "PairInfo",
    "PatchLaw",
    "Preparation",
    "Sample",
    "SimulatedCt",
    "SimulatedHeadVolumes",
    "SimulatedHeads",
    "Source",
    "check_data",
    "check_disjoint",
    "list_cases",
    "list_data",
    "measure_deformation",
    "read_data",
    "real_warp",
    "simulated_head_volume",
    "smooth_phase",
    "write_pair_file",
]

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medsci.data.arrays import ArraySource
    from medsci.data.augment import Augmentation
    from medsci.data.bids import Bids
    from medsci.data.case import Case, CaseList
    from medsci.data.ct_slices import SimulatedCt
    from medsci.data.deformation_law import DeformationLaw, measure_deformation, real_warp
    from medsci.data.head_volumes import SimulatedHeadVolumes
    from medsci.data.heads import SimulatedHeads, simulated_head_volume
    from medsci.data.known import read_data
    from medsci.data.label_maps import LabelFractions
    from medsci.data.listing import check_disjoint, list_cases
    from medsci.data.nifti_patches import NiftiPatches, PatchLaw
    from medsci.data.nifti_slices import NiftiSlices
    from medsci.data.nifti_volumes import NiftiVolumes
    from medsci.data.pairs import PairFile, PairInfo, write_pair_file
    from medsci.data.phase import smooth_phase
    from medsci.data.reading import Preparation
    from medsci.data.registry import DataEntry, check_data, list_data
    from medsci.data.source import Sample, Source

_HOMES = {
    "ArraySource": "arrays",
    "Augmentation": "augment",
    "Bids": "bids",
    "Case": "case",
    "CaseList": "case",
    "DataEntry": "registry",
    "DeformationLaw": "deformation_law",
    "LabelFractions": "label_maps",
    "NiftiPatches": "nifti_patches",
    "NiftiSlices": "nifti_slices",
    "NiftiVolumes": "nifti_volumes",
    "PairFile": "pairs",
    "PairInfo": "pairs",
    "PatchLaw": "nifti_patches",
    "Preparation": "reading",
    "Sample": "source",
    "SimulatedCt": "ct_slices",
    "SimulatedHeadVolumes": "head_volumes",
    "SimulatedHeads": "heads",
    "Source": "source",
    "check_data": "registry",
    "check_disjoint": "listing",
    "list_cases": "listing",
    "list_data": "registry",
    "measure_deformation": "deformation_law",
    "read_data": "known",
    "real_warp": "deformation_law",
    "simulated_head_volume": "heads",
    "smooth_phase": "phase",
    "write_pair_file": "pairs",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")


def __dir__() -> list[str]:
    return sorted(__all__)
