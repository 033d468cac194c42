"""Quadratic regression in logs: the response surface of a designed experiment."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from bayes_optlaws.baselines.base import finished, require_fitted
from bayes_optlaws.baselines.standard import StandardLogs


def quadratic_columns(x: np.ndarray) -> tuple[np.ndarray, int]:
    """Constant, coordinates, squares and products of (n, d), and how many are of first order.

    Examples
    --------
    >>> quadratic_columns(np.array([[2.0, 3.0]]))
    (array([[1., 2., 3., 4., 6., 9.]]), 3)
    """
    d = x.shape[1]
    pairs = itertools.combinations_with_replacement(range(d), 2)
    second = [x[:, i] * x[:, j] for i, j in pairs]
    return np.column_stack([np.ones(len(x)), x, *second]), d + 1


@dataclass(frozen=True)
class LinearPosterior:
    """Posterior of the coefficients of a Bayesian linear regression of known variances.

    Attributes
    ----------
    mean : ndarray, shape (p,)
    covariance : ndarray, shape (p, p)
    log_evidence : float
    """

    mean: np.ndarray
    covariance: np.ndarray
    log_evidence: float


def linear_posterior(
    gram: np.ndarray, xy: np.ndarray, yy: float, n: int, prior_sd: np.ndarray, noise_sd: float
) -> LinearPosterior:
    """Coefficients ``N(0, prior_sd^2)`` given the Gram matrix of n runs.

    Source: Bishop, Pattern Recognition and Machine Learning, equations 3.50 to 3.54 and 3.86.

    Parameters
    ----------
    gram, xy, yy
        ``X'X`` (p, p), ``X'y`` (p,), ``y'y``.
    n : int
    prior_sd : ndarray, shape (p,)
    noise_sd : float
    """
    # Scaled by the prior sds the precision is 1 + a positive matrix: its factor always exists.
    inner = np.eye(xy.size) + gram * np.outer(prior_sd, prior_sd) / noise_sd**2
    factor = np.linalg.cholesky(inner)
    half = np.linalg.solve(factor, prior_sd * xy) / noise_sd**2
    inverse = np.linalg.inv(factor) * prior_sd
    log_evidence = (
        -0.5 * (n * np.log(2 * np.pi * noise_sd**2) + yy / noise_sd**2 - half @ half)
        - np.log(np.diag(factor)).sum()
    )
    return LinearPosterior(inverse.T @ half, inverse.T @ inverse, float(log_evidence))


class QuadraticRegression:
    """Log loss as a full quadratic of the log settings: Bayesian linear regression.

    The first order is near flat; the prior sd of the second order and the noise maximise the
    evidence.

    Parameters
    ----------
    trend_sd : float
        Prior sd of the first order, in sds of log loss per sd of a coordinate.

    Notes
    -----
    MacKay, doi:10.1162/neco.1992.4.3.415 (evidence); the coordinates are those of
    `bayes_optlaws.baselines.gaussian_process.coordinates` that vary. One common sd of squares and
    products on standardised coordinates is our own choice.

    Examples
    --------
    >>> from bayes_optlaws import datasets, read_runs
    >>> runs = read_runs(datasets.load("pocket"))
    >>> law = QuadraticRegression().fit(runs)
    >>> law.n_parameters, law.predict_draws(runs[:3], n=5, random_seed=1).shape
    (17, (5, 3))
    """

    name = "quadratic"

    def __init__(self, *, trend_sd: float = 3.0) -> None:
        if not trend_sd > 0:
            raise ValueError(f"trend_sd = {trend_sd}: must be positive; 3 is the default")
        self.trend_sd = trend_sd
        self.n_parameters = 0
        self._posterior: LinearPosterior | None = None

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
        ValueError
            When the table is not a run table or has fewer than 5 finished runs.
        """
        rows, loss = finished(runs)
        if loss.size < 5:
            raise ValueError(f"{loss.size} finished runs: a quadratic needs 5; add runs")
        self._logs = StandardLogs.fit(rows, loss)
        x, first = quadratic_columns(self._logs.points(rows))
        y = self._logs.target(loss)
        sums = x.T @ x, x.T @ y, float(y @ y), y.size

        def posterior(theta: np.ndarray) -> LinearPosterior:
            sd = np.full(x.shape[1], np.exp(theta[0]))
            sd[:first] = self.trend_sd
            return linear_posterior(*sums, sd, float(np.exp(theta[1])))

        bounds = np.log([(1e-4, 10.0), (1e-4, 2.0)])
        found = [
            minimize(
                lambda theta: -posterior(theta).log_evidence,
                np.log([tau, noise]),
                method="L-BFGS-B",
                bounds=bounds,
            )
            for tau, noise in itertools.product((0.01, 0.1, 1.0), (0.02, 0.2))
        ]
        best = min(found, key=lambda result: result.fun)
        self._posterior = posterior(best.x)
        self._second_sd, self._noise_sd = np.exp(best.x)
        self.n_parameters = x.shape[1] + 2
        return self

    def predict(self, runs: pd.DataFrame) -> np.ndarray:
        """Return the median loss of a new run of every row, shape (n_runs,), nats per token."""
        mean = self._require_fit().mean
        return self._logs.loss(quadratic_columns(self._logs.points(runs))[0] @ mean)

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
        posterior = self._require_fit()
        rng = np.random.default_rng(random_seed)
        value, vector = np.linalg.eigh(posterior.covariance)
        root = vector * np.sqrt(np.maximum(value, 0.0))
        beta = posterior.mean + rng.standard_normal((n, value.size)) @ root.T
        mean = beta @ quadratic_columns(self._logs.points(runs))[0].T
        return self._logs.loss(mean + self._noise_sd * rng.standard_normal(mean.shape))

    @property
    def parameters(self) -> pd.Series:
        """Posterior mean of the coefficients of standardised logs, and both fitted sds."""
        mean = self._require_fit().mean
        names = self._logs.names
        second = itertools.combinations_with_replacement(names, 2)
        index = ["constant", *names, *(f"{a} * {b}" for a, b in second), "second_sd", "noise"]
        scales = [self._second_sd * self._logs.y_sd, self._noise_sd * self._logs.y_sd]
        return pd.Series([*(mean * self._logs.y_sd), *scales], index=index)

    def slopes(self, table: pd.DataFrame) -> pd.DataFrame:
        """Posterior mean of the slope of log loss by each coordinate at every row.

        Parameters
        ----------
        table : DataFrame
            Validated run or candidate table.

        Returns
        -------
        DataFrame
            A column a coordinate, in nats of log loss per unit of it.
        """
        mean = self._require_fit().mean
        d = len(self._logs.names)
        second = np.zeros((d, d))
        second[np.triu_indices(d)] = mean[d + 1 :]
        slope = mean[1 : d + 1] + self._logs.points(table) @ (second + second.T)
        scale = self._logs.y_sd / self._logs.sd
        return pd.DataFrame(slope * scale, columns=list(self._logs.names), index=table.index)

    def curvature(self, coordinate: str) -> tuple[float, float]:
        """Coefficient of the square of a coordinate in its own units, and its posterior sd."""
        posterior = self._require_fit()
        j = self._logs.names.index(coordinate)
        at = len(self._logs.names) + 1
        pairs = list(itertools.combinations_with_replacement(range(len(self._logs.names)), 2))
        at += pairs.index((j, j))
        scale = self._logs.y_sd / self._logs.sd[j] ** 2
        return float(posterior.mean[at] * scale), float(
            np.sqrt(posterior.covariance[at, at]) * scale
        )

    def _require_fit(self) -> LinearPosterior:
        return require_fitted(self.name, self._posterior)
