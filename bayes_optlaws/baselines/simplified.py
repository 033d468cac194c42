"""The simplified Opt-Law with Chinchilla's scale terms."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd

from bayes_optlaws.baselines.annealing import Curves
from bayes_optlaws.baselines.base import read_columns
from bayes_optlaws.baselines.power_laws import LogInputs, PowerLaw, Term, safe_log
from bayes_optlaws.schedules import integrals


class SimplifiedOptLaw(PowerLaw):
    r"""Simplified Opt-Law across scales: 11 parameters, all coefficients and exponents positive.

    ``L = E + A / N^alpha + B / D^beta + a1 (int lr)^-g1 + a2 E_w^g2 + a3 E_c^g3`` with
    ``E_w = int_0^a2 (lr')^2`` over warm-up and decay and ``E_c`` the same after them.

    Parameters
    ----------
    delta, n_starts, random_seed
        As for `bayes_optlaws.baselines.chinchilla.Chinchilla`.

    Notes
    -----
    Source: arXiv 2409.04777, eq. 1 and "Simplified + Chin. scale" of Table 1. The form is inferred
    from its text (7 parameters of eq. 1 with one constant shared: 5 + 6 = 11); how it was fitted
    there is not known, so the fit is that of the other power laws. Bounds on the exponents, 0.01
    to 3, are our own choice.

    Examples
    --------
    >>> from bayes_optlaws import datasets, read_runs
    >>> law = SimplifiedOptLaw().fit(read_runs(datasets.load("pocket")))
    >>> law.n_parameters, bool((law.parameters >= 0).all())
    (11, True)
    """

    name = "simplified"
    terms = (
        Term("E"),
        Term("A", (("n_params", "alpha", -1),)),
        Term("B", (("tokens", "beta", -1),)),
        Term("a1", (("area", "g1", -1),)),
        Term("a2", (("escape_warmup", "g2", 1),)),
        Term("a3", (("escape_cooldown", "g3", 1),)),
    )
    exponents: ClassVar = dict.fromkeys(("alpha", "beta", "g1", "g2", "g3"), (0.01, 3.0))
    grid: ClassVar = dict.fromkeys(exponents, (0.1, 0.35, 1.0))

    def _inputs(self, table: pd.DataFrame) -> LogInputs:
        found = integrals(table)
        x = {k: np.log(v) for k, v in read_columns(table, ("n_params", "tokens")).items()}
        return x | {
            "area": np.log(Curves.from_table(table).area),
            "escape_warmup": np.log(found.escape_warmup),
            "escape_cooldown": safe_log(found.escape_cooldown),
        }
