r"""What measured later-stage runs say about the scores of a law: quadrature and conditioning.

Log loss of configuration c in set g, seed r:

.. math::

    y_{gcr} = o_g + s_{gc} + d_{gc} + e_{gcr},\quad
    d \sim N(0, \tau^2),\ e \sim N(0, \sigma^2),\ o \sim N(0, L^2),

with :math:`s` the law's history-aware score, joint over all configurations and uncertain, `o` the
level that all configurations of a set share, `d` what the change of stage does to one of them.
:math:`\tau` and :math:`\sigma` get a grid; given them all is Gaussian.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular

from bayes_optlaws.inference.stage_change import StageChange
from bayes_optlaws.model.priors import LogNormal

N_DEVIATION, N_NOISE = 40, 5


@dataclass(frozen=True)
class StagePrior:
    """Prior of what a change of training stage does, relative to the loss (sds of log loss).

    The defaults of `change` and `deviation` are learned from the fifteen shipped sets of later
    stages (`studies/stage_prior.py`), the others are own choice. A user's own replace them.

    Parameters
    ----------
    deviation : LogNormal
        Sd of what the change does to one configuration beside the others of its set, and beside
        ``change``.
    noise : LogNormal
        Sd over seeds of one configuration.
    level_sd : float
        Sd of the level that a set has in common; so large that it hardly matters.
    change : StageChange
        What the change does as a function of peak LR, model size, tokens and shape.
    score_weight : float
        Share of the law's differences within a set that a later stage keeps. On the shipped sets
        0.2 to 0.3 ranks best where a set or a model size is left out, and 0.25 has the highest
        evidence of 0, 0.1, 0.25, 0.5 and 1 on the others, whichever is left out; 1 says too much.
    history : bool
        Take the law's history-aware score (the paper's, Section 5.3), not that of the stage's
        schedule as if trained from scratch. On the shipped sets it ranks other model sizes worse.
    """

    deviation: LogNormal = LogNormal(0.0016, 0.26)
    noise: LogNormal = LogNormal(0.002, 1.0)
    level_sd: float = 1.0
    change: StageChange = field(default_factory=StageChange.shipped)
    score_weight: float = 0.25
    history: bool = False

    @classmethod
    def paper(cls) -> StagePrior:
        """The paper's score, and a deviation of the size of its errors in Tables 4 and 5."""
        return cls(LogNormal(0.03, 1.0), change=StageChange.none(), score_weight=1.0, history=True)


@dataclass(frozen=True)
class StageData:
    """Measured configurations.

    Parameters
    ----------
    mean : array, shape (n,)
        Mean log loss over the runs of each configuration.
    runs : array, shape (n,)
        Number of those runs.
    squares : float
        Sum of squares of log losses around their configuration's mean.
    which_set : int array, shape (n,)
        Set of each configuration.
    """

    mean: np.ndarray
    runs: np.ndarray
    squares: float
    which_set: np.ndarray

    @property
    def degrees(self) -> float:
        """Degrees of freedom of the noise."""
        return float(np.sum(self.runs - 1))


@dataclass(frozen=True)
class Scales:
    """Posterior of the deviation and noise sds on a grid.

    Parameters
    ----------
    deviation : array, shape (a,)
    noise : array, shape (b,)
    weight : array, shape (a, b)
        Sums to one.
    log_evidence : float
        Of the contrasts within sets, up to a constant of the data.
    """

    deviation: np.ndarray
    noise: np.ndarray
    weight: np.ndarray
    log_evidence: float = 0.0

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Grid cells of ``n`` draws, stratified, in random order."""
        cumulative = np.cumsum(self.weight.ravel())
        at = (rng.permutation(n) + rng.random(n)) / n * cumulative[-1]
        return np.minimum(np.searchsorted(cumulative, at), cumulative.size - 1)

    def quantile(self, name: str, prob: np.ndarray | float) -> np.ndarray:
        """Quantiles of ``"deviation"`` or ``"noise"``, between grid points in their logarithm."""
        value, axis = (self.deviation, 1) if name == "deviation" else (self.noise, 0)
        mass = self.weight.sum(axis=axis)
        return np.exp(np.interp(prob, np.cumsum(mass) - 0.5 * mass, np.log(value)))


def noise_points(prior: LogNormal, squares: float, degrees: float) -> np.ndarray:
    """Equal-probability points of the noise sd given replicates, shape (N_NOISE,)."""
    value = prior.median * np.exp(np.linspace(-6, 6, 4001) * prior.log_sd)
    log_density = -0.5 * (np.log(value / prior.median) / prior.log_sd) ** 2
    log_density += -degrees * np.log(value) - 0.5 * squares / value**2
    cumulative = np.cumsum(np.exp(log_density - log_density.max()))
    return np.interp((np.arange(N_NOISE) + 0.5) / N_NOISE, cumulative / cumulative[-1], value)


def contrasts(which_set: np.ndarray) -> np.ndarray:
    """Orthonormal contrasts within sets: rows free of the sets' levels, shape (n - sets, n)."""
    rows = []
    for label in np.unique(which_set):
        inside = np.flatnonzero(which_set == label)
        m = inside.size
        basis = np.linalg.qr(np.column_stack([np.ones(m), np.eye(m)[:, 1:]]))[0][:, 1:]
        block = np.zeros((m - 1, which_set.size))
        block[:, inside] = basis.T
        rows.append(block)
    return np.vstack(rows) if rows else np.zeros((0, 0))


def learn_scales(
    mean: np.ndarray, cov: np.ndarray, data: StageData | None, prior: StagePrior
) -> Scales:
    """Posterior of the deviation and noise sds.

    Parameters
    ----------
    mean, cov : array, shape (n,), (n, n)
        Of the scores of the measured configurations.
    data : StageData or None
        None: the prior.
    prior : StagePrior

    Returns
    -------
    Scales

    Notes
    -----
    The likelihood of the means uses contrasts within sets alone, so that no level enters; that of
    the replicates is a scaled chi-square. Prior of the deviation: a grid in its logarithm.
    """
    p = prior.deviation
    grid = np.linspace(-3.5, 3.5, N_DEVIATION)
    deviation = p.median * np.exp(grid * p.log_sd)
    squares, degrees = (data.squares, data.degrees) if data is not None else (0.0, 0.0)
    noise = noise_points(prior.noise, squares, degrees)
    log_weight = np.repeat(-0.5 * grid[:, None] ** 2, noise.size, axis=1)
    if data is not None:
        c = contrasts(data.which_set)
        rest, inner = c @ (data.mean - mean), c @ cov @ c.T
        spread = (c / data.runs) @ c.T
        for i, t in enumerate(deviation):
            for j, s in enumerate(noise):
                v = inner + s**2 * spread
                v[np.diag_indices_from(v)] += t**2
                factor = cholesky(v, lower=True)
                w = solve_triangular(factor, rest, lower=True)
                log_weight[i, j] += -np.log(np.diag(factor)).sum() - 0.5 * w @ w
    top = log_weight.max()
    weight = np.exp(log_weight - top)
    return Scales(deviation, noise, weight / weight.sum(), float(top + np.log(weight.sum())))


def condition(
    scores: np.ndarray,
    data: StageData | None,
    set_of: np.ndarray,
    configuration: np.ndarray,
    scales: Scales,
    level_sd: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw expected log losses of new configurations given the measured ones.

    Parameters
    ----------
    scores : array, shape (n_draws, n_measured + n_new)
        Joint draws of the law's scores.
    data : StageData or None
    set_of : int array, shape (n_new,)
        Set of each new configuration, -1 where none of its set was measured: its level is then
        that of the score.
    configuration : int array, shape (n_measured + n_new,)
        Equal for what is one configuration.
    scales : Scales
    level_sd : float
    rng : numpy Generator

    Returns
    -------
    log_loss : array, shape (n_draws, n_new)
    noise : array, shape (n_draws,)
        Noise sd of each draw.

    Notes
    -----
    Pathwise: draw everything from the prior, then correct by the Gaussian gain times what the drawn
    data miss of the measured. The covariance of the scores is that of their draws.
    """
    n_draws, m = len(scores), 0 if data is None else data.mean.size
    cells = scales.draw(n_draws, rng)
    i, j = np.unravel_index(cells, scales.weight.shape)
    tau, sigma = scales.deviation[i], scales.noise[j]
    each, label = np.unique(configuration, return_inverse=True)
    fresh = (rng.standard_normal((n_draws, each.size)) * tau[:, None])[:, label]
    out = scores[:, m:] + fresh[:, m:]
    if data is None:
        return out, sigma
    level = level_sd * rng.standard_normal((n_draws, data.which_set.max() + 1))
    learned = set_of >= 0
    out[:, learned] += level[:, set_of[learned]]
    drawn = scores[:, :m] + fresh[:, :m] + level[:, data.which_set]
    drawn += rng.standard_normal(drawn.shape) * sigma[:, None] / np.sqrt(data.runs)
    cov = np.cov(scores.T)
    old = cov[:m, :m] + level_sd**2 * (data.which_set[:, None] == data.which_set)
    cross = cov[:m, m:] + level_sd**2 * (data.which_set[:, None] == set_of)
    alike = configuration[:m, None] == configuration[m:]
    for cell in np.unique(cells):
        mine = cells == cell
        a, b = np.unravel_index(cell, scales.weight.shape)
        t2, s2 = scales.deviation[a] ** 2, scales.noise[b] ** 2
        factor = cho_factor(old + np.diag(t2 + s2 / data.runs), lower=True)
        gain = cho_solve(factor, cross + t2 * alike)
        out[mine] += (data.mean - drawn[mine]) @ gain
    return out, sigma


def given_data(
    scores: np.ndarray,
    data: StageData | None,
    which_set: np.ndarray,
    configuration: np.ndarray,
    deviation: float,
    noise: float,
    level_sd: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of expected log losses given the measured ones, the sds known.

    What `condition` draws from, in closed form, with the level of every set, also of those without
    a run.

    Parameters
    ----------
    scores : array, shape (n_draws, n_measured + n_new)
        Joint draws of the law's scores; their mean and covariance are taken.
    data : StageData or None
    which_set, configuration : int array, shape (n_measured + n_new,)
        Equal for what is one set, or one configuration.
    deviation, noise, level_sd : float

    Returns
    -------
    mean : array, shape (n_new,)
    cov : array, shape (n_new, n_new)
    """
    m = 0 if data is None else data.mean.size
    mean = scores.mean(axis=0)
    cov = np.cov(scores.T) + level_sd**2 * (which_set[:, None] == which_set)
    cov += deviation**2 * (configuration[:, None] == configuration)
    if data is None:
        return mean, cov
    old = cov[:m, :m] + np.diag(noise**2 / data.runs)
    gain = cho_solve(cho_factor(old, lower=True), cov[:m, m:])
    new = cov[m:, m:] - cov[m:, :m] @ gain
    return mean[m:] + (data.mean - mean[:m]) @ gain, 0.5 * (new + new.T)
