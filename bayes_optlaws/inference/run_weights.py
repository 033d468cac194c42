r"""Weights of the runs under Student-t noise, by EM at the posterior mode.

Given the precision :math:`\lambda_i` of each run (`bayes_optlaws.model.student_t`) the model is the
one with normal noise, with everything but the hyper-parameters integrated out.  EM alternates
between the mode of the hyper-parameters given the weights, and weights and degrees of freedom given
the residuals that are expected there, over exponents, coefficients and discrepancy.  Weights and
degrees of freedom are then fixed, and the hyper-parameters are sampled as with normal noise: that
the weights are not known exactly is left out of the posterior, and is in the noise of any new run.
(Own choice; an approximation whose calibration is checked by simulation.)
"""

from __future__ import annotations

import numpy as np

from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.predictor import recover
from bayes_optlaws.kernels.hyper import noise_variance
from bayes_optlaws.kernels.threads import one_blas_thread
from bayes_optlaws.model import student_t
from bayes_optlaws.model.encoding import RunEncoding
from bayes_optlaws.model.priors import Priors

DRAWS = 100
"""Draws of exponents, coefficients and discrepancy that squared residuals are averaged over."""

MOST_ROUNDS, SETTLED = 10, 0.05
"""Rounds of EM at most; it ends when no log weight moves by more than this."""

CHUNK = 4096
"""Runs whose residuals are computed at a time."""

MOST_RESIDUALS = 200_000
"""Draws of residuals that degrees of freedom are learned from, at most."""


def weighted(
    encoding: RunEncoding, priors: Priors, start: np.ndarray | None = None
) -> tuple[RunEncoding, np.ndarray | None]:
    """Give the runs of an encoding the weights that Student-t noise gives them.

    Parameters
    ----------
    encoding : RunEncoding
        With equal weights.
    priors : Priors
        Their ``noise_df`` is used; where it is infinite nothing changes.
    start : array, optional
        Where the search for the mode begins, as a point of `HyperSpace`.

    Returns
    -------
    encoding : RunEncoding
    mode : array or None
        Mode of the hyper-parameters that was last found, near which sampling may start.
    """
    df = priors.noise_df
    if df is not None and np.isinf(df):
        return encoding, start
    rows, log_weight, mode = encoding.rows(), np.zeros(len(encoding.finished)), start
    with one_blas_thread():
        for _ in range(MOST_ROUNDS):
            space = HyperSpace(encoding.data, priors)
            mode = space.mode(mode)
            squared_z, some = _residuals(encoding, space, mode, rows)
            df = likely_df(some) if priors.noise_df is None else priors.noise_df
            new = np.log(student_t.expected_weight(squared_z, df))
            moved = float(np.max(np.abs(new - log_weight)))
            log_weight = new
            encoding = encoding.weighted(np.exp(log_weight), df, rows)
            if moved < SETTLED:
                break
    return encoding, mode


def likely_df(z: np.ndarray) -> float:
    """Degrees of freedom of highest posterior density, among `student_t.DEGREES`.

    Parameters
    ----------
    z : array, shape (draws, n)
        Residuals over noise sds; the log likelihood is their mean over draws.
    """
    value = [
        student_t.log_density(z, df).mean(axis=0).sum() + student_t.log_prior(np.array(df))
        for df in student_t.DEGREES
    ]
    return student_t.DEGREES[int(np.argmax(value))]


def _residuals(
    encoding: RunEncoding, space: HyperSpace, mode: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Squared residuals over noise variances expected at some hyper-parameters, shape (n,).

    And the draws (draws, n) of residuals over noise sds, not all where that would be many.
    """
    data, measured = encoding.data, encoding.measurement
    repeated = np.repeat(mode[None], DRAWS, axis=0)
    everything = np.ones(data.tree.n_combinations, dtype=bool)
    # the same draws in every round, so that rounds differ by the weights alone
    draws, _, share = recover(space, space.split(repeated), everything, np.random.default_rng(0))
    parts = (draws.beta, draws.fields.reshape(draws.n, -1), draws.local)
    coefficients = np.concatenate(parts, axis=1)[share > 0]
    noise_sd, noise_slope = space.kernel_inputs(space.split(mode))[:2]
    by_class = noise_variance(noise_sd, noise_slope, data.kernel_args(space.priors)[2])[0]
    sd = np.sqrt(by_class[measured.label] / measured.seeds)
    square, some = np.empty(len(rows)), []
    kept = max(1, min(DRAWS, MOST_RESIDUALS // len(rows)))
    for first in range(0, len(rows), CHUNK):
        i = slice(first, first + CHUNK)
        z = (encoding.response[i] - coefficients @ rows[i].T) / sd[i]
        square[i] = np.mean(z**2, axis=0)
        some.append(z[:kept])
    return square, np.concatenate(some, axis=1)
