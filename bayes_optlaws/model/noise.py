"""Noise that varies: a floor, and a part whose log sd is linear in the settings.

A run near the edge of divergence scatters several times more than one near the optimum, so one
noise sd is too wide where it matters and too narrow elsewhere.  The log of the sd is a linear
function of the standardised log LR, log batch and warm-up (own choice).  Settings are divided into
a few classes, each with the noise of its centre, so that a class enters the likelihood through one
Gram matrix.  A run, fitted or yet to be made, belongs to the class whose centre is nearest:
likelihood, leave-one-out, predictions and replicated data have the same noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from bayes_optlaws.model.discrepancy import Discrepancy

MAX_CLASSES = 8
"""Classes of runs that share a noise sd; a power of two."""

MIN_CLASS = 12
"""A class is not split below twice this many runs."""

COVARIATES = ("lr", "batch", "warmup")


@dataclass(frozen=True)
class NoiseClasses:
    """Noise covariates of a run table and its classes.

    Parameters
    ----------
    names : tuple of str
        Settings that the noise depends on: those of `COVARIATES` that vary.
    covariates : array, shape (n_classes, n_names)
        Centre of each class: standardised settings.
    label : int array, shape (n_runs,)
        Class of each training run.
    """

    names: tuple[str, ...]
    covariates: np.ndarray
    label: np.ndarray

    @classmethod
    def fit(
        cls, table: pd.DataFrame, discrepancy: Discrepancy, *, constant: bool = False
    ) -> NoiseClasses:
        """Split runs at medians of their widest setting, where that leaves enough on both sides.

        Where it does for no class, the next widest is tried, and a median that many runs share.
        A table that cannot be split has one noise sd and no covariates: floor and growing part
        of a single class could not be told apart.

        Parameters
        ----------
        table : DataFrame
            Convergent runs.
        discrepancy : Discrepancy
            Gives the standardised settings.
        constant : bool
            One class and no covariates.
        """
        names = () if constant else tuple(k for k in COVARIATES if k in discrepancy.varying)
        z = discrepancy.standard_settings(table, names)
        groups = [np.arange(len(table))]
        while names and 2 * len(groups) <= MAX_CLASSES:
            split = [part for g in groups for part in _halves(g, _cuts(z[g])[:1])]
            if len(split) == len(groups):
                split = [part for g in groups for part in _halves(g, _cuts(z[g]))]
            if len(split) == len(groups):
                break
            groups = split
        if len(groups) == 1:
            names, z = (), z[:, :0]
        means = np.array([z[g].mean(axis=0) for g in groups]).reshape(len(groups), len(names))
        return cls(names, means, _nearest(z, means))

    def at(self, table: pd.DataFrame, discrepancy: Discrepancy) -> np.ndarray:
        """Covariates of any runs: those of their classes, shape (n, n_names)."""
        z = discrepancy.standard_settings(table, self.names)
        return self.covariates[_nearest(z, self.covariates)]


def _nearest(z: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Index of the centre nearest to each row of z, shape (n,)."""
    return cdist(z, centres).argmin(axis=1) if z.shape[1] else np.zeros(len(z), dtype=np.int64)


def _cuts(z: np.ndarray) -> list[np.ndarray]:
    """Ways to cut at a median of the settings z, the widest setting first, as masks of one side."""
    cuts = []
    for axis in np.argsort(-np.ptp(z, axis=0), kind="stable"):
        median = np.median(z[:, axis])
        cuts += [z[:, axis] <= median, z[:, axis] < median]
    return cuts


def _halves(rows: np.ndarray, cuts: list[np.ndarray]) -> list[np.ndarray]:
    """Rows on both sides of the first cut that leaves enough on each; all rows where none does."""
    for low in cuts:
        if min(low.sum(), (~low).sum()) >= MIN_CLASS:
            return [rows[low], rows[~low]]
    return [rows]
