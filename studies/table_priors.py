"""What public tables say about the next table: a few numbers, each with its spread over tables.

``python -m studies.table_priors --folder TABLES`` measures every table and pools
each quantity over tables by a normal-normal hierarchical model, so that a prior may be taken from
all tables but the one that is tested (``--without``). Log losses and natural logs everywhere.

=====================  =============================================================================
quantity               what it is
=====================  =============================================================================
slope_n, slope_d       d log loss / d log N and / d log D (at the best run of each cell), lower half
slope_n_upper, ...     the same among the upper half of the sizes, of the budgets: beyond the lower
flattening_n, _d       slope of the upper half over that of the lower (log)
lr_curve               half the second derivative of log loss by log peak LR, at the best runs (log)
lr_sd                  sd of log peak LR inside cells (log)
noise_sd               sd of log loss of a run around a smooth function of its settings (log)
repeat_sd              sd of log loss between runs of equal settings (log)
cell_sd                sd of a cell's mean around the Step-Law form fitted to all cells (log)
drift_n, drift_d       level error of that form, fitted to the lower part, a decade beyond (log)
effect_*               root mean square of d log loss / d log setting (log)
family_sd              sd of the best log loss between schedule families of a cell (log)
=====================  =============================================================================

Those marked (log) are positive; their logs are pooled, and their mean is given as a median.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bayes_optlaws import baselines, datasets
from bayes_optlaws.baselines.quadratic import QuadraticRegression
from bayes_optlaws.evaluation.splits import block_labels, clusters
from bayes_optlaws.runs.readers import read_runs

TABLES: tuple[tuple[str, str | None], ...] = (
    ("steplaw", None), ("pocket", None), ("marin", None), ("schaipp", "slimpajama"),
    ("openlm", "c4_original"), ("openlm", "rw_original"), ("chinchilla-epoch", None),
    ("loss-to-loss", "fineweb-edu-100b"), ("loss-to-loss", "proof-pile-2"),
    ("loss-to-loss", "smollm-corpus"), ("olmo-ladder", None), ("gemstones", None),
    ("cifar5m", None),
)  # fmt: skip

SIGNED = ("slope_n", "slope_d", "slope_n_upper", "slope_d_upper", "flattening_n", "flattening_d")
"""Quantities that are pooled as they are; the others by their logs."""

_SETTINGS = {"log_batch": "batch", "log_peak_lr": "lr", "log_warmup_fraction": "warmup"}
_LEAST = 1e-5  # of what is pooled by its log


def _cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Best finished run of each (N, D) cell."""
    return runs.loc[runs.groupby(block_labels(runs))["final_loss"].idxmin()]


def scale_slopes(cells: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Slopes of log loss by (log N, log D) over cells and their standard errors; NaN where unknown.

    Ordinary least squares of log loss on both.
    """
    x = np.log(cells[["n_params", "tokens"]].to_numpy(float))
    y = np.log(cells["final_loss"].to_numpy(float))
    slope, error = np.full(2, np.nan), np.full(2, np.nan)
    free = [j for j in range(2) if np.ptp(x[:, j]) > 0.05]
    design = np.column_stack([np.ones(len(x)), x[:, free] - x[:, free].mean(axis=0)])
    if len(x) <= design.shape[1] + 1 or np.linalg.cond(design) > 50:
        return slope, error
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ y
    variance = np.sum((y - design @ beta) ** 2) / (len(x) - design.shape[1])
    slope[free], error[free] = beta[1:], np.sqrt(np.diag(inverse)[1:] * variance)
    return slope, error


def _halves(cells: pd.DataFrame) -> Iterator[tuple[str, float, float]]:
    """Slopes in the lower and the upper half of the sizes, and of the budgets."""
    for j, (name, column) in enumerate((("n", "n_params"), ("d", "tokens"))):
        middle = cells[column].median()
        low, low_se = scale_slopes(cells[cells[column] <= middle])
        high, high_se = scale_slopes(cells[cells[column] >= middle])
        yield f"slope_{name}", low[j], low_se[j]
        yield f"slope_{name}_upper", high[j], high_se[j]
        if low[j] < -3 * low_se[j] and high[j] < -3 * high_se[j]:
            relative = np.hypot(low_se[j] / low[j], high_se[j] / high[j])
            yield f"flattening_{name}", np.log(high[j] / low[j]), relative


def _drift(runs: pd.DataFrame, column: str) -> float:
    """Root mean square level error of the Step-Law form per decade beyond the lower two thirds."""
    code = clusters(runs[column])
    last = int(np.ceil(2 / 3 * (code.max() + 1))) - 1
    fit, test = runs[code <= last], runs[code > last]
    if code.max() < 2 or len(fit) < 12 or not len(test):
        return np.nan
    law = baselines.StepLaw().fit(fit)
    error = np.log(test["final_loss"].to_numpy(float)) - np.log(law.predict(test))
    decades = np.log10(test[column].to_numpy(float) / fit[column].max())
    cells = pd.DataFrame({"error": error, "decades": decades}).groupby(block_labels(test)).mean()
    # through the origin: the error grows with the distance
    return float(np.sqrt(np.sum(cells["error"] ** 2) / np.sum(cells["decades"] ** 2)))


def _repeats(runs: pd.DataFrame) -> tuple[float, int]:
    """Sd of log loss between runs of equal settings, and its degrees of freedom."""
    keys = ["n_params", "tokens", "batch_tokens", "peak_lr", "warmup_steps", "schedule", "min_lr",
            "cooldown_start_step", "decay_end_step", "plateau_lr"]  # fmt: skip
    same = np.log(runs["final_loss"]).groupby([runs[k] for k in keys], dropna=False)
    degrees = int((same.size() - 1).sum())
    sums = (same.var(ddof=0) * same.size()).sum()
    return (float(np.sqrt(sums / degrees)), degrees) if degrees >= 3 and sums > 0 else (np.nan, 0)


def measure(runs: pd.DataFrame) -> pd.DataFrame:
    """All quantities of one table; see the module.

    Parameters
    ----------
    runs : DataFrame
        Validated run table.

    Returns
    -------
    DataFrame
        Columns ``quantity``, ``value``, ``se`` (0 where it is not known); rows that the table does
        not tell are left out.

    Examples
    --------
    >>> found = measure(read_runs(datasets.load("pocket"))).set_index("quantity")["value"]
    >>> bool(-0.5 < found["slope_n_upper"] < 0 < found["lr_curve"])
    True
    """
    runs = runs[~runs["diverged"]].reset_index(drop=True)
    rows = list(_halves(_cells(runs)))
    smooth = QuadraticRegression().fit(runs)
    best = _cells(runs)
    slopes = smooth.slopes(runs)
    for coordinate, name in _SETTINGS.items():
        if coordinate in slopes:
            rows.append((f"effect_{name}", float(np.sqrt(np.mean(slopes[coordinate] ** 2))), 0.0))
    labels = block_labels(runs)
    rates = np.log(runs["peak_lr"])
    spread = rates.groupby(labels).std(ddof=0)
    if spread.max() > 0.1 and rates.groupby(labels).nunique().max() >= 3:
        curve, error = smooth.curvature("log_peak_lr")
        if curve > 2 * error:
            rows.append(("lr_curve", curve, error / curve))
        rows.append(("lr_sd", float(spread[spread > 0].median()), 0.0))
    process = baselines.LinearMeanProcess(n_starts=2, n_hyper=300).fit(runs)
    rows.append(("noise_sd", float(process.parameters["noise"]), 0.0))
    repeat, degrees = _repeats(runs)
    rows.append(("repeat_sd", repeat, 1 / np.sqrt(2 * max(degrees, 1))))
    form = baselines.StepLaw().fit(runs)
    error = np.log(runs["final_loss"]) - np.log(form.predict(runs))
    if len(best) >= 4:
        rows.append(("cell_sd", float(error.groupby(labels).mean().std()), 0.0))
    rows.append(("drift_n", _drift(runs, "n_params"), 0.0))
    rows.append(("drift_d", _drift(runs, "tokens"), 0.0))
    by_family = np.log(runs["final_loss"]).groupby([labels, runs["schedule"].to_numpy()]).min()
    families = by_family.groupby(level=0).agg(["std", "size"])
    if (families["size"] >= 2).any():
        pooled = np.sqrt(np.mean(families.loc[families["size"] >= 2, "std"] ** 2))
        rows.append(("family_sd", float(pooled), 0.0))
    found = pd.DataFrame(rows, columns=["quantity", "value", "se"])
    return found[np.isfinite(found["value"]) & np.isfinite(found["se"])].reset_index(drop=True)


def pool(values: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """Mean over tables and sd between tables of a normal-normal hierarchical model.

    The sd between tables has a flat prior and is integrated out on a grid (Gelman et al., Bayesian
    Data Analysis, section 5.4); both figures are posterior means, so the predictive sd of the next
    table is larger than ``between`` only by the error of the mean.

    Parameters
    ----------
    values, errors : ndarray, shape (n_tables,)
        Estimate of each table and its standard error.

    Returns
    -------
    mean, between : float

    Examples
    --------
    >>> mean, between = pool(np.array([1.0, 1.0, 1.0, 1.0]), np.full(4, 0.1))
    >>> round(mean, 6), between < 0.2
    (1.0, True)
    """
    scale = max(float(np.std(values)), float(np.mean(errors)), 1e-12)
    grid = np.linspace(0.0, 5.0 * scale, 801)
    variance = errors[:, None] ** 2 + np.maximum(grid, 1e-4 * scale) ** 2
    weight = 1.0 / variance
    centre = (weight * values[:, None]).sum(axis=0) / weight.sum(axis=0)
    density = -0.5 * (
        np.log(variance).sum(axis=0)
        + np.log(weight.sum(axis=0))
        + (weight * (values[:, None] - centre) ** 2).sum(axis=0)
    )
    share = np.exp(density - density.max())
    share /= share.sum()
    return float(share @ centre), float(share @ grid)


def pooled(measured: pd.DataFrame, *, without: str | None = None) -> pd.DataFrame:
    """Pool every quantity over tables.

    Parameters
    ----------
    measured : DataFrame
        Columns ``table``, ``quantity``, ``value``, ``se``.
    without : str, optional
        Table that is left out, all its groups.

    Returns
    -------
    DataFrame
        Index ``quantity``; ``mean`` (median of those pooled by logs), ``between`` (sd between
        tables, of logs for those), ``n_tables``, ``lowest``, ``highest``.
    """
    rows = {}
    kept = measured if without is None else measured[~measured["table"].str.startswith(without)]
    for quantity, part in kept.groupby("quantity", sort=False):
        value, error = part["value"].to_numpy(), part["se"].to_numpy()
        if len(part) < 3:
            continue
        signed = quantity in SIGNED
        mean, between = pool(value if signed else np.log(np.maximum(value, _LEAST)), error)
        rows[quantity] = {
            "mean": mean if signed else float(np.exp(mean)),
            "between": between,
            "n_tables": len(part),
            "lowest": value.min(),
            "highest": value.max(),
        }
    out = pd.DataFrame.from_dict(rows, orient="index")
    out.index.name = "quantity"
    return out


def measure_all(folder: str | None = None) -> pd.DataFrame:
    """Measure every table of `TABLES`: columns ``table``, ``quantity``, ``value``, ``se``."""
    parts = []
    for name, group in TABLES:
        runs = read_runs(datasets.load(name, folder=folder), group=group)
        label = name if group is None else f"{name}/{group}"
        parts.append(measure(runs).assign(table=label))
    return pd.concat(parts, ignore_index=True)[["table", "quantity", "value", "se"]]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and pool; print both tables and write them as CSV files."""
    parser = argparse.ArgumentParser(prog="python -m studies.table_priors")
    parser.add_argument("--folder", help="public tables; default $BAYES_OPTLAWS_DATA")
    parser.add_argument("--out", type=Path, default=Path("evaluation_results"))
    parser.add_argument("--without", help="table left out of what is printed")
    args = parser.parse_args(argv)
    measured = measure_all(args.folder)
    names = [None, *dict.fromkeys(name for name, _ in TABLES)]
    every = pd.concat(
        [pooled(measured, without=n).assign(without=n or "") for n in names]
    ).reset_index()
    args.out.mkdir(parents=True, exist_ok=True)
    measured.to_csv(args.out / "table-priors.csv", index=False, float_format="%.4g")
    every.to_csv(args.out / "table-priors-pooled.csv", index=False, float_format="%.4g")
    print(measured.pivot(index="table", columns="quantity", values="value").round(4).to_string())
    print(pooled(measured, without=args.without).round(4).to_string())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
