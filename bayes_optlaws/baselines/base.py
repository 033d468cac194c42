"""What every baseline law offers, and the bootstrap that gives the parametric ones intervals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import numpy as np
import pandas as pd


@runtime_checkable
class Baseline(Protocol):
    """A law that predicts final losses without a posterior: the interface of all baselines.

    Tables are validated run or candidate tables. Losses are in nats per token. Diverged runs are
    left out of the fit, and no baseline predicts divergence.
    """

    name: str
    n_parameters: float

    def fit(self, runs: pd.DataFrame) -> Self:
        """Fit to the finished runs of a run table and return the law."""
        ...

    def predict(self, runs: pd.DataFrame) -> np.ndarray:
        """Return the predicted loss, shape (n_runs,)."""
        ...

    def predict_draws(
        self, runs: pd.DataFrame, *, n: int = 200, random_seed: int | None = None
    ) -> np.ndarray:
        """Return joint draws of the loss of a new run of each row, shape (n, n_runs)."""
        ...

    @property
    def parameters(self) -> pd.Series:
        """Fitted parameters by name."""
        ...


def finished(runs: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows that did not diverge, and their losses of shape (n,).

    Raises
    ------
    ValueError
        When the table has no ``final_loss`` or no such row.
    """
    for column in ("final_loss", "diverged"):
        if column not in runs.columns:
            raise ValueError(
                f"column {column} is missing: a baseline is fitted to a run table; "
                "pass it through read_runs first"
            )
    loss = runs["final_loss"].to_numpy(dtype=float)
    keep = np.isfinite(loss) & ~runs["diverged"].to_numpy(dtype=bool)
    if not keep.any():
        raise ValueError(f"all {len(runs)} runs diverged: a baseline needs finished runs; add some")
    return runs.loc[keep], loss[keep]


class ResampledBaseline(ABC):
    """A parametric law with point estimates and a bootstrap.

    A subclass says how the inputs are read from a table, how its state is estimated with weights
    on the runs, and what loss a state predicts.

    Notes
    -----
    The bootstrap draws Dirichlet weights on the runs (Rubin, doi:10.1214/aos/1176345338), the
    smooth form of resampling runs with replacement: no block is ever lost, so every law stays
    identified. To each refit the residual of a random training run is added, enlarged by
    sqrt(n / (n - p)) for the p parameters fitted, on the log scale or, for a law that is linear in
    the loss, on the scale of the loss.
    """

    name: ClassVar[str]
    noise: ClassVar[Literal["log", "loss"]] = "log"
    n_parameters: float
    least_loss: ClassVar[float] = 1e-3
    """Predictions are cut here, in nats per token: a loss is positive (own choice)."""

    _state: Any = None

    @abstractmethod
    def _inputs(self, table: pd.DataFrame) -> Any:
        """Read what the law needs from a table."""

    @abstractmethod
    def _estimate(
        self, inputs: Any, loss: np.ndarray, weight: np.ndarray, start: Any | None
    ) -> Any:
        """State fitted with weights of mean 1; `start` is a state near the optimum, or None."""

    @abstractmethod
    def _curve(self, inputs: Any, state: Any) -> np.ndarray:
        """Predicted loss, shape (n,)."""

    @abstractmethod
    def _describe(self, state: Any) -> pd.Series:
        """Parameters by name."""

    def _count(self, state: Any) -> float:
        """Count the parameters fitted."""
        return self.n_parameters

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
            When the table is not a run table, or has fewer finished runs than parameters.
        """
        rows, loss = finished(runs)
        inputs = self._inputs(rows)
        self._state = None  # a fit that fails leaves a law that is not fitted
        state = self._estimate(inputs, loss, np.ones(loss.size), None)
        count = self._count(state)
        if loss.size <= count:
            raise ValueError(
                f"{loss.size} finished runs for the {count} parameters of baseline "
                f"{self.name!r}: there must be more runs than parameters; add runs"
            )
        self.n_parameters = count
        self._state, self._training = state, (inputs, loss)
        fitted = self._bounded(inputs, state)
        error = np.log(loss) - np.log(fitted) if self.noise == "log" else loss - fitted
        self._residual = error * np.sqrt(loss.size / (loss.size - count))
        return self

    def predict(self, runs: pd.DataFrame) -> np.ndarray:
        """Return the predicted loss of every row.

        Parameters
        ----------
        runs : DataFrame
            Validated run or candidate table.

        Returns
        -------
        ndarray, shape (n_runs,)
            Nats per token.
        """
        self._require_fit()
        return self._bounded(self._inputs(runs), self._state)

    def bootstrap(self, *, n: int = 200, random_seed: int | None = None) -> pd.DataFrame:
        """Return parameters refitted to `n` bootstrap weightings of the training runs.

        Returns
        -------
        DataFrame, shape (n, n_parameters)
        """
        return pd.DataFrame([self._describe(s) for s in self._states(n, random_seed)])

    def predict_draws(
        self, runs: pd.DataFrame, *, n: int = 200, random_seed: int | None = None
    ) -> np.ndarray:
        """Return joint draws of the loss of a new run of each row.

        Parameters
        ----------
        runs : DataFrame
            Validated run or candidate table.
        n : int
            Number of draws; each is a refit.
        random_seed : int, optional
            Seed; the same seed gives the same draws.

        Returns
        -------
        ndarray, shape (n, n_runs)
            Nats per token. A row is one refit: it shares its parameter error among all runs.
        """
        inputs = self._inputs(runs)
        centre = np.array([self._bounded(inputs, s) for s in self._states(n, random_seed)])
        rng = np.random.default_rng(None if random_seed is None else [random_seed, 1])
        error = rng.choice(self._residual, size=centre.shape)
        if self.noise == "log":
            return centre * np.exp(error)
        return np.maximum(centre + error, self.least_loss)

    @property
    def parameters(self) -> pd.Series:
        """Fitted parameters by name."""
        self._require_fit()
        return self._describe(self._state)

    def _states(self, n: int, random_seed: int | None) -> list[Any]:
        self._require_fit()
        inputs, loss = self._training
        rng = np.random.default_rng(random_seed)
        states = []
        for _ in range(n):
            weight = rng.standard_exponential(loss.size)
            states.append(self._estimate(inputs, loss, weight / weight.mean(), self._state))
        return states

    def _bounded(self, inputs: Any, state: Any) -> np.ndarray:
        return np.maximum(self._curve(inputs, state), self.least_loss)

    def _require_fit(self) -> None:
        require_fitted(self.name, self._state)


def require_fitted[T](name: str, state: T | None) -> T:
    """Return what a fit left, or raise ValueError where there was none."""
    if state is None:
        raise ValueError(f"baseline {name!r} is not fitted; call fit(runs) first")
    return state


def read_columns(table: pd.DataFrame, columns: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return columns of a validated table as floats of shape (n,)."""
    absent = [c for c in columns if c not in table.columns]
    if absent:
        raise ValueError(
            f"columns {', '.join(absent)} are missing: baselines need a validated table; "
            "pass it through read_runs or read_candidates first"
        )
    return {c: table[c].to_numpy(dtype=float) for c in columns}
