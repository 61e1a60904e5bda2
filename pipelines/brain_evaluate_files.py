"""The volumes of an evaluation as files: which ones, their label maps, and their record."""

__all__ = ["VolumeFiles", "find_volumes", "label_names", "samples_of"]

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from medsci.errors import InvalidInputError
from medsci.pipelines.cases import stem_of
from medsci.pipelines.run import sha256_of

if TYPE_CHECKING:
    from medsci.brain.samples import Sample
    from medsci.imaging import Volume

_LABELLED = ("_dseg", "_seg", "_labels", "_mask", "_probseg")
_NO_IMAGES = (*_LABELLED, "_hallucination", "_std", "_field")
_LABELS = ("_dseg.nii.gz", "_dseg.nii")
_TABLE = "dseg.tsv"


@final
@dataclass(frozen=True)
class VolumeFiles:
    """The images of one set, each with its label map where there is one.

    Attributes:
        images: files, sorted.
        labels: label map of each, or None.
        names: of the images, short and all different.
        n_left_out: files that are no images by their names.
    """

    images: tuple[Path, ...]
    labels: tuple[Path | None, ...]
    names: tuple[str, ...]
    n_left_out: int

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files that may be read."""
        return (*self.images, *(path for path in self.labels if path is not None))

    def record(self) -> list[dict[str, str]]:
        """Give name and hash of every image."""
        pairs = zip(self.names, self.images, strict=True)
        return [{"Name": name, "Sha256": sha256_of(path)} for name, path in pairs]

    def summary(self, record: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        """Give their number and one hash over all hashes."""
        joined = "".join(entry["Sha256"] for entry in record)
        return {"N": len(record), "Sha256": hashlib.sha256(joined.encode()).hexdigest()}


def find_volumes(source: str | Path) -> VolumeFiles:
    """Find the images of a folder (searched in depth), a quoted glob, or a table.

    Label maps are `*_dseg.nii.gz` beside the images: `sub-01_T1w.nii.gz` or `sub-01.nii.gz` goes
    with `sub-01_dseg.nii.gz`. Files whose names end in `_dseg`, `_seg`, `_labels`,
    `_mask`, `_probseg`, `_hallucination`, `_std` or `_field` are no images.

    Raises:
        InvalidInputError: no image is there.
    """
    from medsci.data.listing import list_cases

    listed = sorted(case.path for case in list_cases(str(source)))
    images = [path for path in listed if not stem_of(path).endswith(_NO_IMAGES)]
    if not images:
        raise InvalidInputError(
            f"{source} holds {len(listed)} NIfTI files and none of an image: names that end in "
            f"{', '.join(_NO_IMAGES)} are not; name the folder of the images"
        )
    labels = tuple(_label_file(path) for path in images)
    return VolumeFiles(tuple(images), labels, _names(images), len(listed) - len(images))


def samples_of(
    files: VolumeFiles, *, names: Mapping[int, str] | None = None, labels: bool = True
) -> "tuple[Sample, ...]":
    """Return the volumes, unread but for their headers.

    Raises:
        InvalidInputError: a file is damaged or not NIfTI.
    """
    return tuple(
        _sample(path, name, label if labels else None, names or {})
        for path, name, label in zip(files.images, files.names, files.labels, strict=True)
    )


def label_names(
    real: VolumeFiles, generated: VolumeFiles
) -> tuple[Mapping[int, str], Mapping[int, str]]:
    """Return what labels are called on either side, after `dseg.tsv` in the folders of the maps.

    Where only one side has a table, it serves both.

    Raises:
        InvalidInputError: both have one and they name other regions.
    """
    tables = {"real": _names_of(real), "generated": _names_of(generated)}
    if not tables["real"] or not tables["generated"]:
        both = tables["real"] or tables["generated"]
        return both, both
    regions = {side: {n for i, n in table.items() if i != 0} for side, table in tables.items()}
    if regions["real"] != regions["generated"]:
        raise InvalidInputError(
            f"{_TABLE} of the real volumes names {_listed(regions['real'])} and that of the "
            f"generated ones {_listed(regions['generated'])}; use one naming, or --labels none"
        )
    return tables["real"], tables["generated"]


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)[:6]) + (" ..." if len(names) > 6 else "")


def _names_of(files: VolumeFiles) -> Mapping[int, str]:
    from medsci.data.tables import read_table

    folders = {path.parent for path in files.labels if path is not None}
    tables = sorted(folder / _TABLE for folder in folders if (folder / _TABLE).is_file())
    if not tables:
        return {}
    table = read_table(tables[0])
    for column in ("index", "name"):
        table.require(column)
    names: dict[int, str] = {}
    for line, cells in table.rows:
        if not cells["index"].isdecimal():
            raise InvalidInputError(
                f"{table.path} line {line} has index {cells['index']!r}; give a whole number"
            )
        names[int(cells["index"])] = cells["name"]
    return names


def _label_file(image: Path) -> Path | None:
    stem = stem_of(image)
    for base in (stem, stem.rpartition("_")[0]):
        for suffix in _LABELS:
            if base and (found := image.with_name(base + suffix)).is_file():
                return found
    return None


def _names(images: Sequence[Path]) -> tuple[str, ...]:
    """Name files by their names, and by their folders too where names come twice."""
    for depth in range(1, max(len(path.parts) for path in images) + 1):
        names = tuple("/".join(path.parts[-depth:]) for path in images)
        if len(set(names)) == len(names):
            return names
    return tuple(str(path) for path in images)


def _sample(path: Path, name: str, label: Path | None, names: Mapping[int, str]) -> "Sample":
    from medsci.brain.samples import Sample

    shape, affine = _geometry(path)
    read: Callable[[], Volume] = partial(_read, path)
    read_labels = None if label is None else partial(_read, label)
    return Sample(name, shape, affine, read, read_labels, names)


def _geometry(path: Path) -> tuple[tuple[int, ...], Any]:
    """Return shape and affine from the header; what cannot be read so is read whole, to say why."""
    import nibabel as nib

    from medsci.imaging.geometry import is_valid_affine
    from medsci.imaging.nifti_header import file_geometry

    shape: tuple[int, ...] = ()
    try:
        header: Any = nib.load(path, mmap=False).header
        shape = tuple(int(n) for n in header.get_data_shape())
        shape = (*shape, 1) if len(shape) == 2 else _squeezed(shape)
        affine = file_geometry(header, shape).affine
    except Exception:  # noqa: BLE001 - whatever it was: reading the file whole explains it
        affine = None
    if affine is None or len(shape) < 3 or not is_valid_affine(affine):
        volume = _read(path)
        return volume.shape, volume.affine
    return shape, affine


def _read(path: Path) -> "Volume":
    """Read a volume; further axes of one entry are dropped."""
    from medsci.imaging import read_nifti

    volume = read_nifti(path)
    return volume.with_array(volume.array.reshape(_squeezed(volume.shape)))


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape
