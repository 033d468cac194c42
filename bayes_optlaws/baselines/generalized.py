"""The generalized Opt-Law by least squares, with the paper's two-level exponent search."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayes_optlaws.baselines.base import ResampledBaseline
from bayes_optlaws.model.features import PAPER_BATCH, Earlier, FeatureSet

_RANK = 1e-10  # relative size below which a direction of the columns counts as none
_MOST = 50.0  # log losses are cut here: exp(50) nats stands for "no prediction"


@dataclass(frozen=True)
class _State:
    """Dictionary columns in use, shape (n_terms,), and their standardised coefficients."""

    columns: np.ndarray
    coefficients: np.ndarray


class GeneralizedOptLaw(ResampledBaseline):
    """``log L = beta_0 + sum_j beta_j phi_j^p`` by ordinary least squares: 16 coefficients.

    Level 1 tries every combination of one exponent for each group of features and keeps the one of
    least squared error; level 2 then changes one term of each group, the one whose change lowers
    the error most.

    Parameters
    ----------
    exponents : str, mapping or FeatureSet
        Candidate exponents, as for `FeatureSet.from_options`; by default the paper's.
        A feature set stands for itself, and `batch` and `reference_batch` are then its own.
    level2 : bool
        Do the second level.
    batch : bool
        Add the columns for varying batch sizes (not the paper's).
    reference_batch : float
        Tokens a step, for the units of the coefficients only.

    Notes
    -----
    Source: arXiv 2409.04777, eqs. 5-8 and Appendix A.3; the features are those of
    `bayes_optlaws.model.features`. "Most sensitive term" is not defined there: here it is the term
    whose single change lowers the training error most, group after group in the paper's order
    (mixed, cross, escape, scale), each given the changes before it (own choice). Columns are
    standardised before the fit, and a column that does not vary gets no coefficient. The searches
    work on the triangular factor of all dictionary columns, so they cost the same for any number of
    runs and lose no accuracy to a Gram matrix. The bootstrap repeats the whole search.

    Examples
    --------
    >>> from bayes_optlaws import datasets, read_runs
    >>> law = GeneralizedOptLaw().fit(read_runs(datasets.load("pocket")))
    >>> law.n_parameters, law.exponents["N"] in (0.1, 0.15, 0.2, 0.3, 0.5)
    (16, True)
    """

    name = "generalized"

    def __init__(
        self,
        *,
        exponents: str | Mapping[str, tuple[float, ...]] | FeatureSet = "paper",
        level2: bool = True,
        batch: bool = False,
        reference_batch: float = PAPER_BATCH,
    ) -> None:
        self.features = (
            exponents
            if isinstance(exponents, FeatureSet)
            else FeatureSet.from_options(exponents, batch=batch, reference_batch=reference_batch)
        )
        self.level2 = level2
        self.n_parameters = len(self.features.features) + 1
        features = self.features
        index, power = features.column_feature, features.column_exponent
        self._column = {
            (int(j), float(p)): c for c, (j, p) in enumerate(zip(index, power, strict=True))
        }
        order = [g for g in ("mixed", "cross", "escape") if g in features.exponents]
        order += [g for g in features.exponents if g not in order]
        self._members = {
            g: [j for j, f in enumerate(features.features) if features.group_of(f) == g]
            for g in order
        }

    @property
    def exponents(self) -> pd.Series:
        """Exponent of every feature in the fitted law."""
        self._require_fit()
        power = self.features.column_exponent[self._state.columns]
        return pd.Series(power[1:], index=[f.name for f in self.features.features])

    def _inputs(self, table: pd.DataFrame) -> np.ndarray:
        return self.features.dictionary(table)

    def _standardised(self, raw: np.ndarray) -> np.ndarray:
        return (raw - self._mean) / self._sd

    def _estimate(
        self, inputs: np.ndarray, loss: np.ndarray, weight: np.ndarray, start: object | None
    ) -> _State:
        if start is None:
            self._mean, self._sd = inputs.mean(axis=0), inputs.std(axis=0)
            self._mean[0] = 0.0
            flat = self._sd <= 1e-9 * np.abs(inputs).max(axis=0)
            self._sd[flat] = np.inf
            self._sd[0] = 1.0
        root = np.sqrt(weight)
        both = np.column_stack([self._standardised(inputs), np.log(loss)]) * root[:, None]
        factor = np.linalg.qr(both, mode="r")
        columns = self._search(factor)
        coefficients = np.linalg.lstsq(factor[:, columns], factor[:, -1], rcond=_RANK)[0]
        return _State(columns, coefficients)

    def _search(self, factor: np.ndarray) -> np.ndarray:
        """Choose the dictionary column of every term, given the factor of columns and target."""
        features = self.features
        chosen = np.zeros(len(features.features) + 1, dtype=int)
        for j, f in enumerate(features.features):
            if f.fixed:
                chosen[j + 1] = self._column[j, 1.0]
        groups = list(self._members)
        choices = []
        for powers in itertools.product(*(features.exponents[g] for g in groups)):
            columns = chosen.copy()
            for g, p in zip(groups, powers, strict=True):
                for j in self._members[g]:
                    columns[j + 1] = self._column[j, p]
            choices.append(columns)
        tried = np.array(choices)
        errors = squared_errors(factor, tried)
        best, least = tried[errors.argmin()], errors.min()
        for g in groups if self.level2 else ():
            choices = []
            for j, p in itertools.product(self._members[g], features.exponents[g]):
                columns = best.copy()
                columns[j + 1] = self._column[j, p]
                choices.append(columns)
            errors = squared_errors(factor, np.array(choices))
            # What is no better up to rounding is not changed.
            if errors.min() < least * (1.0 - 1e-9):
                best, least = choices[errors.argmin()], errors.min()
        return best

    def _curve(self, inputs: np.ndarray, state: _State) -> np.ndarray:
        log_loss = self._standardised(inputs)[:, state.columns] @ state.coefficients
        return np.exp(np.clip(log_loss, -_MOST, _MOST))

    def score(self, table: pd.DataFrame, earlier: Earlier) -> np.ndarray:
        """History-aware score of candidates of a later stage, shape (n,): no loss, it only ranks.

        Source: arXiv 2409.04777, Section 5.3; ``earlier`` is what earlier stages leave.
        """
        self._require_fit()
        return self._curve(self.features.dictionary(table, earlier), self._state)

    def _describe(self, state: _State) -> pd.Series:
        scale = state.coefficients / self._sd[state.columns]
        scale[0] -= scale[1:] @ self._mean[state.columns[1:]]
        index = ["constant", *(f.name for f in self.features.features)]
        return pd.Series(scale, index=index)


def squared_errors(factor: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Least squared error of the last column of a factor on each choice of its other columns.

    Parameters
    ----------
    factor : ndarray, shape (k, p + 1)
        Triangular factor of the weighted columns and target, or any matrix with the same Gram
        matrix.
    columns : ndarray of int, shape (n_choices, n_terms)

    Returns
    -------
    ndarray, shape (n_choices,)
        Sums of squared residuals.

    Notes
    -----
    The last diagonal element of the triangular factor of [columns, target] is the norm of the
    residual, unless the columns are dependent; those choices are solved one by one.

    Examples
    --------
    >>> squared_errors(np.array([[1.0, 1.0], [1.0, 2.0]]), np.array([[0]])).round(12)
    array([0.5])
    """
    out = np.empty(len(columns))
    terms = columns.shape[1]
    if factor.shape[0] <= terms:
        return np.array([_squared_error(factor, c) for c in columns])
    for start in range(0, len(columns), 256):
        part = columns[start : start + 256]
        stacked = np.empty((len(part), factor.shape[0], terms + 1))
        stacked[..., :-1] = np.moveaxis(factor[:, part], 0, 1)
        stacked[..., -1] = factor[:, -1]
        diagonal = np.abs(np.diagonal(np.linalg.qr(stacked, mode="r"), axis1=1, axis2=2))
        out[start : start + 256] = diagonal[:, terms] ** 2
        # A column that depends on the ones before it would take a share of the residual with it.
        norm = np.linalg.norm(stacked[..., :-1], axis=1)
        for i in np.flatnonzero(np.any(diagonal[:, :-1] <= _RANK * norm, axis=1)):
            out[start + i] = _squared_error(factor, part[i])
    return out


def _squared_error(factor: np.ndarray, columns: np.ndarray) -> float:
    """Least squared error of the last column on some of the others, which may be dependent."""
    x, y = factor[:, columns], factor[:, -1]
    return float(np.sum((y - x @ np.linalg.lstsq(x, y, rcond=_RANK)[0]) ** 2))
