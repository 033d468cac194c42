"""What the divergence part reads of a run table: inputs, units, and distinct rows with counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayes_optlaws.model.covariates import Covariates
from bayes_optlaws.model.divergence_cells import merge_rows

BILLION = 1e9
"""The paper's unit of model size, tokens and warm-up."""

MAX_ROWS = 20_000
"""Longer tables are merged into this many cells, finest where the outcome is in doubt."""

LEAST_REMAINDER = 0.01
"""Least share of a run that is left after its warm-up: a warm-up throughout has no logarithm."""


@dataclass(frozen=True)
class DivergenceInputs:
    """What the criterion reads of every run.

    Parameters
    ----------
    log_size, log_tokens, log_warmup : arrays, shape (n,)
        Logs of parameters, tokens and warm-up tokens, in billions.
    log_lr : array, shape (n,)
        Log of the peak LR over the unit of the table that was fitted.
    columns : array, shape (n, n_columns)
        Columns of the correction, zero at the centre of the table that was fitted and constant
        beyond its range.
    """

    log_size: np.ndarray
    log_tokens: np.ndarray
    log_warmup: np.ndarray
    log_lr: np.ndarray
    columns: np.ndarray


@dataclass(frozen=True)
class DivergenceScale:
    """Units, centre and range of the table that was fitted; needed to read any other table.

    The correction has three columns, in which R has no part of its own: log batch; its bend
    (``sqrt(1 + x**2) - 1``: both very small and very large batches may be risky), where the batch
    varies; and how often the part of the run that is left after the warm-up halves the run (little
    time to recover from an instability).  Beyond the range of the table they stay what they are at
    its end, so that there R alone speaks.

    Parameters
    ----------
    lr_unit : float
        Highest peak LR.
    centre, spread : dict of str to float
        Mean of the logs ``size``, ``tokens``, ``steps``, ``warmup`` (steps), ``batch``, and of the
        ``recovery`` in halvings; their sd or 1, whichever is larger.
    lowest, highest : dict of str to float
        Range of each, and of the log ``lr``.
    covariates : Covariates
        Each number and each level of a category is a further column of the correction.
    """

    lr_unit: float
    centre: dict[str, float]
    spread: dict[str, float]
    lowest: dict[str, float]
    highest: dict[str, float]
    covariates: Covariates = Covariates()

    @classmethod
    def fit(
        cls,
        table: pd.DataFrame,
        covariates: Covariates = Covariates(),  # noqa: B008 (frozen)
    ) -> DivergenceScale:
        """Take units, centre and range from a validated run table."""
        logs = _logs(table)
        logs["recovery"] = _recovery(logs, float(logs["warmup"].max()))
        every = logs | {"lr": np.log(table["peak_lr"].to_numpy(float))}
        return cls(
            float(table["peak_lr"].max()),
            {name: float(value.mean()) for name, value in logs.items()},
            {name: max(float(value.std()), 1.0) for name, value in logs.items()},
            {name: float(value.min()) for name, value in every.items()},
            {name: float(value.max()) for name, value in every.items()},
            covariates,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Labels of the correction's columns."""
        varies = self.highest["batch"] - self.lowest["batch"] > 1e-6
        own = ("batch", "recovery", "batch_bend") if varies else ("batch", "recovery")
        return (*own, *self.covariates.risk_names)

    @property
    def origin(self) -> np.ndarray:
        """Log N, log tokens and log tokens per warm-up token at the centre, shape (3,)."""
        c, unit = self.centre, np.log(BILLION)
        return np.array([c["size"] - unit, c["tokens"] - unit, c["steps"] - c["warmup"]])

    def inputs(self, table: pd.DataFrame) -> DivergenceInputs:
        """Inputs of every row of a validated run or candidate table."""
        logs = _logs(table)
        # a warm-up longer than any in the table has no part in what the table taught of recovery
        logs["recovery"] = _recovery(logs, self.highest["warmup"])
        z = {name: self._within(name, logs[name]) for name in ("batch", "recovery")}
        z["batch_bend"] = np.sqrt(1.0 + z["batch"] ** 2) - 1.0
        own = self.names[: len(self.names) - len(self.covariates.risk_names)]
        columns = np.column_stack([z[name] for name in own])
        if self.covariates:
            columns = np.hstack([columns, self.covariates.risk_columns(table)])
        unit = np.log(BILLION)
        return DivergenceInputs(
            logs["size"] - unit,
            logs["tokens"] - unit,
            logs["tokens"] - logs["steps"] + logs["warmup"] - unit,
            np.log(table["peak_lr"].to_numpy(float)) - np.log(self.lr_unit),
            columns,
        )

    def _within(self, name: str, value: np.ndarray) -> np.ndarray:
        """Standardised values, those beyond the range of the table at its end."""
        value = np.clip(value, self.lowest[name], self.highest[name])
        return (value - self.centre[name]) / self.spread[name]

    def rows(self, inputs: DivergenceInputs) -> np.ndarray:
        """Rows of the likelihood about the centre: size, tokens, exposure, LR, then columns."""
        size, tokens, exposure = self.origin
        head = [
            inputs.log_size - size,
            inputs.log_tokens - tokens,
            inputs.log_tokens - inputs.log_warmup - exposure,
            inputs.log_lr,
        ]
        return np.column_stack([*head, inputs.columns])


def _logs(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Natural logs of sizes; a warm-up of no steps counts as one step."""
    column = {"size": "n_params", "tokens": "tokens", "batch": "batch_tokens"}
    out = {name: np.log(table[c].to_numpy(float)) for name, c in column.items()}
    # rounded tables: the product of steps and batch is what tokens stand for in every column
    out["steps"] = out["tokens"] - out["batch"]
    out["warmup"] = np.log(np.maximum(table["warmup_steps"].to_numpy(float), 1.0))
    return out


def _recovery(logs: dict[str, np.ndarray], longest: float) -> np.ndarray:
    """Halvings from the whole run to what is left of it after the warm-up."""
    left = 1.0 - np.exp(np.minimum(logs["warmup"], longest) - logs["steps"])
    return -np.log2(np.maximum(left, LEAST_REMAINDER))


@dataclass(frozen=True)
class DivergenceData:
    """What the likelihood needs of a run table: distinct rows, how often run, how often diverged.

    Parameters
    ----------
    rows : array, shape (n_rows, 4 + n_columns)
        As `DivergenceScale.rows`; equal runs are one row.
    runs, events : arrays, shape (n_rows,)
        Number of runs of a row and number of them that diverged.
    scale : DivergenceScale
    """

    rows: np.ndarray
    runs: np.ndarray
    events: np.ndarray
    scale: DivergenceScale

    @classmethod
    def from_runs(
        cls,
        table: pd.DataFrame,
        *,
        max_rows: int = MAX_ROWS,
        covariates: Covariates = Covariates(),  # noqa: B008 (frozen)
    ) -> DivergenceData:
        """Reduce a validated run table, divergent runs included.

        Parameters
        ----------
        table : DataFrame
            From `bayes_optlaws.read_runs`.
        max_rows : int
            Longer tables of distinct runs are merged into this many cells (an approximation: of
            second order in the width of a cell).  On 100,000 distinct simulated runs the default
            moves the posterior mode by 0.2 posterior sds (rms), on 30,000 by less than 0.01.
        covariates : Covariates

        Raises
        ------
        ValueError
            If the table has no row.

        Examples
        --------
        >>> import bayes_optlaws as bo
        >>> data = DivergenceData.from_runs(bo.read_runs(bo.datasets.load("pocket")))
        >>> data.n_runs, data.n_diverged, data.scale.names
        (260, 28, ('batch', 'recovery'))
        """
        if not len(table):
            raise ValueError("the run table must have at least one row; add the runs")
        scale = DivergenceScale.fit(table, covariates)
        rows = scale.rows(scale.inputs(table))
        return cls(*merge_rows(rows, table["diverged"].to_numpy(float), max_rows), scale)

    def outcomes(self) -> tuple[np.ndarray, np.ndarray]:
        """Row of every run, and whether it diverged (0 or 1), each of shape (n_runs,)."""
        runs, events = (np.round(x).astype(int) for x in (self.runs, self.events))
        row = np.repeat(np.arange(len(runs)), runs)
        first = np.repeat(np.cumsum(runs) - runs, runs)
        return row, (np.arange(row.size) - first < events[row]).astype(np.int8)

    @property
    def n_runs(self) -> int:
        """Number of runs."""
        return round(float(self.runs.sum()))

    @property
    def n_diverged(self) -> int:
        """Number of divergent runs."""
        return round(float(self.events.sum()))

    @property
    def message(self) -> str | None:
        """What a reader of the probabilities must know; None where runs of both kinds are seen."""
        if self.n_diverged == 0:
            return (
                f"none of the {self.n_runs} runs diverged: the probability of divergence rests on "
                "the prior and on the absence of events, and its interval is wide above the LRs "
                "seen; add runs at higher LR to find the boundary"
            )
        if self.n_diverged == self.n_runs:
            return (
                f"all {self.n_runs} runs diverged: the probability of divergence rests on the "
                "prior below the LRs seen; add runs at lower LR to find the boundary"
            )
        return None
