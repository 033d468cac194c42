"""Schedules of the same expected loss as a given one, and how sure it is that they are.

The paper (arXiv 2409.04777, Table 2) designs schedules whose predicted losses are equal and trains
them. Under a posterior two schedules are equal with a probability: that their expected losses
differ by at most a tolerance. The search is that of `bayes_optlaws.decision.suggest`, with the
distance from the given schedule's loss as what is lowered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from bayes_optlaws.decision.search_space import Space, space
from bayes_optlaws.decision.suggest import SEARCH_DRAWS, SHOWN, Judge, search, unlike
from bayes_optlaws.inference.fitted import FittedLaw

__all__ = ["loss_equivalent"]


class _Near(Judge):
    """Rates settings by how far their expected loss is from that of the reference."""

    def __init__(
        self, law: FittedLaw, limit: float, random_seed: int, reference: pd.DataFrame
    ) -> None:
        super().__init__(law, limit, random_seed)
        self.reference = reference

    def gaps(self, table: pd.DataFrame, n_draws: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Expected loss less the reference's and expected loss, both (draws, n), and risk (n,)."""
        both = pd.concat([self.reference, table])[self.reference.columns]
        loss, risk = self(both, n_draws)
        return loss[:, 1:] - loss[:, :1], loss[:, 1:], risk[1:]

    def rate(self, table: pd.DataFrame) -> pd.DataFrame:
        """Table with the distance that is lowered in place of the loss."""
        gap, _, risk = self.gaps(table, SEARCH_DRAWS)
        return table.assign(
            loss_mean=np.abs(gap.mean(axis=0)), p_diverge=risk, allowed=~(risk > self.limit)
        )


def loss_equivalent(
    law: FittedLaw,
    candidate: pd.DataFrame,
    *,
    tolerance: float | None = None,
    prob: float = 0.5,
    families: Sequence[str] | str | None = None,
    bounds: Mapping[str, float | tuple[float, float]] | None = None,
    max_p_diverge: float = 0.05,
    n: int = 5,
    max_draws: int = 2000,
    random_seed: int = 0,
    allow_unconverged: bool = False,
) -> pd.DataFrame:
    """Find schedules of the same expected loss as a candidate, as unlike it as there are.

    Parameters
    ----------
    law : FittedLaw
    candidate : DataFrame
        Candidate table of one row; size, budget and batch are kept.
    tolerance : float, optional
        Largest difference that counts as none, nats. Default: the seed noise at the candidate.
    prob : float
        Least probability of being within the tolerance.
    families, bounds
        As for `bayes_optlaws.decision.suggest.suggest`.
    max_p_diverge : float
        Highest posterior mean probability of divergence of what is returned.
    n : int
        Schedules to return.
    max_draws, random_seed : int
    allow_unconverged : bool

    Returns
    -------
    DataFrame
        First the candidate, then at most `n` schedules: their settings, ``loss_mean`` (expected
        loss over seeds, nats), ``gap`` (less the candidate's), ``p_within`` (probability that the
        expected losses differ by at most the tolerance) and ``p_diverge``.
        ``attrs["tolerance"]`` in nats.

    Raises
    ------
    ValueError
        When there is not exactly one row or an argument is out of range.
    ConvergenceError
        When the posterior does not pass the gate.

    Examples
    --------
    >>> from bayes_optlaws.decision.equivalent import loss_equivalent
    >>> loss_equivalent(law, candidates.iloc[[0]], tolerance=0.005)  # doctest: +SKIP
    """
    reference = candidate
    if len(reference) != 1:
        raise ValueError(f"candidate has {len(reference)} rows: give the one to be equalled")
    if tolerance is not None and not (np.isfinite(tolerance) and tolerance > 0):
        raise ValueError(f"tolerance is {tolerance!r}: it must be positive, in nats")
    for name, value in (("prob", prob), ("max_p_diverge", max_p_diverge)):
        if not 0 < value <= 1:
            raise ValueError(f"{name} is {value!r}: it is a probability above 0 and to 1")
    if n < 1:
        raise ValueError(f"n is {n!r}: ask for at least one schedule")
    law.require_converged(allow_unconverged)
    row = reference.iloc[0]
    law = law.assuming({k: row[k] for k in law.encoding.covariates.names if k in reference})
    sp = space(
        law.runs, n_params=row["n_params"], tokens=row["tokens"],
        batch_tokens=row["batch_tokens"], families=families, bounds=bounds, min_lr=None,
    )  # fmt: skip
    columns = [c for c in sp.table(sp.families[0], _middle(sp)).columns if c in reference]
    reference = reference[columns]
    judge = _Near(law, max_p_diverge, random_seed, reference)
    tried = [search(judge, sp, family, random_seed) for family in sp.families]
    every = pd.concat(tried, ignore_index=True)
    if tolerance is None:
        noise = law.predictor(law.draws.thin(max_draws)).noise_sd(reference)
        loss, _ = judge(reference, max_draws)
        tolerance = float(np.median(noise) * loss.mean())
    near = every[every["allowed"] & (every["loss_mean"] <= tolerance)]
    near = near.sort_values("loss_mean", kind="stable").drop_duplicates(list(SHOWN))
    table = pd.concat([reference, near[columns]], ignore_index=True)
    gap, loss, risk = judge.gaps(table, max_draws)
    table["loss_mean"], table["gap"] = loss.mean(axis=0), gap.mean(axis=0)
    table["p_within"] = np.mean(np.abs(gap) <= tolerance, axis=0)
    table["p_diverge"] = risk
    table["tied"] = (table["p_within"] >= prob) & ~(risk > max_p_diverge)
    table.loc[0, "tied"] = True
    out = table.iloc[unlike(table, n)]
    out = out[[*SHOWN, "loss_mean", "gap", "p_within", "p_diverge"]].reset_index(drop=True)
    out.attrs["tolerance"] = tolerance
    return out


def _middle(sp: Space) -> np.ndarray:
    """Return the middle of the first family's cube, shape (1, n_axes)."""
    return np.full((1, len(sp.axes(sp.families[0]))), 0.5)
