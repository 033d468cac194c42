r"""Weights of the runs under Student-t noise, by variational Bayes.

Given the precision :math:`\lambda_i` of each run (`bayes_optlaws.model.student_t`) the model is the
one with normal noise, with everything but the hyper-parameters integrated out.  The posterior is
approximated by a product, of the precisions and of all else: the expected precision of a run
follows from its expected squared residual over exponents, coefficients, discrepancy and
hyper-parameters, these by a Gaussian fitted at their mode, and all else from the expected
precisions, in turn until both settle.  They are then fixed as weights, and the hyper-parameters are
sampled as with normal noise: that the weights are not known exactly is left out of the posterior,
and is in the noise of any new run.  (Own choice; an approximation whose calibration is checked by
simulation.)
"""

from __future__ import annotations

import numpy as np

from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.draws import recover
from bayes_optlaws.kernels.hyper import noise_variance
from bayes_optlaws.kernels.threads import one_blas_thread
from bayes_optlaws.model import student_t
from bayes_optlaws.model.encoding import RunEncoding
from bayes_optlaws.model.priors import Priors

DRAWS = 100
"""Draws of all but the weights that squared residuals are averaged over."""

MOST_ROUNDS, SETTLED = 10, 0.05
"""Rounds at most; they end when no log weight moves by more than this."""

CHUNK = 4096
"""Runs whose residuals are computed at a time."""


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
    if np.isinf(df):
        return encoding, start
    rows, log_weight, mode = encoding.rows(), np.zeros(len(encoding.finished)), start
    with one_blas_thread():
        for _ in range(MOST_ROUNDS):
            space = HyperSpace(encoding.data, priors)
            mode = space.mode(mode)
            squared_z = _squared_residuals(encoding, space, mode, rows)
            new = np.log(student_t.expected_weight(squared_z, df))
            moved = float(np.max(np.abs(new - log_weight)))
            log_weight = new
            encoding = encoding.weighted(np.exp(log_weight), df, rows)
            if moved < SETTLED:
                break
    return encoding, mode


def _squared_residuals(
    encoding: RunEncoding, space: HyperSpace, mode: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Expected squared residuals over noise variances, shape (n,)."""
    data, measured = encoding.data, encoding.measurement
    # the same numbers in every round, so that rounds differ by the weights alone
    rng = np.random.default_rng(0)
    x = mode + rng.standard_normal((DRAWS, space.size)) @ space.curvature_factor(mode).T
    everything = np.ones(data.tree.n_combinations, dtype=bool)
    draws, _, share = recover(space, space.split(x), everything, rng)
    parts = (draws.beta, draws.fields.reshape(draws.n, -1), draws.local)
    coefficients = np.concatenate(parts, axis=1)
    noise_sd, noise_slope = space.kernel_inputs(draws.hyper)[:2]
    covariates = data.kernel_args(space.priors)[2]
    by_class = np.array(
        [noise_variance(a, b, covariates)[0] for a, b in zip(noise_sd, noise_slope, strict=True)]
    )
    weight = share / share.sum()
    out = np.empty(len(rows))
    for first in range(0, len(rows), CHUNK):
        i = slice(first, first + CHUNK)
        error = encoding.response[i] - coefficients @ rows[i].T
        out[i] = weight @ (error**2 / by_class[:, measured.label[i]]) * measured.seeds[i]
    return out
