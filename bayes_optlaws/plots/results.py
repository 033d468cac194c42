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

    @property
    def table(self) -> pd.DataFrame: ...

    @property
    def draws(self) -> xr.DataArray: ...

    @property
    def prob(self) -> float: ...

    @property
    def tie(self) -> float: ...

    @property
    def level(self) -> str: ...

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

    @property
    def table(self) -> pd.DataFrame: ...

    @property
    def scores(self) -> pd.Series: ...

    @property
    def costs(self) -> pd.Series: ...

    @property
    def unit(self) -> str: ...

    @property
    def cost_label(self) -> str: ...

    def plot(self, *, ax: Any = None) -> Any:
        """Draw the plan."""
        ...


class SuggestionLike(Protocol):
    """A `bayes_optlaws.Suggestion`, as far as it is drawn."""

    @property
    def table(self) -> pd.DataFrame: ...

    @property
    def alternatives(self) -> pd.DataFrame: ...

    @property
    def schedule(self) -> Any: ...

    @property
    def loss_mean(self) -> float: ...

    @property
    def tie(self) -> float: ...


class ExplanationLike(Protocol):
    """A `bayes_optlaws.decision.explain.Explanation`, as far as it is drawn."""

    @property
    def first(self) -> str: ...

    @property
    def second(self) -> str: ...

    @property
    def table(self) -> pd.DataFrame: ...

    @property
    def prob(self) -> float: ...


class AllocationLike(Protocol):
    """A `bayes_optlaws.decision.allocate.Allocation`, as far as it is drawn."""

    @property
    def flops(self) -> float: ...

    @property
    def profile(self) -> pd.DataFrame: ...

    @property
    def optimum(self) -> pd.Series: ...

    @property
    def frontier(self) -> pd.DataFrame: ...

    @property
    def exponents(self) -> pd.DataFrame: ...

    @property
    def prob(self) -> float: ...


class WatchLike(Protocol):
    """A `bayes_optlaws.decision.watch.Watch`, as far as it is drawn."""

    @property
    def label(self) -> str: ...

    @property
    def curve(self) -> pd.DataFrame: ...

    @property
    def n_steps(self) -> float: ...

    @property
    def progress(self) -> float: ...

    @property
    def table(self) -> pd.DataFrame: ...

    @property
    def prob(self) -> float: ...
