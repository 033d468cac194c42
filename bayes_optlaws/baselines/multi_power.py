"""The Multi-Power-Law for the final loss, across model sizes."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd

from bayes_optlaws.baselines.annealing import Curves
from bayes_optlaws.baselines.base import read_columns
from bayes_optlaws.baselines.power_laws import Design, LogInputs, PowerLaw, Term, safe_log


class MultiPowerLaw(PowerLaw):
    """``L = L0 + A S1^-alpha + F N^-phi - B D``: 9 parameters.

    ``D = int (-lr'(t)) G(lr(t)^-gamma int_t^S lr) dt`` with ``G(x) = 1 - (1 + C x)^-beta``: what
    each fall of the learning rate has gained by the end of the run.

    Parameters
    ----------
    delta, n_starts, random_seed
        As for `bayes_optlaws.baselines.chinchilla.Chinchilla`.

    Notes
    -----
    Source: Luo et al., doi:10.48550/arXiv.2503.12811, at the last step. Its 7 parameters belong to
    one model size; the term ``F N^-phi``, as in the cross-scale form of the annealing law, is our
    own choice, and so are the bounds. The sum over steps is an integral over the phases of the
    schedule after the warm-up. It was made for one peak learning rate: in a table that varies it,
    it has no means to say that a high one hurts.

    Examples
    --------
    >>> from bayes_optlaws import datasets, read_runs
    >>> law = MultiPowerLaw(n_starts=2).fit(read_runs(datasets.load("pocket")))
    >>> list(law.parameters.index)
    ['L0', 'A', 'F', 'B', 'alpha', 'phi', 'C', 'beta', 'gamma']
    """

    name = "multi-power-law"
    terms = (
        Term("L0"),
        Term("A", (("S1", "alpha", -1),)),
        Term("F", (("n_params", "phi", -1),)),
        Term("B", sign=-1, free=True),
    )
    # C stands for its logarithm, relative to the reference point, while fitting.
    exponents: ClassVar = {
        "alpha": (0.01, 3.0),
        "phi": (0.01, 3.0),
        "C": (np.log(1e-3), np.log(1e4)),
        "beta": (0.02, 3.0),
        "gamma": (0.0, 2.0),
    }
    grid: ClassVar = {
        "alpha": (0.1, 0.35, 1.0),
        "phi": (0.1, 0.35, 1.0),
        "C": (np.log(0.1), np.log(3.0), np.log(100.0)),
        "beta": (0.2, 0.8),
        "gamma": (0.2, 0.8),
    }

    def _inputs(self, table: pd.DataFrame) -> LogInputs:
        curves = Curves.from_table(table)
        lr, area, weight = curves.falls()
        return {
            "S1": np.log(curves.area),
            "n_params": np.log(read_columns(table, ("n_params",))["n_params"]),
            "lr": safe_log(lr),
            "left": safe_log(area),
            "fall": safe_log(weight),
        }

    def _design(self, inputs: LogInputs, q: np.ndarray) -> Design:
        design = super()._design(inputs, q)
        log_c, beta, gamma = q[2:]
        weight, log_lr, log_left = np.exp(inputs["fall"]), inputs["lr"], inputs["left"]
        # Nodes of a phase that a run does not have carry no weight.
        none = weight == 0
        log_lr, log_left = np.where(none, 0.0, log_lr), np.where(none, 0.0, log_left)
        cx = np.exp(log_c - gamma * log_lr + log_left)
        log_more = np.log1p(cx)
        rest = np.exp(-beta * log_more)
        by_log_x = weight * beta * rest * cx / (1.0 + cx)
        design.columns[:, 3] = -np.sum(weight * (1.0 - rest), axis=1)
        design.slopes.extend(
            [
                (3, 2, -np.sum(by_log_x, axis=1)),
                (3, 3, -np.sum(weight * log_more * rest, axis=1)),
                (3, 4, np.sum(by_log_x * log_lr, axis=1)),
            ]
        )
        return design

    def _natural(self, c: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        c, q = super()._natural(c, q)
        q = q.copy()
        c[3] *= np.exp(-self._reference["fall"])
        q[2] = np.exp(q[2] + q[4] * self._reference["lr"] - self._reference["left"])
        return c, q
