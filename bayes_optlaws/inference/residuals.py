"""What the residuals of a fit tell of new runs: neighbours, and the tails of the noise.

See `bayes_optlaws.model.neighbours` and `bayes_optlaws.model.tails`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.inference.predictor import Predictor
from bayes_optlaws.model import neighbours, tails
from bayes_optlaws.model.encoding import RunEncoding

DRAWS = 20
"""Posterior draws whose residuals are looked at."""

FEWEST = 20
"""Finished runs below which neighbours are not asked."""


def places(encoding: RunEncoding, predictor: Predictor) -> neighbours.Residuals:
    """Places of the finished runs, and how each was measured.

    Parameters
    ----------
    encoding : RunEncoding
    predictor : Predictor
        Of the law.
    """
    measured, table = encoding.measurement, encoding.finished
    known = np.zeros(len(table))
    if measured.variance.any():
        one_run = predictor.thinned(DRAWS).unexplained_sd(table)
        log_loss = np.log(table["final_loss"].to_numpy(float))
        known = np.mean((measured.sd(0.0, table, log_loss) / one_run) ** 2, axis=0)
    points = np.round(encoding.discrepancy.local_points(table), 9)
    return neighbours.Residuals(points, 1.0 / measured.seeds, known, measured.weight)


def corrected(law: FittedLaw, learned: neighbours.Learned) -> FittedLaw:
    """The law, corrected by neighbouring runs with this share and these lengths.

    Parameters
    ----------
    law : FittedLaw
        Of a table with a local correction.
    learned : Learned
    """
    found = places(law.encoding, law.predictor())
    return replace(law, neighbours=neighbours.Neighbours(law.encoding, found, learned))


def learn(law: FittedLaw) -> FittedLaw:
    """The law with what its residuals tell of new runs.

    Parameters
    ----------
    law : FittedLaw
        As it was sampled.
    """
    e, n = law.encoding, len(law.encoding.finished)
    few, runs = law.predictor().thinned(DRAWS), neighbours.chosen_runs(n)
    found = places(e, few)
    asked = e.transfer and e.discrepancy.n_local > 0 and n >= FEWEST
    nearby = found.nearby(runs) if asked else {}
    near = np.unique(np.concatenate([runs, *(x.runs.ravel() for x in nearby.values())]))
    residuals = np.zeros((few.draws.n, n))
    residuals[:, near] = few.standard_residuals(e, e.rows(e.finished.iloc[near]), near)
    z = residuals[:, runs] / np.sqrt(found.own(0.0)[runs])
    if asked:
        learned = neighbours.learn(found, residuals, runs, nearby)
        if learned.clear:
            known = neighbours.Neighbours(e, found, learned)
            told = known.as_measured(known.leave_one_out(runs), runs)
            z = told.errors(residuals, residuals[:, runs])
            law = replace(law, neighbours=known)
    if np.isfinite(e.measurement.df):  # stated, and in the likelihood
        return law
    return replace(law, tails=tails.learn(z))
