"""Laws that are sums of power terms: robust fits in log loss from many starts.

    L = sum_j sign_j c_j prod_i x_i^(+-q_k),   c_j >= 0 (most),   q within bounds

is fitted by the Huber loss of ``log L`` (Hoffmann et al., doi:10.48550/arXiv.2203.15556,
appendix D.3: delta = 1e-3). The fit is not convex, so it is started many times (own choice):

1. screening: for every exponent vector of a grid, and half as many random ones, the coefficients
   that minimise the squared relative error, a non-negative least-squares problem with one optimum;
2. descent from the best of them in all parameters;
3. the best few are descended to convergence, and the lowest wins.

The tests compare seeds. Inputs are divided by their geometric mean first, which makes the result
independent of units.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from bayes_optlaws.baselines.base import ResampledBaseline
from bayes_optlaws.baselines.descent import descend, huber

LogInputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Term:
    """One term: a coefficient times powers of inputs.

    Parameters
    ----------
    coefficient : str
        Name of the coefficient.
    powers : tuple of (str, str or float, int)
        Input, name of its exponent (or a number), and +1 or -1 for the sign of the exponent.
    sign : int
        Sign of the term; coefficients are not negative.
    free : bool
        This coefficient may be negative after all.
    """

    coefficient: str
    powers: tuple[tuple[str, str | float, int], ...] = ()
    sign: int = 1
    free: bool = False


@dataclass(frozen=True)
class Design:
    """Columns of the terms and their derivatives.

    Parameters
    ----------
    columns : ndarray, shape (n, n_terms)
        Signed columns: the prediction is ``columns @ c``.
    slopes : list of (int, int, ndarray of shape (n,))
        Term, exponent, derivative of that column by that exponent; zero ones are left out.
    """

    columns: np.ndarray
    slopes: list[tuple[int, int, np.ndarray]]


class PowerLaw(ResampledBaseline):
    """A sum of power terms, fitted as the module describes.

    Parameters
    ----------
    delta : float
        Where the Huber loss of the log residual turns linear; ``inf`` gives least squares.
    n_starts : int
        Screened points that are descended from.
    random_seed : int
        Seed of the random part of the screening.
    """

    terms: ClassVar[tuple[Term, ...]]
    exponents: ClassVar[dict[str, tuple[float, float]]]
    """Bounds of every exponent."""
    grid: ClassVar[dict[str, tuple[float, ...]]]
    """Values of every exponent in the screening."""

    def __init__(self, *, delta: float = 1e-3, n_starts: int = 8, random_seed: int = 0) -> None:
        if not delta > 0:
            raise ValueError(f"delta = {delta}: must be positive; the published value is 1e-3")
        if n_starts < 1:
            raise ValueError(f"n_starts = {n_starts}: must be at least 1; 8 is the default")
        self.delta, self.n_starts, self.random_seed = delta, n_starts, random_seed
        self.n_parameters = len(self.terms) + len(self.exponents)

    @abstractmethod
    def _inputs(self, table: pd.DataFrame) -> LogInputs:
        """Logarithms of the inputs by name, -inf where an input is 0."""

    def _design(self, inputs: LogInputs, q: np.ndarray) -> Design:
        """Columns of scaled inputs at the exponents `q`, shape (n_exponents,)."""
        names = list(self.exponents)
        n = len(next(iter(inputs.values())))
        columns, slopes = np.ones((n, len(self.terms))), []
        for j, term in enumerate(self.terms):
            for name, exponent, sign in term.powers:
                p = q[names.index(exponent)] if isinstance(exponent, str) else exponent
                columns[:, j] *= _power(inputs[name], sign * p)
            columns[:, j] *= term.sign
            for name, exponent, sign in term.powers:
                if isinstance(exponent, str):
                    log_x = np.where(np.isneginf(inputs[name]), 0.0, inputs[name])
                    slopes.append((j, names.index(exponent), sign * log_x * columns[:, j]))
        return Design(columns, slopes)

    def _natural(self, c: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients and exponents for inputs that are not scaled."""
        out, by_name = c.copy(), dict(zip(self.exponents, q, strict=True))
        for j, term in enumerate(self.terms):
            for name, exponent, sign in term.powers:
                p = by_name[exponent] if isinstance(exponent, str) else exponent
                out[j] *= np.exp(-sign * p * self._reference[name])
        return out, q

    def _curve(self, inputs: LogInputs, state: np.ndarray) -> np.ndarray:
        m = len(self.terms)
        return self._design(self._scaled(inputs), state[m:]).columns @ state[:m]

    def _describe(self, state: np.ndarray) -> pd.Series:
        m = len(self.terms)
        c, q = self._natural(state[:m], state[m:])
        names = [t.coefficient for t in self.terms] + list(self.exponents)
        return pd.Series(np.concatenate([c, q]), index=names)

    def _scaled(self, inputs: LogInputs) -> LogInputs:
        return {name: x - self._reference[name] for name, x in inputs.items()}

    def _estimate(
        self, inputs: LogInputs, loss: np.ndarray, weight: np.ndarray, start: np.ndarray | None
    ) -> np.ndarray:
        if start is None:
            self._reference = {name: _finite_mean(x) for name, x in inputs.items()}
        x, log_loss = self._scaled(inputs), np.log(loss)
        low, high = self._bounds(x)

        def model(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            m = len(self.terms)
            design = self._design(x, theta[m:])
            jacobian = np.zeros((loss.size, theta.size))
            jacobian[:, :m] = design.columns
            for j, k, slope in design.slopes:
                jacobian[:, m + k] += theta[j] * slope
            return design.columns @ theta[:m], jacobian

        def run(theta: np.ndarray, steps: int, tol: float) -> tuple[np.ndarray, float]:
            return descend(
                model, theta, low, high, log_loss, weight, self.delta, max_steps=steps, tol=tol
            )

        if start is not None:
            return run(start, 50, 1e-5)[0]
        tried = [run(theta, 30, 1e-5) for theta in self._screen(x, loss, low, high)]
        tried.sort(key=lambda found: found[1])
        final = [run(theta, 500, 1e-8) for theta, _ in tried[:3]]
        return min(final, key=lambda found: found[1])[0]

    def _bounds(self, x: LogInputs) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of the parameters; what the runs say nothing about is fixed.

        A term whose inputs do not vary among the runs is a second constant: its coefficient is
        fixed at 0. So is an exponent of which no input varies, at its lower bound.
        """
        flat = {name for name, v in x.items() if _is_flat(v)}
        low = [-np.inf if t.free else 0.0 for t in self.terms] + [
            b[0] for b in self.exponents.values()
        ]
        high = [np.inf] * len(self.terms) + [b[1] for b in self.exponents.values()]
        used: dict[str, bool] = {}
        for j, term in enumerate(self.terms):
            names = [name for name, _, _ in term.powers]
            if names and flat.issuperset(names):
                low[j] = high[j] = 0.0
            for name, exponent, _ in term.powers:
                if isinstance(exponent, str):
                    used[exponent] = used.get(exponent, False) or name not in flat
        for k, name in enumerate(self.exponents):
            if not used.get(name, True):
                high[len(self.terms) + k] = low[len(self.terms) + k]
        return np.array(low), np.array(high)

    def _screen(
        self, x: LogInputs, loss: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> list[np.ndarray]:
        """Best starting points of the grid and of random exponents."""
        m = len(self.terms)
        points = np.array(list(itertools.product(*(self.grid[k] for k in self.exponents))))
        rng = np.random.default_rng(self.random_seed)
        ends = points.min(axis=0), points.max(axis=0)
        points = np.vstack([points, rng.uniform(*ends, size=(len(points) // 2, len(ends[0])))])
        points = np.unique(np.clip(points, low[m:], high[m:]), axis=0)
        # A coefficient that may be negative is the difference of two that may not.
        up, down = np.flatnonzero(high[:m] > 0), np.flatnonzero(low[:m] < 0)
        log_loss, found = np.log(loss), []
        for q in points:
            columns = self._design(x, q).columns
            relative = columns / loss[:, None]
            scaled = np.column_stack([relative[:, up], -relative[:, down], np.ones(loss.size)])
            small = np.linalg.qr(scaled, mode="r")
            both = nnls(small[:, :-1], small[:, -1])[0]
            c = np.zeros(m)
            c[up] += both[: up.size]
            c[down] -= both[up.size :]
            value = huber(columns @ c, log_loss, np.ones(loss.size), self.delta)
            found.append((value, np.concatenate([c, q])))
        found.sort(key=lambda item: item[0])
        return [theta for _, theta in found[: self.n_starts]]


def safe_log(x: np.ndarray) -> np.ndarray:
    """Logarithm, -inf at 0 without a warning."""
    return np.log(x, out=np.full(np.shape(x), -np.inf), where=np.asarray(x) > 0)


def _power(log_x: np.ndarray, p: float) -> np.ndarray:
    """``x ** p`` from ``log x``, 0 where x is 0."""
    zero = np.isneginf(log_x)
    return np.where(zero, 0.0, np.exp(p * np.where(zero, 0.0, log_x)))


def _finite_mean(x: np.ndarray) -> float:
    finite = x[np.isfinite(x)]
    return float(finite.mean()) if finite.size else 0.0


def _is_flat(log_x: np.ndarray) -> bool:
    """All zero, or all equal up to rounding."""
    zero = np.isneginf(log_x)
    return bool(zero.all() or (not zero.any() and np.ptp(log_x) < 1e-9))
