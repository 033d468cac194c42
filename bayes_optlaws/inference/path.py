r"""Where a loss curve is going: the end of a run from its beginning and its schedule.

The path of the log loss, with :math:`s` the share of the area under the learning rate that is done,

.. math::

    \log L(t) = \ell + A\,\frac{s^{-\alpha} - 1}{\alpha} + C\,(g_\text{end} - g(t)) + \delta(t),

where :math:`\ell` is its end, A its slope in :math:`\log s` there, and g the gain of annealing:
every fall of :math:`(\mathrm{lr}/\mathrm{peak})^p` counts :math:`1 - (1 + x/\tau)^{-1/2}`, x
being the share of the area since.  A power law in the area and a sum over the falls are the
Multi-Power-Law's (Luo et al., arXiv:2503.12811); the power p of the learning rate, the units
(shares of the run, log loss) and the misfit are our own choice.  Without p the last part of a
long decay is predicted too high.

Given the shape :math:`(\alpha, p, \tau)` all is linear and Gaussian, so the likelihood of the end
is a mixture of normals over a grid of shapes, in closed form: no sampling, no start values.  The
misfit :math:`\delta` is a Wiener process in :math:`\log s` and one in the gain that is still to
come, both zero at the end of the run, so recent points count more than old ones and the uncertainty
grows with what is to come; its size is a part of the grid.

How much a decay gains grows with the peak learning rate, :math:`C \propto \mathrm{lr}^\xi`.  The
constants are those under which the ends of the pocket grid's finished curves, seen at 25, 50 and
75 %, are most likely (`studies.watch_curves`); that a gain elsewhere may be a third
larger or smaller is our own choice, because one training set-up cannot teach it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from bayes_optlaws.schedules import Schedule

ALPHAS = (0.05, 0.15, 0.25, 0.35, 0.45, 0.6, 0.8, 1.0)
"""Exponents of the area."""

SHAPES = ((0.3, 5e-4), (0.6, 5e-4), (1.0, 5e-4), (0.3, 0.03), (0.6, 0.03), (1.0, 0.03))
"""Powers p of the learning rate and memories tau of the gain."""

SETTLING = (0.6, 0.03)
"""Power and memory of the gain that the misfit of annealing goes by: slow, so that it lasts until
the loss has settled after a fall of the learning rate."""

MISFITS, MISFIT_WEIGHTS = (1.0, 2.0, 4.0), (0.7, 0.2, 0.1)
"""Multiples of the misfit's sd, and their prior probabilities."""

LEVEL_SD = 30.0
"""Prior sd of the end, log loss: as good as flat."""

BINS, NODES = 32, 4000
"""Points that a curve is reduced to, and nodes at which the schedule is evaluated."""

LEAST_POINTS = 8
"""Points after the warm-up that a forecast needs."""

EARLIEST = 0.03
"""Share of the run before which the power law does not hold."""


@dataclass(frozen=True)
class PathPrior:
    """What is known of paths before a curve is seen.

    Parameters
    ----------
    gain : float
        Fall of the log loss by annealing to zero throughout a run, at a peak LR of 1e-3.
    gain_power : float
        Its exponent in the peak LR.
    gain_spread : float
        Its sd as a part of it.
    slope, slope_sd : float
        Mean and sd of the fall of the log loss per nat of learning-rate area at the end.
    misfit, annealing_misfit : float
        Sd of the misfit over one nat of area, and over a whole decay as a part of the gain.
    floor : float
        Sd of what is left of a point's noise however many are averaged, log loss.

    Examples
    --------
    >>> round(PathPrior().gain_at(1e-3), 3) == PathPrior().gain
    True
    """

    gain: float = 0.082
    gain_power: float = 0.342
    gain_spread: float = 0.35
    slope: float = 0.041
    slope_sd: float = 0.056
    misfit: float = 0.00144
    annealing_misfit: float = 0.035
    floor: float = 0.00039

    def __post_init__(self) -> None:
        """Refuse what is no distribution."""
        for name, value in vars(self).items():
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"PathPrior.{name} must be positive and finite, got {value!r}")

    def gain_at(self, peak_lr: float) -> float:
        """Gain of annealing to zero throughout a run at a peak LR."""
        return self.gain * (peak_lr / 1e-3) ** self.gain_power


@dataclass(frozen=True)
class EndForecast:
    """What a curve says of the log loss at the end of its run: a mixture of normals.

    Parameters
    ----------
    weight, mean, variance : arrays, shape (n,)
        Of the components; weights sum to one.
    gain, gain_sd : float
        Posterior mean and sd of the gain C.
    """

    weight: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    gain: float
    gain_sd: float

    def shifted(self, nats: float, sd: float) -> EndForecast:
        """Forecast of a loss that is lower by ``nats``, known to within ``sd``.

        Parameters
        ----------
        nats, sd : float
        """
        end = np.exp(self.mean)
        if np.any(end <= nats):
            raise ValueError(
                f"shift is {nats:g}: the curve itself ends lower, near {end.min():.3g}"
            )
        variance = self.variance + (sd / end) ** 2
        return EndForecast(self.weight, np.log(end - nats), variance, self.gain, self.gain_sd)

    def given(self, mean: float, variance: float) -> EndForecast:
        """Posterior of the end with a normal prior, as the law's prediction.

        Parameters
        ----------
        mean, variance : float
            Of the log loss at the end.
        """
        total = self.variance + variance
        log = np.log(self.weight) - 0.5 * np.log(total) - 0.5 * (self.mean - mean) ** 2 / total
        k = variance / total
        return EndForecast(
            np.exp(log - logsumexp(log)), mean + k * (self.mean - mean), k * self.variance,
            self.gain, self.gain_sd,
        )  # fmt: skip

    def log_density(self, end: float) -> float:
        """Log density of a log loss."""
        square = (end - self.mean) ** 2 / self.variance
        terms = np.log(self.weight) - 0.5 * np.log(2 * np.pi * self.variance) - 0.5 * square
        return float(logsumexp(terms))

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draws of the log loss, shape (n,).

        Parameters
        ----------
        n : int
        rng : numpy Generator
        """
        i = rng.choice(self.weight.size, size=n, p=self.weight)
        return self.mean[i] + np.sqrt(self.variance[i]) * rng.standard_normal(n)

    @property
    def moments(self) -> tuple[float, float]:
        """Mean and variance."""
        mean = float(self.weight @ self.mean)
        return mean, float(self.weight @ (self.variance + (self.mean - mean) ** 2))


@dataclass(frozen=True)
class Path:
    """The schedule of a run as its curve sees it, at nodes over its steps.

    Parameters
    ----------
    step, lr, share : arrays, shape (n_nodes,)
        Steps done, learning rate, and share of the area under it that is done.
    start : float
        Step after which the curve is used.
    """

    step: np.ndarray
    lr: np.ndarray
    share: np.ndarray
    start: float

    @classmethod
    def of(cls, schedule: Schedule) -> Path:
        """Evaluate a schedule.

        Parameters
        ----------
        schedule : Schedule
        """
        step = np.unique(np.concatenate([
            np.linspace(0.0, schedule.steps, NODES),
            [schedule.warmup_steps, schedule.decay_end_step, schedule.cooldown_start_step],
        ]))  # fmt: skip
        lr = np.asarray(schedule.lr(step), dtype=float)
        area = np.concatenate([[0.0], np.cumsum(0.5 * (lr[1:] + lr[:-1]) * np.diff(step))])
        start = max(schedule.warmup_steps, EARLIEST * schedule.steps)
        return cls(step, lr, area / area[-1], start)

    @property
    def peak(self) -> float:
        """Highest learning rate."""
        return float(self.lr.max())

    def share_at(self, step: np.ndarray) -> np.ndarray:
        """Share of the area done after ``step`` steps."""
        return np.interp(step, self.step, self.share)

    def gain(self, step: np.ndarray, power: float, memory: float) -> np.ndarray:
        """Gain of annealing after ``step`` steps; one at the end of a linear decay to zero.

        Parameters
        ----------
        step : array, shape (n,)
        power, memory : float
            p and tau.
        """
        height = (self.lr / self.peak) ** power
        first = int(np.argmax(self.lr >= self.peak * (1 - 1e-9)))
        fall = -np.diff(height[first:])
        at = 0.5 * (self.share[first + 1 :] + self.share[first:-1])
        used = fall != 0
        since = np.maximum(self.share_at(step)[:, None] - at[used], 0.0)
        return (1.0 - (1.0 + since / memory) ** -0.5) @ fall[used] / _whole_decay(power, memory)


def _whole_decay(power: float, memory: float) -> float:
    """Unscaled gain at the end of a run that decays linearly to zero."""
    left = (np.arange(NODES) + 0.5) / NODES
    weight = power * left ** (power - 1.0)
    return float(weight @ (1.0 - (1.0 + left**2 / memory) ** -0.5) / weight.sum())


def forecast(
    path: Path, step: np.ndarray, loss: np.ndarray, prior: PathPrior | None = None
) -> EndForecast | None:
    """Forecast the end of a run from its curve so far.

    Parameters
    ----------
    path : Path
    step, loss : arrays, shape (n,)
        Steps done, increasing, and losses in nats, positive and finite.
    prior : PathPrior, optional

    Returns
    -------
    EndForecast or None
        Of the loss that the curve shows; None with fewer than `LEAST_POINTS` after the warm-up.

    Examples
    --------
    >>> schedule = Schedule.linear(peak_lr=1e-3, steps=10_000, warmup_steps=500)
    >>> path, t = Path.of(schedule), np.arange(100, 5001, 100)
    >>> left = 0.06 * (1 - path.gain(t, 0.6, 5e-4))
    >>> loss = np.exp(1 + 0.05 * (path.share_at(t) ** -0.35 - 1) / 0.35 + left)
    >>> abs(forecast(path, t, loss).moments[0] - 1) < 0.01
    True
    """
    prior = PathPrior() if prior is None else prior
    used = step > path.start
    if used.sum() < LEAST_POINTS:
        return None
    t, y, noise = _reduced(path, step[used], np.log(loss[used]))
    share = path.share_at(t)
    n, end = t.size, path.step[-1]
    centre = np.array([0.0, prior.slope, prior.gain_at(path.peak)])
    sd = np.array([LEVEL_SD, prior.slope_sd, prior.gain_spread * centre[2]])
    columns = np.empty((len(ALPHAS), len(SHAPES), n, 3))
    columns[..., 0] = 1.0
    for i, a in enumerate(ALPHAS):
        columns[i, :, :, 1] = np.expm1(-a * np.log(share)) / a
    for j, (power, memory) in enumerate(SHAPES):
        g = path.gain(np.append(t, end), power, memory)
        columns[:, j, :, 2] = g[-1] - g[:-1]
    slow = path.gain(np.append(t, end), *SETTLING)
    far, left = -np.log(share), np.abs(slow[-1] - slow[:-1])
    misfit = prior.misfit**2 * np.minimum(far[:, None], far)
    misfit += (prior.annealing_misfit * centre[2]) ** 2 * np.minimum(left[:, None], left)
    size = np.array(MISFITS)[:, None, None] ** 2
    scaled = columns * sd
    covariance = (scaled @ np.swapaxes(scaled, -1, -2))[:, :, None] + size * misfit
    covariance += np.diag(noise + prior.floor**2)
    factor = np.linalg.cholesky(covariance)
    # the residual, and the covariances of the data with the end and with the gain
    sides = np.stack([y - columns @ centre, columns[..., 0] * sd[0] ** 2,
                      columns[..., 2] * sd[2] ** 2], axis=-1)  # fmt: skip
    white = np.linalg.solve(factor, np.broadcast_to(sides[:, :, None], (*factor.shape[:-1], 3)))
    r, level, gain = np.moveaxis(white, -1, 0)
    log = np.log(MISFIT_WEIGHTS) - 0.5 * np.sum(r**2, axis=-1)
    log = log - np.sum(np.log(np.diagonal(factor, axis1=-2, axis2=-1)), axis=-1)
    weight = np.exp(log - logsumexp(log)).ravel()
    mean = np.sum(r * level, axis=-1).ravel()
    variance = np.maximum(sd[0] ** 2 - np.sum(level**2, axis=-1), prior.floor**2).ravel()
    gains = centre[2] + np.sum(r * gain, axis=-1).ravel()
    spread = np.maximum(sd[2] ** 2 - np.sum(gain**2, axis=-1), 0.0).ravel()
    average = float(weight @ gains)
    deviation = float(np.sqrt(weight @ (spread + (gains - average) ** 2)))
    some = weight > 1e-8
    return EndForecast(
        weight[some] / weight[some].sum(), mean[some], variance[some], average, deviation
    )


def _reduced(
    path: Path, step: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, means and variances of log losses in bins of learning-rate area, finer lately."""
    share = path.share_at(step)
    jump = np.diff(y)
    # differences of neighbours: twice the noise's variance; the median ignores single spikes
    variance = np.median((jump - np.median(jump)) ** 2) / (2 * 0.455)
    z = np.log(share) + 3.0 * share
    edge = np.linspace(z[0], z[-1], BINS + 1)[1:-1]
    label = np.searchsorted(edge, z, side="right")
    count = np.bincount(label, minlength=BINS)
    some = count > 0
    mean = np.bincount(label, y, BINS)[some] / count[some]
    at = np.bincount(label, step, BINS)[some] / count[some]
    return at, mean, variance / count[some]
