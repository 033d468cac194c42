"""Held-out evaluation: refit on a part of the runs, judge on the rest, beside the baseline laws.

Every pair of a method and a split is a task of its own, with its own seed and, where a folder is
given, its own result file; a run that was broken off goes on where it stopped. The predictions of
all splits are pooled before the metrics are taken.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import io
import re
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import ArrayLike

from bayes_optlaws import baselines as laws
from bayes_optlaws.evaluation.manifest import code_digest, read_result, table_digest
from bayes_optlaws.evaluation.metrics import bootstrap_se, log_score, summarize
from bayes_optlaws.evaluation.splits import Split, block_labels, make_splits
from bayes_optlaws.runs.readers import read_runs
from bayes_optlaws.text import files

POOLED = "all"
"""Label of the row that pools all blocks."""

BASELINE_DRAWS = dict.fromkeys(
    ("gaussian-process", "gp-linear-scale", "gp-linear-settings", "quadratic"), 2000
)
_FIELDS = "fields"
OTHER_DRAWS = 200  # each is a refit


@dataclass(frozen=True)
class HeldOut:
    """Held-out predictions of one method, pooled over the splits.

    Attributes
    ----------
    method : str
    rows : ndarray of int, shape (n,)
        Row positions in the run table.
    observed, predicted : ndarray, shape (n,)
        Losses in nats per token.
    draws : ndarray, shape (n_samples, n)
        Joint draws of the loss of a new run (joint inside a split).
    cond_mean, cond_sd : ndarray of shape (n_samples, n), or None
        Mean and sd of the log loss of a new run given each posterior draw.
    cond_df : ndarray of shape (n,), or None
        Degrees of freedom of the Student-t that it then has; infinite: normal.
    blocks, contests : ndarray of str, shape (n,)
        Block of each run, and block within split: runs of one contest are ranked against each
        other.
    folds : list of dict
        One a split: its name, seconds, runs fitted and tested, whether the sampler passed the
        gate, and its figures; ``error`` where a baseline could not be fitted.
    """

    method: str
    rows: np.ndarray
    observed: np.ndarray
    predicted: np.ndarray
    draws: np.ndarray
    cond_mean: np.ndarray | None
    cond_sd: np.ndarray | None
    cond_df: np.ndarray | None
    blocks: np.ndarray
    contests: np.ndarray
    folds: list[dict]

    @property
    def log_scores(self) -> np.ndarray:
        """Log predictive density of every run's log loss, shape (n,)."""
        return log_score(
            self.observed, self.draws, cond_mean=self.cond_mean, cond_sd=self.cond_sd,
            cond_df=np.inf if self.cond_df is None else self.cond_df,
        )  # fmt: skip

    def summarize(self, keep: np.ndarray | slice = slice(None)) -> pd.Series:
        """Metrics of some of the runs."""
        return summarize(**self._arguments(keep))

    def standard_errors(self, *, n_boot: int = 200) -> pd.Series:
        """Bootstrap standard errors of the metrics of all runs, by resampling whole cells.

        NaN with fewer than two cells: runs of one cell share its level error, so resampling them
        would say nothing of a new cell.
        """
        return bootstrap_se(**self._arguments(slice(None)), cells=self.blocks, n_boot=n_boot)

    def _arguments(self, keep: np.ndarray | slice) -> dict:
        moments: dict[str, Any] = {}
        if self.cond_mean is not None and self.cond_sd is not None:
            moments = {"cond_mean": self.cond_mean[:, keep], "cond_sd": self.cond_sd[:, keep]}
            if self.cond_df is not None:
                moments["cond_df"] = self.cond_df[keep]
        return {
            "observed": self.observed[keep],
            "draws": self.draws[:, keep],
            "blocks": self.contests[keep],
            "predicted": self.predicted[keep],
            **moments,
        }


def evaluate(
    law: Any,
    runs: pd.DataFrame | str | Path,
    protocol: str = "kfold-within-block",
    n_jobs: int = 1,
    *,
    baselines: Sequence | Mapping | None = None,
    folder: str | Path | None = None,
    random_seed: int = 0,
    draws: int = 500,
    tune: int = 300,
    chains: int = 4,
    method: str = "importance",
    k: int = 5,
    test: ArrayLike | Mapping | None = None,
    n_boot: int = 200,
) -> pd.DataFrame:
    """Judge a law on runs that it was not fitted to.

    Parameters
    ----------
    law : OptLaw or Baseline
        Its options are used for each refit; the object itself is not changed.
    runs : DataFrame or path
        Run table; checked by `read_runs`. Divergent runs are fitted but never tested.
    protocol : str
        ``"kfold-within-block"``, ``"hold-out-largest-n"``, ``"hold-out-largest-d"``,
        ``"leave-block-out"`` or ``"hold-out-schedule"``; see `bayes_optlaws.evaluation.splits`.
    n_jobs : int
        Processes (joblib). Each compiles the model once.
    baselines : sequence or mapping, optional
        What to compare with: names of `bayes_optlaws.baselines.available`, or a mapping from a
        name to a baseline or another `OptLaw`.
    folder : path, optional
        Keep one file a task there; what is there is not computed again. A file is found again only
        by the same runs, split, options, seed and code; a damaged one is made again.
    random_seed : int
        Same seed, same results, whatever `n_jobs`.
    draws, tune, chains : int
        Of each refit; `tune` and `chains` of NUTS only.
    method : {"nuts", "importance"}
        How the law is refitted; see `bayes_optlaws.evaluation.refits.refit`.
    k : int
        Folds of ``"kfold-within-block"``.
    test : array_like of bool or mapping, optional
        In place of `protocol`: the runs to test, or several named masks; see
        `bayes_optlaws.evaluation.splits.make_splits`.
    n_boot : int
        Bootstrap samples of the standard errors.

    Returns
    -------
    DataFrame
        Index (method, block), the pooled row of a method under block ``"all"``. Columns: the
        metrics of `bayes_optlaws.evaluation.metrics.summarize`; ``log_score_lead``, the mean log
        score of `law` minus that of the method; ``<metric>_se`` in the pooled rows, by resampling
        blocks (NaN with fewer than two); ``converged``, whether all refits passed the gate;
        ``seconds`` and ``cpu_seconds`` of all refits; ``error``, why a baseline has no row of
        numbers. ``attrs["folds"]`` lists every refit.

    Raises
    ------
    RunTableError, ValueError
        When the table, the protocol or the masks have faults.

    Notes
    -----
    A refit that did not pass the gate is marked, not raised: an evaluation is not thrown away for
    one fold, and its numbers are not used for decisions.

    Examples
    --------
    >>> from bayes_optlaws import baselines, datasets
    >>> runs = datasets.load("pocket")
    >>> found = evaluate(baselines.Chinchilla(), runs, "hold-out-largest-n", n_boot=20)
    >>> found[["n_runs", "converged"]]
                                           n_runs  converged
    method     block
    chinchilla N=2.462e+05 D=2.458e+06       28.0       True
               all                           28.0       True
    """
    found = held_out(
        law, runs, protocol, n_jobs, baselines=baselines, folder=folder, random_seed=random_seed,
        method=method, draws=draws, tune=tune, chains=chains, k=k, test=test,
    )  # fmt: skip
    return tabulate(found, n_boot=n_boot)


def held_out(
    law: Any,
    runs: pd.DataFrame | str | Path,
    protocol: str = "kfold-within-block",
    n_jobs: int = 1,
    *,
    baselines: Sequence | Mapping | None = None,
    folder: str | Path | None = None,
    random_seed: int = 0,
    draws: int = 500,
    tune: int = 300,
    chains: int = 4,
    method: str = "importance",
    k: int = 5,
    test: ArrayLike | Mapping | None = None,
) -> list[HeldOut]:
    """Return the held-out predictions that `evaluate` judges, the law's first.

    All parameters are those of `evaluate`.
    """
    runs = read_runs(runs, mixed_groups=getattr(law, "groups", None) is not None or None)
    methods = _methods(law, baselines)
    return held_out_by(
        methods, runs, protocol, n_jobs, required=tuple(methods)[:1], folder=folder,
        random_seed=random_seed, method=method, draws=draws, tune=tune, chains=chains, k=k,
        test=test,
    )  # fmt: skip


def held_out_by(
    methods: Mapping[str, Any],
    runs: pd.DataFrame,
    protocol: str = "kfold-within-block",
    n_jobs: int = 1,
    *,
    required: Sequence[str] = (),
    folder: str | Path | None = None,
    random_seed: int = 0,
    method: str = "importance",
    draws: int = 500,
    tune: int = 300,
    chains: int = 4,
    k: int = 5,
    test: ArrayLike | Mapping | None = None,
) -> list[HeldOut]:
    """Return the held-out predictions of methods, in their order.

    Parameters
    ----------
    methods : mapping
        From a name to a baseline or an `OptLaw`.
    runs : DataFrame
        Validated run table.
    required : sequence of str
        Methods whose failure is an error; that of others is noted in their folds.
    protocol, n_jobs, folder, random_seed, method, draws, tune, chains, k, test
        As for `evaluate`.
    """
    splits = make_splits(runs, protocol, k=k, test=test, random_seed=random_seed)
    sampling = {"method": method, "draws": draws, "tune": tune, "chains": chains}
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    tasks = [(name, method, split) for name, method in methods.items() for split in splits]
    results = Parallel(n_jobs=n_jobs)(
        delayed(_task)(
            name,
            method,
            runs,
            split,
            sampling,
            random_seed,
            folder,
            required=name in required,
        )
        for name, method, split in tasks
    )
    labels = block_labels(runs)
    by_method: dict[str, list] = {name: [] for name in methods}
    for (name, _, split), result in zip(tasks, results, strict=True):
        by_method[name].append((split, result))
    return [_pool(name, runs, labels, done) for name, done in by_method.items()]


def tabulate(found: Sequence[HeldOut], *, n_boot: int = 200) -> pd.DataFrame:
    """Metrics of held-out predictions, one row a method and block; see `evaluate`."""
    rows, folds = [], []
    first = found[0]
    reference = first.log_scores
    for one in found:
        folds += [{"method": one.method, **f} for f in one.folds]
        facts = {
            "converged": all(f["converged"] for f in one.folds),
            "seconds": sum(f["seconds"] for f in one.folds),
            "cpu_seconds": sum(f["cpu_seconds"] for f in one.folds),
        }
        errors = [f["error"] for f in one.folds if f["error"]]
        if errors:
            rows.append({"method": one.method, "block": POOLED, **facts, "error": errors[0]})
            continue
        lead = reference - one.log_scores
        for block in pd.unique(one.blocks):
            keep = np.flatnonzero(one.blocks == block)
            rows.append(
                {"method": one.method, "block": block, **one.summarize(keep),
                 "log_score_lead": lead[keep].mean(), **facts}
            )  # fmt: skip
        se = one.standard_errors(n_boot=n_boot)
        pooled = {"method": one.method, "block": POOLED, **one.summarize()}
        pooled["log_score_lead"] = lead.mean()
        errors_of = {f"{c}_se": v for c, v in se.drop(["n_runs", "n_blocks"]).items()}
        errors_of["log_score_lead_se"] = _mean_se(lead, one.blocks, n_boot)
        rows.append({**pooled, **errors_of, **facts})
    out = pd.DataFrame(rows).set_index(["method", "block"])
    if "error" not in out:
        out["error"] = ""
    out["error"] = out["error"].fillna("")
    last = ["converged", "seconds", "cpu_seconds", "error"]
    out = out[[c for c in out.columns if c not in last] + last]
    out.attrs["folds"] = folds
    return out


def _mean_se(values: np.ndarray, cells: np.ndarray, n_boot: int) -> float:
    """Bootstrap standard error of a mean over runs, resampling cells; NaN with one cell."""
    rng = np.random.default_rng(0)
    parts = [values[cells == c] for c in pd.unique(cells)]
    if len(parts) < 2:
        return np.nan
    means = [
        np.concatenate([parts[i] for i in rng.integers(len(parts), size=len(parts))]).mean()
        for _ in range(n_boot)
    ]
    return float(np.std(means, ddof=1))


def _methods(law: Any, baselines: Sequence | Mapping | None) -> dict[str, Any]:
    name = law.name if isinstance(law, laws.Baseline) else "opt-law"
    if not isinstance(law, laws.Baseline) and not hasattr(law, "fit"):
        raise TypeError(f"law must be an OptLaw or a baseline, got {type(law).__name__}")
    methods = {name: law}
    others = baselines if isinstance(baselines, Mapping) else {b: b for b in baselines or ()}
    for key, value in others.items():
        found = laws.get(value) if isinstance(value, str) else value
        label = key if isinstance(key, str) else found.name
        if label in methods:
            raise ValueError(f"two methods are called {label!r}; give a mapping with other names")
        methods[label] = found
    return methods


def options(law: Any) -> dict[str, Any]:
    """Options of a law: constructor arguments, or the public attributes of a baseline.

    Examples
    --------
    >>> from bayes_optlaws import baselines
    >>> options(baselines.ConstantBlockMean(tolerance=0.05))
    {'tolerance': 0.05}
    """
    if isinstance(law, laws.Baseline):
        hidden = ("n_parameters",)  # depends on the fit
        return {k: v for k, v in vars(law).items() if not k.startswith("_") and k not in hidden}
    names = inspect.signature(type(law).__init__).parameters
    return {n: getattr(law, n) for n in names if n != "self"}


def fresh(law: Any) -> Any:
    """Return a law of the same options that is not fitted."""
    if isinstance(law, laws.Baseline):
        return copy.deepcopy(law)  # fit replaces all that an earlier fit left
    return type(law)(**options(law))


def _task(
    name: str,
    law: Any,
    runs: pd.DataFrame,
    split: Split,
    sampling: dict,
    random_seed: int,
    folder: str | Path | None,
    *,
    required: bool,
) -> dict[str, Any]:
    """Fit one method to one split and predict; read the result where it was stored before."""
    path = None
    if folder is not None:
        path = Path(folder) / _file_name(name, law, runs, split, sampling, random_seed)
        known = read_result(path, _read) if path.is_file() else None
        if known is not None:
            return known
    key = (zlib.crc32(name.encode()), zlib.crc32(split.name.encode()))
    seeds = np.random.SeedSequence(random_seed, spawn_key=key).generate_state(2)
    fit = runs.iloc[split.fit]
    test = runs.iloc[split.test].drop(columns=["final_loss", "diverged"])  # not to be looked at
    start, cpu = time.perf_counter(), time.process_time()
    model = fresh(law)
    try:
        if isinstance(model, laws.Baseline):
            result = _predict_baseline(model.fit(fit), test, int(seeds[0]))
        else:
            from bayes_optlaws.evaluation.refits import passed, refit  # baselines need no PyMC

            model = refit(model, fit, **sampling, random_seed=int(seeds[0]))
            result = _predict_law(model, test, int(seeds[1]))
            result["converged"] = passed(model)
    except ValueError as error:
        if required:
            raise
        result = {"error": str(error), "converged": False}
    result["seconds"] = time.perf_counter() - start
    result["cpu_seconds"] = time.process_time() - cpu
    if path is not None:
        _write(path, result)
    return result


def _predict_law(law: Any, test: pd.DataFrame, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    predictor = law.predictor
    mean = predictor.mean(test, rng)
    # as the held-out losses were measured: means over seeds, with their own standard errors
    measurement = law.fitted.encoding.measurement
    sd = np.broadcast_to(predictor.measured_sd(measurement, test, mean), mean.shape)
    figures = {f"figure_{k}": float(v) for k, v in law.diagnostics.items()}
    return {
        # Half precision would do for the metrics; single keeps ties out.
        "draws": np.exp(mean + predictor.noise_draws(sd, rng)).astype(np.float32),
        "cond_mean": mean.astype(np.float32),
        "cond_sd": sd.astype(np.float32),
        "cond_df": np.full(len(test), predictor.noise_df),
        "predicted": np.exp(np.median(mean, axis=0)),
        **figures,
    }


def _predict_baseline(law: Any, test: pd.DataFrame, seed: int) -> dict[str, Any]:
    n = BASELINE_DRAWS.get(law.name, OTHER_DRAWS)
    return {
        "draws": law.predict_draws(test, n=n, random_seed=seed).astype(np.float32),
        "predicted": law.predict(test),
        "converged": True,
    }


def _write(path: Path, result: dict[str, Any]) -> None:
    packed = io.BytesIO()
    contents: dict[str, Any] = result | {_FIELDS: sorted(result)}
    np.savez_compressed(packed, **contents)
    files.write(path, packed.getvalue())


def _read(path: Path) -> dict[str, Any]:
    # np.load leaves a damaged file open
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        found = {k: v.item() if v.ndim == 0 else v for k, v in stored.items()}
    fields = found.pop(_FIELDS)
    if sorted(found) != sorted(fields):  # a damaged table of contents can leave some out unseen
        raise KeyError(f"it should hold {', '.join(fields)}")
    return found


def _file_name(
    name: str, law: Any, runs: pd.DataFrame, split: Split, sampling: dict, random_seed: int
) -> str:
    """Name of a task's file: readable, and with a hash of all that the result depends on."""
    digest = hashlib.sha256()
    used = runs.iloc[np.concatenate([split.fit, split.test])].reset_index(drop=True)
    digest.update(table_digest(used).encode())
    digest.update(code_digest().encode())
    digest.update(repr((split.fit.size, type(law).__name__, random_seed)).encode())
    if not isinstance(law, laws.Baseline):
        digest.update(repr(sorted(sampling.items())).encode())
    digest.update(repr(sorted((k, repr(v)) for k, v in options(law).items())).encode())
    words = re.sub(r"[^a-z0-9.]+", "-", f"{name} {split.name}".lower()).strip("-")
    return f"{words}-{digest.hexdigest()[:12]}.npz"


def _pool(name: str, runs: pd.DataFrame, labels: np.ndarray, done: list) -> HeldOut:
    folds = []
    for split, result in done:
        figures = {
            k.removeprefix("figure_"): v for k, v in result.items() if k.startswith("figure_")
        }
        folds.append(
            {
                "split": split.name,
                "n_fit": split.fit.size,
                "n_test": split.test.size,
                "seconds": result["seconds"],
                "cpu_seconds": result["cpu_seconds"],
                "converged": bool(result["converged"]),
                "error": result.get("error", ""),
                **figures,
            }
        )
    rows = np.concatenate([split.test for split, _ in done])
    observed = runs["final_loss"].to_numpy(dtype=float)[rows]
    contests = np.concatenate([labels[s.test] + f" | {s.name}" for s, _ in done])
    failed = any(f["error"] for f in folds)

    def joined(key: str) -> Any:
        if failed or key not in done[0][1]:
            return None
        return np.concatenate([np.asarray(r[key], dtype=float) for _, r in done], axis=-1)

    return HeldOut(
        name, rows, observed, joined("predicted"), joined("draws"), joined("cond_mean"),
        joined("cond_sd"), joined("cond_df"), labels[rows], contests, folds,
    )  # fmt: skip
