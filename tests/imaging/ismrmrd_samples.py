"""A small scanner: writes ISMRMRD files of Gaussian blobs whose k-space is known in closed form."""

from dataclasses import dataclass, field

import h5py
import numpy as np

COUNTERS = np.dtype([
    ("kspace_encode_step_1", "<u2"), ("kspace_encode_step_2", "<u2"), ("average", "<u2"),
    ("slice", "<u2"), ("contrast", "<u2"), ("phase", "<u2"), ("repetition", "<u2"),
    ("set", "<u2"), ("segment", "<u2"), ("user", "<u2", (8,)),
])  # fmt: skip
HEAD = np.dtype([
    ("version", "<u2"), ("flags", "<u8"), ("measurement_uid", "<u4"), ("scan_counter", "<u4"),
    ("acquisition_time_stamp", "<u4"), ("physiology_time_stamp", "<u4", (3,)),
    ("number_of_samples", "<u2"), ("available_channels", "<u2"), ("active_channels", "<u2"),
    ("channel_mask", "<u8", (16,)), ("discard_pre", "<u2"), ("discard_post", "<u2"),
    ("center_sample", "<u2"), ("encoding_space_ref", "<u2"), ("trajectory_dimensions", "<u2"),
    ("sample_time_us", "<f4"), ("position", "<f4", (3,)), ("read_dir", "<f4", (3,)),
    ("phase_dir", "<f4", (3,)), ("slice_dir", "<f4", (3,)),
    ("patient_table_position", "<f4", (3,)), ("idx", COUNTERS), ("user_int", "<i4", (8,)),
    ("user_float", "<f4", (8,)),
])  # fmt: skip
assert HEAD.itemsize == 340  # as in the C library, packed
ROW = np.dtype([
    ("head", HEAD), ("traj", h5py.vlen_dtype(np.float32)), ("data", h5py.vlen_dtype(np.float32)),
])  # fmt: skip


def bit(number):
    return 1 << (number - 1)


def rotation():
    """Oblique read, phase and slice directions, LPS, right-handed."""
    a, b = 0.3, -0.2
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return turn @ tilt


@dataclass
class Scan:
    """What is acquired. LPS, mm; the readout is oversampled twice."""

    n_read: int = 32
    n_phase: int = 24
    n_partitions: int = 1
    n_slices: int = 3
    fov: tuple = (48.0, 36.0)
    step: float = 4.0
    slab: float = 24.0
    directions: np.ndarray = field(default_factory=rotation)
    centre: tuple = (5.0, -11.0, 30.0)
    blob: tuple = (9.0, -15.0, 34.0)
    width: float = 3.5
    coils: np.ndarray = field(default_factory=lambda: np.array([1.0, 0.6j, -0.4 + 0.3j]))
    encoded_phase: int | None = None

    def places(self):
        offsets = (np.arange(self.n_slices) - (self.n_slices - 1) / 2) * self.step
        return np.asarray(self.centre) + offsets[:, None] * self.directions[:, 2]

    def spectrum(self, place, step_1=None, step_2=None):
        """(coils, 2 n_read) samples of line step_1, zero frequency at n_read, by formula."""
        away = np.asarray(self.blob) - place
        a, b, c = self.directions.T @ away
        kx = (np.arange(2 * self.n_read) - self.n_read) / (2 * self.fov[0])
        ky = (step_1 - self.n_phase // 2) / self.fov[1]
        line = np.exp(-2j * np.pi * (kx * a + ky * b))
        line *= np.exp(-2 * (np.pi * self.width) ** 2 * (kx**2 + ky**2))
        if self.n_partitions == 1:
            line *= np.exp(-0.5 * (c / self.width) ** 2)
        else:
            kz = (step_2 - self.n_partitions // 2) / self.slab
            line *= np.exp(-2j * np.pi * kz * c - 2 * (np.pi * self.width * kz) ** 2)
        return 100 * self.coils[:, None] * line

    def head(self, place, **changes):
        head = np.zeros((), HEAD)
        head["version"], head["position"] = 1, place
        head["number_of_samples"], head["center_sample"] = 2 * self.n_read, self.n_read
        head["active_channels"] = head["available_channels"] = len(self.coils)
        for n, name in enumerate(("read_dir", "phase_dir", "slice_dir")):
            head[name] = self.directions[:, n]
        head["sample_time_us"] = 5.0
        for name, value in changes.items():
            target = head["idx"] if name in COUNTERS.names else head
            target[name] = value
        return head

    def lines(self, steps=None):
        """(head, samples) of every line, ordered as interleaved slices."""
        steps = range(self.n_phase) if steps is None else steps
        places = [self.centre] if self.n_partitions > 1 else self.places()
        for step_1 in steps:
            for s in [*range(0, len(places), 2), *range(1, len(places), 2)]:
                for step_2 in range(self.n_partitions):
                    samples = self.spectrum(places[s], step_1, step_2)
                    counters = {"kspace_encode_step_1": step_1, "kspace_encode_step_2": step_2}
                    yield self.head(places[s], slice=s, **counters), samples

    def xml(self, *, trajectory="cartesian", extra="", centre=None, calibration=None):
        n_y = self.encoded_phase or self.n_phase
        fov_y = self.fov[1] * n_y / self.n_phase
        n_z, fov_z = self.n_partitions, self.slab if self.n_partitions > 1 else self.step
        centre = n_y // 2 if centre is None else centre
        encoded = _space(
            "encodedSpace", (2 * self.n_read, n_y, n_z), (2 * self.fov[0], fov_y, fov_z)
        )
        recon = _space("reconSpace", (self.n_read, self.n_phase, n_z), (*self.fov, fov_z))
        parallel = (
            f"<parallelImaging><calibrationMode>{calibration}</calibrationMode></parallelImaging>"
        )
        return (
            f"<?xml version='1.0'?><ismrmrdHeader xmlns='http://www.ismrm.org/ISMRMRD'>{extra}"
            f"<encoding>{encoded}{recon}"
            "<encodingLimits><kspace_encoding_step_1><minimum>0</minimum>"
            f"<maximum>{self.n_phase - 1}</maximum><center>{centre}</center>"
            f"</kspace_encoding_step_1></encodingLimits><trajectory>{trajectory}</trajectory>"
            f"{parallel if calibration else ''}</encoding></ismrmrdHeader>"
        )


def _space(name, matrix, fov):
    def three(values):
        return "".join(f"<{a}>{v}</{a}>" for a, v in zip("xyz", values, strict=True))

    return (
        f"<{name}><matrixSize>{three(matrix)}</matrixSize>"
        f"<fieldOfView_mm>{three(fov)}</fieldOfView_mm></{name}>"
    )


def noise_lines(scan, rng, mixing, *, dwell_us=5.0, n=40, n_samples=128):
    """Noise readouts (flag 19) whose covariance is mixing @ mixing^H at the dwell time given."""
    for _ in range(n):
        head = scan.head(scan.centre, flags=bit(19), sample_time_us=dwell_us)
        head["number_of_samples"], head["active_channels"] = n_samples, len(mixing)
        yield head, mixing @ white(rng, (mixing.shape[1], n_samples))


def white(rng, shape):
    """Complex noise of variance 1."""
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / np.sqrt(2)


def save(path, readouts, xml, *, group="dataset"):
    readouts = list(readouts)
    table = np.empty(len(readouts), ROW)
    for row, (head, samples) in zip(table, readouts, strict=True):
        row["head"] = head
        row["traj"] = np.zeros(0, np.float32)
        flat = np.ascontiguousarray(samples, dtype=np.complex64).reshape(-1).view(np.float32)
        row["data"] = flat
    with h5py.File(path, "w") as file:
        text = np.array([xml], dtype=object)
        file.create_dataset(f"{group}/xml", data=text, dtype=h5py.string_dtype())
        file.create_dataset(f"{group}/data", data=table, dtype=ROW)
    return path
