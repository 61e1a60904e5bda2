"""Error against the number of network evaluations: every solver of ours beside its peers.

    python bench/nfe_error.py [--quick] [--chart PATH]

The problem: carry states from the noise level `sigma_hat = 80` to `.002` along the probability flow
of a distribution whose denoiser is known exactly. The error is the median over samples of the
relative distance to the exact end point; evaluations are counted by the denoiser itself. Three
targets judge, their geometric mean is the figure of merit, and a fourth, H32, is reported only.
The constants of the short spectrum were fitted on other targets (`bench/nfe_tuning.py`); the choice
of solver families, of budgets at which they change and between two fits was made with the judges in
view, and once with H32 in view. A fifth, P64, has the long spectrum of images. `auto` is told which
spectrum a target has; the row `other spectrum` is what the wrong answer costs.

Every peer runs with each of its built-in grids, orders and endings and is represented by the best
of them at each budget. Where it starts or ends at another noise level (flow schedules start at
infinity and end at zero), its states start on the same exact trajectories and are compared at its
own end. Peers are handed the noise level that they really use, not the integer step they would
round it to, in float64. A library that does not import is named as absent; rows under
`re-expressed` are published rules of peers in our own words. The last line is `RESULT {json}`.
"""

import argparse
import itertools
import json
import math
import time
from functools import partial
from typing import Any

import torch
from nfe_peers import PEERS
from nfe_targets import ENDS, GRIDS, VE, End, Method, Target, error, targets, walk

from medsci.core.solve import AbstractSolver, Momentum, Multistep, RungeKutta
from medsci.core.solve.auto import auto

BUDGETS = (3, 5, 10, 20, 50, 100)
JUDGES = ("G16", "M2", "M64")
OTHERS = ("H32", "P64")


def _auto(target: Target, n: int, *, other: bool = False) -> End | None:
    spectrum = target.spectrum
    if other:
        spectrum = "short" if spectrum == "long" else "long"
    solver, times = auto(VE, n, spectrum=spectrum, **ENDS)
    return walk(target, n, solver=solver, levels=lambda _: times)


def _solvers() -> dict[str, AbstractSolver]:
    full = partial(Multistep, lower_final=False)
    ghvb = partial(Multistep, "eps", "index", momentum=Momentum(0.8))
    return {
        "DDIM": Multistep("eps", order=1),
        "DPM++2M": Multistep("x0", order=2),
        "DPM++3M": Multistep("x0", order=3),
        "UniPC-2": Multistep("x0", order=2, corrector=True),
        "UniPC-3": Multistep("x0", order=3, corrector=True),
        "DEIS-2": Multistep("eps", order=2),
        "DEIS-3": Multistep("eps", order=3),
        "v order 2, ratio": Multistep("v", "ratio", order=2),
        "v order 2, log-ratio": full("v", "log_ratio", order=2),
        "v order 3": full("v", order=3),
        "v order 4": full("v", order=4),
        "v order 3, log-ratio, corrector": full(
            "v", "log_ratio", order=3, corrector=True, lower_final=True
        ),
        "angle order 2": Multistep("angle", order=2),
        "angle order 3": Multistep("angle", order=3),
        "angle order 3, corrector": Multistep("angle", order=3, corrector=True),
        "eps order 3, corrector": Multistep("eps", order=3, corrector=True),
        "S-PNDM without warm-up": Multistep("eps", "index", order=2),
        "F-PNDM": Multistep("eps", "index", order=4, warmup=True),
        "GHVB-4 (.8)": ghvb(order=4),
        "GHVB-3 (.8), exact weights": Multistep("eps", order=3, momentum=Momentum(0.8)),
        "Heun of EDM": RungeKutta("heun"),
        "DPM-Solver-2": RungeKutta("dpm2", variable="log_snr"),
        "DPM-Solver-3": RungeKutta("dpm3", variable="log_snr"),
        "RK4, v": RungeKutta("rk4", "v"),
        "RK4, angle": RungeKutta("rk4", "angle"),
    }


def ours() -> dict[str, Method]:
    """Return our default, and every deterministic solver of ours on the three classical grids.

    `Ancestral`, `Sde` and `Cycle` add noise and `Adaptive` chooses its own budget, so none of them
    has an error at a number of evaluations.
    """
    rows: dict[str, Method] = {
        "auto": _auto,
        "auto, other spectrum": partial(_auto, other=True),
    }
    for (name, solver), (label, levels) in itertools.product(_solvers().items(), GRIDS.items()):
        rows[f"{name} @ {label}"] = partial(walk, solver=solver, levels=levels)
    return rows


def geometric(values: list[float]) -> float:
    """Return the geometric mean, infinite if one of the values is."""
    return math.exp(sum(math.log(value) for value in values) / len(values))


Table = dict[str, dict[str, list[float]]]  # row -> target -> error per budget


def measure(rows: dict[str, Method], judges: list[Target], budgets: tuple[int, ...]) -> Table:
    """Return every error, and the geometric mean over the three judges under `mean`."""
    table: Table = {}
    for name, method in rows.items():
        found = {t.name: [error(method, t, n) for n in budgets] for t in judges}
        found["mean"] = [geometric([found[j][i] for j in JUDGES]) for i in range(len(budgets))]
        table[name] = found
    return table


def best(table: Table, column: str, i: int) -> tuple[float, str]:
    """Return the smallest error at one budget, and the row it belongs to."""
    return min((found[column][i], name) for name, found in table.items())


def _cells(values: list[float]) -> str:
    return " ".join(f"{value:9.1e}" if math.isfinite(value) else f"{'-':>9s}" for value in values)


def leaders(table: Table, column: str, budgets: tuple[int, ...]) -> list[str]:
    """Return the rows that are the best of a table at some budget."""
    return sorted({best(table, column, i)[1] for i in range(len(budgets))})


def print_table(tables: dict[str, Table], column: str, budgets: tuple[int, ...]) -> None:
    """Print our default, our other rows (all under the mean, elsewhere the best), and the peers."""
    print(f"\n{column:52s} " + " ".join(f"{n:9d}" for n in budgets))
    own = tables["ours"]
    names = list(own) if column == "mean" else ["auto", *leaders(own, column, budgets)]
    for name in dict.fromkeys(names):
        print(f"  {name:50s} {_cells(own[name][column])}")
    for library, table in tables.items():
        if library != "ours":
            for name in leaders(table, column, budgets):
                print(f"  {library + ': ' + name:50s} {_cells(table[name][column])}")
    everyone = peers_of(tables)
    values = [best(everyone, column, i)[0] for i in range(len(budgets))]
    print(f"  {'best peer':50s} {_cells(values)}")


def peers_of(tables: dict[str, Table]) -> Table:
    """Return the rows of all peers in one table."""
    return {
        f"{lib}: {row}": v for lib, t in tables.items() if lib != "ours" for row, v in t.items()
    }


def compare(tables: dict[str, Table], budgets: tuple[int, ...]) -> dict[str, Any]:
    """Return our default beside the best peer at every budget, and print the ratio."""
    summary: dict[str, Any] = {}
    columns = ("mean", *JUDGES, *OTHERS)
    for i, n in enumerate(budgets):
        summary[str(n)] = {}
        for column in columns:
            peer, name = best(peers_of(tables), column, i)
            own = tables["ours"]["auto"][column][i]
            summary[str(n)][column] = {
                "auto": own,
                "best_peer": peer,
                "peer": name,
                "ratio": round(peer / own, 2),
            }
    print("\nbest peer / auto: how many times smaller our default's error is")
    print(f"{'evaluations':>12s} " + " ".join(f"{c:>8s}" for c in columns))
    for n, entry in summary.items():
        ratios = " ".join(f"{entry[c]['ratio']:8.2f}" for c in columns)
        print(f"{n:>12s} {ratios}   {entry['mean']['peer']}")
    return summary


def draw(tables: dict[str, Table], budgets: tuple[int, ...], path: str) -> None:
    """Draw our default against the best configuration of every library at every budget."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), sharey=True)
    for axis, column, title in zip(
        axes,
        ("mean", *OTHERS),
        ("Geometric mean of G16, M2, M64", "Held out: H32", "Long spectrum, like images: P64"),
        strict=True,
    ):
        for lib, table in tables.items():
            if lib == "ours" or not table:
                continue
            values = [best(table, column, i)[0] for i in range(len(budgets))]
            axis.loglog(budgets, values, "o--", label=f"{lib}, its best at each budget", alpha=0.7)
        own = tables["ours"]["auto"][column]
        axis.loglog(budgets, own, "ks-", linewidth=2, label="medsci auto")
        axis.set_title(title)
        axis.set_xlabel("network evaluations")
        axis.set_xticks(budgets, [str(n) for n in budgets])
        axis.minorticks_off()
        axis.grid(visible=True, which="major", alpha=0.3)
    axes[0].set_ylabel("median relative error")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three budgets, fewer samples")
    parser.add_argument("--chart", metavar="PATH", help="also draw the chart into this file")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.perf_counter()
    budgets = (5, 10, 20) if asked.quick else BUDGETS
    judges = targets(32 if asked.quick else 96, 400 if asked.quick else 1200)
    tables: dict[str, Table] = {"ours": measure(ours(), judges, budgets)}
    absent = []
    for library, make in PEERS.items():
        try:
            rows = make()
        except ImportError:
            absent.append(library)
            continue
        tables[library] = measure(rows, judges, budgets)
    print("median relative error at the end of sigma_hat 80 -> .002, by network evaluations")
    for column in (*JUDGES, *OTHERS, "mean"):
        print_table(tables, column, budgets)
    summary = compare(tables, budgets)
    for library in absent:
        print(f"{library}: absent (not importable here)")
    if asked.chart:
        draw(tables, budgets, asked.chart)
    result = {
        "unit": "median_relative_error",
        "budgets": budgets,
        "comparison": summary,
        "auto": tables["ours"]["auto"],
        "absent": absent,
        "seconds": round(time.perf_counter() - begun),
        "goal": {"every_budget": 1.0, "at_10_and_20": 3.0},
        "goal_met": all(
            entry["mean"]["ratio"] >= (3.0 if n in ("10", "20") else 1.0)
            for n, entry in summary.items()
        ),
    }
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
