"""The Step-Law form: Chinchilla's scale terms, a bowl around power-law optima of LR and batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from bayes_optlaws.baselines.base import ResampledBaseline, finished, read_columns
from bayes_optlaws.baselines.process import Process, fit_process
from bayes_optlaws.baselines.standard import StandardLogs

_NAMES = ("e", "a", "b", "alpha", "beta", "lr_curve", "lr_at", "lr_n", "lr_d",
          "batch_curve", "batch_at", "batch_d")  # fmt: skip
# Weak pulls that keep what the runs do not tell finite: centre and sd of each parameter.
# Exponents: Hoffmann et al. 2022 and Li et al. 2025.
_CENTRE = np.array([0.0, 0.0, 0.0, 0.34, 0.28, 0.03, 0.0, -0.713, 0.307, 0.02, 0.0, 0.571])
_SD = np.array([5.0, 5.0, 5.0, 0.5, 0.5, 0.1, 3.0, 0.5, 0.5, 0.1, 3.0, 0.5])
_LOW = np.array([-20.0, -20.0, -20.0, 0.01, 0.01, 0.0, *[-np.inf] * 3, 0.0, *[-np.inf] * 2])
_HIGH = np.array([5.0, 5.0, 5.0, 3.0, 3.0, *[np.inf] * 7])
_STARTS = ((0.15, 0.15), (0.35, 0.35), (0.8, 0.35), (0.35, 0.8))


@dataclass(frozen=True)
class _Inputs:
    """Logs less their training means, each of shape (n,)."""

    n: np.ndarray
    d: np.ndarray
    lr: np.ndarray
    batch: np.ndarray


class StepLaw(ResampledBaseline):
    r"""``log L = log(E + A N^-alpha + B D^-beta) + c (log lr - log lr*)^2 + g (log b - log b*)^2``.

    ``log lr* = l + l_N log N + l_D log D`` and ``log b* = m + m_D log D``: twelve parameters.

    Parameters
    ----------
    run_sd : float
        Sd of the log loss of a run against which the pull below counts.

    Notes
    -----
    Sources: Hoffmann et al., doi:10.48550/arXiv.2203.15556, eq. 10; the power laws of the optimal
    learning rate and batch of Li et al., arXiv 2503.04715 (Step Law), eq. 1. That the loss is
    quadratic in logs around them, the fit by least squares of the log loss from four starts, and a
    weak pull to the published exponents (sd 0.5 each, against runs of sd 0.01) are our own choice;
    the pull decides only what the runs do not, such as the optimum's exponents where the
    learning rate is a function of the size. A setting that never varies gets no bowl.
    `n_parameters` is the effective number, rounded up.

    Examples
    --------
    >>> from bayes_optlaws import datasets, read_runs
    >>> law = StepLaw().fit(read_runs(datasets.load("pocket")))
    >>> bool(law.parameters["lr_curve"] > 0), float(law.parameters["batch_curve"])
    (True, 0.0)
    """

    name = "step-law"
    names: ClassVar[tuple[str, ...]] = _NAMES

    def __init__(self, *, run_sd: float = 0.01) -> None:
        if not run_sd > 0:
            raise ValueError(f"run_sd = {run_sd}: must be positive; 0.01 is the default")
        self.run_sd = run_sd
        self.n_parameters = len(_NAMES)

    def _inputs(self, table: pd.DataFrame) -> dict[str, np.ndarray]:
        x = read_columns(table, ("n_params", "tokens", "peak_lr", "batch_tokens"))
        return {k: np.log(v) for k, v in x.items()}

    def _estimate(
        self, inputs: dict, loss: np.ndarray, weight: np.ndarray, start: np.ndarray | None
    ) -> np.ndarray:
        if start is None:
            self._mean = {k: v.mean() for k, v in inputs.items()}
            free = np.ones(len(_NAMES), dtype=bool)
            varies = {k: np.ptp(v) > 1e-9 for k, v in inputs.items()}
            free[5:9], free[9:] = varies["peak_lr"], varies["batch_tokens"]
            free[1], free[3] = [varies["n_params"]] * 2
            free[2], free[4] = [varies["tokens"]] * 2
            self._free = free
        x, y, root, free = self._centred(inputs), np.log(loss), np.sqrt(weight), self._free
        level = float(y.mean())

        def full(theta: np.ndarray) -> np.ndarray:
            out = np.zeros(len(_NAMES))
            out[[1, 2]] = _LOW[[1, 2]]  # a term without its input is none
            out[[3, 4]] = _CENTRE[[3, 4]]
            out[free] = theta
            return out

        centre = _CENTRE.copy()
        centre[:3] = level - np.log(3.0)

        def residual(theta: np.ndarray) -> np.ndarray:
            error = root * (_log_loss(full(theta), x)[0] - y) / self.run_sd
            return np.concatenate([error, (theta - centre[free]) / _SD[free]])

        def jacobian(theta: np.ndarray) -> np.ndarray:
            slopes = _log_loss(full(theta), x)[1][:, free]
            return np.vstack([root[:, None] * slopes / self.run_sd, np.diag(1.0 / _SD[free])])

        bounds = _LOW[free], _HIGH[free]
        starts, most = [], 30
        if start is None:
            most = 300
            for alpha, beta in _STARTS:
                theta = centre.copy()
                theta[3:5] = alpha, beta
                starts.append(theta[free])
        else:
            starts.append(start[free])
        found = [
            least_squares(
                residual, np.clip(s, bounds[0] + 1e-9, bounds[1] - 1e-9), jac=jacobian,
                bounds=bounds, max_nfev=most, x_scale=_SD[free],
            )
            for s in starts
        ]  # fmt: skip
        return full(min(found, key=lambda result: result.cost).x)

    def _count(self, state: np.ndarray) -> float:
        """Effective number of parameters: the trace of the fit's hat matrix."""
        slopes = _log_loss(state, self._centred(self._counted))[1][:, self._free] / self.run_sd
        inner = slopes.T @ slopes
        return float(np.trace(np.linalg.solve(inner + np.diag(_SD[self._free] ** -2.0), inner)))

    def fit(self, runs: pd.DataFrame) -> Self:
        """Fit to the finished runs of a run table; see `ResampledBaseline.fit`."""
        self._counted = self._inputs(finished(runs)[0])
        super().fit(runs)
        self.n_parameters = int(np.ceil(self.n_parameters))
        return self

    def _centred(self, inputs: dict[str, np.ndarray]) -> _Inputs:
        keys = ("n_params", "tokens", "peak_lr", "batch_tokens")
        return _Inputs(*(inputs[k] - self._mean[k] for k in keys))

    def _curve(self, inputs: dict, state: np.ndarray) -> np.ndarray:
        return np.exp(np.clip(_log_loss(state, self._centred(inputs))[0], -50.0, 50.0))

    def _describe(self, state: np.ndarray) -> pd.Series:
        return pd.Series(state, index=_NAMES)


def _log_loss(p: np.ndarray, x: _Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Log loss, shape (n,), and its slopes by the twelve parameters, shape (n, 12)."""
    e, a, b, alpha, beta, c, l0, ln, ld, g, m0, md = p
    terms = np.stack([np.full(x.n.size, e), a - alpha * x.n, b - beta * x.d])
    top = terms.max(axis=0)
    weight = np.exp(terms - top)
    total = weight.sum(axis=0)
    weight /= total
    u = x.lr - l0 - ln * x.n - ld * x.d
    v = x.batch - m0 - md * x.d
    value = top + np.log(total) + c * u**2 + g * v**2
    slopes = np.column_stack(
        [
            *weight, -weight[1] * x.n, -weight[2] * x.d,
            u**2, -2 * c * u, -2 * c * u * x.n, -2 * c * u * x.d,
            v**2, -2 * g * v, -2 * g * v * x.d,
        ]
    )  # fmt: skip
    return value, slopes


class StepLawProcess(StepLaw):
    """The Step-Law form, and a Gaussian process on what it leaves.

    The process, without a trend, sees all settings that vary
    (`bayes_optlaws.baselines.gaussian_process.coordinates`). Draws add the bootstrap of the form to
    draws of the process.

    Parameters
    ----------
    run_sd : float
        As for `StepLaw`.
    n_starts : int
        Starting points of the kernel fit.
    random_seed : int
        Of those starts and of subsets of large tables.

    Notes
    -----
    Sources as for `StepLaw` and `bayes_optlaws.baselines.linear_mean_process`; to fit the process
    to the residuals of the best fit, rather than both at once, is our own choice.

    Examples
    --------
    >>> from bayes_optlaws import datasets, read_runs
    >>> runs = read_runs(datasets.load("pocket"))
    >>> law = StepLawProcess(n_starts=1).fit(runs[:75])
    >>> law.predict_draws(runs[:3], n=5, random_seed=1).shape
    (5, 3)
    """

    name = "step-law-gp"

    def __init__(self, *, run_sd: float = 0.01, n_starts: int = 4, random_seed: int = 0) -> None:
        super().__init__(run_sd=run_sd)
        self.n_starts, self.random_seed = n_starts, random_seed
        self._process: Process | None = None

    def fit(self, runs: pd.DataFrame) -> Self:
        """Fit the form, then the process to its log residuals."""
        super().fit(runs)
        rows, loss = finished(runs)
        error = np.log(loss) - np.log(super().predict(rows))
        self._logs = StandardLogs.fit(rows, loss)
        self._unit = max(float(error.std()), 1e-9)
        self._process = fit_process(
            self._logs.points(rows), error / self._unit, trend_sd=0.0,
            rng=np.random.default_rng(self.random_seed), n_starts=self.n_starts,
        )  # fmt: skip
        self.n_parameters += self._process.theta.size
        return self

    def predict(self, runs: pd.DataFrame) -> np.ndarray:
        """Return the predicted loss of every row, shape (n_runs,), nats per token."""
        form = super().predict(runs)
        assert self._process is not None  # fitted together with the form
        return form * np.exp(self._unit * self._process.mean(self._logs.points(runs)))

    def predict_draws(
        self, runs: pd.DataFrame, *, n: int = 200, random_seed: int | None = None
    ) -> np.ndarray:
        """Return joint draws of the loss of a new run of each row, shape (n, n_runs)."""
        inputs = self._inputs(runs)
        form = np.array([self._bounded(inputs, s) for s in self._states(n, random_seed)])
        assert self._process is not None  # fitted together with the form
        rng = np.random.default_rng(None if random_seed is None else [random_seed, 1])
        return form * np.exp(self._unit * self._process.draw(self._logs.points(runs), n, rng))
