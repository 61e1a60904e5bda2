"""The HDF5 layout of the fastMRI data set, and the ISMRMRD header inside it.

`kspace` is complex, (slices, coils, readout, phase) or, single coil, (slices, readout, phase);
`mask` (phase,) is there in undersampled files only; `reconstruction_rss` or `reconstruction_esc` is
the fully sampled magnitude, cropped; `ismrmrd_header` is XML. Lines that hold only zeros (padding
up to the encoded matrix) count as not acquired, whatever the mask says.

The files do not say how the patient lay: volumes get slices along k, readout along j, phase along
i, the conventional affine of `fallback_affine`, and both codes 0. Voxel size in plane is field of
view over matrix of `encodedSpace` where that matrix is the data's, else of `reconSpace`; across, it
is the slice thickness (gaps between slices are not in the header). The crop is the size of the
reference, else the `reconSpace` matrix.

Source: Zbontar et al. 2018, arXiv:1811.08839, section 5; Inati et al. 2017, doi:10.1002/mrm.26089.
"""

__all__ = ["geometry_xml", "read_fastmri"]

import warnings
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np

from medsci.errors import InvalidInputError
from medsci.imaging.geometry import fallback_affine, spacing_of
from medsci.imaging.ismrmrd_xml import NAMESPACE, Space, parse_xml, spaces_of
from medsci.imaging.kspace import KSpace
from medsci.imaging.kspace_checks import check_crop
from medsci.imaging.volume import GeometryWarning

_KEPT_SECTIONS = ("experimentalConditions", "encoding", "sequenceParameters")
_REFERENCES = ("reconstruction_rss", "reconstruction_esc")


def read_fastmri(
    file: Any,
    *,
    spacing_mm: Sequence[float | int] | None = None,
    crop: tuple[int, int] | None = None,
) -> KSpace:
    """Make a `KSpace` of an open fastMRI file.

    Args:
        file: an `h5py.File`, or a mapping from names to arrays.
        spacing_mm: slice, readout, phase; overrides the header. Without either, 1 mm is taken with
            a `GeometryWarning`.
        crop: readout, phase; in-plane size to cut images to, where neither header nor reference
            say, or say otherwise.

    Raises:
        InvalidInputError: the arrays or the header are not as described above.
    """
    samples = _samples(file)
    mask = _acquired(samples, file)
    samples[..., ~mask] = 0
    raw = _header_bytes(file)
    spaces = None if raw is None else spaces_of(raw)
    reference = next((file[name][()] for name in _REFERENCES if name in file), None)
    crop = crop or _crop(samples.shape[2:], spaces, reference)
    check_crop(crop, samples.shape)
    rows, columns = crop or samples.shape[2:]
    step = _spacing(samples.shape[2:], spaces, spacing_mm)
    return KSpace(
        samples,
        mask,
        affine=fallback_affine((columns, rows, len(samples)), (step[2], step[1], step[0])),
        axes=(2, 1, 0),
        reference=reference,
        sform_code=0,
        qform_code=0,
        crop=crop,
        ismrmrd_header=raw,
        attributes={"layout": "fastmri"},
    )


def geometry_xml(kspace: KSpace) -> bytes:
    """Return an ISMRMRD header for a file of ours, so that fastMRI's tools find what they need.

    The sections on the experiment, encoding and sequence of a header that came with the data are
    kept; those that can name a patient, a hospital or a machine are left out. Without one, matrix
    sizes, fields of view and encoding limits are written.
    """
    root = ElementTree.Element(_tag("ismrmrdHeader"))
    if kspace.ismrmrd_header is not None:
        source = parse_xml(kspace.ismrmrd_header)
        root.extend(part for part in source if part.tag in map(_tag, _KEPT_SECTIONS))
    else:
        root.append(_encoding(kspace))
    ElementTree.register_namespace("", NAMESPACE)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _tag(name: str) -> str:
    return f"{{{NAMESPACE}}}{name}"


def _encoding(kspace: KSpace) -> ElementTree.Element:
    spacing = spacing_of(kspace.affine)
    step = [spacing[kspace.axes[n]] for n in (1, 2, 0)]
    n_readout, n_phase = kspace.data.shape[2:]
    encoding = ElementTree.Element(_tag("encoding"))
    for name, (rows, columns) in (
        ("encodedSpace", (n_readout, n_phase)),
        ("reconSpace", kspace.image_shape[1:]),
    ):
        space = ElementTree.SubElement(encoding, _tag(name))
        matrix = ElementTree.SubElement(space, _tag("matrixSize"))
        fov = ElementTree.SubElement(space, _tag("fieldOfView_mm"))
        for axis, size, mm in zip("xyz", (rows, columns, 1), step, strict=True):
            ElementTree.SubElement(matrix, _tag(axis)).text = str(size)
            ElementTree.SubElement(fov, _tag(axis)).text = f"{size * mm:.9g}"
    limits = ElementTree.SubElement(encoding, _tag("encodingLimits"))
    step_1 = ElementTree.SubElement(limits, _tag("kspace_encoding_step_1"))
    for name, line in (("minimum", 0), ("maximum", n_phase - 1), ("center", n_phase // 2)):
        ElementTree.SubElement(step_1, _tag(name)).text = str(line)
    ElementTree.SubElement(encoding, _tag("trajectory")).text = "cartesian"
    return encoding


def _samples(file: Any) -> np.ndarray:
    samples = file["kspace"][()]
    if samples.dtype.kind != "c" or samples.ndim not in (3, 4):
        raise InvalidInputError(
            f"dataset kspace is {samples.dtype} of shape {samples.shape}, but it must be complex, "
            "(slices, coils, readout, phase) or (slices, readout, phase)"
        )
    return samples if samples.ndim == 4 else samples[:, None]


def _acquired(samples: np.ndarray, file: Any) -> np.ndarray:
    """Return the lines that the mask allows, if there is one, and that hold anything."""
    n_phase = samples.shape[-1]
    acquired = np.zeros(n_phase, dtype=bool)
    for part in samples:
        acquired |= part.any(axis=(0, 1))
    if "mask" not in file:
        return acquired
    mask = np.squeeze(file["mask"][()])
    if mask.shape != (n_phase,) or mask.dtype.kind not in "buif":
        raise InvalidInputError(
            f"the mask is {mask.dtype} of shape {mask.shape}, but k-space has {n_phase} "
            f"phase-encoding lines (its last axis); give one entry per line, shape ({n_phase},)"
        )
    return acquired & (mask != 0)


def _header_bytes(file: Any) -> bytes | None:
    if "ismrmrd_header" not in file:
        return None
    raw = np.asarray(file["ismrmrd_header"][()]).reshape(-1)
    if raw.size == 1 and isinstance(raw[0], bytes):
        return bytes(raw[0])
    if raw.size == 1 and isinstance(raw[0], str):
        return raw[0].encode("utf-8")
    raise InvalidInputError(
        "dataset ismrmrd_header is not one text; store the XML as a single string"
    )


def _crop(
    shape: Sequence[int], spaces: tuple[Space, Space] | None, reference: np.ndarray | None
) -> tuple[int, int] | None:
    """Return the in-plane size to keep: the reference's, else reconSpace's, within the image."""
    if reference is not None and reference.ndim == 3:
        wanted = reference.shape[1:]
    elif spaces is not None:
        wanted = tuple(int(n) for n in spaces[1].matrix[:2])
    else:
        return None
    rows, columns = (min(a, b) for a, b in zip(wanted, shape, strict=True))
    return None if (rows, columns) == tuple(shape) else (rows, columns)


def _spacing(
    shape: Sequence[int],
    spaces: tuple[Space, Space] | None,
    spacing_mm: Sequence[float | int] | None,
) -> tuple[float, float, float]:
    """Return slice, readout and phase spacing in mm."""
    if spacing_mm is not None:
        across, readout, phase = (float(mm) for mm in spacing_mm)
        return across, readout, phase
    if spaces is None:
        warnings.warn(
            "the k-space file has no ISMRMRD header and no voxel spacing was given; took 1 mm, so "
            "distances and slice coupling may be wrong",
            GeometryWarning,
            stacklevel=4,
        )
        return 1.0, 1.0, 1.0
    encoded, recon = spaces
    plane = encoded if encoded.matrix[:2] == tuple(shape) else recon
    return recon.spacing_mm[2], plane.spacing_mm[0], plane.spacing_mm[1]
