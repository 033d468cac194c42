r"""The theory behind the features, made checkable: SGD and Adam as stochastic equations.

With time in optimizer steps, a learning rate :math:`\eta(t)` of any schedule and gradient noise of
covariance :math:`\epsilon\Sigma`,

.. math::

    \text{SGD:}\quad & dX = -\eta\,\nabla f(X)\,dt + \eta\sqrt{\epsilon}\,\Sigma^{1/2} dW, \\
    \text{Adam:}\quad & dX = -\eta\,\frac{M}{\sqrt V + \delta}\,dt, \quad
    dM = c_1\eta\,(\nabla f - M)\,dt + c_1\eta\sqrt\epsilon\,\Sigma^{1/2}dW, \\
    & dV = c_2\eta\,(\nabla f^2 + \operatorname{diag}\Sigma - V)\,dt .

Beside the simulation stand what the paper's Theorems 1 and 3 bound: the mean squared gradient
weighted by the learning rate, whose bound has the convergence integral in its denominator, and
the probability to be still near a minimum at the end, whose bound has the escape integral in its
numerator.

Source: arXiv 2409.04777, section 6; its formulas are lost from the text at hand.  SGD's equation,
Theorem 1, the covariance and Lemma 1 are inferred from it and are standard; the constants of
Theorem 3 are derived here by the steps that its proof names; Adam's equation is inferred.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from bayes_optlaws.schedules import Schedule

__all__ = [
    "DoubleWell", "Loss", "Paths", "Quadratic", "convergence_bound", "covariance", "escape_bound",
    "simulate_adam", "simulate_sgd", "stay_bound",
]  # fmt: skip

GRID, MOST, FINE = 4000, 400_000, 0.05
"""Intervals of the quadrature over a schedule (fourth order): at least, at most, and the change
of the exponent of a kernel within one."""


class Loss(Protocol):
    """What a simulation needs of a loss of ``dim`` parameters.

    Attributes
    ----------
    dim : int
    smoothness : float
        L, least Lipschitz constant of the gradient.
    minimum : ndarray, shape (dim,)
        A local minimum.
    hessian_at_minimum : ndarray, shape (dim, dim)
    """

    dim: int
    smoothness: float
    minimum: np.ndarray
    hessian_at_minimum: np.ndarray

    def value(self, x: np.ndarray) -> np.ndarray:
        """Loss less its lowest value, shape (n,), of points of shape (n, dim)."""

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """Gradient, shape (n, dim)."""


class Quadratic:
    """``x' H x / 2``.

    Parameters
    ----------
    hessian : float, array_like of shape (dim,) or (dim, dim)
        Positive definite; a vector is its diagonal.

    Examples
    --------
    >>> loss = Quadratic([1.0, 4.0])
    >>> loss.smoothness, loss.gradient(np.array([[1.0, 1.0]])).tolist()
    (4.0, [[1.0, 4.0]])
    """

    def __init__(self, hessian: ArrayLike) -> None:
        self.hessian_at_minimum = _matrix("hessian", hessian)
        self.dim = len(self.hessian_at_minimum)
        self.smoothness = float(np.linalg.eigvalsh(self.hessian_at_minimum).max())
        self.minimum = np.zeros(self.dim)

    def value(self, x: np.ndarray) -> np.ndarray:
        """Loss, shape (n,)."""
        return 0.5 * np.einsum("ni,ij,nj->n", x, self.hessian_at_minimum, x)

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """Gradient, shape (n, dim)."""
        return x @ self.hessian_at_minimum


class DoubleWell:
    r"""Two wells in the first parameter, a parabola in the others.

    ``f = h (x1^2 / 2 - (a / k) log cosh(k x1)) + sum_j h_j xj^2 / 2``, shifted to a lowest value
    of 0. Unlike a quartic it is smooth with one constant everywhere, as Theorem 1 asks. (Own
    choice.)

    Parameters
    ----------
    curvature, offset, sharpness : float
        h, a and k; two wells need ``offset * sharpness > 1``. The minima lie just inside +-a.
    others : sequence of float
        Curvatures of further parameters.

    Examples
    --------
    >>> loss = DoubleWell(curvature=1.0, offset=1.0, sharpness=3.0)
    >>> loss.minimum.round(4).tolist(), round(loss.barrier, 4)
    ([0.9949], 0.2698)
    """

    def __init__(
        self,
        *,
        curvature: float = 1.0,
        offset: float = 1.0,
        sharpness: float = 3.0,
        others: tuple[float, ...] = (),
    ) -> None:
        numbers = np.array([curvature, offset, sharpness, *others], dtype=float)
        if not np.all(np.isfinite(numbers) & (numbers > 0)) or offset * sharpness <= 1:
            raise ValueError(
                f"curvature, offset, sharpness, others are {numbers.tolist()}: all must be "
                "positive, and offset x sharpness above 1 for two wells"
            )
        self.curvature, self.offset, self.sharpness = numbers[:3]
        self.others = numbers[3:]
        self.dim = 1 + self.others.size
        bottom = self.offset
        for _ in range(200):
            bottom = self.offset * np.tanh(self.sharpness * bottom)
        self.minimum = np.concatenate([[bottom], np.zeros(self.others.size)])
        top = self.curvature * max(1.0, self.offset * self.sharpness - 1.0)
        self.smoothness = float(max(top, *self.others, 0.0))
        self._lowest = 0.0
        self._lowest = float(self.value(self.minimum[None])[0])
        bend = 1 - self.offset * self.sharpness / np.cosh(self.sharpness * bottom) ** 2
        self.hessian_at_minimum = np.diag([self.curvature * bend, *self.others])

    @property
    def barrier(self) -> float:
        """Loss between the wells, above the minima."""
        return -self._lowest

    def value(self, x: np.ndarray) -> np.ndarray:
        """Loss less its lowest value, shape (n,)."""
        z = x[:, 0]
        k = self.sharpness
        log_cosh = np.logaddexp(k * z, -k * z) - np.log(2.0)
        first = self.curvature * (0.5 * z**2 - self.offset / k * log_cosh)
        return first + 0.5 * x[:, 1:] ** 2 @ self.others - self._lowest

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """Gradient, shape (n, dim)."""
        z = x[:, :1]
        first = self.curvature * (z - self.offset * np.tanh(self.sharpness * z))
        return np.hstack([first, x[:, 1:] * self.others])


@dataclass(frozen=True)
class Paths:
    """What is kept of simulated paths.

    Attributes
    ----------
    time : ndarray, shape (n_steps,)
        Optimizer steps at which each Euler step begins.
    lr : ndarray, shape (n_steps,)
        Learning rate in each.
    loss, square_gradient : ndarray, shape (n_steps,)
        Means over paths at its beginning.
    x : ndarray, shape (n_paths, dim)
        Final positions.
    v : ndarray, shape (n_paths, dim), or None
        Final second moments of Adam.
    average : float
        Mean over paths of the squared gradient norm, weighted by the learning rate: the left
        side of Theorem 1.
    average_se : float
        Its standard error.
    """

    time: np.ndarray
    lr: np.ndarray
    loss: np.ndarray
    square_gradient: np.ndarray
    x: np.ndarray
    v: np.ndarray | None
    average: float
    average_se: float

    def stay(self, centre: ArrayLike, radius: float) -> float:
        """Share of paths that end within ``radius`` of ``centre``."""
        return float(np.mean(np.linalg.norm(self.x - np.asarray(centre), axis=1) <= radius))


def simulate_sgd(
    loss: Loss,
    schedule: Schedule,
    *,
    noise: ArrayLike,
    x0: ArrayLike,
    epsilon: float = 1.0,
    n_paths: int = 1000,
    substeps: int = 1,
    random_seed: int = 0,
) -> Paths:
    """Simulate the SGD equation by Euler-Maruyama, all paths at once.

    Parameters
    ----------
    loss : Loss
    schedule : Schedule
        Any; its time runs from 0 to ``schedule.steps``.
    noise : float or array_like
        Covariance of the gradient noise: a number for every parameter, a diagonal, or a matrix.
    x0 : array_like, shape (dim,)
    epsilon : float
        Scale of the noise; 1 is SGD with that noise at one step a unit of time.
    n_paths, substeps : int
        Euler steps in an optimizer step; with 1 the simulation is SGD itself.
    random_seed : int

    Returns
    -------
    Paths

    Raises
    ------
    ValueError
        When an argument is out of range, or the Euler step is unstable (learning rate x
        smoothness / substeps above 1).

    Examples
    --------
    >>> schedule = Schedule.linear(peak_lr=0.1, steps=200, warmup_steps=20)
    >>> paths = simulate_sgd(Quadratic([1.0]), schedule, noise=0.0, x0=[2.0], n_paths=1)
    >>> log_ratio = np.log(paths.x[0, 0] / 2)  # -0.1 x 200 / 2, but for the length of the steps
    >>> round(float(log_ratio), 2)
    -10.35
    """
    rng, x, root, dt, time, lr = _start(
        loss, schedule, noise, x0, epsilon, n_paths, substeps, random_seed
    )
    if lr.max() * loss.smoothness * dt > 1:
        raise ValueError(
            f"substeps is {substeps}: the highest learning rate {lr.max():g} x smoothness "
            f"{loss.smoothness:g} / substeps must be at most 1; take at least "
            f"{int(np.ceil(lr.max() * loss.smoothness))}"
        )
    keep = _Recorder(loss, len(lr), n_paths, dt)
    for k, rate in enumerate(lr):
        g = keep(k, rate, x)
        shock = rng.standard_normal(x.shape) @ root.T
        x = x - rate * dt * g + rate * np.sqrt(epsilon * dt) * shock
    return keep.paths(time, lr, x, None)


def simulate_adam(
    loss: Loss,
    schedule: Schedule,
    *,
    noise: ArrayLike,
    x0: ArrayLike,
    epsilon: float = 1.0,
    momentum_rate: float = 10.0,
    variance_rate: float = 1.0,
    delta: float = 1e-8,
    n_paths: int = 1000,
    substeps: int = 1,
    random_seed: int = 0,
) -> Paths:
    """Simulate the Adam equation by Euler-Maruyama, all paths at once.

    Parameters
    ----------
    loss, schedule, noise, x0, epsilon, n_paths, substeps, random_seed
        As in `simulate_sgd`. The noise must not be 0, since v starts at its diagonal plus the
        squared gradient, and m at 0.
    momentum_rate, variance_rate : float
        c_1 and c_2: how fast m and v follow, in units of the learning rate.
    delta : float
        Added to the square root of v.

    Returns
    -------
    Paths

    Raises
    ------
    ValueError
        When an argument is out of range, or a rate is unstable (learning rate x rate / substeps
        above 1).
    """
    rng, x, root, dt, time, lr = _start(
        loss, schedule, noise, x0, epsilon, n_paths, substeps, random_seed
    )
    for name, rate in (("momentum_rate", momentum_rate), ("variance_rate", variance_rate)):
        if not (rate > 0 and lr.max() * rate * dt <= 1):
            raise ValueError(
                f"{name} is {rate!r}: it must be positive, and times the highest learning rate "
                f"{lr.max():g} / substeps at most 1; lower it or take more substeps"
            )
    spread = np.sum(root**2, axis=1)
    if not (delta >= 0 and np.all(spread + delta > 0)):
        raise ValueError(
            f"noise has a diagonal of {spread.tolist()}, delta is {delta!r}: the steps of Adam are "
            "divided by sqrt(v) + delta, which must not be 0"
        )
    m, v = np.zeros_like(x), spread + loss.gradient(x) ** 2
    keep = _Recorder(loss, len(lr), n_paths, dt)
    for k, rate in enumerate(lr):
        g = keep(k, rate, x)
        shock = rng.standard_normal(x.shape) @ root.T
        x = x - rate * dt * m / (np.sqrt(v) + delta)
        m = m + momentum_rate * rate * (dt * (g - m) + np.sqrt(epsilon * dt) * shock)
        v = v + variance_rate * rate * dt * (g**2 + spread - v)
    return keep.paths(time, lr, x, v)


def convergence_bound(
    schedule: Schedule, *, gap: float, smoothness: float, noise_trace: float, epsilon: float = 1.0
) -> float:
    r"""Theorem 1: bound on the weighted mean squared gradient of the SGD equation.

    .. math::

        \frac{\int\eta\,E\|\nabla f\|^2}{\int\eta} \le \frac{f(x_0) - f^*}{\int\eta}
        + \frac{\epsilon L \operatorname{tr}\Sigma \int\eta^2}{2\int\eta}

    Parameters
    ----------
    schedule : Schedule
    gap : float
        f(x_0) less the lowest loss.
    smoothness, noise_trace, epsilon : float
        L, trace of the noise covariance, its scale.

    Returns
    -------
    float

    Examples
    --------
    >>> schedule = Schedule.linear(peak_lr=0.1, steps=1000, warmup_steps=100)
    >>> round(convergence_bound(schedule, gap=1.0, smoothness=2.0, noise_trace=0.0), 6)
    0.02
    """
    for name, value in (("gap", gap), ("smoothness", smoothness), ("noise_trace", noise_trace)):
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"{name} is {value!r}: it must be finite and not negative")
    g = _Quadrature(schedule)
    area = g.integral(g.lr)
    return float((gap + 0.5 * epsilon * smoothness * noise_trace * g.integral(g.lr**2)) / area)


def covariance(
    schedule: Schedule, *, hessian: ArrayLike, noise: ArrayLike, epsilon: float = 1.0
) -> np.ndarray:
    r"""Covariance of the SGD equation at the end, linearised about the minimum where it starts.

    .. math::

        C(T) = \epsilon\int_0^T \eta^2 e^{-H A_s}\,\Sigma\,e^{-H A_s}\,ds, \qquad
        A_s = \int_s^T \eta,

    the solution of :math:`\dot C = -\eta (HC + CH) + \epsilon\eta^2\Sigma`, exact for a quadratic
    loss.

    Parameters
    ----------
    schedule : Schedule
    hessian, noise : float or array_like
        A number, a diagonal or a matrix.
    epsilon : float

    Returns
    -------
    ndarray, shape (dim, dim)

    Examples
    --------
    >>> schedule = Schedule.constant(peak_lr=0.1, steps=1e4, warmup_steps=10)
    >>> covariance(schedule, hessian=[2.0], noise=[3.0]).round(6).tolist()  # lr noise / 2 hessian
    [[0.075]]
    """
    h = _matrix("hessian", hessian)
    sigma = _matrix("noise", noise, len(h), definite=False)
    value, vector = np.linalg.eigh(h)
    g = _Quadrature(schedule, 2 * value.max())
    rate = value[:, None] + value[None, :]
    square = g.lr**2
    kernel = np.array([[g.integral(square * np.exp(-r * g.left)) for r in row] for row in rate])
    return epsilon * vector @ (kernel * (vector.T @ sigma @ vector)) @ vector.T


def stay_bound(cov: ArrayLike, radius: float) -> float:
    r"""Lemma 1: bound on the probability that a centred normal vector lies within ``radius``.

    .. math:: P(\|X\| \le r) \le \left(\frac{e\,r^2}{d\,\det(C)^{1/d}}\right)^{d/2}

    Parameters
    ----------
    cov : float or array_like
        Covariance: a number, a diagonal or a matrix.
    radius : float
        In the units of the vector.

    Returns
    -------
    float

    Examples
    --------
    >>> round(stay_bound(np.eye(2), 0.5), 4)  # the probability is 1 - exp(-1/8) = 0.1175
    0.3398
    """
    cov = _matrix("cov", cov)
    _check_radius(radius)
    d = len(cov)
    log_det = float(np.linalg.slogdet(cov)[1])
    return float(np.exp(min(0.0, 0.5 * d * (1 + 2 * np.log(radius) - np.log(d) - log_det / d))))


def escape_bound(
    schedule: Schedule, *, radius: float, hessian: ArrayLike, noise: ArrayLike, epsilon: float = 1.0
) -> float:
    r"""Theorem 3: bound on the probability to be within ``radius`` of the minimum at the end.

    .. math::

        P(\|X_T - x^*\| \le r) \le \left(\frac{e\,r^2}{d\,\epsilon\,\sigma_{\min}^2}\cdot
        \frac{\int(\eta')^2}{\max_s\left(\eta(s)\,e^{-\lambda\int_s^T\eta}\right)^4}\right)^{d/2}

    with :math:`\lambda` the highest curvature and :math:`\sigma_{\min}^2` the least noise variance.

    Parameters
    ----------
    schedule : Schedule
        One that ends at a learning rate of 0.
    radius : float
    hessian, noise : float or array_like
        At the minimum: a number, a diagonal or a matrix; the noise positive definite.
    epsilon : float

    Returns
    -------
    float

    Raises
    ------
    ValueError
        When the schedule does not end at 0: the proof integrates by parts between two zeros.

    Examples
    --------
    >>> schedule = Schedule.linear(peak_lr=0.1, steps=1000, warmup_steps=100)
    >>> escape_bound(schedule, radius=1e-3, hessian=[1.0], noise=[1.0]) < 1
    True
    """
    _check_radius(radius)
    h = _matrix("hessian", hessian)
    sigma = _matrix("noise", noise, len(h))
    end = float(schedule.lr(schedule.steps))
    if end > 1e-9 * schedule.peak_lr:
        raise ValueError(
            f"the schedule ends at a learning rate of {end:g}: the bound holds for schedules that "
            "start and end at 0; take min_lr = 0 and a schedule with a cooldown"
        )
    d = len(h)
    top, least = np.linalg.eigvalsh(h).max(), np.linalg.eigvalsh(sigma).min()
    g = _Quadrature(schedule, top)
    highest = float(np.max(g.lr * np.exp(-top * g.left)))
    found = schedule.integrals()
    change = found.escape_warmup + found.escape_cooldown
    log_ratio = (
        1.0 + 2 * np.log(radius) - np.log(d * epsilon * least) + np.log(change)
        - 4 * np.log(highest)
    )  # fmt: skip
    return float(np.exp(min(0.0, 0.5 * d * log_ratio)))


class _Quadrature:
    """Learning rate and what is left of its integral, at the nodes of Simpson's rule."""

    def __init__(self, schedule: Schedule, rate: float = 0.0) -> None:
        """Nodes fine enough for a kernel that decays at ``rate`` x learning rate."""
        last = schedule.steps
        corners: Sequence[float] | np.ndarray = (
            schedule.warmup_steps, schedule.decay_end_step, schedule.cooldown_start_step,
        )  # fmt: skip
        if schedule.values is not None:
            corners = np.arange(schedule.values.size)
        n = int(np.clip(last * rate * schedule.peak_lr / FINE, GRID, MOST))
        t = np.unique(np.concatenate([np.linspace(0, last, n), np.clip([1.0, *corners], 0, last)]))
        h = np.diff(t)
        low, mid, high = (schedule.lr(x) for x in (t[:-1], t[:-1] + 0.5 * h, t[1:]))
        whole = h / 6 * (low + 4 * mid + high)
        half = h / 24 * (5 * low + 8 * mid - high)
        done = np.concatenate([[0.0], np.cumsum(whole)])
        left = done[-1] - done
        self.lr = np.concatenate([low, mid, high])
        self.left = np.concatenate([left[:-1], left[:-1] - half, left[1:]])
        self.weight = np.concatenate([h / 6, 4 * h / 6, h / 6])

    def integral(self, values: np.ndarray) -> float:
        """Integral over time of values at the nodes."""
        return float(self.weight @ values)


class _Recorder:
    """Means over paths, step by step."""

    def __init__(self, loss: Loss, n_steps: int, n_paths: int, dt: float) -> None:
        self.loss_of, self.dt = loss, dt
        self.loss, self.square = np.empty(n_steps), np.empty(n_steps)
        self.sum, self.area = np.zeros(n_paths), 0.0

    def __call__(self, k: int, rate: float, x: np.ndarray) -> np.ndarray:
        """Note the state at the beginning of a step; return the gradient."""
        g = self.loss_of.gradient(x)
        square = np.sum(g**2, axis=1)
        self.loss[k], self.square[k] = self.loss_of.value(x).mean(), square.mean()
        self.sum += rate * self.dt * square
        self.area += rate * self.dt
        return g

    def paths(self, time: np.ndarray, lr: np.ndarray, x: np.ndarray, v: np.ndarray | None) -> Paths:
        """What is kept."""
        each = self.sum / self.area
        se = float(each.std(ddof=1) / np.sqrt(each.size)) if each.size > 1 else np.nan
        return Paths(time, lr, self.loss, self.square, x, v, float(each.mean()), se)


def _start(
    loss: Loss,
    schedule: Schedule,
    noise: ArrayLike,
    x0: ArrayLike,
    epsilon: float,
    n_paths: int,
    substeps: int,
    random_seed: int,
) -> tuple[np.random.Generator, np.ndarray, np.ndarray, float, np.ndarray, np.ndarray]:
    """Checked arguments as arrays: generator, positions, root of noise, dt, time, lr."""
    for name, value in (("n_paths", n_paths), ("substeps", substeps)):
        if not (isinstance(value, int | np.integer) and value >= 1):
            raise ValueError(f"{name} is {value!r}: it must be an integer of at least 1")
    if not (np.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f"epsilon is {epsilon!r}: it must be finite and not negative")
    x0 = np.asarray(x0, dtype=float)
    if x0.shape != (loss.dim,) or not np.all(np.isfinite(x0)):
        raise ValueError(f"x0 is {x0.tolist()}: it must be {loss.dim} finite numbers")
    sigma = _matrix("noise", noise, loss.dim, definite=False)
    eigenvalue, vector = np.linalg.eigh(sigma)
    root = vector * np.sqrt(np.maximum(eigenvalue, 0.0))
    dt = 1.0 / substeps
    n = int(np.floor(schedule.steps * substeps + 1e-9))
    time = dt * np.arange(n)
    # At the middle of the step: the sum is then the exact integral where the rate is linear.
    lr = schedule.lr(time + 0.5 * dt)
    rng = np.random.default_rng(random_seed)
    return rng, np.tile(x0, (n_paths, 1)), root, dt, time, lr


def _matrix(
    name: str, value: ArrayLike, dim: int | None = None, *, definite: bool = True
) -> np.ndarray:
    """A symmetric matrix from a number, a diagonal or itself."""
    a = np.asarray(value, dtype=float)
    if a.ndim == 0:
        a = np.full(1 if dim is None else dim, float(a))
    if a.ndim == 1:
        a = np.diag(a)
    good = a.ndim == 2 and a.shape[0] == a.shape[1] and np.all(np.isfinite(a))
    if not good or (dim is not None and len(a) != dim) or not np.allclose(a, a.T):
        size = "square" if dim is None else f"{dim} x {dim}"
        raise ValueError(
            f"{name} has shape {a.shape}: it must be a number, a diagonal or a finite symmetric "
            f"{size} matrix"
        )
    least = np.linalg.eigvalsh(a).min()
    if least < -1e-12 * np.abs(a).max() or (definite and least <= 0):
        rule = "positive definite" if definite else "positive semi-definite"
        raise ValueError(f"{name} has the eigenvalue {least:g}: it must be {rule}")
    return a


def _check_radius(radius: float) -> None:
    if not (np.isfinite(radius) and radius > 0):
        raise ValueError(f"radius is {radius!r}: it must be positive and finite")
