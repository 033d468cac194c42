"""Does any candidate get an answer that cannot be?  Random settings put to fitted laws.

``python -m studies.candidate_fuzz`` fits four laws, puts 1,000 sets of candidates to each and
prints how many predictions were refused, sound, or not: a number that is not finite, an interval
that does not hold its own mean, a loss above that of an untrained model or below `LEAST_LOSS`, a
probability outside 0 to 1.  Candidates range over every schedule and five decades around what ran,
so most are absurd: an answer may be wide, and must be possible.
"""

from __future__ import annotations

import argparse
import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from bayes_optlaws import datasets
from bayes_optlaws.inference.fitted import KINDS
from bayes_optlaws.law import OptLaw
from bayes_optlaws.runs.readers import RunTableError, read_candidates, read_runs
from bayes_optlaws.schedules import SCHEDULES

LEAST_LOSS = 1e-3
"""Nats a token below which no interval may reach: a thousandth of any loss in the tables."""

MAX_DRAWS = 500
DECADES = 2.5
"""Decades around the middle of the runs over which scales and rates are drawn."""


def constant_only() -> pd.DataFrame:
    """Runs of one rate that never cool down: nothing tells what a cool-down does."""
    rng = np.random.default_rng(5)
    n = 40
    size = rng.choice([3e7, 1e8, 3e8], n)
    tokens = size * rng.choice([10.0, 20.0, 40.0], n)
    loss = 1.7 + 400 / size**0.34 + 410 / tokens**0.28 + rng.normal(0, 0.003, n)
    return pd.DataFrame(
        {"n_params": size, "tokens": tokens, "batch_tokens": 131072, "peak_lr": 1e-3,
         "warmup_steps": 200, "schedule": "constant", "final_loss": loss}
    )  # fmt: skip


def rate_follows_size() -> pd.DataFrame:
    """Runs of 20 tokens a parameter and one rate by size: size, tokens and rate are one number."""
    rng = np.random.default_rng(6)
    size = np.repeat(np.geomspace(3e7, 3e8, 8), 5)
    loss = 1.7 + 400 / size**0.34 + 410 / (20 * size) ** 0.28 + rng.normal(0, 0.003, size.size)
    return pd.DataFrame(
        {"n_params": size, "tokens": 20 * size, "batch_tokens": 131072,
         "peak_lr": 3e-3 * (size / 1e8) ** -0.5, "warmup_steps": 100, "schedule": "linear",
         "final_loss": loss}
    )  # fmt: skip


def rippled() -> pd.DataFrame:
    """A dense grid whose losses ripple over rate and batch: neighbours tell of one another."""
    rng = np.random.default_rng(7)
    grid = np.meshgrid([1e7, 4e7, 1.6e8], np.geomspace(2.5e-4, 4e-3, 17), 2.0 ** np.arange(15, 19))
    size, rate, batch = (x.ravel() for x in grid)
    loss = 2.0 + 60 * size**-0.3 + 0.02 * np.log(rate / 1e-3) ** 2
    loss *= 1 + 0.006 * np.sin(4.5 * np.log(rate)) * np.cos(3 * np.log(batch))
    return pd.DataFrame(
        {"n_params": size, "tokens": 20 * size, "batch_tokens": batch, "peak_lr": rate,
         "warmup_steps": 50, "schedule": "cosine",
         "final_loss": loss * np.exp(0.002 * rng.standard_normal(size.size))}
    )  # fmt: skip


LAWS = {
    "pocket": (lambda: datasets.load("pocket"), {}),
    "pocket, no transfer": (lambda: datasets.load("pocket"), {"transfer": False}),
    "constant only": (constant_only, {}),
    "rippled": (rippled, {}),
    "rate follows size": (rate_follows_size, {}),
    "rate follows size, no transfer": (rate_follows_size, {"transfer": False}),
}


def candidates(runs: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """One random set of one to eight candidates, not validated.

    Parameters
    ----------
    runs : DataFrame
        Validated run table, in the middle of what is drawn.
    rng : numpy Generator
    """
    n = int(rng.integers(1, 9))
    reach = DECADES * rng.uniform() * np.log(10.0)

    def around(name: str) -> np.ndarray:
        return np.exp(np.log(runs[name]).mean() + rng.uniform(-reach, reach, n))

    steps = np.maximum(np.round(around("steps")), 2.0)
    warmup = np.floor(steps * rng.choice([0.0, 1e-3, 0.01, 0.1, 0.5, 0.999], n))
    rate = around("peak_lr")
    kind = rng.choice([s for s in SCHEDULES if s != "array"], n)
    rows = pd.DataFrame(
        {"n_params": around("n_params"), "batch_tokens": around("batch_tokens"), "steps": steps,
         "peak_lr": rate, "warmup_steps": warmup, "schedule": kind}
    )  # fmt: skip
    flat, polygon = kind == "constant", kind == "polygon"
    rows["min_lr"] = np.where(flat, rate, rate * rng.choice([0.0, 0.1, 0.99], n))
    start = warmup + (steps - warmup) * rng.uniform(0.01, 0.99, n)
    stable = polygon | np.isin(kind, ("wsd", "wsd-sqrt"))
    rows["cooldown_start_step"] = np.where(stable, start, np.nan)
    rows["decay_end_step"] = np.where(polygon, warmup + (start - warmup) * rng.uniform(), np.nan)
    plateau = rows["min_lr"] + (rate - rows["min_lr"]) * rng.uniform(size=n)
    rows["plateau_lr"] = np.where(polygon, plateau, np.nan)
    return rows


def faults(prediction: pd.DataFrame, *, most: float) -> list[str]:
    """What of a prediction cannot be.

    Parameters
    ----------
    prediction : DataFrame
        From `OptLaw.predict`.
    most : float
        Loss of an untrained model, nats a token.

    Examples
    --------
    >>> one = pd.DataFrame({"loss_mean": [3.0], "loss_sd": 0.1, "loss_lower": 2.9,
    ...     "loss_upper": 2.95, "p_diverge": 0.5, "extrapolation": 0.0})
    >>> faults(one, most=11.8)
    ['mean outside the interval']
    """
    numbers = ["loss_mean", "loss_sd", "loss_lower", "loss_upper", "extrapolation"]
    lower, mean, upper = (prediction[f"loss_{n}"] for n in ("lower", "mean", "upper"))
    risk = prediction["p_diverge"].dropna()
    found = {
        "not finite": ~np.isfinite(prediction[numbers]).all(axis=1),
        "mean outside the interval": ~((lower <= mean) & (mean <= upper)),
        "above an untrained model": upper > most * (1 + 1e-9),
        f"below {LEAST_LOSS:g} nats": lower < LEAST_LOSS,
        "probability outside 0 to 1": ~risk.between(0, 1),
    }
    return [name for name, bad in found.items() if bad.any()]


def answer(law: OptLaw, table: pd.DataFrame) -> list[str]:
    """Faults of both kinds of prediction for one set; ``["refused"]`` where the set is refused."""
    try:
        units = {name: 1 for name in ("n_params", "batch_tokens", "steps")}  # absurd, and meant
        plan = read_candidates(table, units=units, warn=False)
    except RunTableError:
        return ["refused"]
    most = law.fitted.priors.untrained_loss
    out = []
    for kind in KINDS:
        found = law.fitted.predict(plan, kind, max_draws=MAX_DRAWS)
        out += [f"{kind}: {fault}" for fault in faults(found, most=most)]
    return out


def fuzz(law: OptLaw, n: int, random_seed: int = 0) -> Counter[str]:
    """Put random candidate sets to a law and count what comes back.

    Parameters
    ----------
    law : OptLaw
        Fitted.
    n : int
        Number of sets.
    random_seed : int

    Returns
    -------
    Counter
        ``sound``, ``refused`` and each fault; a set may have several faults.
    """
    count: Counter[str] = Counter()
    for i in range(n):
        rng = np.random.default_rng((random_seed, i))
        count.update(answer(law, candidates(law.runs, rng)) or ["sound"])
    return count


def fitted(name: str) -> OptLaw:
    """Fit one of `LAWS`, in seconds."""
    load, options = LAWS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return OptLaw(divergence=name.startswith("pocket"), **options).fit(
            read_runs(load()), draws=250, tune=200, chains=4, random_seed=1, progressbar=False,
            method="importance",
        )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzz all laws and print the counts; exit status 1 where anything is not sound."""
    parser = argparse.ArgumentParser(prog="python -m studies.candidate_fuzz")
    parser.add_argument("-n", type=int, default=1000, help="sets a law (default 1000)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    bad = 0
    for name in LAWS:
        count = fuzz(fitted(name), args.n, args.seed)
        bad += sum(v for k, v in count.items() if k not in ("sound", "refused"))
        print(f"{name}: {', '.join(f'{v} {k}' for k, v in count.most_common())}", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    raise SystemExit(main())
