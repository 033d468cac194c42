"""Posterior draws by importance sampling: a mixture of Student-t's, weighted by the exact density.

The hyper-parameters are few and their density is cheap, so a proposal that resembles it gives
independent draws at a fraction of what chains cost:

1. Student-t's at the mode and along its ridges, that is where the density falls off more slowly
   than the Gaussian fitted at the mode (the noise floor of a small table has such a tail); centre
   and covariance of each are those of the Gaussian fitted there.
2. Rounds of draws move the mixture towards the density by EM on the weighted draws (population
   Monte Carlo, Cappe et al. 2008, doi:10.1007/s11222-008-9059-x), where every draw is weighted by
   the density over the mixture of all proposals so far (Cornuet et al. 2012,
   doi:10.1111/j.1467-9469.2011.00756.x).
3. The mixture is then left as it is, and fresh draws are made from it.  Only these are used: the
   draws that shaped a proposal do not show where it is too narrow.

The weights are smoothed (Vehtari et al. 2024, PSIS).  The gate is the shape of their tail and the
effective number of draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from arviz_stats.base import array_stats
from scipy.linalg import solve_triangular
from scipy.special import gammaln, logsumexp, ndtri
from scipy.stats import chi2, qmc

from bayes_optlaws.inference.resampling import systematic

MAX_PARETO_K, MIN_EFFECTIVE = 0.7, 400.0
"""The gate: shape of the weights' tail at most, effective draws at least."""

DEGREES = 7.0
"""Of freedom of the proposals: heavier tails than those of a Gaussian (own choice)."""

ROUND, MOST_ROUNDS = 512, 10
"""Draws of a round, and most rounds that shape the proposal and that are drawn from it."""

ADAPTED, ATTEMPTS = 300.0, 2
"""Effective draws at which the proposal is left as it is, and how often it is shaped (the second
time with all draws until then, and until twice as many)."""

SURPLUS = 1.25
"""Effective draws aimed at, over those that the gate asks for."""

PRIOR_STRENGTH, EM_STEPS = 5.0, 5
"""Draws that the first mixture counts as in each component, per dimension; steps of EM."""

STRIDE, MOST_STRIDES, NEWTON_STEPS = 2.5, 5, 5
"""Steps along a ridge, in sds at the mode, how many, and Newton steps at each (own choice)."""

SLOWER, FAR, LEAST_SHARE = 0.7, 6.0, 0.03
"""A ridge goes on while the log density has fallen by less than this share of what a Gaussian
would, and by less than this; least share of the draws around each of its points (own choice)."""

REACH = 8.0
"""Draws further than this many prior sds from the prior's centre have weight zero.

Losses without noise put the noise sd at six below the prior's centre."""


class Density(Protocol):
    """A density over unconstrained vectors, as `bayes_optlaws.inference.density.HyperSpace`."""

    mean: np.ndarray
    """Centre of the normal prior, shape (size,)."""
    sd: np.ndarray
    """Its sds."""

    def mode(self, start: np.ndarray | None = None) -> np.ndarray:
        """Mode, shape (size,), searched from ``start``."""
        ...

    def curvature_factor(self, x: np.ndarray) -> np.ndarray:
        """Factor of the covariance of a Gaussian fitted at x."""
        ...

    def log_density(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Log density up to a constant, and its gradient."""
        ...

    def log_densities(self, x: np.ndarray) -> np.ndarray:
        """Log density at each row of x, shape (n,)."""
        ...


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
    evaluations : int
        Of the density without gradient, those that only shaped the proposal included.
    """

    x: np.ndarray
    weight: np.ndarray
    pareto_k: float
    evaluations: int

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
        return rng.permutation(systematic(self.weight, n, rng))


@dataclass(frozen=True)
class _Mixture:
    """Mixture of multivariate Student-t's.

    Parameters
    ----------
    share : array, shape (n,)
    centre : array, shape (n, size)
    factor : array, shape (n, size, size)
        Lower triangular.
    """

    share: np.ndarray
    centre: np.ndarray
    factor: np.ndarray

    def draw(self, u: np.ndarray) -> np.ndarray:
        """Draws, shape (n, size), of uniforms of shape (n, size + 1)."""
        last = u[:, -1]  # also picks the component, what is left of it is uniform again
        edge = np.concatenate([[0.0], np.cumsum(self.share)])
        which = np.clip(np.searchsorted(edge, last, side="right") - 1, 0, self.share.size - 1)
        rest = np.column_stack([u[:, :-1], (last - edge[which]) / self.share[which]])
        out = np.empty((len(u), u.shape[1] - 1))
        for k in range(self.share.size):
            i = which == k
            out[i] = self.centre[k] + _student(rest[i]) @ self.factor[k].T
        return out

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """Log density at each row, shape (n,)."""
        return logsumexp(np.log(self.share)[:, None] + self.parts(x), axis=0)

    def parts(self, x: np.ndarray) -> np.ndarray:
        """Log density of each component, shape (components, n)."""
        out = np.empty((self.share.size, len(x)))
        for k in range(self.share.size):
            z = solve_triangular(self.factor[k], (x - self.centre[k]).T, lower=True)
            out[k] = _log_student(np.sum(z**2, axis=0), x.shape[1])
            out[k] -= np.log(np.diag(self.factor[k])).sum()
        return out


def _student(u: np.ndarray) -> np.ndarray:
    """Standard multivariate Student-t's of uniforms (n, size + 1); the last makes the radius."""
    u = np.clip(u, 1e-9, 1 - 1e-9)
    return ndtri(u[:, :-1]) * np.sqrt(DEGREES / chi2.ppf(u[:, -1:], DEGREES))


def _log_student(square: np.ndarray, size: int) -> np.ndarray:
    constant = gammaln(0.5 * (DEGREES + size)) - gammaln(0.5 * DEGREES)
    constant -= 0.5 * size * np.log(DEGREES * np.pi)
    return constant - 0.5 * (DEGREES + size) * np.log1p(square / DEGREES)


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


def _first(density: Density, start: np.ndarray | None) -> _Mixture:
    """Student-t's at the mode and along its ridges, by the mass of the Gaussians fitted there."""
    centre = density.mode(start)
    factor = density.curvature_factor(centre)
    points, drops = _ridges(density.log_density, centre, factor)
    factors = [factor, *(density.curvature_factor(x) for x in points)]
    size = np.array([np.linalg.slogdet(f)[1] for f in factors])
    # a point on a ridge stands for its neighbourhood, which is no heavier than the mode's
    mass = np.minimum(size - size[0] - np.array([0.0, *drops]), 0.0)
    share = np.exp(mass - logsumexp(mass))
    share = np.maximum(share, LEAST_SHARE)
    lower = np.array([np.linalg.cholesky(f @ f.T) for f in factors])
    return _Mixture(share / share.sum(), np.array([centre, *points]), lower)


def _adapted(first: _Mixture, x: np.ndarray, weight: np.ndarray) -> _Mixture:
    """The first mixture, moved towards weighted draws by EM (Cappe et al. 2008).

    Each component keeps its place and shape at the start as if these had been seen
    `PRIOR_STRENGTH` times as often as there are dimensions: few effective draws fix few
    directions.
    """
    size = x.shape[1]
    ess = 1.0 / np.sum(weight**2)
    seen = PRIOR_STRENGTH * size
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
            t = r[k] * (DEGREES + size) / (DEGREES + np.sum(z**2, axis=0)) * ess
            centre[k] = (t @ x + seen * first.centre[k]) / (t.sum() + seen)
            d = x - centre[k]
            c = (d * t[:, None]).T @ d + seen * first.factor[k] @ first.factor[k].T
            shift = centre[k] - first.centre[k]
            c += seen * np.outer(shift, shift)
            factor[k] = np.linalg.cholesky(c / (ess * r[k].sum() + seen))
        share = np.maximum(r.sum(axis=1), LEAST_SHARE)
        mixture = _Mixture(share / share.sum(), centre, factor)
    return mixture


class _Rounds:
    """Rounds of draws that shape a proposal."""

    def __init__(
        self, density: Density, rng: np.random.Generator, start: np.ndarray | None
    ) -> None:
        self.density, self.rng = density, rng
        self.first = self.current = _first(density, start)
        size = self.first.centre.shape[1]
        self.x, self.target = np.empty((0, size)), np.empty(0)
        self.drawn: list[tuple[_Mixture, int]] = []

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        """A round of the current proposal, and its log density."""
        size = self.x.shape[1]
        # quasi-random points: the same rule at a fraction of the Monte-Carlo error
        u = qmc.Sobol(size + 1, rng=self.rng).random_base2(int(np.log2(ROUND)))
        new = self.current.draw(u)
        value = np.full(ROUND, -np.inf)
        inside = np.all(np.abs(new - self.density.mean) <= REACH * self.density.sd, axis=1)
        value[inside] = self.density.log_densities(new[inside])
        return new, value

    def add(self, x: np.ndarray, target: np.ndarray) -> None:
        """Take draws of the current proposal among those that shape the next."""
        self.x, self.target = np.vstack([self.x, x]), np.append(self.target, target)
        self.drawn.append((self.current, len(x)))

    def shape(self, enough: float) -> Weighted:
        """Move the proposal until there are enough effective draws; return all draws so far."""
        for _ in range(MOST_ROUNDS):
            self.add(*self.draw())
            found = _weighted(self.x, self.target, self.drawn, len(self.x))
            self.current = _adapted(self.first, found.x, found.weight)
            if found.pareto_k <= MAX_PARETO_K and found.ess >= enough:
                break
        return found


def pilot_draws(
    density: Density, *, rng: np.random.Generator, start: np.ndarray | None = None
) -> Weighted:
    """Weighted draws that say where a density lies, for chains to start from; cheap.

    They are those that shape the proposal of `importance_draws`, so their weights look better than
    they are: not for estimates.

    Parameters
    ----------
    density : Density
    rng : numpy Generator
    start : array, optional
        Where the search for the mode begins.
    """
    return _Rounds(density, rng, start).shape(0.5 * ADAPTED)


def importance_draws(
    density: Density,
    *,
    rng: np.random.Generator,
    effective: float = MIN_EFFECTIVE,
    start: np.ndarray | None = None,
) -> Weighted:
    """Weighted draws of a density that is concentrated around one mode, however skewed.

    Parameters
    ----------
    density : Density
    rng : numpy Generator
    effective : float
        Effective draws that are wanted; at least those of the gate are tried for.
    start : array, optional
        Where the search for the mode begins.

    Returns
    -------
    Weighted
        Whether they pass the gate is for the caller to ask (`Weighted.good`).

    Examples
    --------
    >>> import bayes_optlaws as bo
    >>> from bayes_optlaws.inference.density import HyperSpace
    >>> runs = bo.read_runs(bo.datasets.load("pocket"))
    >>> data = bo.OptLaw(transfer=False).encode(runs).data
    >>> space = HyperSpace(data, bo.Priors())
    >>> found = importance_draws(space, rng=np.random.default_rng(0))
    >>> found.good, found.x.shape[1] == space.size
    (True, True)
    """
    rounds = _Rounds(density, rng, start)
    wanted = SURPLUS * max(effective, MIN_EFFECTIVE)
    most = int(np.ceil(MOST_ROUNDS * wanted / (SURPLUS * MIN_EFFECTIVE)))
    for attempt in range(1, ATTEMPTS + 1):
        rounds.shape(attempt * ADAPTED)
        parts = []
        for done in range(1, most + 1):
            parts.append(rounds.draw())
            x, target = np.vstack([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
            found = _weighted(x, target, [(rounds.current, 1)], len(rounds.x) + len(x))
            if found.pareto_k <= MAX_PARETO_K and found.ess >= wanted:
                return found
            if attempt < ATTEMPTS and done >= 4 and found.ess * most / done < 0.8 * wanted:
                break  # it would not get there: better spent on a better proposal
        rounds.add(x, target)
    return found


def _weighted(
    x: np.ndarray, target: np.ndarray, drawn: list[tuple[_Mixture, int]], evaluations: int
) -> Weighted:
    """Smoothed weights of draws over the mixture of what they were drawn from."""
    parts = [np.log(n) + proposal.log_density(x) for proposal, n in drawn]
    log_weight = target - logsumexp(parts, axis=0)
    finite = np.isfinite(log_weight)
    if finite.sum() < 25:  # too few for a tail
        return Weighted(x, np.full(len(x), 1.0 / len(x)), np.inf, evaluations)
    weight = np.zeros(len(x))
    smooth, k = array_stats.psislw(-log_weight[finite])  # takes minus log weights
    weight[finite] = np.exp(smooth - logsumexp(smooth))
    return Weighted(x, weight, float(k), evaluations)
