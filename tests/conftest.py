"""Small inputs and a quick stand-in for the sampler, for tests of jobs and of the command line."""

from pathlib import Path

import numpy as np
import pytest

SHAPE = (24, 28, 12)
AFFINE = np.array([[1.5, 0, 0, -20], [0, 1.5, 0, -30], [0, 0, 2.0, 7], [0, 0, 0, 1.0]])


def phantom() -> np.ndarray:
    """A bright ellipsoid with a dark core, 0 to 200, in air."""
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    radius = np.sqrt(sum(x**2 for x in grid))
    head = np.where(radius < 0.95, 150.0 + 50 * grid[0], 0.0)
    return np.where(radius < 0.3, 40.0, head).astype(np.float32)


@pytest.fixture
def t1_file(tmp_path) -> Path:
    """A small magnitude volume as NIfTI."""
    from medsci.imaging import Volume, write_nifti

    return write_nifti(Volume(phantom(), AFFINE, sform_code=4), tmp_path / "t1.nii.gz")


@pytest.fixture
def kspace_of():
    """Write k-space of the phantom, truth stored beside it, to a path; `bad=True` breaks it."""
    import h5py

    from medsci.imaging import KSpace, Volume, write_kspace

    def write(path: Path, *, bad: bool = False) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if bad:
            with h5py.File(path, "w") as file:
                file["something"] = np.zeros(3)
            return path
        volume = Volume(phantom(), AFFINE, sform_code=4)
        image = np.transpose(volume.array, (2, 1, 0))
        mask = np.zeros(SHAPE[0], dtype=bool)
        mask[::3], mask[10:14] = True, True
        shifted = np.fft.ifftshift(image, axes=(-2, -1))
        data = np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=(-2, -1))
        coils = np.stack([data, 0.5j * data], axis=1) * mask
        kspace = KSpace.on_grid_of(
            volume, coils.astype(np.complex64), mask=mask, axes=(2, 1, 0), reference=image
        )
        return write_kspace(kspace, path)

    return write


@pytest.fixture
def quick_sampler(monkeypatch):
    """Replace prior and sampler by arithmetic; gives the list of the calls that were made."""
    import medsci.pipelines.recon as job
    import medsci.recon

    calls: list[tuple] = []

    def load_prior(name, *, settings):
        calls.append(("load", name))
        return job.Prior(name, "a" * 64, "nothing but zeros", denoiser=object())

    def posterior(kspace, prior, *, settings, progress=None):
        calls.append(("sample", settings))
        for step in range(4):
            if progress is not None:
                progress(step + 1, 4, "sample 1 of 1")
        rng = np.random.default_rng(settings.seed)
        draws = kspace.reference + rng.normal(0, 2, (settings.n_samples, *kspace.reference.shape))
        draws = np.abs(draws).astype(np.float32)
        volume = kspace.to_volume
        return medsci.recon.Posterior(
            mean=volume(draws.mean(0)),
            std=volume(draws.std(0)) if settings.n_samples > 1 else None,
            simple=volume(0.8 * kspace.reference + 10),
            reference=volume(kspace.reference),
            info={"method": "stub", "samples": settings.n_samples, "relative_data_misfit": 0.01},
        )

    monkeypatch.setattr(medsci.recon, "posterior", posterior)
    monkeypatch.setattr(job, "load_prior", load_prior)
    return calls
