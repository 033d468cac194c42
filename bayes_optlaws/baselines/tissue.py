"""The learning-rate annealing law of Tissue et al., across model sizes."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd

from bayes_optlaws.baselines.annealing import Curves
from bayes_optlaws.baselines.base import read_columns
from bayes_optlaws.baselines.power_laws import LogInputs, PowerLaw, Term, safe_log


class TissueAnnealing(PowerLaw):
    """``L = L0 + A S1^-alpha + B N^-beta - C S2 N^gamma``: 7 parameters.

    ``S1`` is the area under the learning-rate curve, ``S2`` the annealing area, in which a fall of
    the learning rate counts the more the longer ago it was, with memory ``decay_rate`` a step.

    Parameters
    ----------
    decay_rate : float
        lambda, fixed; 0.999 as published.
    delta, n_starts, random_seed
        As for `bayes_optlaws.baselines.chinchilla.Chinchilla`.

    Notes
    -----
    Source: Tissue et al., doi:10.48550/arXiv.2408.11029; the cross-scale form with 7 parameters is
    the baseline of arXiv 2409.04777, Table 1. Both areas are closed-form integrals over the phases
    of the schedule, so a run of a million steps costs what a short one does; the warm-up counts in
    S1 and not in S2 (own choice). N in parameters, areas in learning rate x steps. Bounds, 0.01 to
    3 for alpha and beta and 0 to 2 for gamma, are our own choice.

    Examples
    --------
    >>> from bayes_optlaws import datasets, read_runs
    >>> law = TissueAnnealing().fit(read_runs(datasets.load("pocket")))
    >>> list(law.parameters.index)
    ['L0', 'A', 'B', 'C', 'alpha', 'beta', 'gamma']
    """

    name = "tissue"
    terms = (
        Term("L0"),
        Term("A", (("S1", "alpha", -1),)),
        Term("B", (("n_params", "beta", -1),)),
        Term("C", (("S2", 1.0, 1), ("n_params", "gamma", 1)), sign=-1, free=True),
    )
    exponents: ClassVar = {"alpha": (0.01, 3.0), "beta": (0.01, 3.0), "gamma": (0.0, 2.0)}
    grid: ClassVar = {
        "alpha": (0.05, 0.15, 0.3, 0.5, 0.8, 1.3),
        "beta": (0.05, 0.15, 0.3, 0.5, 0.8, 1.3),
        "gamma": (0.0, 0.2, 0.5, 1.0),
    }

    def __init__(
        self,
        *,
        decay_rate: float = 0.999,
        delta: float = 1e-3,
        n_starts: int = 8,
        random_seed: int = 0,
    ) -> None:
        super().__init__(delta=delta, n_starts=n_starts, random_seed=random_seed)
        if not 0 < decay_rate < 1:
            raise ValueError(
                f"decay_rate = {decay_rate}: must lie between 0 and 1; the published value is 0.999"
            )
        self.decay_rate = decay_rate

    def _inputs(self, table: pd.DataFrame) -> LogInputs:
        curves = Curves.from_table(table)
        return {
            "S1": np.log(curves.area),
            "n_params": np.log(read_columns(table, ("n_params",))["n_params"]),
            "S2": safe_log(curves.annealing_area(self.decay_rate)),
        }
