"""Small DICOM image series, written with pydicom."""

import numpy as np

ORIENTATION = (0.96, 0.28, 0.0, -0.28, 0.96, 0.0)  # oblique, LPS
ORIGIN, SPACING, STEP = (-11.5, 7.25, -31.0), (0.75, 1.25), 2.5  # rows apart, columns apart
COLUMNS, ROWS, N = 7, 5, 4
SLOPE, INTERCEPT = 2.0, -1024.0
UID = "1.2.826.0.1.3680043.8.498."


def stored(n=N):
    """What the files hold, (slice, row, column)."""
    return np.random.default_rng(1).integers(0, 2000, size=(n, ROWS, COLUMNS)).astype(np.uint16)


def save_series(folder, *, edit=None, n=N, series="1", skip=(), modality="CT"):
    """Write a series; `edit(dataset, k)` may change slice k before it is written."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(ORIENTATION[:3], ORIENTATION[3:])
    for k, pixels in enumerate(stored(n)):
        if k in skip:
            continue
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        data.SOPInstanceUID = f"{UID}{series}.{k + 1}"
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.StudyInstanceUID, data.SeriesInstanceUID = f"{UID}9", f"{UID}{series}"
        data.PatientName, data.PatientID, data.Modality = "Some^Body", "42424242", modality
        data.InstanceNumber = k + 1
        data.ImagePositionPatient = [f"{v:.6f}" for v in np.array(ORIGIN) + k * STEP * normal]
        data.ImageOrientationPatient = list(map(str, ORIENTATION))
        data.PixelSpacing, data.SliceThickness = list(map(str, SPACING)), "9"
        data.Rows, data.Columns, data.SamplesPerPixel = ROWS, COLUMNS, 1
        data.PhotometricInterpretation = "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.PixelRepresentation = 0
        data.RescaleSlope, data.RescaleIntercept = str(SLOPE), str(INTERCEPT)
        data.PixelData = pixels.tobytes()
        if edit is not None:
            edit(data, k)
        # Names in the opposite order of places.
        data.save_as(folder / f"{n - k:03d}_{series}", enforce_file_format=True)
    return folder
