"""What plots need of the results that they draw.

Rankings, plans and suggestions are made above the plots, and draw themselves with them.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import pandas as pd
import xarray as xr


class RankingLike(Protocol):
    """A `bayes_optlaws.Ranking`, as far as it is drawn."""

    table: pd.DataFrame
    draws: xr.DataArray
    prob: float
    tie: float
    level: str

    @property
    def expected_ordered(self) -> np.ndarray:
        """Draws that ties are judged on, columns in the order of the table."""
        ...

    def rank_probability(self, *, top: int = 10) -> pd.DataFrame:
        """P(rank = 1), ..., P(rank = top) of each candidate."""
        ...

    def p_better_of_first(self, n: int) -> np.ndarray:
        """P(row ends lower than column) of the first n candidates."""
        ...

    def plot(self, *, ax: Any = None, top: int = 20) -> Any:
        """Draw the ranks."""
        ...

    def plot_pairs(self, *, ax: Any = None, top: int = 15) -> Any:
        """Draw the pairs."""
        ...


class PlanLike(Protocol):
    """A `bayes_optlaws.DesignPlan`, as far as it is drawn."""

    table: pd.DataFrame
    scores: pd.Series
    costs: pd.Series
    unit: str
    cost_label: str

    def plot(self, *, ax: Any = None) -> Any:
        """Draw the plan."""
        ...


class SuggestionLike(Protocol):
    """A `bayes_optlaws.Suggestion`, as far as it is drawn."""

    table: pd.DataFrame
    alternatives: pd.DataFrame
    schedule: Any
    loss_mean: float
    tie: float


class ExplanationLike(Protocol):
    """A `bayes_optlaws.decision.explain.Explanation`, as far as it is drawn."""

    first: str
    second: str
    table: pd.DataFrame
    prob: float


class AllocationLike(Protocol):
    """A `bayes_optlaws.decision.allocate.Allocation`, as far as it is drawn."""

    flops: float
    profile: pd.DataFrame
    optimum: pd.Series
    frontier: pd.DataFrame
    exponents: pd.DataFrame
    prob: float


class WatchLike(Protocol):
    """A `bayes_optlaws.decision.watch.Watch`, as far as it is drawn."""

    label: str
    curve: pd.DataFrame
    n_steps: float
    progress: float
    table: pd.DataFrame
    prob: float
