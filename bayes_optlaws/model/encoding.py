"""RunEncoding: everything that follows from a run table alone, before any sampling.

Features and their standardisation, the coordinates of the discrepancy, the noise classes and the
Gram matrices of the loss part; the rows of the divergence part.  Two laws of the same options and
table have equal encodings, so a saved law keeps the table and makes its encoding anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from bayes_optlaws.kernels.marginal import SufficientStatistics
from bayes_optlaws.model.covariates import Covariates, check_covariates, check_pooling
from bayes_optlaws.model.data import ModelData
from bayes_optlaws.model.discrepancy import Discrepancy
from bayes_optlaws.model.divergence import DivergenceData
from bayes_optlaws.model.effects import Effects
from bayes_optlaws.model.features import FeatureSet, Standardizer, cooled
from bayes_optlaws.model.measurement import Measurement
from bayes_optlaws.model.noise import NoiseClasses
from bayes_optlaws.model.priors import SIGNS, Priors
from bayes_optlaws.model.slopes import SlopePrior, slope_rows
from bayes_optlaws.runs.readers import read_candidates

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
    measurement : Measurement
        Seeds and known variance of the finished runs, and their classes in the likelihood.
    centre : float
        Mean log loss of the finished runs.
    data : ModelData
        Gram matrices and layout of the loss part.
    divergence : DivergenceData
        What the divergence part reads of the table.
    effects : Effects
        Columns of the covariates.
    prior_rows, prior_response : array, shapes (n_prior, p) and (n_prior,)
        Prior knowledge as observations of unit noise: published slopes, see
        `bayes_optlaws.model.slopes`, then the coefficients that have priors of their own.
    n_slopes : int
        How many of these rows are slopes.
    """

    runs: pd.DataFrame
    finished: pd.DataFrame
    transfer: bool
    features: FeatureSet
    standardizer: Standardizer
    discrepancy: Discrepancy
    noise: NoiseClasses
    measurement: Measurement
    centre: float
    data: ModelData
    divergence: DivergenceData
    effects: Effects
    prior_rows: np.ndarray
    prior_response: np.ndarray
    n_slopes: int

    @classmethod
    def from_runs(
        cls,
        runs: pd.DataFrame,
        *,
        features: str = "auto",
        transfer: bool = True,
        exponents: str | Mapping[str, tuple[float, ...]] | None = None,
        priors: Priors | None = None,
        covariates: Sequence[str] | Mapping[str, str] | None = None,
        groups: str | None = None,
    ) -> RunEncoding:
        """Encode a validated run table; options as in `bayes_optlaws.OptLaw`.

        Raises
        ------
        ValueError
            If priors name features or exponent groups that this law does not have.

        Examples
        --------
        >>> import bayes_optlaws as bo
        >>> encoding = RunEncoding.from_runs(bo.read_runs(bo.datasets.load("pocket")))
        >>> len(encoding.finished), encoding.data.tree.n_combinations
        (232, 729)
        """
        check_features(features)
        priors = Priors() if priors is None else priors
        check_pooling(groups)
        settings = Covariates.fit(runs, check_covariates(covariates), pooled=groups is not None)
        table = runs[~runs["diverged"]]
        feature_set = FeatureSet.from_options(
            exponents,
            batch=features == "auto" and table["batch_tokens"].nunique() > 1,
            reference_batch=float(np.exp(np.log(table["batch_tokens"]).mean())),
            trends=features == "auto",
        ).levelled(table)
        candidates = {g: len(c) for g, c in feature_set.exponents.items()}
        priors.check_against([f.name for f in feature_set.features], candidates)
        raw = feature_set.dictionary(table)
        standardizer = Standardizer.fit(
            raw, feature_set.column_exponent,
            None if raw.any(axis=0).all() else feature_set.dictionary(cooled(table)).mean(axis=0),
        )  # fmt: skip
        discrepancy = Discrepancy.fit(table, covariates=settings)
        noise = NoiseClasses.fit(table, discrepancy, constant=not transfer)
        measured = Measurement.fit(table, noise)
        log_loss = np.log(table["final_loss"].to_numpy(float))
        centre = float(log_loss.mean())
        rows = standardizer(raw)
        if transfer:
            rows = np.hstack([rows, discrepancy.basis(table)])
        effects = Effects.fit(settings, discrepancy, table)
        if settings:
            rows = np.hstack([rows, effects.columns(table)])
        n_other = rows.shape[1] - raw.shape[1]
        slopes, slope = _slope_rows(feature_set, standardizer, table, priors.slopes)
        own, own_response = _coefficient_rows(feature_set, priors)
        known = np.hstack([np.vstack([slopes, own]), np.zeros((len(slope) + len(own), n_other))])
        response = np.concatenate([slope, own_response])
        data = ModelData(
            _statistics(rows, log_loss - centre, measured).append(
                SufficientStatistics.from_rows(
                    known, response, np.zeros(len(response), dtype=int), n_classes=1
                )
            ),
            feature_set.tree,
            _column_block(feature_set, priors),
            measured.covariates,
            measured.variance,
            noise.names,
            discrepancy.cells if transfer else np.zeros((0, 0)),
            discrepancy.fields if transfer else (),
            discrepancy.n_local if transfer else 0,
            discrepancy.n_drift if transfer else (),
            effects.parts,
            effects.entry(table),
            exponent_weights=_exponent_weights(feature_set, priors),
            signs=_signs(feature_set, priors),
        )
        return cls(
            runs, table, transfer, feature_set, standardizer, discrepancy, noise, measured, centre,
            data, DivergenceData.from_runs(runs, covariates=settings), effects, known, response,
            len(slope),
        )  # fmt: skip

    @property
    def covariates(self) -> Covariates:
        """Settings beyond the run table's own, and groups; empty where the law has none."""
        return self.effects.covariates

    def candidates(self, source: Any) -> pd.DataFrame:
        """Read a candidate table (DataFrame or path), with these covariates and groups."""
        table = read_candidates(source, mixed_groups=self.covariates.pooled)
        self.covariates.values(table)
        return table

    def weighted(
        self, weights: np.ndarray, df: float, rows: np.ndarray | None = None
    ) -> RunEncoding:
        """The same with Student-t noise, see `bayes_optlaws.model.measurement`.

        Parameters
        ----------
        weights : array, shape (n_finished,)
            Of the finished runs.
        df : float
            Degrees of freedom of the noise.
        rows : array, shape (n_finished, p), optional
            `rows` of the finished runs, where they are at hand.
        """
        measured = self.measurement.weighted(weights, df)
        rows = self.rows() if rows is None else rows
        known = SufficientStatistics(*(a[-1:] for a in self.data.statistics.arrays))
        statistics = _statistics(rows, self.response, measured).append(known)
        return replace(self, measurement=measured, data=replace(self.data, statistics=statistics))

    def assuming(self, values: Mapping[str, Any]) -> RunEncoding:
        """The same, with these values of covariates for tables that have no such column."""
        known = self.covariates.assuming(values)
        discrepancy = replace(self.discrepancy, covariates=known)
        scale = replace(self.divergence.scale, covariates=known)
        return replace(
            self, discrepancy=discrepancy, divergence=replace(self.divergence, scale=scale),
            effects=replace(self.effects, covariates=known, discrepancy=discrepancy),
        )  # fmt: skip

    def rows(self, table: pd.DataFrame | None = None) -> np.ndarray:
        """Columns of the likelihood, shape (n, p): dictionary, discrepancy, covariates.

        Of the finished runs where no table is given.
        """
        table = self.finished if table is None else table
        x = self.standardizer(self.features.dictionary(table))
        if self.transfer:
            x = np.hstack([x, self.discrepancy.basis(table)])
        return np.hstack([x, self.effects.columns(table)]) if self.covariates else x

    @property
    def response(self) -> np.ndarray:
        """Log loss of the finished runs less their mean, shape (n_finished,)."""
        return np.log(self.finished["final_loss"].to_numpy(float)) - self.centre


def _statistics(
    rows: np.ndarray, response: np.ndarray, measured: Measurement
) -> SufficientStatistics:
    times = measured.times
    return SufficientStatistics.from_rows(
        rows * times[:, None], response * times, measured.label,
        n_classes=len(measured.covariates),
    )  # fmt: skip


def _slope_rows(
    features: FeatureSet, standardizer: Standardizer, table: pd.DataFrame, prior: SlopePrior
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the dictionary that state the law's slopes; none for the paper's form."""
    if not features.trends:
        return np.zeros((0, features.n_columns)), np.zeros(0)
    return slope_rows(lambda t: standardizer(features.dictionary(t)), table, prior)


def _columns_of(features: FeatureSet, name: str) -> np.ndarray:
    """Which dictionary columns are powers of a feature, shape (n_columns,)."""
    names = [f.name for f in features.features]
    return features.column_feature == names.index(name)


def _coefficient_rows(features: FeatureSet, priors: Priors) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the dictionary that state the coefficients with priors of their own.

    Every combination has one column of a feature, so a row over all of them is about the
    feature's coefficient. Such a column has the wide prior of the intercept; the row adds what is
    missing from it to the prior that is stated, exactly: precisions and their products with the
    means add up.
    """
    stated = [(n, p.mean, p.sd) for n, p in priors.coefficients.items() if p.sd is not None]
    rows, response = np.zeros((len(stated), features.n_columns)), np.zeros(len(stated))
    for i, (name, mean, sd) in enumerate(stated):
        precision = 1.0 / sd**2 - 1.0 / priors.intercept_sd**2
        rows[i, _columns_of(features, name)] = np.sqrt(precision)
        response[i] = mean / sd**2 / np.sqrt(precision)
    return rows, response


def _column_block(features: FeatureSet, priors: Priors) -> np.ndarray:
    """Prior block of each column; -1 also for the coefficients with priors of their own."""
    block = features.column_block.copy()
    for name, p in priors.coefficients.items():
        if p.sd is not None:
            block[_columns_of(features, name)] = -1
    return block


def _exponent_weights(features: FeatureSet, priors: Priors) -> tuple[np.ndarray, ...]:
    if not priors.exponents:
        return ()
    return tuple(
        np.array(priors.exponents.get(g, np.full(n, 1.0 / n)))
        for g, n in ((g, len(features.exponents[g])) for g in features.groups)
    )


def _signs(features: FeatureSet, priors: Priors) -> np.ndarray | None:
    signed = {name: SIGNS[p.sign] for name, p in priors.coefficients.items() if p.sign}
    if not signed:
        return None
    out = np.zeros(features.n_columns, dtype=np.int64)
    for name, sign in signed.items():
        out[_columns_of(features, name)] = sign
    return out
