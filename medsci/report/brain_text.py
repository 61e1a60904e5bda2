"""The words of a report on generated volumes: what every number says, and what it does not."""

__all__ = [
    "BASELINE",
    "DIVERSITY",
    "INTENSITIES",
    "LIMITS",
    "MEMORISED_REAL",
    "MEMORISED_TRAIN",
    "MOSAIC",
    "NEIGHBOURS",
    "REGIONS_HEAD",
    "REGIONS_LABELS",
    "SIDES_UNKNOWN",
    "how",
]

from collections.abc import Sequence

from medsci.metrics.evaluation import Evaluation

LIMITS = (
    "Research use only. Numbers about sets of volumes: they do not say that any one generated "
    "volume is anatomically right, nor that the set may stand in for patients in a study."
)
SIDES_UNKNOWN = (
    "At least one file does not say how its axes lie in the patient: left and right are not known, "
    "and the pictures name no sides."
)
MOSAIC = "Drawn at random, all scaled alike and in one grey window, cut at the centre of the box. "
BASELINE = (
    "Compare the two middle columns with each other: both are means over the same random splits "
    "and of equally many volumes, with their range in brackets. Generated volumes stand out where "
    "their mean lies above the whole range of real against real. The distance of all volumes "
    "depends on how many there are and compares with no other report. Energy distance and histogram"
    " are in units of the scaled intensities, 0 to 1; the Fréchet distance has no unit. Sharpness "
    "is the mean absolute Laplacian over the mean gradient, {real} in real and {generated} in "
    "generated volumes: lower is blurred, higher is noisy."
)
DIVERSITY = (
    "Mean multi-scale structural similarity of random pairs within one set, at most {pairs} pairs, "
    "{scales} scales, on the small copies. Two volumes of different people are never equal: a mean "
    "above that of the real halves says that generated volumes are too much alike (mode collapse), "
    "one far below that they are noisy or out of place. Blur makes alike, too: look at sharpness "
    "first. Background that all volumes share counts "
    "as alike, so the numbers compare only within this report."
)
MEMORISED_TRAIN = (
    "Mean distance of a generated volume to the nearest training volume, over the same of the real "
    "volumes, which the model should not have seen. 1: no nearer than new people; towards 0: "
    "copies; well above 1: not of the same kind. Root mean square difference of the small copies."
)
MEMORISED_REAL = (
    "No training set was given, so the real volumes stand for it: mean distance of a generated "
    "volume to the nearest real one, over that of every real volume to the nearest other. In the "
    "splits, one half is what was seen and the other what was not. 1: no nearer than people are to "
    "each other; towards 0: copies. If the model was trained on other volumes, pass them with "
    "--train: copies of those do not show here."
)
NEIGHBOURS = (
    "Left of each pair a generated volume, right the training volume nearest to it, and their "
    "distance over the median one of unseen real volumes. The most suspicious come first; look "
    "whether sulci and ventricles are the same, which no two people share."
)
REGIONS_LABELS = (
    "Volumes in ml of every label, counted on the label maps' own grids, and of the head as found "
    "in the intensities; brain and ventricles, the deep part of the fluid, where a dseg.tsv names "
    "fluid, grey and white. A label that a volume does not have counts as 0 ml. Labels are those "
    "of the files; that one means the same in both sets was not checked beyond a dseg.tsv beside "
    "them."
)
REGIONS_HEAD = (
    "No label maps were measured: the only region is the head, found in the intensities by "
    "threshold and closing on the small copies. It says whether heads are of the right size, and "
    "nothing about tissues or structures."
)
INTENSITIES = (
    "Share of voxels by intensity, after every volume was scaled from its own 0.1 and 99.9 "
    "percentiles to 0 and 1. A difference in overall brightness is therefore taken away; the "
    "medians of what was scaled are {real} in real and {generated} in generated files."
)


def how(evaluation: Evaluation) -> Sequence[tuple[str, str]]:
    """Return what was done to the volumes, as rows of name and words."""
    size, small = (_grid(s) for s in (evaluation.shape, evaluation.small_shape))
    voxel = " × ".join(f"{mm:.4g}" for mm in evaluation.voxel_mm)
    total = len(evaluation.real) + len(evaluation.generated) + len(evaluation.train)
    moved = evaluation.n_resampled
    return (
        ("Common grid", f"{size} voxels of {voxel} mm, axes to the right, front and top"),
        (
            "Volumes put on it",
            f"{moved} of {total} cropped or resampled, box centre on box centre"
            if moved
            else "none had to be: all lie on it",
        ),
        ("Intensities", "0.1 and 99.9 percentile on that grid to 0 and 1, clipped"),
        ("Fréchet distance", evaluation.features),
        ("Small copies", f"{small}, for energy distance, pairs, neighbours and head"),
        ("Tests", "permutations of W1; Kolmogorov-Smirnov, two-sided; Holm over the regions"),
        ("Random splits", str(evaluation.n_splits)),
        ("Seed", str(evaluation.seed)),
    )


def _grid(shape: tuple[int, int, int]) -> str:
    return " × ".join(str(n) for n in shape)
