r"""Leave-one-out cross-validation of a law with its Gaussian part integrated out.

Given hyper-parameters and exponents the model is a Gaussian linear one, so the predictive
density of run i given all others is closed-form: with residual :math:`r_i` at the posterior mean
of the coefficients and leverage :math:`h_i`, its expected loss is normal with mean
:math:`y_i - r_i/(1-h_i)` and variance :math:`\sigma_i^2 h_i/(1-h_i)`, to which its noise adds.
Where the residuals of neighbouring runs correct predictions (`bayes_optlaws.model.neighbours`),
those of the others do so here: the run's row and response are less theirs by their weights.
With Student-t noise the other runs keep the weights that they have in the fit to all.  What is
left to importance sampling is only the change of the few hyper-parameters, so Pareto k is small
where ordinary PSIS-LOO would fail.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr
from arviz_stats import ELPDData
from arviz_stats import loo as psis_loo
from arviz_stats.base import array_stats
from scipy.linalg import block_diag, cho_factor, cho_solve, solve_triangular
from scipy.sparse import csr_array

from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.draws import Draws
from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.kernels.hyper import hyper_inputs
from bayes_optlaws.kernels.threads import one_blas_thread
from bayes_optlaws.model import student_t
from bayes_optlaws.model.encoding import RunEncoding
from bayes_optlaws.model.neighbours import Neighbours

MAX_DRAWS = 500


class LooMoments(NamedTuple):
    """What the others say of each finished run, arrays of shape (draws, n).

    Parameters
    ----------
    error : array
        Log loss of the run less its mean given the others.
    mean_sd : array
        Sd of that mean.
    noise_sd : array
        Of the run's own noise.
    """

    error: np.ndarray
    mean_sd: np.ndarray
    noise_sd: np.ndarray

    @property
    def sd(self) -> np.ndarray:
        """Of the error."""
        return np.hypot(self.mean_sd, self.noise_sd)


def loo_moments(law: FittedLaw, *, max_draws: int = MAX_DRAWS) -> LooMoments:
    """Error of each finished run given the others, and its two sds.

    Parameters
    ----------
    law : FittedLaw
    max_draws : int
        Posterior draws used, evenly spaced.

    Returns
    -------
    LooMoments
        In the order of the run table without its divergent rows.
    """
    draws, encoding = law.draws.thin(max_draws), law.encoding
    data = encoding.data
    n, known = len(encoding.finished), encoding.prior_response
    # prior knowledge, as published slopes, is conditioned on, never left out
    rows = np.vstack([encoding.rows(), encoding.prior_rows])
    y = np.concatenate([encoding.response, known])
    measured = encoding.measurement
    label = np.concatenate([measured.label, np.full(known.size, len(data.noise_covariates))])
    # a mean over seeds enters the likelihood times the root of their number
    times = np.concatenate([measured.times, np.ones(known.size)])
    rows, y = rows * times[:, None], y * times
    q = data.column_block.size
    error, mean_sd, noise_sd = (np.empty((draws.n, n)) for _ in range(3))
    missed = missed_variance(encoding)
    near = None
    if law.neighbours is not None:
        near = _near(law, law.neighbours, draws, times[:n])
        missed = missed * near.left
    inputs = HyperSpace(data, law.priors).kernel_inputs(draws.hyper)
    layout, fields = data.kernel_args(law.priors)[:4], inputs[4]
    with one_blas_thread():  # the matrices are small: threads only get in their own way
        for s in range(draws.n):
            w, d, scale, _ = hyper_inputs(*(v[s] for v in inputs), *layout)
            selected = data.tree.selected(draws.combination[s])
            x = rows[:, selected] / np.sqrt(d[selected])
            if rows.shape[1] > q:
                transform = block_diag(*[a * scale for a in fields[s]], np.diag(inputs[5][s]))
                x = np.hstack([x, rows[:, q:] @ transform])
            precision = w[label]
            weighted = x * precision[:, None]
            factor = cho_factor(np.eye(x.shape[1]) + x.T @ weighted, lower=True)
            residual = y - x @ cho_solve(factor, weighted.T @ y)
            half = solve_triangular(factor[0], x.T, lower=True)
            leverage = precision * np.sum(half**2, axis=0)
            keep = (1.0 - leverage)[:n]
            noise_sd[s] = 1.0 / np.sqrt(precision[:n] * measured.seeds)
            mine, own = half[:, :n], residual[:n]
            less, own_less = mine, own
            if near is not None:
                less, own_less = near.less(mine, s), near.less(own, s)
                noise_sd[s] *= near.noise
            cross = np.sum(less * mine, axis=0)
            square = np.sum(less**2, axis=0) + cross**2 * precision[:n] / keep
            error[s] = (own_less + cross * precision[:n] * own / keep) / times[:n]
            mean_sd[s] = np.sqrt(square) / times[:n]
            if data.n_local:
                mean_sd[s] = np.hypot(mean_sd[s], draws.hyper["local_sd"][s] * np.sqrt(missed))
    return LooMoments(error, mean_sd, noise_sd)


class _Near(NamedTuple):
    """Weights of the other runs' residuals, the runs' sds by draw, and what they leave.

    ``noise`` is the factor of the sd of a row's noise as it was measured, ``left`` that of the
    variance of a run's whole unexplained part.
    """

    weight: csr_array
    sd: np.ndarray
    noise: np.ndarray
    left: np.ndarray

    def less(self, values: np.ndarray, draw: int) -> np.ndarray:
        """Values of the runs, along the last axis, less what those of the others tell."""
        sd = self.sd[draw]
        return values - sd * (self.weight @ (values / sd).T).T


def _near(law: FittedLaw, known: Neighbours, draws: Draws, times: np.ndarray) -> _Near:
    every = np.arange(len(law.encoding.finished))
    told = known.leave_one_out(every)
    sd = law.predictor(draws).unexplained_sd(law.encoding.finished)
    noise = np.sqrt(known.as_measured(told, every).left / known.residuals.own(0.0))
    return _Near(told.matrix(every), sd * times, noise, told.left)


def missed_variance(encoding: RunEncoding) -> np.ndarray:
    """Variance, per unit sd, that the local functions leave out of each run, shape (n,).

    The others say nothing of it, so it is part of what is not known of a run left out, as it is
    of any new run.  Where the functions were learned from the runs themselves, those learned
    without run i leave out more of it: by 1 / (1 - h)^2, with h its leverage on their span, the
    first-order formula of principal components.
    """
    d, table = encoding.discrepancy, encoding.finished
    if not (encoding.transfer and d.n_local):
        return np.zeros(len(table))
    points = d.local_points(table)
    growth, phi = d.local_growth(points), d.local_functions(points)
    missed = d.local_missed_variance(points, phi)
    _, which, times = np.unique(
        np.round(points, 9), axis=0, return_inverse=True, return_counts=True
    )
    if len(times) == len(d.points):
        vector = phi / growth[:, None] * np.sqrt(np.sum(d.directions**2, axis=0))
        alone = times[which.ravel()] == 1
        leverage = np.where(alone, np.minimum(np.sum(vector**2, axis=1), 0.9), 0.0)
        missed /= (1.0 - leverage) ** 2
    return missed


def loo_density(law: FittedLaw, *, max_draws: int = MAX_DRAWS) -> np.ndarray:
    """Log predictive density of each finished run given the others, shape (draws, n).

    Parameters
    ----------
    law : FittedLaw
    max_draws : int
        Posterior draws used, evenly spaced.
    """
    moments = loo_moments(law, max_draws=max_draws)
    return student_t.log_density_around(*moments, law.noise_df)


def loo_pit(law: FittedLaw, *, max_draws: int = MAX_DRAWS) -> np.ndarray:
    """Probability, given all other runs, that each run ends lower than it did, shape (n,).

    Uniform for a calibrated law. Hyper-parameters are re-weighted by PSIS, as in `loo`.

    Parameters
    ----------
    law : FittedLaw
    max_draws : int
        Posterior draws used, evenly spaced.

    Returns
    -------
    ndarray, shape (n,)
        In [0, 1], in the order of the run table without its divergent rows.
    """
    moments, df = loo_moments(law, max_draws=max_draws), law.noise_df
    density = student_t.log_density_around(*moments, df)
    log_weight, _ = array_stats.psislw(-density.T, axis=-1)
    weight = np.exp(log_weight.T - log_weight.max(axis=-1))
    below = student_t.probability_below(*moments, df)
    return np.sum(weight * below, axis=0) / weight.sum(axis=0)


def loo(law: FittedLaw) -> ELPDData:
    """PSIS-LOO of a fitted law; see `loo_density`."""
    chains = law.sample.chains
    density = loo_density(law)
    usable = density.shape[0] // chains * chains
    tree = xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset(
                {"noise_sd": (("chain", "draw"), np.zeros((chains, usable // chains)))}
            ),
            "log_likelihood": xr.Dataset(
                {
                    "log_loss": (
                        ("chain", "draw", "run"),
                        density[:usable].reshape(chains, usable // chains, -1),
                    )
                },
                coords={"run": law.encoding.finished["run_id"].to_numpy()},
            ),
        }
    )
    return psis_loo(tree, pointwise=True, var_name="log_loss", reff=1.0)
