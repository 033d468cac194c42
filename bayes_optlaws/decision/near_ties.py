r"""Near ties: how sure an order of two schedules is, measured or predicted, and what decides it.

Three sources of doubt are kept apart: the noise over seeds of the runs, the error of the law beside
the runs, and the rounding of printed losses. All formulas are own choice; the paper names a
"resolution limit" (Section 5.3) and gives no number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from bayes_optlaws.decision.ranking import Ranking
from bayes_optlaws.decision.seeds import p_right_after, seeds_to_decide, seeds_to_separate

__all__ = [
    "ContrastError",
    "contrast_error",
    "flip_probability",
    "measured_ranking",
    "p_right_after",
    "paper_pairs",
    "resolution_limit",
    "score_error",
    "seeds_to_decide",
    "seeds_to_separate",
]

ROUNDING = 1e-3
"""Last digit of the paper's losses, nats."""

_CHI_POINTS = (np.arange(2000) + 0.5) / 2000


@dataclass(frozen=True)
class ContrastError:
    """Error of a law in the difference of two losses of one set.

    Parameters
    ----------
    sd : float
        Estimated sd, nats.
    df : float
        Degrees of freedom behind it; infinite where it is known.
    slope : float
        Factor by which predicted differences must be multiplied; 1 where they are losses.
    """

    sd: float
    df: float = np.inf
    slope: float = 1.0

    def quantiles(self, prob: np.ndarray) -> np.ndarray:
        """Posterior quantiles of the sd under the prior 1 / sd (scaled inverse chi-square)."""
        if np.isinf(self.df):
            return np.full(np.shape(prob), self.sd)
        return self.sd * np.sqrt(self.df / stats.chi2.isf(prob, self.df))


def contrast_error(actual: np.ndarray, predicted: np.ndarray, groups: np.ndarray) -> ContrastError:
    """Error of differences within groups from printed actual and predicted losses.

    The level that a group's errors share cancels: the pooled variance of predicted less actual
    around its group's mean, twice.

    Parameters
    ----------
    actual, predicted : array, shape (n,)
        Losses, nats.
    groups : array, shape (n,)
        Runs that are compared with each other.

    Returns
    -------
    ContrastError

    Examples
    --------
    >>> e = contrast_error([2.0, 2.1, 3.0, 3.2], [2.0, 2.11, 3.1, 3.28], ["a", "a", "b", "b"])
    >>> round(e.sd, 6), e.df
    (0.015811, 2.0)
    """
    error = pd.Series(np.asarray(predicted, float) - np.asarray(actual, float))
    by = error.groupby(np.asarray(groups))
    rest = error - by.transform("mean")
    df = float(len(error) - by.ngroups)
    if df < 1:
        raise ValueError("no group has two runs: differences need at least two in one group")
    return ContrastError(float(np.sqrt(2 * np.sum(rest**2) / df)), df)


def score_error(loss: np.ndarray, score: np.ndarray, groups: np.ndarray) -> ContrastError:
    """Error of differences of scores, which rank but are in no unit of loss.

    Losses less their group's mean are regressed on scores less theirs, through the origin; the
    residual variance, twice, is that of a difference.

    Parameters
    ----------
    loss, score : array, shape (n,)
    groups : array, shape (n,)

    Returns
    -------
    ContrastError
        With the slope, nats of loss a unit of score.
    """
    table = pd.DataFrame({"y": np.asarray(loss, float), "x": np.asarray(score, float)})
    by = table.groupby(np.asarray(groups))
    rest = table - by.transform("mean")
    slope = float(rest["x"] @ rest["y"] / (rest["x"] @ rest["x"]))
    df = float(len(table) - by.ngroups - 1)
    if df < 1:
        raise ValueError("too few runs: the groups leave no degree of freedom beside the slope")
    residual = rest["y"] - slope * rest["x"]
    return ContrastError(float(np.sqrt(2 * residual @ residual / df)), df, slope)


def flip_probability(
    gap: float, *, error: ContrastError | None = None, noise_sd: float = 0.0, reruns: bool = False
) -> float:
    r"""Probability that a pair observed ``gap`` apart is put in the other order.

    The true gap is normal around the observed one (flat prior) with variance
    :math:`2 \sigma^2 + 2 r^2 / 12` (seed noise, rounding to r = 0.001 nats). With ``error``: the
    order that a law of this error gives. With ``reruns``: that of a fresh run of each.

    Parameters
    ----------
    gap : float
        Observed difference of two printed losses, nats.
    error : ContrastError, optional
        Of the law; its sd is averaged over its posterior.
    noise_sd : float
        Sd of one run's loss over seeds, nats.
    reruns : bool
        Compare with fresh runs, whose noise is added.

    Returns
    -------
    float
        0.5 for a gap of 0.

    Examples
    --------
    A gap of one thousandth, seed noise of one thousandth, both measured again:

    >>> round(flip_probability(0.001, noise_sd=0.001, reruns=True), 3)
    0.312
    """
    if not (np.isfinite(gap) and gap >= 0):
        raise ValueError(f"gap is {gap!r}: it must be the size of a difference, not negative")
    variance = 2 * noise_sd**2 * (2 if reruns else 1) + ROUNDING**2 / 6
    sd = np.zeros(1) if error is None else error.quantiles(_CHI_POINTS)
    return float(np.mean(stats.norm.sf(gap / np.sqrt(variance + sd**2))))


def resolution_limit(
    error: ContrastError, *, noise_sd: float = 0.0, prob: float = 0.9, interval: float = 0.9
) -> tuple[float, float, float]:
    """Gap of two single runs whose order a law of this error calls with probability ``prob``.

    Parameters
    ----------
    error : ContrastError
    noise_sd : float
        Sd of one run's loss over seeds, nats.
    prob, interval : float
        Probability of the call, and of the interval of the limit.

    Returns
    -------
    limit, lower, upper : float
        Nats: median and central interval of z * sqrt(sd^2 + 2 noise^2) over the posterior of sd.
    """
    tail = (1 - interval) / 2
    sd = error.quantiles(np.array([0.5, tail, 1 - tail]))
    limit = stats.norm.ppf(prob) * np.sqrt(sd**2 + 2 * noise_sd**2)
    return float(limit[0]), float(limit[1]), float(limit[2])


def measured_ranking(
    runs: pd.DataFrame,
    label: str = "name",
    *,
    prob: float = 0.9,
    tie: float | None = None,
    n_draws: int = 4000,
    random_seed: int = 0,
) -> Ranking:
    """Rank schedules that were run with several seeds, by what the runs show and nothing else.

    Parameters
    ----------
    runs : DataFrame
        Finished runs with ``final_loss``, ``seed`` and the column ``label``.
    label : str
        Column that names the schedule.
    prob : float
        As for `Ranking.from_draws`.
    tie : float, optional
        Zone of practical equivalence, nats; the noise sd of one run by default.
    n_draws, random_seed : int

    Returns
    -------
    Ranking
        Of the average over seeds (``kind="mean"``). ``draws.attrs["noise_sd"]`` is the sd of one
        run beside others of its seed, nats.

    Notes
    -----
    Loss = schedule + seed + noise, flat priors on the means and 1 / sd^2 on the variance (Box and
    Tiao). Where every schedule has the same seeds, what a seed does to all of them cancels; else
    it counts as noise.
    """
    rng = np.random.default_rng(random_seed)
    table = runs.pivot_table(index="seed", columns=label, values="final_loss", sort=False)
    mean, count = table.mean(), table.count().to_numpy(float)
    n_seeds, n = table.shape
    paired = table.notna().all().all() and n_seeds > 1 and n > 1
    rest = table - mean
    df = count.sum() - n
    if paired:
        by_seed = rest.mean(axis=1).to_numpy()
        rest = rest.sub(by_seed, axis=0)
        df -= n_seeds - 1
    if df < 1:
        raise ValueError("each schedule was run once: without repeated seeds there is no noise sd")
    squares = float((rest**2).to_numpy()[table.notna().to_numpy()].sum())
    sd = np.sqrt(squares / rng.chisquare(df, (n_draws, 1)))
    draws = mean.to_numpy() + sd * rng.standard_normal((n_draws, n)) / np.sqrt(count)
    if paired:  # the level has the noise of the seeds, the differences have not
        level = np.sqrt(np.sum(by_seed**2) / rng.chisquare(n_seeds - 1, (n_draws, 1)) / n_seeds)
        draws += mean.mean() - draws.mean(axis=1, keepdims=True)
        draws += level * rng.standard_normal((n_draws, 1))
    noise = float(np.sqrt(squares / df))
    ranking = Ranking.from_draws(
        draws,
        labels=list(mean.index),
        prob=prob,
        tie=noise if tie is None else tie,
        noise_sd=noise,
        kind="mean",
    )
    ranking.draws.attrs["noise_sd"] = noise
    return ranking


def paper_pairs(
    stages: pd.DataFrame,
    error: ContrastError | None = None,
    *,
    set_column: str,
    noise_sd: float = 0.001,
    prob: float = 0.9,
) -> pd.DataFrame:
    """Rank 1 against rank 2 in every set of the paper's Table 4 or 5.

    Parameters
    ----------
    stages : DataFrame
        ``datasets.load("paper-table-4")`` (or 5): observed losses and predicted scores.
    error : ContrastError, optional
        Of the law; by default `score_error` of the other sets, each set left out in turn.
    set_column : str
        ``"shift"`` or ``"tokens_billion"``.
    noise_sd : float
        Seed noise, nats. The paper does not give it.
    prob : float
        Of the resolution limit.

    Returns
    -------
    DataFrame
        One row a set: ``first`` and ``second`` by observed loss, observed ``gap``,
        ``predicted_gap`` (positive where the law puts ``first`` first; slope applied), ``p_law``
        (that a law of this error orders the pair the other way), ``p_predicted`` (that the order
        the law did print is wrong, from its printed gap and error alone), ``p_rerun`` (that fresh
        runs come out the other way) and the ``resolution`` with ``lower`` and ``upper``.
    """
    rows = {}
    for label, table in stages.groupby(set_column, sort=False):
        own = error
        if own is None:
            rest = stages[stages[set_column] != label]
            own = score_error(rest["observed_loss"], rest["predicted_score"], rest[set_column])
        table = table.sort_values("observed_loss")
        first, second = table.iloc[0], table.iloc[1]
        gap = float(second["observed_loss"] - first["observed_loss"])
        predicted = own.slope * float(second["predicted_score"] - first["predicted_score"])
        limit, lower, upper = resolution_limit(own, noise_sd=noise_sd, prob=prob)
        # The printed gap against the error of differences alone: a t distribution.
        wrong = (
            stats.t.sf(abs(predicted) / own.sd, own.df)
            if np.isfinite(own.df)
            else (stats.norm.sf(abs(predicted) / own.sd))
        )
        rows[label] = {
            "first": first["schedule"],
            "second": second["schedule"],
            "gap": gap,
            "predicted_gap": predicted,
            "p_law": flip_probability(gap, error=own, noise_sd=noise_sd),
            "p_predicted": float(wrong),
            "p_rerun": flip_probability(gap, noise_sd=noise_sd, reruns=True),
            "resolution": limit,
            "lower": lower,
            "upper": upper,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(set_column)
