"""The XML header of ISMRMRD raw data: matrix sizes, fields of view, centres of k-space.

Source: Inati et al. 2017, doi:10.1002/mrm.26089.
"""

__all__ = ["NAMESPACE", "Encoding", "Space", "encoding_of", "parse_xml", "spaces_of"]

from dataclasses import dataclass
from typing import NamedTuple, final
from xml.etree import ElementTree

import numpy as np

from medsci.errors import InvalidInputError

NAMESPACE = "http://www.ismrm.org/ISMRMRD"


class Space(NamedTuple):
    """Matrix size and field of view in mm along readout, phase and slice."""

    matrix: tuple[float, float, float]
    fov_mm: tuple[float, float, float]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Field of view over matrix, along readout, phase and slice."""
        readout, phase, across = (f / n for f, n in zip(self.fov_mm, self.matrix, strict=True))
        return readout, phase, across


@final
@dataclass(frozen=True)
class Encoding:
    """What the header's first encoding says.

    Attributes:
        encoded: the space that was acquired, oversampling included.
        recon: the space of the images that the scanner makes.
        centre: counter of zero frequency along phase (step 1) and partition (step 2).
        trajectory: e.g. `cartesian`.
        calibration: how calibration lines relate to the imaging lines, e.g. `embedded`.
        noise_bandwidth: noise bandwidth of the receiver over its nominal bandwidth.
    """

    encoded: Space
    recon: Space
    centre: tuple[int, int]
    trajectory: str = "cartesian"
    calibration: str = "embedded"
    noise_bandwidth: float = 1.0


def parse_xml(raw: bytes) -> ElementTree.Element:
    """Parse XML; refuse document types and entities, with which it can reach out or explode.

    Raises:
        InvalidInputError: it is no XML in UTF-8, or declares what is refused.
    """
    try:
        text = raw.decode("utf-8")
        if "<!DOCTYPE" in text.upper() or "<!ENTITY" in text.upper():
            raise InvalidInputError(
                "the ISMRMRD header declares a document type or entities, which is refused for "
                "safety; remove the declaration"
            )
        parser = ElementTree.XMLParser()
        parser.feed(text)
        return parser.close()
    except (UnicodeDecodeError, ElementTree.ParseError) as error:
        raise InvalidInputError(
            f"the ISMRMRD header is no valid UTF-8 XML ({error}); repair it, or, in a file of "
            "fastMRI's layout, remove the dataset ismrmrd_header and give the voxel spacing"
        ) from error


def spaces_of(raw: bytes) -> tuple[Space, Space]:
    """Return encoded and reconstruction space of the first encoding.

    Raises:
        InvalidInputError: the header lacks them, or their numbers are not positive.
    """
    encoding = _first_encoding(parse_xml(raw))
    return _space(encoding, "encodedSpace"), _space(encoding, "reconSpace")


def encoding_of(raw: bytes) -> Encoding:
    """Return all that sorting raw data needs.

    Raises:
        InvalidInputError: the header lacks matrix sizes or fields of view, or a number is none.
    """
    root = parse_xml(raw)
    encoding = _first_encoding(root)
    encoded = _space(encoding, "encodedSpace")
    step_1, step_2 = (
        _centre(encoding, step, int(encoded.matrix[axis])) for axis, step in ((1, 1), (2, 2))
    )
    bandwidth = "{*}acquisitionSystemInformation/{*}relativeReceiverNoiseBandwidth"
    return Encoding(
        encoded=encoded,
        recon=_space(encoding, "reconSpace"),
        centre=(step_1, step_2),
        trajectory=encoding.findtext("{*}trajectory", "cartesian").strip().lower(),
        calibration=encoding.findtext("{*}parallelImaging/{*}calibrationMode", "embedded").strip(),
        noise_bandwidth=_positive(root.findtext(bandwidth, "1"), bandwidth.replace("{*}", "")),
    )


def _first_encoding(root: ElementTree.Element) -> ElementTree.Element:
    encoding = root.find("{*}encoding")
    if encoding is None:
        raise InvalidInputError(
            "the ISMRMRD header has no encoding section; remove the dataset ismrmrd_header and "
            "give the voxel spacing, or convert the raw data again"
        )
    return encoding


def _space(encoding: ElementTree.Element, name: str) -> Space:
    numbers = []
    for part in ("matrixSize", "fieldOfView_mm"):
        for axis in "xyz":
            text = encoding.findtext(f"{{*}}{name}/{{*}}{part}/{{*}}{axis}", "")
            numbers.append(_positive(text, f"{name}/{part}/{axis}"))
    return Space((numbers[0], numbers[1], numbers[2]), (numbers[3], numbers[4], numbers[5]))


def _positive(text: str, name: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not (np.isfinite(number) and number > 0):
        raise InvalidInputError(
            f"the ISMRMRD header says {text!r} for {name}; it must be a positive number"
        )
    return number


def _centre(encoding: ElementTree.Element, step: int, size: int) -> int:
    """Return the counter of zero frequency; half the matrix where the header does not say."""
    name = f"encodingLimits/kspace_encoding_step_{step}/center"
    path = "/".join(f"{{*}}{part}" for part in name.split("/"))
    text = encoding.findtext(path, str(size // 2)).strip()
    if not text.isdigit():
        raise InvalidInputError(
            f"the ISMRMRD header says {text!r} for {name}; it must be a counter, 0 or more"
        )
    return int(text)
