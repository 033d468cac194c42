r"""What settings beyond the run table's own do to the loss: columns of the mean, shrunk.

A **numeric** covariate is standardised, after its logarithm where its values call for one, and
enters the mean with a bowl (linear and square; beyond the values seen the square goes on as a
straight line) and with its products with scale and with the law's own settings.  A **category** has
a level of its own in the log loss, and its own slopes over scale and settings.  All are normal
around zero with learned sds, so that they are shrunk to nothing where the runs do not speak for
them: one sd for the effects of all numbers and one for their products; for a category one for its
levels, and one for the products of each level (of all levels where these are many).  A level that
agrees with the others is held close to them, and one that does not is not.  Both are coordinates of
the local correction, too (`bayes_optlaws.model.discrepancy`).  (Own choice.)

**Groups** (data sets, tokenizers) are a category of their own kind: losses of different groups
differ in level, so the level's prior is wide, and beside its slopes over scale and settings a group
has curvatures.  That is partial pooling: a group with few runs has the slopes and curvatures of the
others, and its own as far as its runs say so.

Scale is measured by

.. math::

    t(x) = (1 - e^{-\tau x}) / \tau, \quad x = \log N - \overline{\log N}
    \text{ or } \log D - \overline{\log D},

with :math:`\tau` the exponent of published laws (`bayes_optlaws.model.features.TREND_POWER`): the
shape of a power law's deviation, which levels off with scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayes_optlaws.model.covariates import GROUP, Covariate, Covariates
from bayes_optlaws.model.discrepancy import Discrepancy
from bayes_optlaws.model.features import TREND_POWER

CURVATURE = 0.125
"""Half the sd of a curvature over scale, per nat squared, over that of a slope per nat."""


BENT = ("lr", "batch")
"""Settings whose squares have products, too: those that have an optimum."""

NUMBERS = "numbers"
"""Label of the sds that all numbers share: one each would be many that few runs inform."""

MOST_SDS = 6
"""Levels of a category with an sd each for their slopes; more than these share one."""


def _sharing(c: Covariate) -> list[str]:
    """Label of the sd of the products of each column of a covariate."""
    if c.is_category and len(c.levels) <= MOST_SDS:
        return [f"{c.name}[{v}]" for v in c.levels]
    return [c.name] * len(c.levels) if c.is_category else [NUMBERS]


@dataclass(frozen=True)
class Effects:
    """Columns of the mean that covariates add, and which sd each has.

    Parameters
    ----------
    covariates : Covariates
    discrepancy : Discrepancy
        Gives scale and settings, standardised.
    bent : tuple of (str, float, float)
        Those of `BENT` that vary, with their least and greatest standardised values.
    """

    covariates: Covariates
    discrepancy: Discrepancy
    bent: tuple[tuple[str, float, float], ...] = ()

    @classmethod
    def fit(cls, covariates: Covariates, discrepancy: Discrepancy, table: pd.DataFrame) -> Effects:
        """Take the ranges of the settings from the finished runs."""
        names = tuple(name for name in BENT if name in discrepancy.varying)
        z = discrepancy.standard_settings(table, names)
        edges = zip(names, z.min(axis=0).tolist(), z.max(axis=0).tolist(), strict=True)
        return cls(covariates, discrepancy, tuple(edges))

    @property
    def parts(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Hyper-parameters: name and labels, in the order that `entry` counts them."""
        plain = [c for c in self.covariates.items if c.name != GROUP]
        out = []
        if plain:
            products = [label for c in plain for label in dict.fromkeys(_sharing(c))]
            effects = dict.fromkeys(c.name if c.is_category else NUMBERS for c in plain)
            products = list(dict.fromkeys(products))
            out = [("effect_sd", tuple(effects)), ("interaction_sd", tuple(products))]
        if self.covariates.pooled:
            slopes = dict.fromkeys(_sharing(self.covariates.items[-1]))
            out += [("group_level_sd", (GROUP,)), ("group_slope_sd", tuple(slopes))]
        return tuple(out)

    def _terms(self, table: pd.DataFrame) -> list[tuple[str, str, str, np.ndarray]]:
        """Hyper-parameter, its label, name and values of every column."""
        d = self.discrepancy
        t = -np.expm1(-TREND_POWER * d.standard_scales(table)) / TREND_POWER
        scale = {"N": t[:, 0], "tokens": t[:, 1]}
        z = dict(zip(d.varying, d.standard_settings(table, d.varying).T, strict=True))
        for name, lower, upper in self.bent:
            z[f"{name}^2"] = bowl(z[name], lower, upper)
        values = self.covariates.values(table)
        out = []
        for c in self.covariates.items:
            group = c.name == GROUP
            parts = c.standard(values[c.name]).T
            labels = [f"{c.name}[{v}]" for v in c.levels] if c.is_category else [c.name]
            other = dict(scale)
            if group:
                for a, b in (("N", "N"), ("tokens", "tokens"), ("N", "tokens")):
                    other[f"{a} x {b}"] = CURVATURE * scale[a] * scale[b]
            main = ("effect_sd", c.name if c.is_category else NUMBERS)
            if group:
                main = ("group_level_sd", GROUP)
            products = "group_slope_sd" if group else "interaction_sd"
            for x, label, sharing in zip(parts, labels, _sharing(c), strict=True):
                out.append((*main, label, x))
                if not c.is_category:
                    out.append((*main, f"{label}^2", bowl(x, c.lower, c.upper)))
                for name, v in (other | z).items():
                    out.append((products, sharing, f"{label} x {name}", x * v))
        return out

    def columns(self, table: pd.DataFrame) -> np.ndarray:
        """Columns of the likelihood, shape (n, n_effects)."""
        if not self.covariates:
            return np.zeros((len(table), 0))
        return np.column_stack([v for *_, v in self._terms(table)])

    def labels(self, table: pd.DataFrame) -> tuple[str, ...]:
        """Names of those columns; any table will do."""
        if not self.covariates:
            return ()
        return tuple(name for _, _, name, _ in self._terms(table.iloc[:1]))

    def entry(self, table: pd.DataFrame) -> np.ndarray:
        """Hyper-parameter of each column, counted through `parts`; any table will do."""
        if not self.covariates:
            return np.zeros(0, dtype=np.int64)
        at = {(p, label): 0 for p, labels in self.parts for label in labels}
        place = {key: i for i, key in enumerate(at)}
        return np.array([place[p, label] for p, label, *_ in self._terms(table.iloc[:1])])


def bowl(z: np.ndarray, lower: float, upper: float) -> np.ndarray:
    """Half the square of z less a half; beyond the range it goes on with the slope at its end.

    Examples
    --------
    >>> bowl(np.array([-3.0, 0.0, 2.0]), -1.0, 2.0)
    array([ 2. , -0.5,  1.5])
    """
    inside = np.clip(z, lower, upper)
    return 0.5 * inside**2 + inside * (z - inside) - 0.5
