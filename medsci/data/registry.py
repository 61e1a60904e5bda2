"""The registry of real data: where each file comes from and on what terms it may be used.

Nothing here downloads. A file is either carried by an installed Python package, or was installed
by a system package, or lies in one of the folders that the environment variable `MEDSCI_DATA`
names.
"""

__all__ = ["DataEntry", "check_data", "find_data", "list_data"]

import hashlib
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import final

from medsci.errors import InvalidInputError

_MNI_LICENCE = "MNI: use, copy, modify and distribute for any purpose, notice kept"


@final
@dataclass(frozen=True)
class DataEntry:
    """One file of real data.

    Attributes:
        name: how medsci calls it.
        content: what it shows: anatomy, modality, grid.
        package: import name of the Python package that carries it, or empty.
        file: path inside that package, an absolute path of a distribution package, or a path below
            a folder of `MEDSCI_DATA`.
        provider: how to get it.
        sha256: of the file whose use was tested; empty where packages repack it.
        licence: in one line.
        citation: what to cite when publishing.
    """

    name: str
    content: str
    package: str
    file: str
    provider: str
    sha256: str
    licence: str
    citation: str


_PYRADIOMICS = (
    "pip install versioneer cython setuptools wheel; pip download --no-deps --no-build-isolation "
    "--no-binary pyradiomics pyradiomics==3.0.1; tar xzf pyradiomics-3.0.1.tar.gz; then set "
    "MEDSCI_DATA to the folder in which you did so"
)
_ICBM = "nilearn/datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
_ICBM_CITATION = "Fonov et al. 2011, doi:10.1016/j.neuroimage.2010.07.033"


def _icbm(part: str, content: str, sha256: str) -> DataEntry:
    return DataEntry(
        name=f"icbm152-2009a-{part}",
        content=content,
        package="nilearn",
        file=_ICBM.format(part).removeprefix("nilearn/"),
        provider="pip install nilearn",
        sha256=sha256,
        licence=_MNI_LICENCE,
        citation=_ICBM_CITATION,
    )


_ENTRIES = (
    _icbm(
        "t1",
        "average T1 brain of 152 adults, skull-stripped, 197x233x189 at 1 mm",
        "421a10e872fd6cadae7f61d358dffbcc1795a497d61ee76c5dda2503e1a1e9e6",
    ),
    _icbm(
        "gm",
        "grey-matter probability on the same grid",
        "97a5ca69bd24db37a9cb7b32525e1733a209af904129bf1cd36da06d24243bed",
    ),
    _icbm(
        "wm",
        "white-matter probability on the same grid",
        "382d92812de4744f9c86c7a0e4f680dc317a0a50e4da1f0153618a6798c7b7db",
    ),
    DataEntry(
        name="colin27-t1",
        content="T1 head of one man, mean of 27 scans, with skull, 181x217x181 at 1 mm",
        package="",
        file="/usr/share/mricron/templates/ch2.nii.gz",
        provider="apt install mricron-data, or sample_data/colin27_t1.nii.gz of a checkout",
        sha256="a009051127f64dc3dd554d5f5b589870ea72106d9642c21b4e7093e478cfc309",
        licence=_MNI_LICENCE,
        citation="Holmes et al. 1998, doi:10.1097/00004728-199803000-00032",
    ),
    DataEntry(
        name="cranium-ct",
        content="head CT of one patient, 256x256x108 at 0.957x0.957x1.5 mm, Hounsfield units",
        package="",
        file="/usr/share/doc/invesalius-examples/examples/Cranium.inv3",
        provider="apt install invesalius-examples",
        sha256="",
        licence="GPL-2 (Debian main); loaded, not shipped",
        citation="InVesalius example data",
    ),
    *(
        DataEntry(
            name=f"chest-ct-{n}",
            content=content,
            package="",
            file=f"pyradiomics-3.0.1/data/lung{n}_image.nrrd",
            provider=_PYRADIOMICS,
            sha256=sha256,
            licence="the package is BSD-3; the patient's terms are not stated: loaded, not shipped",
            citation="van Griethuysen et al. 2017, doi:10.1158/0008-5472.CAN-17-0339",
        )
        for n, content, sha256 in (
            (
                1,
                "chest CT of one patient, 512x512x48 at 0.570x0.570x5 mm, Hounsfield units",
                "379fa48bf34cfa961e6f5ec19c0c38757a30b9aa884212ef28dc29b5061c64ed",
            ),
            (
                2,
                "chest CT of one patient, 512x512x61 at 0.627x0.627x5 mm, Hounsfield units",
                "aa2b94eec79127ed786798ac8dc3c013010e1692d5787bebfae1a1e9685a4651",
            ),
        )
    ),
    DataEntry(
        name="inia19-t1",
        content="average T1 brain of 19 rhesus macaques, 168x206x128 at 0.5 mm",
        package="",
        file="/usr/share/mricron/templates/inia19-t1-brain.nii.gz",
        provider="apt install mricron-data",
        sha256="",
        licence="see the atlas' own terms; loaded, not shipped",
        citation="Rohlfing et al. 2012, doi:10.3389/fninf.2012.00027",
    ),
    DataEntry(
        name="oasis-to-t1-warp",
        content="displacement of one head from an atlas, after an affine, 108x146x128 at 2 mm",
        package="nitransforms",
        file="tests/data/ds-005_sub-01_from-OASIS_to-T1_warp_fsl.nii.gz",
        provider="pip install --no-deps nitransforms",
        sha256="f8d5778b2bfcc149df18d3c99333681ba2d32bd17a433f98dfbf63f66bfe6207",
        licence="the package is MIT; a subject of OpenNeuro ds000005: loaded, not shipped",
        citation="Goncalves et al. 2021, doi:10.21105/joss.03459",
    ),
)


def list_data() -> tuple[DataEntry, ...]:
    """Return every entry, present on this machine or not."""
    return _ENTRIES


def find_data(name: str) -> Path | None:
    """Return the file of an entry on this machine, or None where it is absent.

    Raises:
        InvalidInputError: no entry has that name.
    """
    entry = next((e for e in _ENTRIES if e.name == name), None)
    if entry is None:
        names = ", ".join(e.name for e in _ENTRIES)
        raise InvalidInputError(f"no data are registered as {name!r}; the registry holds {names}")
    if not entry.package:
        roots = [Path(part) for part in os.environ.get("MEDSCI_DATA", "").split(os.pathsep) if part]
        places = [root / entry.file for root in roots] or [Path(entry.file)]
        path = next((place for place in places if place.is_file()), places[0])
    else:
        spec = find_spec(entry.package)
        if spec is None or spec.origin is None:
            return None
        path = Path(spec.origin).parent / entry.file
    return path if path.is_file() else None


def check_data(name: str) -> str:
    """Return `ok`, `absent`, `unchecked` (no recorded hash) or `changed` for an entry."""
    path = find_data(name)
    if path is None:
        return "absent"
    recorded = next(e.sha256 for e in _ENTRIES if e.name == name)
    if not recorded:
        return "unchecked"
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return "ok" if digest == recorded else "changed"
