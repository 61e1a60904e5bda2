"""The ten lines of README run as written, in an interpreter of their own."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from medsci.imaging import read_nifti

ROOT = Path(__file__).parents[1]


def test_the_ten_lines_run(tmp_path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert block is not None
    assert len(block[1].strip().splitlines()) <= 12
    (tmp_path / "sample_data").symlink_to(ROOT / "sample_data")
    script = block[1] + "\nassert '<img' in result.mean._repr_html_()\n"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    head = read_nifti(ROOT / "sample_data" / "colin27_t1.nii.gz")
    written = read_nifti(tmp_path / "recon.nii.gz")
    assert written.same_geometry(head.slab(2, 84, 92))
    likeness = np.corrcoef(written.array.ravel(), head.array[:, :, 84:92].ravel())[0, 1]
    assert likeness > 0.98
    assert float(read_nifti(tmp_path / "recon_std.nii.gz").array.max()) > 0.0
