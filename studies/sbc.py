"""Simulation-based calibration: the posterior must recover what tables were simulated from.

One replication draws every parameter, simulates the log losses of a fixed design (the settings
of a real run table), fits them again and asks where the truth lies among the posterior draws.
Over replications that rank is uniform, and a 90 % interval holds the truth nine times in ten,
if and only if likelihood, sampler, screening and exact draws agree with the stated model
(Talts et al., arXiv 1804.06788; ranks of the log-likelihood as in Modrak et al., 2023).

Two sources of truth:

``"prior"``
    The prior, which is wide: most simulated tables look like no table of runs ever did.
``"posterior"``
    The posterior given the real runs; the refit then sees real and simulated losses together,
    which keeps ranks exactly uniform (posterior SBC, Saeilynoja et al., 2025) while every truth
    is one that the real runs support.

A replication is one file, written when it is complete, so a stopped study goes on where it was.
``python -m studies.sbc --help`` runs one from the command line.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from arviz_stats.ecdf_utils import ecdf_pit
from joblib import Parallel, delayed

from bayes_optlaws.datasets import load
from bayes_optlaws.evaluation.manifest import open_folder, read_result
from bayes_optlaws.inference import gate, run_weights
from bayes_optlaws.inference import nuts as sampling
from bayes_optlaws.inference import reference as explicit
from bayes_optlaws.inference.datatree import coefficients
from bayes_optlaws.inference.draws import Draws
from bayes_optlaws.inference.predictor import Predictor
from bayes_optlaws.law import OptLaw
from bayes_optlaws.model import student_t
from bayes_optlaws.model.encoding import RunEncoding
from bayes_optlaws.model.priors import Priors
from bayes_optlaws.runs.readers import read_candidates, read_runs
from bayes_optlaws.text import files

N_RANKS = 199
"""Draws that a truth is ranked among; thinned to this many, so that they are near independent."""

SOURCES = ("prior", "posterior")

_SHARED = ("prob", "converged", "pareto_k", "p_best", "chosen_is_best", "regret", "seconds")


def default_targets(runs: pd.DataFrame, n: int = 5) -> pd.DataFrame:
    """Schedules to decide between at twice the largest model and budget of a run table.

    Parameters
    ----------
    runs : DataFrame
        Validated run table.
    n : int
        Number of candidates; they differ in peak LR, spread over the middle of its range.

    Returns
    -------
    DataFrame
        Validated candidate table, linear cooldown, the table's median warm-up share.
    """
    big = runs.sort_values(["n_params", "tokens"]).iloc[-1]
    tokens = 2.0 * runs["tokens"].max()
    share = float((runs["warmup_steps"] / runs["steps"]).median())
    low, high = np.log(runs["peak_lr"].min()), np.log(runs["peak_lr"].max())
    return read_candidates(
        pd.DataFrame(
            {
                "run_id": [f"target-{i}" for i in range(n)],
                "n_params": 2.0 * big["n_params"],
                "tokens": tokens,
                "batch_tokens": big["batch_tokens"],
                "peak_lr": np.exp(low + (high - low) * np.linspace(0.15, 0.85, n)),
                "warmup_steps": np.round(share * tokens / big["batch_tokens"]),
                "schedule": "linear",
                "min_lr": 0.0,
            }
        )
    )


@dataclass(frozen=True)
class Design:
    """A run table as a law of given priors sees it, before any posterior."""

    encoding: RunEncoding
    priors: Priors


def prepare(runs: pd.DataFrame, **options) -> Design:
    """Encode a run table for simulation.

    Parameters
    ----------
    runs : DataFrame
        Validated run table; of the losses only the mean is used.
    **options
        Of `OptLaw`.
    """
    law = OptLaw(**options)
    return Design(law.encode(runs), law.priors or Priors())


def expected(law: Design, draws: Draws, rows: np.ndarray) -> np.ndarray:
    """Mean response of the design's runs around the law's centre, shape (n_draws, n_runs)."""
    return np.hstack([draws.beta, draws.fields.reshape(draws.n, -1), draws.local]) @ rows.T


def run_noise(law: Design, draws: Draws) -> np.ndarray:
    """Noise sd of the design's runs, shape (n_draws, n_runs)."""
    measured = law.encoding.measurement
    sd = explicit.noise_sd(law.encoding.data, draws.hyper)[:, measured.label]
    return sd / np.sqrt(measured.seeds)


def with_response(law: Design, y: np.ndarray, *, add: bool) -> RunEncoding:
    """Encoding of simulated responses: in place of the real ones, or added to them.

    All runs have the weights that they get with these responses.
    """
    e, measured = law.encoding, law.encoding.measurement
    finished = e.finished.assign(final_loss=np.exp(y + e.centre))
    if add:
        finished = pd.concat([e.finished, finished], ignore_index=True)
        measured = replace(
            measured, seeds=np.tile(measured.seeds, 2), label=np.tile(measured.label, 2)
        )
    every = replace(e, finished=finished, measurement=measured)
    equal = every.weighted(np.ones(len(finished)), np.inf)
    return run_weights.weighted(equal, law.priors)[0]


def quantities(
    law: Design,
    draws: Draws,
    rows: np.ndarray,
    y: np.ndarray,
    targets: pd.DataFrame,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Every quantity whose calibration is checked, each of shape (n_draws,).

    Parameters
    ----------
    law : Design
        From `prepare`.
    draws : Draws
        Posterior draws, or the one draw that is the truth.
    rows, y : arrays, shapes (n_runs, p) and (n_runs,)
        Design and simulated response.
    targets : DataFrame
        Candidates; the expected log loss of each is a quantity.
    rng : numpy Generator

    Returns
    -------
    dict
        Keys ``kind:name`` with kind scale, coefficient, exponent, likelihood or loss.
    """
    out = {}
    for name, value in draws.hyper.items():
        for i in range(value.shape[1]):
            out[f"scale:{name}" + (f"[{i}]" if value.shape[1] > 1 else "")] = value[:, i]
    intercept, coefficient, exponent = coefficients(law.encoding, draws)
    out["coefficient:intercept"] = intercept
    for i, feature in enumerate(law.encoding.features.features):
        out[f"coefficient:{feature.name}"] = coefficient[:, i]
    for i, group in enumerate(law.encoding.features.groups):
        out[f"exponent:{group}"] = exponent[:, i]
    sd = run_noise(law, draws)
    z = (y - expected(law, draws, rows)) / sd
    each = student_t.log_density(z, law.priors.noise_df) - np.log(sd)
    out["likelihood:log_likelihood"] = each.sum(axis=1)
    e = law.encoding
    predictor = Predictor(
        e.features, e.standardizer, e.discrepancy, e.noise, e.transfer, e.centre, law.priors, draws
    )
    loss = predictor.mean(targets, rng)
    for i, name in enumerate(targets["run_id"]):
        out[f"loss:{name}"] = loss[:, i]
    return out


def replicate(
    law: Design,
    targets: pd.DataFrame,
    replication: int,
    *,
    source: str = "prior",
    truths: Draws | None = None,
    draws: int = 250,
    tune: int = 200,
    chains: int = 4,
    method: str = "importance",
    prob: float = 0.9,
    random_seed: int = 0,
) -> dict:
    """Simulate one table, fit it, and say where every truth lies.

    Parameters
    ----------
    law : Design
        From `prepare`.
    targets : DataFrame
        Validated candidates.
    replication : int
        Number of the replication; with ``random_seed`` it fixes all random numbers.
    source : {"prior", "posterior"}
        See the module's text; ``"posterior"`` needs ``truths``.
    truths : Draws, optional
        Posterior draws given the real runs.
    draws, tune, chains : int
        Of NUTS.
    method : {"importance", "nuts"}
        How each table is fitted, see `OptLaw.fit`.
    prob : float
        Probability inside the central intervals.
    random_seed : int

    Returns
    -------
    dict
        ``quantities``: name to [truth, mean, lower, upper, rank, n_ranks]; ``p_best`` of the
        candidate that looks best, ``chosen_is_best``, ``regret`` (log loss); the sampler's
        figures, and ``converged``.
    """
    if source not in SOURCES:
        raise ValueError(f"source must be one of {SOURCES}, got {source!r}")
    if (source == "posterior") != (truths is not None):
        raise ValueError("source='posterior' and truths= belong together: give both or neither")
    rng = np.random.default_rng(np.random.SeedSequence(random_seed, spawn_key=(replication,)))
    start = time.perf_counter()
    truth = (
        explicit.draw_prior(law.encoding.data, law.priors, rng)
        if truths is None
        else truths.take(rng.integers(truths.n, size=1))
    )
    rows = law.encoding.rows()
    noise = student_t.draw(rng, (len(rows),), law.priors.noise_df)
    y = expected(law, truth, rows)[0] + run_noise(law, truth)[0] * noise
    fitted = sampling.sample(
        with_response(law, y, add=source == "posterior").data,
        law.priors,
        draws=draws,
        tune=tune,
        chains=chains,
        random_seed=int(rng.integers(2**31)),
        progressbar=False,
        method=method,
    )
    true = quantities(law, truth, rows, y, targets, rng)
    post = quantities(law, fitted.draws, rows, y, targets, rng)
    thin = np.linspace(0, fitted.draws.n - 1, min(N_RANKS, fitted.draws.n)).round().astype(int)
    table = {}
    for name, value in post.items():
        t, few = float(true[name][0]), value[thin]
        lower, upper = np.quantile(value, [(1 - prob) / 2, (1 + prob) / 2])
        # equal values (exponents are discrete) share their ranks evenly
        rank = int(np.sum(few < t) + rng.integers(np.sum(few == t) + 1))
        table[name] = [t, float(value.mean()), float(lower), float(upper), rank, few.size]
    names = [f"loss:{x}" for x in targets["run_id"]]
    loss = np.column_stack([post[x] for x in names])
    true_loss = np.array([true[x][0] for x in names])
    p_best = np.bincount(loss.argmin(axis=1), minlength=len(names)) / len(loss)
    chosen = int(p_best.argmax())
    figures = sampling.figures(fitted, fitted.draws.hyper)
    return {
        "replication": replication,
        "source": source,
        "transfer": law.encoding.transfer,
        "prob": prob,
        "quantities": table,
        "p_best": float(p_best[chosen]),
        "chosen_is_best": bool(chosen == int(true_loss.argmin())),
        "regret": float(true_loss[chosen] - true_loss.min()),
        "converged": not gate.failures(figures),
        "kept": float(fitted.kept),
        "pareto_k": None if np.isnan(fitted.pareto_k) else float(fitted.pareto_k),
        "seconds": time.perf_counter() - start,
        **figures,
    }


def study(
    runs: pd.DataFrame,
    n: int,
    folder: str | Path,
    *,
    source: str = "prior",
    targets: pd.DataFrame | None = None,
    n_jobs: int = 1,
    random_seed: int = 0,
    law_options: dict | None = None,
    **options,
) -> pd.DataFrame:
    """Run replications 0 to n - 1, those without a result file only, and read all of them.

    Parameters
    ----------
    runs : DataFrame
        Validated run table: the design, and with ``source="posterior"`` the data.
    n : int
        Number of replications.
    folder : path
        One JSON file a replication; written under another name first, so a file that is there
        is complete.
    source : {"prior", "posterior"}
    targets : DataFrame, optional
        Validated candidates; `default_targets` by default.
    n_jobs : int
        Processes, as in joblib. Each compiles the model once.
    random_seed : int
    law_options : dict, optional
        Of `OptLaw`.
    **options
        Of `replicate`.

    Returns
    -------
    DataFrame
        As from `read_results`.
    """
    law = prepare(runs, **(law_options or {}))
    targets = default_targets(runs) if targets is None else targets
    folder = open_folder(
        folder, study="sbc", script=Path(__file__).read_text(encoding="utf-8"), runs=runs,
        targets=targets, source=source, random_seed=random_seed, law_options=law_options or {},
        options=options,
    )  # fmt: skip
    truths = None
    paths = [_result_path(folder, i) for i in range(n)]
    todo = [i for i, p in enumerate(paths) if not p.exists() or read_result(p, _read) is None]
    if source == "posterior" and todo:
        truths = sampling.sample(
            run_weights.weighted(law.encoding, law.priors)[0].data, law.priors, draws=500,
            tune=500, chains=4, random_seed=random_seed, progressbar=False,
        ).draws  # fmt: skip

    def work(i: int) -> None:
        row = replicate(
            law, targets, i, source=source, truths=truths, random_seed=random_seed, **options
        )
        files.write(_result_path(folder, i), json.dumps(row))

    if n_jobs == 1:
        for i in todo:
            work(i)
    else:
        Parallel(n_jobs=n_jobs)(delayed(work)(i) for i in todo)
    return read_results(folder)


def _read(path: Path) -> dict:
    row = json.loads(path.read_text(encoding="utf-8"))
    missing = {*_SHARED, "replication", "quantities"} - {*row}
    if missing:
        raise KeyError(f"{sorted(missing)} missing")
    return row


def _result_path(folder: Path, i: int) -> Path:
    return folder / f"replication-{i:05d}.json"


def read_results(folder: str | Path) -> pd.DataFrame:
    """Read all result files of a study: one row a replication and quantity.

    Returns
    -------
    DataFrame
        Columns replication, kind, quantity, truth, mean, lower, upper, rank, n_ranks, and
        prob, converged, pareto_k, p_best, chosen_is_best, regret, seconds of the replication.
    """
    parts = []
    for path in sorted(Path(folder).glob("replication-*.json")):
        row = read_result(path, _read, fate="left out")
        if row is None:
            continue
        part = pd.DataFrame.from_dict(
            row["quantities"],
            orient="index",
            columns=["truth", "mean", "lower", "upper", "rank", "n_ranks"],
        )
        part.insert(0, "quantity", [x.split(":", 1)[1] for x in part.index])
        part.insert(0, "kind", [x.split(":", 1)[0] for x in part.index])
        part.insert(0, "replication", row["replication"])
        for name in _SHARED:
            part[name] = np.nan if row[name] is None else row[name]
        parts.append(part)
    if not parts:
        raise FileNotFoundError(f"no replication-*.json in {folder}: run a study there first")
    return pd.concat(parts, ignore_index=True)


def calibration(
    results: pd.DataFrame, *, band: float = 0.99, n_simulations: int = 2000, random_seed: int = 0
) -> pd.DataFrame:
    """Coverage and rank uniformity of every quantity.

    Parameters
    ----------
    results : DataFrame
        From `read_results` or the CSV file written by the command line.
    band : float
        Probability that the whole ECDF of a calibrated quantity's ranks stays inside its band.
    n_simulations : int
        Of the band.
    random_seed : int

    Returns
    -------
    DataFrame
        Index kind and quantity; n, ``coverage`` and ``three_se`` (three standard errors at the
        nominal rate; nan for exponents, which are discrete), ``nominal``, ``mean_rank`` (0 to 1)
        and ``rank_z`` (its distance from one half in standard errors), ``inside_band``.
    """
    rng = np.random.default_rng(random_seed)
    rows = {}
    for key, part in results.groupby(["kind", "quantity"], sort=False):
        n = len(part)
        prob = float(part["prob"].iloc[0])
        inside = part["truth"].between(part["lower"], part["upper"])
        # ranks 0..L spread evenly over their cells: a continuous uniform when calibrated
        u = (part["rank"].to_numpy() + rng.random(n)) / (part["n_ranks"].to_numpy() + 1)
        _, ecdf, low, high = ecdf_pit(u, band, n_simulations, rng=rng)
        rows[key] = {
            "n": n,
            "coverage": np.nan if key[0] == "exponent" else inside.mean(),
            "three_se": np.nan if key[0] == "exponent" else 3 * np.sqrt(prob * (1 - prob) / n),
            "nominal": prob,
            "mean_rank": u.mean(),
            "rank_z": (u.mean() - 0.5) * np.sqrt(12 * n),
            "inside_band": bool(np.all((ecdf >= low) & (ecdf <= high))),
        }
    out = pd.DataFrame.from_dict(rows, orient="index")
    out.index = pd.MultiIndex.from_tuples(out.index, names=["kind", "quantity"])
    return out


def decisions(results: pd.DataFrame) -> dict[str, float]:
    """How often the chosen candidate was the best one, against the probability stated.

    Parameters
    ----------
    results : DataFrame
        From `read_results`.

    Returns
    -------
    dict
        n, ``stated`` (mean P(best) of the chosen), ``observed``, ``three_se`` of their
        difference, ``mean_regret`` (log loss).
    """
    one = results.drop_duplicates("replication")
    p = one["p_best"].to_numpy(float)
    return {
        "n": len(one),
        "stated": float(p.mean()),
        "observed": float(one["chosen_is_best"].mean()),
        "three_se": float(3 * np.sqrt((p * (1 - p)).sum()) / len(one)),
        "mean_regret": float(one["regret"].mean()),
    }


def main(argv: list[str] | None = None) -> None:
    """Run a study on a shipped table and print its calibration."""
    parser = argparse.ArgumentParser(prog="python -m studies.sbc")
    parser.add_argument("folder", type=Path, help="result files; a CSV of all is written beside it")
    parser.add_argument("-n", type=int, default=100, help="replications (default 100)")
    parser.add_argument("--data", default="pocket", help="shipped table that gives the design")
    parser.add_argument("--source", choices=SOURCES, default="prior")
    parser.add_argument("--no-transfer", action="store_true", help="fit the law alone")
    parser.add_argument("--exponents", default=None, help="preset of candidate exponents")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    results = study(
        read_runs(load(args.data)),
        args.n,
        args.folder,
        source=args.source,
        n_jobs=args.jobs,
        random_seed=args.seed,
        law_options={"transfer": not args.no_transfer, "exponents": args.exponents},
    )
    results.to_csv(args.folder.with_suffix(".csv"), index=False, float_format="%.6g")
    print(calibration(results).to_string(float_format="%.3f"))
    print(decisions(results))


if __name__ == "__main__":
    main()
