"""Peak memory of a CT volume of 256 x 256 x 128 voxels at 60 views; what the chunk size changes.

    python bench/recon_memory.py                 three steps of dds3d, chunks of 4 and of 16 slices
    python bench/recon_memory.py --steps 40      a whole reconstruction

Every run is a process of its own, whose peak is the largest resident set that the system saw. The
goal is 6 GiB, and equal images whatever the chunk. The last line is `RESULT {json}`.
"""

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import time

import numpy as np

N_SLICES, SIZE, VIEWS = 128, 256, 60


def volume():
    """Return a simulated trunk that changes slowly from slice to slice."""
    from medsci.data.ct_phantom import trunk_slice
    from medsci.imaging import Volume

    ends = [trunk_slice(np.random.default_rng(seed), size=SIZE) for seed in (1, 2)]
    share = np.linspace(0.0, 1.0, N_SLICES, dtype=np.float32)
    stack = ends[0][..., None] * (1 - share) + ends[1][..., None] * share
    return Volume(np.ascontiguousarray(stack.transpose(1, 0, 2)), np.diag([1.4, 1.4, 1.5, 1.0]))


def once(prior: str, chunk: int, *, steps: int, threads: int) -> None:
    import torch

    from medsci.models import load_denoiser
    from medsci.recon import ReconSettings, SimulateCtSettings, posterior_ct, simulate_ct

    torch.set_num_threads(threads)
    scan = simulate_ct(volume(), settings=SimulateCtSettings(n_views=VIEWS, seed=0))
    settings = ReconSettings(n_samples=1, n_steps=steps, chunk=chunk)
    before, start = _peak(), time.perf_counter()
    drawn = posterior_ct(scan, load_denoiser(prior), settings=settings, window_hu=(-1000.0, 1000.0))
    found = {
        "chunk": chunk,
        "simulated_gib": round(before, 2),
        "peak_gib": round(_peak(), 2),
        "seconds": round(time.perf_counter() - start, 1),
        "sha256": hashlib.sha256(drawn.mean.array.tobytes()).hexdigest()[:16],
    }
    print(json.dumps(found))


def _peak() -> float:
    """Return the largest resident set of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--chunks", type=int, nargs="*", default=[4, 16])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prior", default="ct-2d")
    parser.add_argument("--once", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once is not None:
        once(options.prior, options.once, steps=options.steps, threads=options.threads)
        return
    rows = []
    for chunk in options.chunks:
        command = [sys.executable, __file__, "--once", str(chunk), "--steps", str(options.steps)]
        command += ["--threads", str(options.threads), "--prior", options.prior]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows.append(json.loads(out.splitlines()[-1]))
        print(rows[-1], flush=True)
    equal = len({row["sha256"] for row in rows}) == 1
    print(f"peak {max(r['peak_gib'] for r in rows):.2f} GiB of 6; images equal: {equal}")
    print("RESULT " + json.dumps({"rows": rows, "equal": equal}))
    sys.exit(0 if equal and max(r["peak_gib"] for r in rows) < 6.0 else 1)


if __name__ == "__main__":
    main()
