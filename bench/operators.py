"""CT projectors side by side: time of A and A^T, exactness of the adjoint, error against truth.

    python bench/operators.py             180, 60 and 8 views of 256 x 256 pixels, 363 bins
    python bench/operators.py --quick     60 and 8 views, fewer rounds

CPU milliseconds of one thread and per slice, the smallest of several rounds; in every round each
method runs once after the other, so that all see the same machine. `pair` is A and A^T of a single
slice, `pair @8` the same per slice in a batch of 8, both relative to scikit-image. `mismatch` is
`|<A x, y> - <x, A^T y>| / (|A x| |y|)`, the larger of white noise and ramps, after the scale that
the method's documentation gives; `error` is `|A x - y| / |y|` for an object of five ellipses whose
sinogram y is known. The last line is `RESULT {json}`.
"""

import argparse
import json
import math
import sys
import time
import warnings

import numpy as np
import torch
from operators_methods import METHODS, Method, drawn, projected

from medsci.errors import UsageError
from medsci.imaging.beam import ImageGrid, ParallelBeam

GRID = ImageGrid(256, 256, 1.0, 1.0)
BINS = 363
REFERENCE = "scikit-image"
BATCH = 8


def pairs(beam: ParallelBeam) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return an image and a sinogram of noise, and of ramps."""
    rng = np.random.default_rng(0)
    shapes = (1, *GRID.shape), (1, beam.n_angles, beam.n_bins)
    noise = [rng.standard_normal(shape) for shape in shapes]
    ramps = [np.linspace(-1, 2, math.prod(shape)).reshape(shape) for shape in shapes]
    return [tuple(array.astype(np.float32) for array in pair) for pair in (noise, ramps)]


def mismatch(method: Method, beam: ParallelBeam) -> float:
    """Return how far `back` is from the transpose of `there`, at worst."""
    found = []
    for x, y in pairs(beam):
        ax = np.float64(method.sinogram_back(method.there(method.image(x))))
        aty = np.float64(method.image_back(method.back(method.sinogram(y)))) * method.scale
        gap = abs((ax * y).sum() - (x * aty).sum())
        found.append(gap / (np.linalg.norm(ax) * np.linalg.norm(y)))
    return float(max(found))


def error(method: Method, beam: ParallelBeam) -> float:
    """Return the relative error against the exact sinogram."""
    seen = method.sinogram_back(method.there(method.image(drawn(GRID)[None])))[0]
    exact = projected(beam)
    return float(np.linalg.norm(seen - exact) / np.linalg.norm(exact))


def timed(methods: dict[str, Method], beam: ParallelBeam, rounds: int) -> dict[str, dict]:
    """Return CPU ms per slice of both directions, alone and in a batch, the least of the rounds."""
    rng = np.random.default_rng(1)
    x = rng.random((BATCH, *GRID.shape), dtype=np.float32)
    y = rng.random((BATCH, beam.n_angles, beam.n_bins), dtype=np.float32)
    best = {name: dict.fromkeys(("A", "AT", "A@8", "AT@8"), math.inf) for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            for n, suffix in ((1, ""), (BATCH, "@8")):
                for key, run, data in (
                    ("A", method.there, method.image(x[:n])),
                    ("AT", method.back, method.sinogram(y[:n])),
                ):
                    started = time.process_time()
                    run(data)
                    spent = (time.process_time() - started) * 1e3 / n
                    best[name][key + suffix] = min(best[name][key + suffix], spent)
    return best


def built(beam: ParallelBeam) -> tuple[dict[str, Method], dict[str, float], list[str]]:
    """Return the methods there are, the seconds each took to set up, and what is absent."""
    methods, seconds, absent = {}, {}, []
    for name, make in METHODS.items():
        started = time.process_time()
        try:
            methods[name] = make(beam, GRID)
        except (ImportError, UsageError, RuntimeError) as problem:
            absent.append(name)
            print(f"absent: {name} ({str(problem).splitlines()[0]})", file=sys.stderr)
            continue
        seconds[name] = time.process_time() - started
    return methods, seconds, absent


def compare(n_angles: int, rounds: int) -> tuple[dict[str, dict], list[str]]:
    """Return every figure of every method at one number of views."""
    beam = ParallelBeam(np.arange(n_angles) * math.pi / n_angles, BINS, 1.0)
    methods, seconds, absent = built(beam)
    rows = timed(methods, beam, rounds)
    for name, row in rows.items():
        row["pair"] = row["A"] + row["AT"]
        row["pair@8"] = row["A@8"] + row["AT@8"]
        row["set-up s"] = seconds[name]
        row["mismatch"] = mismatch(methods[name], beam)
        row["error"] = error(methods[name], beam)
        row.update(methods[name].note)
    for row in rows.values():
        for key in ("pair", "pair@8"):
            reference = rows.get(REFERENCE, {}).get(key)
            row[f"{key} / {REFERENCE}"] = row[key] / reference if reference else None
    return rows, absent


def table(n_angles: int, rows: dict[str, dict]) -> str:
    lines = [
        f"**{n_angles} views**, CPU ms of one thread per slice",
        "",
        "| projector | A | A^T | A @8 | A^T @8 | pair | pair @8 | set-up s | mismatch | error |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        times = " | ".join(f"{row[key]:.2f}" for key in ("A", "AT", "A@8", "AT@8"))
        ratios = [row[f"{key} / {REFERENCE}"] for key in ("pair", "pair@8")]
        shown = " | ".join("-" if ratio is None else f"{ratio:.3f}" for ratio in ratios)
        lines.append(
            f"| {name} | {times} | {shown} | {row['set-up s']:.2f} | {row['mismatch']:.0e} "
            f"| {100 * row['error']:.2f} % |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="60 and 8 views, fewer rounds")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of the peers
    results: dict[str, dict] = {}
    for n_angles in (60, 8) if quick else (180, 60, 8):
        results[str(n_angles)], absent = compare(n_angles, rounds=2 if quick else 5)
        print(table(n_angles, results[str(n_angles)]), end="\n\n", flush=True)
    summary = {}
    for views, rows in results.items():
        csr, astra = rows["medsci csr"], rows.get("ASTRA CPU linear")
        versus = {"scikit-image": rows.get(REFERENCE), "ASTRA": astra}
        for peer, row in versus.items():
            if row is not None:
                summary[f"{views} views: csr faster than {peer}, pair"] = row["pair"] / csr["pair"]
                faster = row["pair@8"] / csr["pair@8"]
                summary[f"{views} views: csr faster than {peer}, pair@8"] = faster
    for name, ratio in summary.items():
        print(f"{name}: {ratio:.1f} x")
    print("RESULT " + json.dumps({"views": results, "ratios": summary, "absent": absent}))


if __name__ == "__main__":
    main()
