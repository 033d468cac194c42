"""Will the run diverge?  The divergence part of the law against plain classifiers, held out.

``python -m studies.divergence FOLDER`` runs all of it on the public tables in
FOLDER, without one on the shipped grid alone, and writes ``divergence.csv`` (scores),
``divergence-reliability.csv`` and a page of reliability curves.  A fit is one file in the work
folder, written when it is complete: what is there already is not done again.

Folds are dealt within every block and kind of outcome, and dealt anew in every repeat.  Runs are
called divergent from a probability of one half on (the peak-LR rule: above its threshold).
Standard errors are bootstrap ones over runs, each drawn with its predictions of all repeats.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from bayes_optlaws import datasets
from bayes_optlaws.baselines.divergence import DivergenceClassifier, classifiers
from bayes_optlaws.evaluation.manifest import open_folder, read_result
from bayes_optlaws.evaluation.splits import block_labels
from bayes_optlaws.model.divergence import DivergenceData, DivergencePriors, divergence_probability
from bayes_optlaws.plots.style import DASHES, PALETTE
from bayes_optlaws.runs.readers import read_runs
from bayes_optlaws.text import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAW = "opt-law"
"""Name of the law's own row."""

SCORES = ("precision", "recall", "f1", "balanced_accuracy", "log_loss", "brier")

BINS = (0.0, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 1.0)
"""Edges of the reliability curve: finer where most runs are."""

LEAST = 1e-12
"""Probabilities are kept this far from 0 and 1 before the log loss is taken."""

DRAWN = (LAW, "logistic-logs", "logistic-raw", "r-likelihood-unsquared")


@dataclass(frozen=True)
class Study:
    """One table, and how it is split.

    Attributes
    ----------
    name, title, table : str
    above : float, optional
        Test the model sizes above this and fit the others; by default folds.
    """

    name: str
    title: str
    table: str
    above: float | None = None


STUDIES = (
    Study("pocket", "Pocket grid, 5 folds", "pocket"),
    Study("marin", "Marin's AdamW runs, 5 folds", "marin"),
    Study("steplaw", "Step Law, 5 folds", "steplaw"),
    Study("steplaw-n", "Step Law: fit N <= 0.43B, test larger", "steplaw", 0.45e9),
)
"""In the order in which they are run."""


class Posterior(DivergenceClassifier):
    """The divergence part of the law, fitted alone: posterior mean of the probability.

    Given the runs it is independent of the loss part, so this is what `OptLaw.predict` gives.

    Parameters
    ----------
    priors : DivergencePriors, optional
    draws, tune, chains, random_seed : int
        Of NUTS.

    Attributes
    ----------
    failures : list of str
        What of the convergence gate did not hold in the last fit.
    """

    name: ClassVar[str] = LAW

    def __init__(
        self, *, priors: DivergencePriors | None = None,
        draws: int = 500, tune: int = 500, chains: int = 4, random_seed: int = 0,
    ) -> None:  # fmt: skip
        self.priors = priors or DivergencePriors()
        self.sampling = {
            "draws": draws, "tune": tune, "chains": chains, "random_seed": random_seed
        }  # fmt: skip
        self.failures: list[str] = []

    def _estimate(self, runs: pd.DataFrame, diverged: np.ndarray) -> tuple:
        # here, so that scores and plots do not load PyMC
        from bayes_optlaws.inference.divergence_sampling import sample_divergence
        from bayes_optlaws.inference.gate import diagnose, failures

        data = DivergenceData.from_runs(runs)
        values, stats = sample_divergence(data, self.priors, **self.sampling)
        z = values["divergence_z"].reshape(self.sampling["chains"], self.sampling["draws"], -1)
        self.failures = failures(diagnose({"z": z}, stats))
        return data.scale, values

    def _probability(self, table: pd.DataFrame, state: tuple) -> np.ndarray:
        scale, values = state
        return divergence_probability(values, scale.inputs(table)).mean(axis=0)


def stratified_folds(runs: pd.DataFrame, k: int = 5, *, random_seed: int = 0) -> np.ndarray:
    """Deal the runs of every block and outcome to k folds at random.

    Parameters
    ----------
    runs : DataFrame
        Validated run table.
    k : int
    random_seed : int

    Returns
    -------
    ndarray of int, shape (n,)

    Examples
    --------
    >>> from bayes_optlaws import datasets, read_runs
    >>> runs = read_runs(datasets.load("pocket"))
    >>> runs["diverged"].groupby(stratified_folds(runs)).agg(["size", "sum"]).to_numpy().tolist()
    [[52, 6], [52, 6], [52, 6], [52, 5], [52, 5]]
    """
    if k < 2:
        raise ValueError(f"k = {k}: there must be at least 2 folds; 5 is the default")
    rng = np.random.default_rng(random_seed)
    blocks, diverged = block_labels(runs), runs["diverged"].to_numpy(bool)
    fold = np.empty(len(runs), dtype=int)
    dealt = 0
    for outcome in (True, False):
        for name in pd.unique(blocks):
            rows = rng.permutation(np.flatnonzero((blocks == name) & (diverged == outcome)))
            # dealing goes on where the last block stopped, so that small blocks fill all folds
            fold[rows] = (dealt + np.arange(rows.size)) % k
            dealt += rows.size
    return fold


def masks(study: Study, runs: pd.DataFrame, repeat: int, k: int = 5) -> list[np.ndarray]:
    """Masks of the runs that are tested, one a split."""
    if study.above is not None:
        return [(runs["n_params"] > study.above).to_numpy()]
    fold = stratified_folds(runs, k, random_seed=repeat)
    return [fold == i for i in range(k)]


def run_study(
    study: Study,
    work: str | Path,
    *,
    folder: str | Path | None = None,
    repeats: int = 3,
    methods: Sequence[DivergenceClassifier] | None = None,
) -> pd.DataFrame:
    """Fit every method to every split, one result file each; done ones are read.

    Parameters
    ----------
    study : Study
    work : path
        Where result files are kept, a folder a method.
    folder : path, optional
        Of the public tables.
    repeats : int
        Of the folds; a split by model size is made once.
    methods : sequence of DivergenceClassifier, optional
        The law and all rivals by default.

    Returns
    -------
    DataFrame
        Columns repeat, method, run_id, diverged, p, flagged, converged: one row a prediction.
    """
    runs = read_runs(datasets.load(study.table, folder=folder))
    methods = [Posterior(), *classifiers()] if methods is None else methods
    folders = {
        method.name: open_folder(
            Path(work) / study.name / method.name, study="divergence",
            script=Path(__file__).read_text(encoding="utf-8"), runs=runs, above=study.above,
            method=type(method).__name__, options=_options(method),
        )
        for method in methods
    }  # fmt: skip
    parts = []
    for repeat in range(1 if study.above is not None else repeats):
        for split, test in enumerate(masks(study, runs, repeat)):
            for method in methods:
                path = folders[method.name] / f"{repeat}_{split}.json"
                part = read_result(path, _read) if path.exists() else None
                if part is None:
                    _write_prediction(path, method, runs[~test], runs[test])
                    part = _read(path)
                part.insert(0, "repeat", repeat)
                part.insert(1, "method", method.name)
                part["diverged"] = runs.loc[test, "diverged"].to_numpy(bool)
                parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _write_prediction(
    path: Path, method: DivergenceClassifier, fit: pd.DataFrame, test: pd.DataFrame
) -> None:
    candidates = test.drop(columns=["final_loss", "diverged"])
    method.fit(fit)
    found = {
        "run_id": [str(x) for x in candidates["run_id"]],
        "p": method.predict(candidates).tolist(),
        "flagged": method.flag(candidates).tolist(),
        "converged": not getattr(method, "failures", []),
    }
    files.write(path, json.dumps(found))


def _read(path: Path) -> pd.DataFrame:
    return pd.DataFrame(json.loads(path.read_text(encoding="utf-8")))


def _options(method: DivergenceClassifier) -> dict[str, object]:
    """What a method was made with; its state and failures come of a fit."""
    return {k: v for k, v in vars(method).items() if not k.startswith("_") and k != "failures"}


def log_loss(p: np.ndarray, diverged: np.ndarray) -> np.ndarray:
    """Minus the log probability of every outcome.

    Examples
    --------
    >>> log_loss(np.array([0.25, 0.25]), np.array([True, False])).round(3).tolist()
    [1.386, 0.288]
    """
    p = np.clip(p, LEAST, 1.0 - LEAST)
    return -np.where(diverged, np.log(p), np.log1p(-p))


def score(
    p: np.ndarray, flagged: np.ndarray, diverged: np.ndarray, weight: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Scores of one set of predictions.

    Parameters
    ----------
    p, flagged, diverged : arrays, shape (n,)
    weight : array, shape (..., n), optional
        Of the runs; 1 by default.

    Returns
    -------
    dict
        By `SCORES`, each of shape (...,). Precision and F1 are 0 where nothing is flagged.

    Examples
    --------
    >>> out = score(np.array([0.9, 0.6, 0.2]), np.array([1, 1, 0]), np.array([1, 0, 0]))
    >>> {k: float(v.round(3)) for k, v in out.items()}  # doctest: +NORMALIZE_WHITESPACE
    {'precision': 0.5, 'recall': 1.0, 'f1': 0.667, 'balanced_accuracy': 0.75,
     'log_loss': 0.415, 'brier': 0.137}
    """
    flagged, diverged = np.asarray(flagged, bool), np.asarray(diverged, bool)
    weight = np.ones(len(p)) if weight is None else weight
    hit, false, missed, quiet = (
        weight @ (f & d).astype(float)
        for f, d in (
            (flagged, diverged), (flagged, ~diverged), (~flagged, diverged), (~flagged, ~diverged)
        )
    )  # fmt: skip

    def share(part, whole):
        return np.divide(part, whole, out=np.zeros_like(whole * 1.0), where=whole > 0)

    recall = share(hit, hit + missed)
    total = weight.sum(axis=-1)
    return {
        "precision": share(hit, hit + false),
        "recall": recall,
        "f1": share(2.0 * hit, 2.0 * hit + false + missed),
        "balanced_accuracy": 0.5 * (recall + share(quiet, quiet + false)),
        "log_loss": weight @ log_loss(p, diverged) / total,
        "brier": weight @ (p - diverged) ** 2 / total,
    }


def tabulate(
    predictions: pd.DataFrame, *, n_bootstrap: int = 1000, random_seed: int = 0
) -> pd.DataFrame:
    """Scores of every method with standard errors, and its gap in log loss to the law.

    Parameters
    ----------
    predictions : DataFrame
        From `run_study`; the law among the methods.
    n_bootstrap : int
        Resamples of the runs.
    random_seed : int

    Returns
    -------
    DataFrame
        Index method; n_runs, n_diverged, repeats, `SCORES` averaged over repeats and each with
        ``_se``, ``log_loss_lead`` (log loss above the law's, on the same runs) with ``_se``, and
        ``converged``, whether all fits passed the gate.
    """
    rng = np.random.default_rng(random_seed)
    tables = {m: _by_run(part) for m, part in predictions.groupby("method", sort=False)}
    diverged = tables[LAW][2]
    n, repeats = diverged.size, len(tables[LAW][0])
    weight = rng.multinomial(n, np.full(n, 1.0 / n), size=n_bootstrap).astype(float)
    ours = log_loss(tables[LAW][0], diverged).mean(axis=0)
    rows = {}
    for method, (p, flagged, _, converged) in tables.items():
        row = {"n_runs": n, "n_diverged": int(diverged.sum()), "repeats": repeats}
        once = [score(p[r], flagged[r], diverged) for r in range(repeats)]
        again = [score(p[r], flagged[r], diverged, weight) for r in range(repeats)]
        for name in SCORES:
            row[name] = float(np.mean([s[name] for s in once]))
            row[f"{name}_se"] = float(np.std(np.mean([s[name] for s in again], axis=0)))
        gap = log_loss(p, diverged).mean(axis=0) - ours
        row["log_loss_lead"] = float(gap.mean())
        row["log_loss_lead_se"] = float(gap.std(ddof=1) / np.sqrt(n))
        row["converged"] = converged
        rows[method] = row
    out = pd.DataFrame.from_dict(rows, orient="index")
    return out.rename_axis("method")


def _by_run(part: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """Probabilities and flags of shape (repeats, n), outcomes of shape (n,), all converged."""
    wide = part.pivot(index="repeat", columns="run_id", values=["p", "flagged"])
    truth = part.drop_duplicates("run_id").set_index("run_id")["diverged"]
    p, flagged = wide["p"].astype(float), wide["flagged"].astype(bool)
    return (
        p.to_numpy(), flagged.to_numpy(), truth.loc[p.columns].to_numpy(bool),
        bool(part["converged"].all()),
    )  # fmt: skip


def verdict(table: pd.DataFrame) -> str:
    """Say how the law stands against the rival with the least log loss.

    Within one standard error of the paired difference counts as tied.

    Parameters
    ----------
    table : DataFrame
        From `tabulate`.

    Examples
    --------
    >>> table = pd.DataFrame({"log_loss": [0.1, 0.12, 0.2], "log_loss_lead": [0.0, 0.02, 0.1],
    ...     "log_loss_lead_se": [0.0, 0.03, 0.01]}, index=["opt-law", "a", "b"])
    >>> verdict(table)
    'tied with a: its log loss is 0.0200 +- 0.0300 above'
    """
    best = table.drop(LAW)["log_loss"].idxmin()
    lead, se = table.loc[best, ["log_loss_lead", "log_loss_lead_se"]]
    word = "tied with" if abs(lead) <= se else "better than" if lead > 0 else "worse than"
    side = "above" if lead >= 0 else "below"
    return f"{word} {best}: its log loss is {abs(lead):.4f} +- {se:.4f} {side}"


def reliability(predictions: pd.DataFrame) -> pd.DataFrame:
    """Probability said and share that diverged, by method and bin of the probability.

    Parameters
    ----------
    predictions : DataFrame
        From `run_study`.

    Returns
    -------
    DataFrame
        Columns method, lower, upper, n (predictions a repeat), ``said`` (mean probability),
        ``diverged`` (share) and ``se``, the standard error of that share were the mean
        probability right.
    """
    rows = []
    repeats = predictions["repeat"].nunique()
    for method, part in predictions.groupby("method", sort=False):
        which = np.clip(np.digitize(part["p"], BINS) - 1, 0, len(BINS) - 2)
        for i, one in part.groupby(which):
            said, n = one["p"].mean(), len(one) / repeats
            se = np.sqrt(said * (1.0 - said) / n)
            rows.append((method, BINS[i], BINS[i + 1], n, said, one["diverged"].mean(), se))
    return pd.DataFrame(rows, columns=["method", "lower", "upper", "n", "said", "diverged", "se"])


def plot_reliability(curves: pd.DataFrame) -> Figure:
    """Draw the reliability curves of the law, with standard errors, and of three rivals.

    Parameters
    ----------
    curves : DataFrame
        From `reliability`, with a column ``study``.

    Returns
    -------
    Figure
    """
    import matplotlib.pyplot as plt

    shown = [s for s in STUDIES if s.name in set(curves["study"])]
    fig, axes = plt.subplots(
        1, len(shown), figsize=(3.0 * len(shown), 3.9), squeeze=False, sharey=True,
        layout="constrained",
    )  # fmt: skip
    for ax, study in zip(axes[0], shown, strict=True):
        ax.plot((0, 1), (0, 1), color="0.7", lw=0.8)
        for i, method in enumerate(DRAWN):
            part = curves[(curves["study"] == study.name) & (curves["method"] == method)]
            own = method == LAW
            low = np.minimum(part["se"], part["diverged"])
            high = np.minimum(part["se"], 1.0 - part["diverged"])
            ax.errorbar(
                part["said"], part["diverged"], [low, high] if own else None, label=method,
                color=PALETTE[i], marker="o", ms=4 if own else 2.5, lw=1.6 if own else 0.8,
                elinewidth=1.0, capsize=2, ls="-" if own else DASHES[i], zorder=3 - 0.1 * i,
            )  # fmt: skip
        ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="probability said", box_aspect=1.0)
        ax.set_title(study.title, loc="left", fontsize=9)
    axes[0, 0].set_ylabel("share that diverged")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(DRAWN), frameon=False)
    return fig


def main(argv: Sequence[str] | None = None) -> int:
    """Run the studies and write tables and figure; returns an exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.divergence",
        description="Held-out prediction of divergence by the law and by plain classifiers.",
    )
    parser.add_argument("folder", nargs="?", help="folder of the public tables")
    parser.add_argument("--only", nargs="+", choices=[s.name for s in STUDIES])
    parser.add_argument("--repeats", type=int, default=3, help="of the folds (default 3)")
    parser.add_argument("--out", type=Path, default=Path("studies/results"))
    parser.add_argument("--work", default="out/divergence", help="where single fits are kept")
    parser.add_argument("--figure", type=Path, default=Path("docs/divergence-reliability.png"))
    args = parser.parse_args(argv)
    tables, curves = [], []
    for study in STUDIES:
        if args.only and study.name not in args.only:
            continue
        if not args.folder and not datasets.describe(study.table).shipped:
            print(f"{study.name}: left out, its table is public and no folder is given")
            continue
        start = time.perf_counter()
        found = run_study(study, args.work, folder=args.folder, repeats=args.repeats)
        table = tabulate(found)
        print(f"{study.name}: {verdict(table)}")
        table = table.reset_index()
        tables.append(table.assign(study=study.name))
        curves.append(reliability(found).assign(study=study.name))
        print(f"{study.name}: {time.perf_counter() - start:.0f} s")
        columns = ["method", *SCORES, "log_loss_lead", "log_loss_lead_se", "converged"]
        print(table[columns].round(4).to_string(index=False), flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, parts in (("divergence", tables), ("divergence-reliability", curves)):
        whole = pd.concat(parts, ignore_index=True)
        whole.insert(0, "study", whole.pop("study"))
        whole.to_csv(args.out / f"{name}.csv", index=False, float_format="%.6g")
    args.figure.parent.mkdir(parents=True, exist_ok=True)
    plot_reliability(whole).savefig(args.figure, dpi=110)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
