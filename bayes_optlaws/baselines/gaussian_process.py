"""Gaussian-process regression on log inputs: the serious rival inside the grid."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
import pandas as pd

from bayes_optlaws.baselines.base import finished, read_columns, require_fitted
from bayes_optlaws.schedules import integrals

_LENGTHS, _SCALES, _NOISE = (0.05, 1e3), (1e-4, 1e3), (1e-7, 1.0)


def coordinates(table: pd.DataFrame) -> pd.DataFrame:
    """Return what the process sees of every run.

    Parameters
    ----------
    table : DataFrame
        Validated run or candidate table.

    Returns
    -------
    DataFrame, shape (n, 9)
        Logarithms of model size, tokens, batch, peak learning rate and warm-up fraction, and four
        numbers for the schedule: the mean learning rate after the decay over the plateau's, the
        steepness ``log(1 + E_c T / plateau^2)`` with T the steps after the decay (0 for a constant
        schedule, log 2 for a linear one), the length of the decay over the run's, and the log of
        plateau over peak (own choices).
    """
    x = read_columns(
        table,
        (
            "n_params",
            "tokens",
            "batch_tokens",
            "peak_lr",
            "steps",
            "warmup_steps",
            "decay_end_step",
            "plateau_lr",
        ),
    )
    found = integrals(table)
    a1 = np.maximum(x["warmup_steps"], 1.0)
    a2 = np.maximum(x["decay_end_step"], a1)
    rest = x["steps"] - a2
    return pd.DataFrame(
        {
            "log_n_params": np.log(x["n_params"]),
            "log_tokens": np.log(x["tokens"]),
            "log_batch": np.log(x["batch_tokens"]),
            "log_peak_lr": np.log(x["peak_lr"]),
            "log_warmup_fraction": np.log(a1 / x["steps"]),
            "mean_lr": found.conv_cooldown / (x["plateau_lr"] * rest),
            "steepness": np.log1p(found.escape_cooldown * rest / x["plateau_lr"] ** 2),
            "decay_fraction": (a2 - a1) / x["steps"],
            "log_plateau": np.log(x["plateau_lr"] / x["peak_lr"]),
        },
        index=table.index,
    )


class GaussianProcess:
    """Gaussian process on log inputs: linear trend, Matern 5/2 with a length each, white noise.

    Parameters
    ----------
    n_hyper : int
        With more runs than this, the kernel is fitted to a random subsample of this many.
    n_max : int
        With more runs than this, the predictions condition on a random subsample of this many.
    n_starts : int
        Starting points of the kernel fit.
    random_seed : int
        Seed of the subsamples and the starting points.

    Notes
    -----
    Rasmussen and Williams, doi:10.7551/mitpress/3206.001.0001, sections 2.2, 2.7 and 5.1; the
    target is the log loss, so predictions are positive. The trend is a linear kernel with its own
    scale. Coordinates that do not vary are left out. Needs scikit-learn.

    Examples
    --------
    >>> from bayes_optlaws import datasets, read_runs
    >>> runs = read_runs(datasets.load("pocket"))
    >>> law = GaussianProcess(n_starts=1).fit(runs[:75])
    >>> law.predict_draws(runs[:3], n=5, random_seed=1).shape
    (5, 3)
    """

    name = "gaussian-process"

    def __init__(
        self,
        *,
        n_hyper: int = 800,
        n_max: int = 3000,
        n_starts: int = 2,
        random_seed: int = 0,
    ) -> None:
        for key, value in (("n_hyper", n_hyper), ("n_max", n_max)):
            if value < 10:
                raise ValueError(f"{key} = {value}: must be at least 10; the default is larger")
        if n_starts < 1:
            raise ValueError(f"n_starts = {n_starts}: must be at least 1; 2 is the default")
        self.n_hyper, self.n_max, self.n_starts = n_hyper, n_max, n_starts
        self.random_seed = random_seed
        self.n_parameters = 0
        self._process: Any = None

    def fit(self, runs: pd.DataFrame) -> Self:
        """Fit to the finished runs of a run table.

        Parameters
        ----------
        runs : DataFrame
            Validated run table; diverged runs are left out.

        Returns
        -------
        self

        Raises
        ------
        ImportError
            When scikit-learn is not installed.
        ValueError
            When the table is not a run table or has fewer than 5 finished runs.
        """
        gp, kernels = _scikit_learn()
        rows, loss = finished(runs)
        if loss.size < 5:
            raise ValueError(f"{loss.size} finished runs: a Gaussian process needs 5; add runs")
        x = coordinates(rows)
        spread = np.ptp(x.to_numpy(), axis=0)
        self._names = [c for c, s in zip(x.columns, spread, strict=True) if s > 1e-9]
        values = x[self._names].to_numpy()
        self._x_mean, self._x_sd = values.mean(axis=0), values.std(axis=0)
        y = np.log(loss)
        self._y_mean, self._y_sd = y.mean(), max(y.std(), 1e-12)
        values, y = (values - self._x_mean) / self._x_sd, (y - self._y_mean) / self._y_sd

        rng = np.random.default_rng(self.random_seed)
        order = rng.permutation(loss.size)
        hyper, known = np.sort(order[: self.n_hyper]), np.sort(order[: self.n_max])
        dimension = len(self._names)
        kernel = (
            kernels.ConstantKernel(1.0, _SCALES)
            * kernels.Matern(np.ones(dimension), _LENGTHS, nu=2.5)
            + kernels.ConstantKernel(1.0, _SCALES)
            * kernels.DotProduct(sigma_0=1.0, sigma_0_bounds="fixed")
            + kernels.WhiteKernel(0.01, _NOISE)
        )
        model = gp.GaussianProcessRegressor(
            kernel, alpha=1e-10, optimizer=_maximise(rng, self.n_starts)
        )
        with warnings.catch_warnings():
            # A length at its bound says that the loss does not depend on that coordinate.
            warnings.simplefilter("ignore", category=_convergence_warning())
            model.fit(values[hyper], y[hyper])
        if known.size > hyper.size:
            model = gp.GaussianProcessRegressor(model.kernel_, alpha=1e-10, optimizer=None)
            model.fit(values[known], y[known])
        self._process = model
        self.n_parameters = model.kernel_.theta.size
        return self

    def predict(self, runs: pd.DataFrame) -> np.ndarray:
        """Return the median loss of a new run of every row.

        Parameters
        ----------
        runs : DataFrame
            Validated run or candidate table.

        Returns
        -------
        ndarray, shape (n_runs,)
            Nats per token.
        """
        mean = self._require_fit().predict(self._points(runs))
        return np.exp(self._y_mean + self._y_sd * mean)

    def predict_draws(
        self, runs: pd.DataFrame, *, n: int = 200, random_seed: int | None = None
    ) -> np.ndarray:
        """Return joint draws of the loss of a new run of each row, noise included.

        Parameters
        ----------
        runs : DataFrame
            Validated run or candidate table.
        n : int
            Number of draws.
        random_seed : int, optional
            Seed; the same seed gives the same draws.

        Returns
        -------
        ndarray, shape (n, n_runs)
            Nats per token.
        """
        mean, covariance = self._require_fit().predict(self._points(runs), return_cov=True)
        # The covariance holds the noise of a new run on its diagonal, so it has a factor.
        covariance[np.diag_indices_from(covariance)] += 1e-10
        factor = np.linalg.cholesky(covariance)
        normal = np.random.default_rng(random_seed).normal(size=(n, mean.size))
        return np.exp(self._y_mean + self._y_sd * (mean + normal @ factor.T))

    @property
    def parameters(self) -> pd.Series:
        """Fitted kernel: sds in log loss, lengths in sds of their coordinate."""
        kernel = self._require_fit().kernel_
        amplitude, matern = kernel.k1.k1.k1.constant_value, kernel.k1.k1.k2
        lengths = np.atleast_1d(matern.length_scale)
        out = {
            "amplitude": np.sqrt(amplitude) * self._y_sd,
            **{f"length_{c}": v for c, v in zip(self._names, lengths, strict=True)},
            "trend": np.sqrt(kernel.k1.k2.k1.constant_value) * self._y_sd,
            "noise": np.sqrt(kernel.k2.noise_level) * self._y_sd,
        }
        return pd.Series(out, dtype=float)

    def _points(self, runs: pd.DataFrame) -> np.ndarray:
        self._require_fit()
        return (coordinates(runs)[self._names].to_numpy() - self._x_mean) / self._x_sd

    def _require_fit(self) -> Any:
        return require_fitted(self.name, self._process)


def _scikit_learn() -> tuple[Any, Any]:
    try:
        from sklearn import gaussian_process
        from sklearn.gaussian_process import kernels
    except ImportError as error:
        raise ImportError(
            "the baseline 'gaussian-process' needs scikit-learn: pip install 'bayes-optlaws[ml]'"
        ) from error
    return gaussian_process, kernels


def _convergence_warning() -> type[Warning]:
    from sklearn.exceptions import ConvergenceWarning

    return ConvergenceWarning


def _maximise(rng: np.random.Generator, n_starts: int) -> Any:
    """Optimizer for scikit-learn: L-BFGS from the default kernel and from random ones."""
    from scipy.optimize import minimize

    def optimizer(
        objective: Any, start: np.ndarray, bounds: np.ndarray
    ) -> tuple[np.ndarray, float]:
        # Random starts lie within a factor of e^2 of the default, where lengths make sense.
        starts = [start, *(start + rng.uniform(-2, 2, (n_starts - 1, start.size)))]
        found = [
            minimize(
                objective,
                np.clip(theta, *bounds.T),
                jac=True,
                method="L-BFGS-B",
                bounds=bounds,
                options={"maxiter": 200, "ftol": 1e-8},
            )
            for theta in starts
        ]
        best = min(found, key=lambda result: result.fun)
        return best.x, best.fun

    return optimizer
