"""Posterior draws without a Markov chain: a Student-t at the mode, weighted by the exact density.

Studies that fit a law hundreds of times cannot afford NUTS.  Here the hyper-parameters are
proposed from a multivariate Student-t whose centre and covariance are those of the Gaussian at
the mode, and then, round by round, those of the weighted draws so far; every draw is weighted by
the exact density over the mixture of all proposals (Cornuet et al. 2012,
doi:10.1111/j.1467-9469.2011.00756.x), the weights are smoothed (Vehtari et al. 2024, PSIS), and
the draws resampled.  Exponents, coefficients and discrepancy are then drawn exactly, as after
NUTS.  `OptLaw.fit` does not use it: a proposal that misses a tail does not show it in the
weights, as chains would.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from arviz_stats.base import array_stats
from scipy.special import logsumexp, ndtri
from scipy.stats import multivariate_t, qmc

from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.predictor import Draws, recover

DEGREES = 7.0
"""Of freedom of the proposals: heavier tails than those of a Gaussian (own choice)."""

LEAST_ROUNDS, MOST_ROUNDS = 3, 6
"""Proposals made, each fitted to what the ones before it found, until the weights are good."""

GOOD_K, GOOD_SHARE = 0.7, 0.25
"""Good weights: Pareto shape at most this, effective draws at least this share of those wanted."""

REACH = 5.0
"""Draws further than this many prior sds from the prior's centre have weight zero."""


@dataclass(frozen=True)
class LaplaceSample:
    """Posterior draws by importance sampling.

    Parameters
    ----------
    draws : Draws
        Resampled, so equally weighted.
    ess : float
        Effective number of proposed draws, ``1 / sum(w^2)``.
    pareto_k : float
        Shape of the tail of the importance weights; above 0.7 the weights are unreliable.
    """

    draws: Draws
    ess: float
    pareto_k: float


def _smoothed(log_weight: np.ndarray) -> tuple[np.ndarray, float]:
    """Pareto-smoothed weights that sum to one, and the shape of their tail."""
    finite = np.isfinite(log_weight)
    weight = np.zeros(log_weight.size)
    smooth, k = array_stats.psislw(-log_weight[finite])  # takes minus log weights
    weight[finite] = np.exp(smooth - logsumexp(smooth))
    return weight, float(k)


def importance_draws(
    space: HyperSpace, *, draws: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float]:
    """Unconstrained hyper-parameters with their importance weights.

    Parameters
    ----------
    space : HyperSpace
    draws : int
        Evaluations of the density in each round.
    rng : numpy Generator

    Returns
    -------
    x : array, shape (n_rounds * draws, size)
    weight : array, shape (n_rounds * draws,)
        Smoothed, summing to one.
    pareto_k : float
    """
    size = space.size
    centre = space.mode()
    factor = space.curvature_factor(centre)
    covariance = factor @ factor.T
    laplace = covariance
    x, target, proposals = np.empty((0, size)), np.empty(0), []
    for done in range(1, MOST_ROUNDS + 1):
        # quasi-random points: the same rule at a fraction of the Monte-Carlo error
        points = qmc.Sobol(size, rng=rng).random_base2(int(np.ceil(np.log2(draws))))[:draws]
        normal = ndtri(np.clip(points, 1e-9, 1 - 1e-9))
        radius = np.sqrt(DEGREES / rng.chisquare(DEGREES, size=(draws, 1)))
        new = centre + radius * normal @ np.linalg.cholesky(covariance).T
        inside = np.all(np.abs(new - space.mean) <= REACH * space.sd, axis=1)
        value = np.full(draws, -np.inf)
        value[inside] = [space.log_density(v)[0] for v in new[inside]]
        x, target = np.vstack([x, new]), np.concatenate([target, value])
        proposals.append(multivariate_t(centre, covariance, df=DEGREES))
        mixture = logsumexp([p.logpdf(x) for p in proposals], axis=0)
        weight, k = _smoothed(target - mixture)
        ess = 1.0 / np.sum(weight**2)
        if done >= LEAST_ROUNDS and k <= GOOD_K and ess >= GOOD_SHARE * draws:
            break
        # few effective draws fix few directions: the Gaussian at the mode counts as `size` of them
        centre = weight @ x
        spread = (x - centre).T @ ((x - centre) * weight[:, None])
        covariance = (ess * spread + size * laplace) / (ess + size)
    return x, weight, k


def laplace_sample(
    space: HyperSpace, *, draws: int = 400, rng: np.random.Generator
) -> LaplaceSample:
    """Joint posterior draws of hyper-parameters, exponents, coefficients and discrepancy.

    Parameters
    ----------
    space : HyperSpace
        Of all exponent combinations.
    draws : int
        Draws returned, and evaluations of the density in each round.
    rng : numpy Generator

    Returns
    -------
    LaplaceSample

    Examples
    --------
    >>> import bayes_optlaws as bo
    >>> encoding = bo.OptLaw(transfer=False).encode(bo.datasets.load("pocket"))
    >>> space = HyperSpace(encoding.data, bo.Priors())
    >>> found = laplace_sample(space, draws=100, rng=np.random.default_rng(0))
    >>> found.draws.n, found.ess > 50, found.pareto_k < 0.7
    (100, True, True)
    """
    x, weight, k = importance_draws(space, draws=draws, rng=rng)
    position = (np.arange(draws) + rng.random()) / draws
    index = np.minimum(np.searchsorted(np.cumsum(weight), position), weight.size - 1)
    everything = np.ones(space.data.tree.n_combinations, dtype=bool)
    recovered, _ = recover(space, space.split(x[index]), everything, rng)
    return LaplaceSample(recovered, float(1.0 / np.sum(weight**2)), k)
