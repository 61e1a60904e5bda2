"""Which files of one's own a recipe means, and which of them a split gets."""

__all__ = ["cases_of"]

from pathlib import Path
from typing import Any, Literal

from medsci.data.bids import Bids
from medsci.data.case import CaseList
from medsci.data.label_maps import stem_of
from medsci.data.listing import list_cases
from medsci.data.splitting import split_subjects
from medsci.training.recipe.data import (
    BidsConfig,
    NiftiPatchesConfig,
    NiftiSlicesConfig,
    NiftiVolumesConfig,
)

_NOT_IMAGES = ("_mask", "_seg", "_dseg", "_labels", "_probseg")


def cases_of(
    data: NiftiSlicesConfig | NiftiVolumesConfig | NiftiPatchesConfig,
    *,
    split: Literal["train", "validation"],
) -> CaseList:
    """Return the images of one split.

    Of a folder, files named as masks and label maps are (`*_mask`, `*_dseg`) are left out.

    Raises:
        InvalidInputError: as `list_cases`.
        UsageError: as `list_cases`.
    """
    columns = [covariate.name for covariate in getattr(data, "covariates", ())]
    columns += [data.label] if data.label else []
    known: dict[str, Any] = {"bids": _bids(data.bids), "conditions": tuple(columns)}
    if data.files is None:
        train = _images(list_cases(data.train or "", **known), data.train)
        if split == "train":
            return train
        known["vocabulary"] = train.vocabulary
        return _images(list_cases(data.validation or "", **known), data.validation)
    every = list_cases(data.files, **known)
    images = _images(every, data.files)
    if len(images) < len(every) and data.validation_fraction > 0.0:
        sides = split_subjects(
            images.subjects,
            fraction=data.validation_fraction,
            seed=data.split_seed,
            where=Path(str(data.files)),
        )
        return CaseList(tuple(case for case in images if sides[case.subject] == split))
    return list_cases(
        data.files,
        split=split,
        validation_fraction=data.validation_fraction,
        split_seed=data.split_seed,
        **known,
    )


def _images(cases: CaseList, where: Any) -> CaseList:
    """Return the cases of a plain folder that are images, if any is; of all else every case."""
    if not (isinstance(where, str) and Path(where).expanduser().is_dir()):
        return cases
    kept = tuple(case for case in cases if not stem_of(case.path).endswith(_NOT_IMAGES))
    return CaseList(kept or cases.cases, cases.vocabulary)


def _bids(config: BidsConfig | None) -> Bids | None:
    if config is None:
        return None
    return Bids(
        config.suffix,
        datatype=config.datatype,
        sessions=config.sessions,
        subjects=config.subjects,
    )
