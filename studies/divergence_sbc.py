"""Simulation-based calibration of the divergence part.

One replication draws the parameters of R and its correction from their prior, simulates which
runs of a real design diverge, fits them and ranks the truth among the posterior draws
(Talts et al., arXiv 1804.06788).  Many such tables have no divergent run, or nothing else: those
are part of what must come out calibrated.

``python -m studies.divergence_sbc`` writes ``sbc-divergence-ranks.csv`` (one row
a replication and quantity) and ``sbc-divergence.csv`` (coverage and uniformity of the ranks).  A
replication is one file, so a study that was broken off goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bayes_optlaws.datasets import load
from bayes_optlaws.evaluation.manifest import open_folder, read_result
from bayes_optlaws.inference.divergence_sampling import sample_divergence
from bayes_optlaws.inference.gate import diagnose, failures
from bayes_optlaws.model.divergence import (
    DivergenceData,
    DivergencePriors,
    divergence_logit,
    parameters,
)
from bayes_optlaws.runs.readers import read_runs
from bayes_optlaws.text import files
from studies.sbc import N_RANKS, calibration

PROB = 0.9
"""Of the central intervals whose coverage is given."""

COLUMNS = ("truth", "mean", "lower", "upper", "rank", "n_ranks")
R_NAMES = ("kappa", "gamma", "c1", "c2", "c3", "slope")


def quantities(
    values: dict[str, np.ndarray], data: DivergenceData, runs: pd.DataFrame, targets: pd.DataFrame
) -> dict[str, np.ndarray]:
    """Every quantity that is ranked, each of shape (n_draws,).

    Parameters
    ----------
    values : dict
        From `bayes_optlaws.model.divergence.parameters`, of the posterior or of the truth.
    data : DivergenceData
        The simulated table.
    runs, targets : DataFrame
        The design, and the runs whose logit is ranked.

    Returns
    -------
    dict
        Keys ``kind:name`` with kind criterion, correction, logit or likelihood.
    """
    out = {f"criterion:{name}": values[f"divergence_{name}"] for name in R_NAMES}
    for i, name in enumerate(data.scale.names):
        out[f"correction:{name}"] = values["divergence_correction"][:, i]
    logit = divergence_logit(values, data.scale.inputs(targets))
    for i, name in enumerate(targets["run_id"]):
        out[f"logit:{name}"] = logit[:, i]
    y, logit = runs["diverged"].to_numpy(float), divergence_logit(values, data.scale.inputs(runs))
    out["likelihood:log_likelihood"] = logit @ y - np.logaddexp(0.0, logit).sum(axis=1)
    return out


def default_targets(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs whose logit is ranked: the median settings at four peak LRs of the design.

    The last is three times the highest LR of the design.
    """
    middle = runs.iloc[[int(np.argsort(runs["tokens"].to_numpy(), kind="stable")[len(runs) // 2])]]
    lrs = [*np.quantile(runs["peak_lr"], [0.0, 0.5, 1.0]), 3.0 * runs["peak_lr"].max()]
    names = ["lowest LR", "median LR", "highest LR", "3 x highest LR"]
    return pd.concat([middle] * 4, ignore_index=True).assign(peak_lr=lrs, run_id=names)


def replicate(
    runs: pd.DataFrame,
    targets: pd.DataFrame,
    replication: int,
    *,
    priors: DivergencePriors | None = None,
    draws: int = 500,
    tune: int = 500,
    chains: int = 4,
    random_seed: int = 0,
) -> dict:
    """Simulate which runs diverge, fit them, and say where every truth lies.

    Parameters
    ----------
    runs : DataFrame
        Validated run table: the design; its outcomes are not used.
    targets : DataFrame
        As from `default_targets`.
    replication : int
        Number of the replication; with ``random_seed`` it fixes all random numbers.
    priors : DivergencePriors, optional
    draws, tune, chains : int
        Of NUTS.
    random_seed : int

    Returns
    -------
    dict
        ``quantities``: name to `COLUMNS`; ``n_diverged``; ``failures`` of the convergence gate.
    """
    priors = priors or DivergencePriors()
    rng = np.random.default_rng(np.random.SeedSequence(random_seed, spawn_key=(replication,)))
    design = DivergenceData.from_runs(runs)
    size = len(priors.moments(len(design.scale.names))[0])
    truth = parameters(rng.standard_normal(size), design, priors, np.eye(size))
    logit = divergence_logit(truth, design.scale.inputs(runs))[0]
    simulated = runs.assign(diverged=rng.logistic(size=logit.size) < logit)
    data = DivergenceData.from_runs(simulated)
    values, stats = sample_divergence(
        data, priors, draws=draws, tune=tune, chains=chains, random_seed=int(rng.integers(2**31))
    )
    z = values["divergence_z"].reshape(chains, draws, -1)
    true = quantities(truth, data, simulated, targets)
    post = quantities(values, data, simulated, targets)
    thin = np.linspace(0, chains * draws - 1, min(N_RANKS, chains * draws)).round().astype(int)
    table = {}
    for name, value in post.items():
        t, few = float(true[name][0]), value[thin]
        lower, upper = np.quantile(value, [(1 - PROB) / 2, (1 + PROB) / 2])
        rank = int(np.sum(few < t) + rng.integers(np.sum(few == t) + 1))
        table[name] = [t, float(value.mean()), float(lower), float(upper), rank, few.size]
    return {
        "replication": replication,
        "n_diverged": data.n_diverged,
        "failures": failures(diagnose({"z": z}, stats)),
        "quantities": table,
    }


def study(
    runs: pd.DataFrame, n: int, folder: str | Path, *, random_seed: int = 0, **options
) -> pd.DataFrame:
    """Run replications 0 to n - 1, those without a result file only, and read all of them.

    Parameters
    ----------
    runs : DataFrame
        Validated run table: the design.
    n : int
    folder : path
        One JSON file a replication.
    random_seed : int
    **options
        Of `replicate`.

    Returns
    -------
    DataFrame
        Columns replication, n_diverged, converged, kind, quantity, prob and `COLUMNS`; what
        `studies.sbc.calibration` takes.
    """
    folder = open_folder(
        folder, study="divergence sbc", script=Path(__file__).read_text(encoding="utf-8"),
        runs=runs, random_seed=random_seed, options=options,
    )  # fmt: skip
    targets = default_targets(runs)
    parts = []
    for i in range(n):
        path = folder / f"replication-{i:05d}.json"
        part = read_result(path, _read) if path.exists() else None
        if part is None:
            row = replicate(runs, targets, i, random_seed=random_seed, **options)
            files.write(path, json.dumps(row))
            part = _read(path)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _read(path: Path) -> pd.DataFrame:
    return _as_table(json.loads(path.read_text(encoding="utf-8")))


def _as_table(row: dict) -> pd.DataFrame:
    part = pd.DataFrame.from_dict(row["quantities"], orient="index", columns=list(COLUMNS))
    names = [x.split(":", 1) for x in part.index]
    part.insert(0, "replication", row["replication"])
    part.insert(1, "n_diverged", row["n_diverged"])
    part.insert(2, "converged", not row["failures"])
    part.insert(3, "kind", [kind for kind, _ in names])
    part.insert(4, "quantity", [name for _, name in names])
    return part.assign(prob=PROB)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study on a shipped design and write its tables; returns an exit status."""
    parser = argparse.ArgumentParser(prog="python -m studies.divergence_sbc")
    parser.add_argument("-n", type=int, default=300, help="replications (default 300)")
    parser.add_argument("--data", default="pocket", help="shipped table that gives the design")
    parser.add_argument("--out", type=Path, default=Path("studies/results"))
    parser.add_argument("--work", default="out/sbc-divergence", help="where replications are kept")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    results = study(read_runs(load(args.data)), args.n, args.work, random_seed=args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    results.to_csv(args.out / "sbc-divergence-ranks.csv", index=False, float_format="%.6g")
    table = calibration(results)
    table.reset_index().to_csv(args.out / "sbc-divergence.csv", index=False, float_format="%.4g")
    print(table.to_string(float_format="%.3f"))
    passed = results.drop_duplicates("replication")["converged"]
    print(f"{passed.sum()} of {len(passed)} fits passed the convergence gate")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
