"""Posterior draws by importance sampling: a mixture of Student-t's, weighted by the exact density.

The hyper-parameters are few and their density is cheap, so a proposal that resembles it gives
independent draws at a fraction of what chains cost.  It is built in rounds (adaptive multiple
importance sampling, Cornuet et al. 2012, doi:10.1111/j.1467-9469.2011.00756.x):

1. at the mode, a Student-t whose half-axes along the directions of the curvature are stretched
   until it covers the density on both sides (Geweke 1989, doi:10.2307/1913710);
2. then mixtures of Student-t's, fitted to the weighted draws so far, split along the direction of
   greatest skewness; a share of every round is drawn from a wider proposal, in defence.

Every draw is weighted by the density over the mixture of all proposals, and the weights are
smoothed (Vehtari et al. 2024, PSIS).  The gate is the shape of the weights' tail and the
effective number of draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from arviz_stats.base import array_stats
from scipy.linalg import solve_triangular
from scipy.special import gammaln, logsumexp, ndtri
from scipy.stats import chi2, qmc

MAX_PARETO_K, MIN_EFFECTIVE = 0.7, 400.0
"""The gate: shape of the weights' tail at most, effective draws at least."""

DEGREES, DEFENSIVE_DEGREES = 7.0, 3.0
"""Of freedom of the fitted components and of the defensive one (own choice)."""

DEFENSIVE_SHARE, DEFENSIVE_WIDTH = 0.1, 1.5
"""Of every later round drawn in defence, and its sds over those of all draws."""

ROUND, MOST_ROUNDS, COMPONENTS = 512, 10, 4
"""Draws of a round; rounds until the gate is given up; components of a mixture (own choice)."""

ADAPTED = 300
PRIOR, EM_STEPS = 2.0, 5
STRIDE, MOST_STRIDES, NEWTON_STEPS = 2.5, 5, 5
"""Steps along a ridge, in sds at the mode, how many, and Newton steps at each (own choice)."""

SLOWER, FAR, LEAST_SHARE = 0.7, 6.0, 0.03
"""A ridge goes on while the log density has fallen by less than this share of what a Gaussian
would, and by less than this; least share of the draws around each of its points (own choice)."""


@dataclass(frozen=True)
class Weighted:
    """Weighted draws.

    Parameters
    ----------
    x : array, shape (n, size)
    weight : array, shape (n,)
        Smoothed, summing to one.
    pareto_k : float
        Shape of the tail of the raw weights.
    """

    x: np.ndarray
    weight: np.ndarray
    pareto_k: float

    @property
    def ess(self) -> float:
        """Effective number of draws, ``1 / sum(weight^2)``."""
        return float(1.0 / np.sum(self.weight**2))

    @property
    def good(self) -> bool:
        """Whether the draws pass the gate."""
        return self.pareto_k <= MAX_PARETO_K and self.ess >= MIN_EFFECTIVE

    def resample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Indices of n equally weighted draws, by systematic resampling, in random order."""
        position = (np.arange(n) + rng.random()) / n
        index = np.searchsorted(np.cumsum(self.weight), position)
        return rng.permutation(np.minimum(index, self.weight.size - 1))


@dataclass(frozen=True)
class _Mixture:
    """Mixture of multivariate Student-t's."""

    share: np.ndarray
    centre: np.ndarray
    factor: np.ndarray
    degrees: np.ndarray

    def draw(self, u: np.ndarray) -> np.ndarray:
        last = u[:, -1]  # also picks the component, what is left of it is uniform again
        edge = np.concatenate([[0.0], np.cumsum(self.share)])
        which = np.clip(np.searchsorted(edge, last, side="right") - 1, 0, self.share.size - 1)
        rest = np.column_stack([u[:, :-1], (last - edge[which]) / self.share[which]])
        out = np.empty((len(u), u.shape[1] - 1))
        for k in range(self.share.size):
            i = which == k
            out[i] = self.centre[k] + _student(rest[i], self.degrees[k]) @ self.factor[k].T
        return out

    def log_density(self, x: np.ndarray) -> np.ndarray:
        return logsumexp(np.log(self.share)[:, None] + self.parts(x), axis=0)

    def parts(self, x: np.ndarray) -> np.ndarray:
        """Log density of each component, shape (components, n)."""
        out = np.empty((self.share.size, len(x)))
        for k in range(self.share.size):
            z = solve_triangular(self.factor[k], (x - self.centre[k]).T, lower=True)
            out[k] = _log_student(np.sum(z**2, axis=0), x.shape[1], self.degrees[k])
            out[k] -= np.log(np.diag(self.factor[k])).sum()
        return out


def _student(u: np.ndarray, degrees: float) -> np.ndarray:
    """Standard multivariate Student-t's of uniforms (n, size + 1); the last makes the radius."""
    u = np.clip(u, 1e-9, 1 - 1e-9)
    return ndtri(u[:, :-1]) * np.sqrt(degrees / chi2.ppf(u[:, -1:], degrees))


def _log_student(square: np.ndarray, size: int, degrees: float) -> np.ndarray:
    constant = gammaln(0.5 * (degrees + size)) - gammaln(0.5 * degrees)
    constant -= 0.5 * size * np.log(degrees * np.pi)
    return constant - 0.5 * (degrees + size) * np.log1p(square / degrees)


def _ridges(
    log_density: Callable[[np.ndarray], tuple[float, np.ndarray]],
    centre: np.ndarray,
    factor: np.ndarray,
) -> tuple[list[np.ndarray], list[float]]:
    """Points along which the density falls off more slowly than the Gaussian at its mode.

    From the mode every entry is moved to either side in steps, the others following: by what they
    do in the Gaussian, then by a few Newton steps with its precision.  Returns the points and how
    far the log density has fallen there.
    """
    size = centre.size
    covariance = factor @ factor.T
    sd = np.sqrt(np.diag(covariance))
    precision = np.linalg.inv(covariance)
    top = log_density(centre)[0]
    points, drops = [], []
    for j in range(size):
        rest = np.arange(size) != j
        newton = np.linalg.inv(precision[np.ix_(rest, rest)])
        for side in (-STRIDE, STRIDE):
            x = centre
            for step in range(1, MOST_STRIDES + 1):
                x = x + side * covariance[:, j] / sd[j]
                value, gradient = log_density(x)
                for _ in range(NEWTON_STEPS):
                    move = np.zeros(size)
                    move[rest] = newton @ gradient[rest]
                    length, before = 1.0, value
                    while length > 0.05:
                        trial, slope = log_density(x + length * move)
                        if trial > value:
                            x, value, gradient = x + length * move, trial, slope
                            break
                        length *= 0.4
                    if not value > before + 0.1:
                        break
                if not top - value < min(SLOWER * 0.5 * (step * STRIDE) ** 2, FAR):
                    break
                points.append(x)
                drops.append(top - value)
    return points, drops


def _first(
    log_density: Callable[[np.ndarray], tuple[float, np.ndarray]],
    curvature_factor: Callable[[np.ndarray], np.ndarray],
    centre: np.ndarray,
) -> _Mixture:
    """Student-t's at the mode and along its ridges, by the mass of the Gaussians fitted there."""
    factor = curvature_factor(centre)
    points, drops = _ridges(log_density, centre, factor)
    centres, factors, mass = [centre], [factor], [0.0]
    for x, drop in zip(points, drops, strict=True):
        own = curvature_factor(x)
        centres.append(x)
        factors.append(own)
        mass.append(min(-drop + np.linalg.slogdet(own)[1] - np.linalg.slogdet(factor)[1], 0.0))
    share = np.exp(mass)
    share = np.maximum(share / share.sum(), LEAST_SHARE)
    lower = [np.linalg.cholesky(f @ f.T) for f in factors]
    n = len(centres)
    return _Mixture(
        share / share.sum(), np.array(centres), np.array(lower), np.full(n, DEGREES)
    )


def _adapted(first: _Mixture, x: np.ndarray, weight: np.ndarray) -> _Mixture:
    """The first mixture, moved towards weighted draws by EM (Cappe et al. 2008).

    Each component keeps its place and shape at the start as if these had been seen `PRIOR` times
    as often as there are dimensions: few effective draws fix few directions.
    """
    size = x.shape[1]
    ess = 1.0 / np.sum(weight**2)
    seen = PRIOR * size
    mixture = first
    keep = weight > 0
    x, weight = x[keep], weight[keep]
    for _ in range(EM_STEPS):
        n = mixture.share.size
        log_r = np.log(mixture.share)[:, None] + mixture.parts(x)
        r = np.exp(log_r - logsumexp(log_r, axis=0)) * weight
        centre, factor = np.empty_like(mixture.centre), np.empty_like(mixture.factor)
        for k in range(n):
            z = solve_triangular(mixture.factor[k], (x - mixture.centre[k]).T, lower=True)
            nu = mixture.degrees[k]
            t = r[k] * (nu + size) / (nu + np.sum(z**2, axis=0)) * ess
            centre[k] = (t @ x + seen * first.centre[k]) / (t.sum() + seen)
            d = x - centre[k]
            c = (d * t[:, None]).T @ d + seen * first.factor[k] @ first.factor[k].T
            shift = centre[k] - first.centre[k]
            c += seen * np.outer(shift, shift)
            factor[k] = np.linalg.cholesky(c / (ess * r[k].sum() + seen))
        share = np.maximum(r.sum(axis=1), LEAST_SHARE)
        mixture = _Mixture(share / share.sum(), centre, factor, first.degrees)
    return mixture


def _smoothed(log_weight: np.ndarray) -> tuple[np.ndarray, float]:
    """Pareto-smoothed weights that sum to one, and the shape of their tail."""
    finite = np.isfinite(log_weight)
    weight = np.zeros(log_weight.size)
    smooth, k = array_stats.psislw(-log_weight[finite])  # takes minus log weights
    weight[finite] = np.exp(smooth - logsumexp(smooth))
    return weight, float(k)


def importance_draws(
    log_densities: Callable[[np.ndarray], np.ndarray],
    first: _Mixture,
    prior,
    *,
    rng: np.random.Generator,
    effective: float = MIN_EFFECTIVE,
    verbose=False,
) -> Weighted:
    """Weighted draws of a density that is concentrated around one mode, however skewed.

    Parameters
    ----------
    log_densities : callable
        Log density, up to a constant, of the rows of an array (n, size); -inf where it is zero.
    centre : array, shape (size,)
        Its mode.
    factor : array, shape (size, size)
        Factor of the covariance of a Gaussian fitted there.
    rng : numpy Generator
    effective : float
        Effective draws at which to stop; at least those of the gate are tried for.

    Returns
    -------
    Weighted
    """
    size = first.centre.shape[1]
    proposals = [first]
    x, target = np.empty((0, size)), np.empty(0)
    wanted = max(effective, MIN_EFFECTIVE)

    def drawn(proposal):
        # quasi-random points: the same rule at a fraction of the Monte-Carlo error
        u = qmc.Sobol(size + 1, rng=rng).random_base2(int(np.log2(ROUND)))
        new = proposal.draw(u)
        return new, log_densities(new)

    for done in range(1, MOST_ROUNDS + 1):
        new, value = drawn(proposals[-1])
        x, target = np.vstack([x, new]), np.append(target, value)
        mixture = logsumexp([p.log_density(x) for p in proposals], axis=0)
        weight, k = _smoothed(target - mixture)
        found = Weighted(x, weight, k)
        if verbose: print(done, f"k {k:.2f} ess {found.ess:.0f}", len(getattr(proposals[-1],'share',[0])))
        proposals.append(_adapted(first, x, weight))
        if done > 1 and k <= MAX_PARETO_K and found.ess >= ADAPTED:
            break
    last = proposals[-1]
    x, target = np.empty((0, size)), np.empty(0)
    for _ in range(MOST_ROUNDS):
        new, value = drawn(last)
        x, target = np.vstack([x, new]), np.append(target, value)
        weight, k = _smoothed(target - last.log_density(x))
        found = Weighted(x, weight, k)
        if verbose: print("final", f"k {k:.2f} ess {found.ess:.0f}", f"eff {found.ess/len(x):.2f}")
        if k <= MAX_PARETO_K and found.ess >= 1.25*wanted:
            break
    if verbose: print("evals",done*ROUND+len(x))
    return found
