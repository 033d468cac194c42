"""RunEncoding: everything that follows from a run table alone, before any sampling.

Features and their standardisation, the coordinates of the discrepancy, the noise classes and the
Gram matrices of the loss part; the rows of the divergence part.  Two laws of the same options and
table have equal encodings, so a saved law keeps the table and makes its encoding anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayes_optlaws.kernels.marginal import SufficientStatistics
from bayes_optlaws.model.data import ModelData
from bayes_optlaws.model.discrepancy import Discrepancy
from bayes_optlaws.model.divergence import DivergenceData
from bayes_optlaws.model.features import FeatureSet, Standardizer, cooled
from bayes_optlaws.model.noise import NoiseClasses
from bayes_optlaws.model.slopes import SlopePrior, slope_rows

FEATURE_OPTIONS = ("auto", "paper")
"""Choices of the option ``features``."""


def check_features(features: str) -> None:
    """Raise ValueError where the option ``features`` is none of `FEATURE_OPTIONS`."""
    if features not in FEATURE_OPTIONS:
        raise ValueError(f"features must be 'auto' or 'paper', got {features!r}")


@dataclass(frozen=True, eq=False)
class RunEncoding:
    """A run table as the model sees it.

    Made by `from_runs`.

    Parameters
    ----------
    runs : DataFrame
        Validated run table.
    finished : DataFrame
        Its runs that finished: those whose loss is modelled.
    transfer : bool
        Whether the discrepancy is modelled.
    features : FeatureSet
    standardizer : Standardizer
    discrepancy : Discrepancy
        Coordinates of scales and settings; its columns are in use only with ``transfer``.
    noise : NoiseClasses
    centre : float
        Mean log loss of the finished runs.
    data : ModelData
        Gram matrices and layout of the loss part.
    divergence : DivergenceData
        What the divergence part reads of the table.
    slope_rows, slope_response : array, shapes (n_slopes, p) and (n_slopes,)
        Published slopes as observations of unit noise, see `bayes_optlaws.model.slopes`.
    """

    runs: pd.DataFrame
    finished: pd.DataFrame
    transfer: bool
    features: FeatureSet
    standardizer: Standardizer
    discrepancy: Discrepancy
    noise: NoiseClasses
    centre: float
    data: ModelData
    divergence: DivergenceData
    slope_rows: np.ndarray
    slope_response: np.ndarray

    @classmethod
    def from_runs(
        cls,
        runs: pd.DataFrame,
        *,
        features: str = "auto",
        transfer: bool = True,
        exponents: str | Mapping[str, tuple[float, ...]] | None = None,
        slope_prior: SlopePrior | None = None,
    ) -> RunEncoding:
        """Encode a validated run table; options as in `bayes_optlaws.OptLaw`.

        Examples
        --------
        >>> import bayes_optlaws as bo
        >>> encoding = RunEncoding.from_runs(bo.read_runs(bo.datasets.load("pocket")))
        >>> len(encoding.finished), encoding.data.tree.n_combinations
        (232, 729)
        """
        check_features(features)
        table = runs[~runs["diverged"]]
        feature_set = FeatureSet.from_options(
            exponents,
            batch=features == "auto" and table["batch_tokens"].nunique() > 1,
            reference_batch=float(np.exp(np.log(table["batch_tokens"]).mean())),
            trends=features == "auto",
        ).levelled(table)
        raw = feature_set.dictionary(table)
        standardizer = Standardizer.fit(
            raw, feature_set.column_exponent,
            None if raw.any(axis=0).all() else feature_set.dictionary(cooled(table)).mean(axis=0),
        )  # fmt: skip
        discrepancy = Discrepancy.fit(table)
        noise = NoiseClasses.fit(table, discrepancy, constant=not transfer)
        log_loss = np.log(table["final_loss"].to_numpy(float))
        centre = float(log_loss.mean())
        rows = standardizer(raw)
        if transfer:
            rows = np.hstack([rows, discrepancy.basis(table)])
        slopes, slope = _slope_rows(
            feature_set, standardizer, table, slope_prior, rows.shape[1] - raw.shape[1]
        )
        data = ModelData(
            SufficientStatistics.from_rows(
                rows, log_loss - centre, noise.label, n_classes=len(noise.covariates)
            ).append(
                SufficientStatistics.from_rows(
                    slopes, slope, np.zeros(len(slope), dtype=int), n_classes=1
                )
            ),
            feature_set.tree,
            feature_set.column_block,
            noise.covariates,
            noise.names,
            discrepancy.cells if transfer else np.zeros((0, 0)),
            discrepancy.fields if transfer else (),
            discrepancy.n_local if transfer else 0,
            discrepancy.n_drift if transfer else (),
        )
        return cls(
            runs, table, transfer, feature_set, standardizer, discrepancy, noise, centre, data,
            DivergenceData.from_runs(runs), slopes, slope,
        )  # fmt: skip

    def rows(self, table: pd.DataFrame | None = None) -> np.ndarray:
        """Columns of the likelihood, shape (n, p): standardised dictionary, then discrepancy.

        Of the finished runs where no table is given.
        """
        table = self.finished if table is None else table
        x = self.standardizer(self.features.dictionary(table))
        return np.hstack([x, self.discrepancy.basis(table)]) if self.transfer else x

    @property
    def response(self) -> np.ndarray:
        """Log loss of the finished runs less their mean, shape (n_finished,)."""
        return np.log(self.finished["final_loss"].to_numpy(float)) - self.centre


def _slope_rows(
    features: FeatureSet,
    standardizer: Standardizer,
    table: pd.DataFrame,
    prior: SlopePrior | None,
    n_other: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the likelihood that state the law's slopes; none for the paper's form."""
    if not features.trends:
        return np.zeros((0, features.n_columns + n_other)), np.zeros(0)
    x, y = slope_rows(lambda t: standardizer(features.dictionary(t)), table, prior or SlopePrior())
    return np.hstack([x, np.zeros((len(x), n_other))]), y
