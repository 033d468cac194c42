"""Chinchilla's law: loss from model size and data alone."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd

from bayes_optlaws.baselines.base import read_columns
from bayes_optlaws.baselines.power_laws import LogInputs, PowerLaw, Term


class Chinchilla(PowerLaw):
    """``L = E + A / N^alpha + B / D^beta``: 5 parameters, blind to the schedule.

    Huber loss of the log loss, many starts; see `bayes_optlaws.baselines`.

    Parameters
    ----------
    delta : float
        Where the Huber loss turns linear (1e-3 as published).
    n_starts : int
        Screened points that are descended from.
    random_seed : int
        Seed of the random part of the screening.

    Notes
    -----
    Source: Hoffmann et al., doi:10.48550/arXiv.2203.15556, eq. 10. N in parameters, D in tokens.
    Bounds on the exponents, 0.01 to 3, are our own choice.

    Examples
    --------
    >>> from bayes_optlaws import datasets, read_runs
    >>> law = Chinchilla().fit(read_runs(datasets.load("pocket")))
    >>> list(law.parameters.index), law.n_parameters
    (['E', 'A', 'B', 'alpha', 'beta'], 5)
    """

    name = "chinchilla"
    terms = (
        Term("E"),
        Term("A", (("n_params", "alpha", -1),)),
        Term("B", (("tokens", "beta", -1),)),
    )
    exponents: ClassVar = {"alpha": (0.01, 3.0), "beta": (0.01, 3.0)}
    grid: ClassVar = dict.fromkeys(exponents, (0.05, 0.1, 0.2, 0.3, 0.45, 0.7, 1.0, 1.5))

    def _inputs(self, table: pd.DataFrame) -> LogInputs:
        return {k: np.log(v) for k, v in read_columns(table, ("n_params", "tokens")).items()}
