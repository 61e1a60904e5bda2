"""Open what `make demo` wrote and check that it is what it claims to be.

Usage: python tests/check_demo_outputs.py FOLDER SOURCE.nii.gz
"""

import base64
import json
import re
import struct
import sys
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np


def main(folder: Path, source: Path) -> None:
    """Check every file of a demo run; stop with a message at the first that is wrong."""
    record = json.loads((folder / "recon.json").read_text(encoding="utf-8"))
    start, stop = check_kspace(folder)
    check_images(folder, nib.load(source).slicer[:, :, start:stop])
    check_record(record, folder)
    check_page((folder / "report.html").read_text(encoding="utf-8"))
    ours, zero_filled = (record["Metrics"][m] for m in ("reconstruction", "zero-filled"))
    sys.stdout.write(
        f"demo outputs are right; PSNR {ours['psnr_db']:.2f} dB, "
        f"zero-filled {zero_filled['psnr_db']:.2f} dB\n"
    )


def check_kspace(folder: Path) -> tuple[int, int]:
    """Check that k-space is complex and undersampled; return the slab it was made from."""
    with h5py.File(folder / "kspace.h5") as file:
        data, mask = file["kspace"], file["mask"][:]
        expect(data.dtype == np.complex64 and data.ndim == 4, "kspace is complex64, 4 axes")
        expect(data.shape[-1] == mask.size and not mask.all(), "the mask leaves lines out")
        expect(bool((data[..., ~mask] == 0).all()), "lines that were left out are zero")
    options = json.loads((folder / "kspace.json").read_text(encoding="utf-8"))["MedsciProvenance"]
    start, stop = options["Options"]["slices"].split(":")
    return int(start), int(stop)


def check_images(folder: Path, slab: nib.Nifti1Image) -> None:
    """Check geometry against the source's slab, and the values."""
    for name in ("recon.nii.gz", "recon_std.nii.gz"):
        image = nib.load(folder / name)
        values = np.asanyarray(image.dataobj)
        expect(image.shape == slab.shape, f"{name} has shape {slab.shape}, it has {image.shape}")
        expect(
            np.allclose(image.affine, slab.affine, atol=1e-4), f"{name} lies where the slab lies"
        )
        expect(image.get_data_dtype() == np.float32, f"{name} is float32")
        expect(bool(np.isfinite(values).all()), f"{name} is finite")
        expect(values.min() >= 0 and values.max() > 0, f"{name} is a magnitude, not empty")
    truth = np.asanyarray(slab.dataobj).astype(float).ravel()
    result = np.asanyarray(nib.load(folder / "recon.nii.gz").dataobj).astype(float).ravel()
    likeness = float(np.corrcoef(truth, result)[0, 1])
    expect(likeness > 0.95, f"the image correlates with the truth above 0.95, it does {likeness}")


def check_record(record: dict, folder: Path) -> None:
    """Check that the sidecar names what ran, and that the prior helped."""
    ours, zero_filled = (record["Metrics"][m] for m in ("reconstruction", "zero-filled"))
    expect(ours["psnr_db"] > zero_filled["psnr_db"] + 3, "PSNR beats zero-filled by 3 dB")
    expect(ours["ssim"] > zero_filled["ssim"], "SSIM beats zero-filled")
    made = record["MedsciProvenance"]
    expect(made["Seed"] == 0, "the seed is recorded")
    expect(re.fullmatch("[0-9a-f]{64}", made["Model"]["Sha256"]) is not None, "the model's hash")
    text = json.dumps(record)
    expect("/" not in made["Command"] and str(folder.resolve()) not in text, "no folders in it")


def check_page(page: str) -> None:
    """Check that the report needs nothing from anywhere else."""
    links = re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)([^"']*)""", page)
    expect(not links, f"the report loads nothing, it links to {links[:3]}")
    expect(not re.search(r"url\(\s*['\"]?(?!data:|#)", page), "its styles load nothing")
    pictures = [
        base64.b64decode(data) for data in re.findall("data:image/png;base64,([^\"']+)", page)
    ]
    expect(bool(pictures), "it has a picture")
    for png in pictures:  # width and height stand at bytes 16 to 24 of every PNG
        expect(min(struct.unpack(">II", png[16:24])) > 200, "its pictures are large enough to see")
    expect("uncertainty" in page, "it shows the uncertainty")
    expect("dB" in page, "it has numbers")


def expect(held: bool, claim: str) -> None:
    """Stop with the claim unless it held."""
    if not held:
        raise SystemExit(f"the demo's outputs are wrong; expected: {claim}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
