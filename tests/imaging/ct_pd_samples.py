"""DICOM-CT-PD files of a tilted cylinder on a circle or a helix; lines by formula."""

from dataclasses import dataclass

import numpy as np


@dataclass
class CtScan:
    """A small scanner around a cylinder whose centre moves with z, in DICOM-CT-PD coordinates."""

    columns: int = 90
    rows: int = 8
    column_mm: float = 2.4
    row_mm: float = 2.2
    rho: float = 300.0
    detector: float = 560.0
    centre: tuple = (45.25, 4.5)
    per_turn: int = 120
    turns: float = 1.0
    pitch: float = 0.0
    shape: str = "CYLINDRICAL"
    radius: float = 22.0
    at: tuple = (18.0, -9.0)
    slope: tuple = (0.0, 0.0)
    mu: float = 0.02
    focal: tuple = ((0.0, 0.0, 0.0),)
    start: float = 0.4

    @property
    def n_views(self):
        return round(self.per_turn * self.turns)

    def view(self, n):
        """phi, z of the focal centre, and the shift of the spot."""
        return (
            self.start + 2 * np.pi * n / self.per_turn,
            self.pitch * n / self.per_turn,
            np.array(self.focal[n % len(self.focal)]),
        )

    def integrals(self, n):
        """(columns, rows) line integrals, from the focal spot to the middle of every element."""
        phi, z, (d_phi, d_z, d_rho) = self.view(n)
        i = (np.arange(1, self.columns + 1) - self.centre[0])[:, None] * self.column_mm
        j = (np.arange(1, self.rows + 1) - self.centre[1])[None] * self.row_mm
        if self.shape == "FLAT":
            x = self.detector * np.sin(phi) + i * np.cos(phi)
            y = -self.detector * np.cos(phi) + i * np.sin(phi)
        else:
            x = self.detector * np.sin(phi + i / self.detector)
            y = -self.detector * np.cos(phi + i / self.detector)
        element = np.stack(
            np.broadcast_arrays(x - self.rho * np.sin(phi), y + self.rho * np.cos(phi), z + j)
        )
        spot = np.array([
            -(self.rho + d_rho) * np.sin(phi + d_phi),
            (self.rho + d_rho) * np.cos(phi + d_phi),
            z + d_z,
        ])  # fmt: skip
        return self.chord(spot[:, None, None], element - spot[:, None, None])

    def chord(self, start, way):
        """mu times the length of the line start + t way inside the sheared cylinder."""
        x, y, z = start
        dx, dy, dz = way
        px, py = x - self.at[0] - self.slope[0] * z, y - self.at[1] - self.slope[1] * z
        qx, qy = dx - self.slope[0] * dz, dy - self.slope[1] * dz
        a, b, c = qx**2 + qy**2, px * qx + py * qy, px**2 + py**2 - self.radius**2
        inside = np.sqrt(np.maximum(b**2 - a * c, 0)) * 2 / a
        return self.mu * inside * np.sqrt(dx**2 + dy**2 + dz**2)

    def fan(self, beam, z):
        """The exact fan sinogram of the plane at z."""
        points, directions = beam.rays()
        start = np.stack([points[..., 0], points[..., 1], np.full(points.shape[:2], z)])
        way = np.stack([directions[..., 0], directions[..., 1], np.zeros(points.shape[:2])])
        return self.chord(start, way)


def save_scan(folder, scan, *, edit=None, implicit=True):
    """Write the views; `edit(dataset, n)` may change one before it is written."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    folder.mkdir(parents=True, exist_ok=True)
    slope, intercept = 2e-5, -0.05
    for n in range(scan.n_views):
        phi, z, shift = scan.view(n)
        data = Dataset()
        data.file_meta = FileMetaDataset()
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        data.file_meta.TransferSyntaxUID = syntax
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = f"1.2.3.{n + 1}"
        data.PatientName, data.InstanceNumber = "Somebody", n + 1
        data.Rows, data.Columns = scan.columns, scan.rows
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 0, 1
        data.PhotometricInterpretation = "MONOCHROME2"
        data.RescaleSlope, data.RescaleIntercept = str(slope), str(intercept)
        pixels = np.rint((scan.integrals(n) - intercept) / slope)
        data.PixelData = np.asfortranarray(pixels.T).astype("<u2").tobytes(order="F")
        for tag, vr, value in (
            ((0x7029, 0x1010), "US", scan.rows),
            ((0x7029, 0x1011), "US", scan.columns),
            ((0x7029, 0x1002), "FL", scan.column_mm),
            ((0x7029, 0x1006), "FL", scan.row_mm),
            ((0x7029, 0x100B), "CS", scan.shape),
            ((0x7031, 0x1001), "FL", float(np.float32(phi % (2 * np.pi)))),
            ((0x7031, 0x1002), "FL", float(np.float32(z))),
            ((0x7031, 0x1003), "FL", scan.rho),
            ((0x7031, 0x1031), "FL", scan.detector),
            ((0x7031, 0x1033), "FL", list(scan.centre)),
            ((0x7033, 0x100B), "FL", float(shift[0])),
            ((0x7033, 0x100C), "FL", float(shift[1])),
            ((0x7033, 0x100D), "FL", float(shift[2])),
            ((0x7033, 0x1013), "US", scan.per_turn),
            ((0x7041, 0x1001), "FL", 0.0195),
        ):
            data.add_new(tag, vr, value)
        if edit is not None:
            edit(data, n)
        # Names that do not sort as the views do.
        data.save_as(folder / f"{(n * 7919) % 100003}.dcm", enforce_file_format=True)
    return folder
