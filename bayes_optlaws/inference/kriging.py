"""Learning the correction from neighbouring runs; see `bayes_optlaws.model.neighbours`."""

from __future__ import annotations

import numpy as np

from bayes_optlaws.inference.predictor import Predictor
from bayes_optlaws.model.encoding import RunEncoding
from bayes_optlaws.model.neighbours import Learned, Neighbours, Residuals, chosen_runs, learn

DRAWS = 20
"""Posterior draws whose residuals choose share and lengths."""

FEWEST = 20
"""Finished runs below which nothing is learned from residuals."""


def residuals_of(encoding: RunEncoding, one_run: np.ndarray) -> Residuals:
    """Places of the finished runs, and the variances of their own parts.

    Parameters
    ----------
    encoding : RunEncoding
    one_run : array, shape (n_draws, n)
        Draws of the noise sd of one run at each run's settings.
    """
    measured, table = encoding.measurement, encoding.finished
    sd = measured.sd(one_run, table, np.log(table["final_loss"].to_numpy(float)))
    nugget = np.mean((sd / one_run) ** 2, axis=0) / measured.weight
    points = np.round(encoding.discrepancy.local_points(table), 9)
    return Residuals(points, nugget)


def neighbours(
    encoding: RunEncoding, predictor: Predictor, learned: Learned | None = None
) -> Neighbours | None:
    """The correction from neighbouring runs; None where it does not predict runs better.

    Parameters
    ----------
    encoding : RunEncoding
    predictor : Predictor
        Of the law, without a correction.
    learned : Learned, optional
        Share and lengths, where they are known.
    """
    table = encoding.finished
    if not (encoding.transfer and encoding.discrepancy.n_local and len(table) >= FEWEST):
        return None
    few = predictor.thinned(DRAWS)
    residuals = residuals_of(encoding, few.whole_noise_sd(table))
    if learned is None:
        runs = chosen_runs(len(table))
        near = residuals.all_nearest(runs)
        e = np.zeros((few.draws.n, len(table)))
        e[:, near] = few.standard_residuals(encoding, encoding.rows(table.iloc[near]), near)
        learned = learn(residuals, e, runs)
    return Neighbours(encoding, residuals, learned) if learned.clear else None
