"""Gaussian processes with a linear mean in logs: what an engineer would take for a scaling law."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
import pandas as pd

from bayes_optlaws.baselines.base import finished, require_fitted
from bayes_optlaws.baselines.process import Process, fit_process
from bayes_optlaws.baselines.standard import StandardLogs


class LinearMeanProcess:
    """Log loss linear in logs, plus a smooth Gaussian process, plus white noise.

    Parameters
    ----------
    inputs : {"scale", "settings"}
        Coordinates: log model size and log tokens alone, or also those of batch, peak learning
        rate, warm-up and schedule (`bayes_optlaws.baselines.gaussian_process.coordinates`), as far
        as they vary.
    trend_sd : float
        Prior sd of the mean's coefficients, in sds of log loss per sd of a coordinate: 3 is flat
        for all that is plausible, and keeps finite what collinear settings leave open.
    n_starts : int
        Starting points of the kernel fit.
    n_hyper, n_max : int
        With more runs, random subsets of this size: for the kernel, and for the predictions.
    random_seed : int
        Of starts and subsets.

    Notes
    -----
    Rasmussen and Williams, doi:10.7551/mitpress/3206.001.0001, section 2.7: the coefficients of the
    mean have a wide prior and are integrated out, so that far from all runs the prediction is a
    power law in each setting, with the uncertainty of its exponents. The difference to
    `bayes_optlaws.baselines.gaussian_process.GaussianProcess` is that the trend is not shrunk.

    Examples
    --------
    >>> from bayes_optlaws import datasets, read_runs
    >>> runs = read_runs(datasets.load("pocket"))
    >>> law = LinearMeanProcess(inputs="scale", n_starts=1).fit(runs[:75])
    >>> law.predict_draws(runs[:3], n=5, random_seed=1).shape
    (5, 3)
    """

    def __init__(
        self,
        *,
        inputs: Literal["scale", "settings"] = "settings",
        trend_sd: float = 3.0,
        n_starts: int = 4,
        n_hyper: int = 500,
        n_max: int = 2000,
        random_seed: int = 0,
    ) -> None:
        if inputs not in ("scale", "settings"):
            raise ValueError(f"inputs = {inputs!r}: must be 'scale' or 'settings'; choose one")
        if n_starts < 1 or min(n_hyper, n_max) < 10:
            raise ValueError(
                f"n_starts = {n_starts}, n_hyper = {n_hyper}, n_max = {n_max}: there must be a "
                "start and at least 10 runs in each subset; the defaults are 4, 500 and 2000"
            )
        if not trend_sd > 0:
            raise ValueError(f"trend_sd = {trend_sd}: must be positive; 3 is the default")
        self.inputs, self.trend_sd = inputs, trend_sd
        self.name = f"gp-linear-{inputs}"
        self.n_starts, self.n_hyper, self.n_max = n_starts, n_hyper, n_max
        self.random_seed = random_seed
        self.n_parameters = 0
        self._process: Process | None = None

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
            raise ValueError(f"{loss.size} finished runs: a Gaussian process needs 5; add runs")
        self._logs = StandardLogs.fit(rows, loss, scale_only=self.inputs == "scale")
        self._process = fit_process(
            self._logs.points(rows),
            self._logs.target(loss),
            trend_sd=self.trend_sd,
            rng=np.random.default_rng(self.random_seed),
            n_starts=self.n_starts,
            n_hyper=self.n_hyper,
            n_max=self.n_max,
        )
        self.n_parameters = self._process.theta.size + len(self._logs.names) + 1
        return self

    def predict(self, runs: pd.DataFrame) -> np.ndarray:
        """Return the median loss of a new run of every row, shape (n_runs,), nats per token."""
        process = self._require_fit()
        return self._logs.loss(process.mean(self._logs.points(runs)))

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
        process = self._require_fit()
        rng = np.random.default_rng(random_seed)
        return self._logs.loss(process.draw(self._logs.points(runs), n, rng))

    @property
    def parameters(self) -> pd.Series:
        """Fitted kernel: sds in log loss, lengths in sds of their coordinate."""
        theta = np.exp(self._require_fit().theta)
        lengths = {f"length_{c}": v for c, v in zip(self._logs.names, theta[1:-1], strict=True)}
        return pd.Series(
            {
                "amplitude": theta[0] * self._logs.y_sd,
                **lengths,
                "noise": theta[-1] * self._logs.y_sd,
            }
        )

    def _require_fit(self) -> Process:
        return require_fitted(self.name, self._process)
