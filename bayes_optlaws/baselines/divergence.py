"""Classifiers of divergence: what the divergence part of the law has to beat.

============================  ===============================================================
name                          classifier
============================  ===============================================================
``majority``                  share of divergent runs, for every run
``peak-lr``                   threshold on the peak LR
``logistic-raw``              logistic regression on N, tokens, steps, warm-up, LR and batch
``logistic-logs``             the same on their logs, penalty chosen within the fitted runs
``r-likelihood``              the criterion R by maximum likelihood, inputs squared as in the
                              paper
``r-likelihood-unsquared``    the same, nothing squared
============================  ===============================================================

Majority class, peak-LR threshold, logistic regression and R by maximum likelihood are those of the
paper's Appendix A.5; ``logistic-logs`` is the rival that is hard to beat on real tables. All runs
enter the fits, divergent ones too.  Logistic regression needs scikit-learn
(``pip install 'bayes-optlaws[ml]'``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from bayes_optlaws.baselines.base import read_columns

INPUTS = ("n_params", "tokens", "steps", "warmup_steps", "peak_lr", "batch_tokens")
"""Columns that the logistic regressions read."""

PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)
"""Candidates of scikit-learn's ``C``, on standardised columns."""

FOLDS = 5
"""Within the fitted runs, to choose the penalty."""

FLAG = 0.5
"""A run is said to diverge from this probability on."""

FLOOR = 1e-3
"""Least excess of the LR over the threshold, of the threshold: R = 0 has no logarithm."""


class DivergenceClassifier(ABC):
    """What every classifier offers; tables are validated run or candidate tables."""

    name: str
    _state: Any = None

    def fit(self, runs: pd.DataFrame) -> Self:
        """Fit to all runs of a run table, divergent ones included.

        Raises
        ------
        ValueError
            When the table has no row or no column ``diverged``.
        """
        if not len(runs) or "diverged" not in runs.columns:
            raise ValueError(
                f"a classifier needs runs with column diverged, got {len(runs)} rows; "
                "pass the run table through read_runs first"
            )
        self._state = None  # a fit that fails leaves a classifier that is not fitted
        self._state = self._estimate(runs, runs["diverged"].to_numpy(dtype=bool))
        return self

    def predict(self, runs: pd.DataFrame) -> np.ndarray:
        """Return the probability that each run diverges, shape (n,)."""
        return self._probability(runs, self._fitted())

    def flag(self, runs: pd.DataFrame) -> np.ndarray:
        """Return whether each run is said to diverge: probability `FLAG` or more, shape (n,)."""
        return self.predict(runs) >= FLAG

    def _fitted(self) -> Any:
        if self._state is None:
            raise ValueError(f"classifier {self.name!r} is not fitted; call fit(runs) first")
        return self._state

    @abstractmethod
    def _estimate(self, runs: pd.DataFrame, diverged: np.ndarray) -> Any:
        """Fitted state."""

    @abstractmethod
    def _probability(self, table: pd.DataFrame, state: Any) -> np.ndarray:
        """Probability of divergence, shape (n,)."""


def smoothed_share(diverged: np.ndarray) -> float:
    """Share of divergent runs with half a run of either kind added (Jeffreys' prior).

    Examples
    --------
    >>> smoothed_share(np.array([True, False, False]))
    0.375
    """
    return float((diverged.sum() + 0.5) / (diverged.size + 1.0))


class MajorityClass(DivergenceClassifier):
    """The share of divergent runs, whatever the settings.

    Examples
    --------
    >>> runs = pd.DataFrame({"diverged": [True, False, False]})
    >>> MajorityClass().fit(runs).predict(runs)
    array([0.375, 0.375, 0.375])
    """

    name = "majority"

    def _estimate(self, runs: pd.DataFrame, diverged: np.ndarray) -> float:
        return smoothed_share(diverged)

    def _probability(self, table: pd.DataFrame, state: float) -> np.ndarray:
        return np.full(len(table), state)


class PeakLrThreshold(DivergenceClassifier):
    """Runs above one peak LR diverge; the threshold with the best F1 on the fitted runs.

    The probability is the share of divergent runs on either side. A run is flagged by the
    threshold, not by the probability, which may stay below one half on both sides.

    Examples
    --------
    >>> runs = pd.DataFrame({"peak_lr": [1e-3, 2e-3, 4e-3], "diverged": [False, False, True]})
    >>> rule = PeakLrThreshold().fit(runs)
    >>> round(rule.threshold, 6), rule.flag(runs).tolist()
    (0.002828, [False, False, True])
    """

    name = "peak-lr"

    @property
    def threshold(self) -> float:
        """Peak LR above which runs are flagged; infinite when no run diverged."""
        return self._fitted()[0]

    def flag(self, runs: pd.DataFrame) -> np.ndarray:
        """Return whether each run is above the threshold, shape (n,)."""
        return runs["peak_lr"].to_numpy(float) > self.threshold

    def _estimate(self, runs: pd.DataFrame, diverged: np.ndarray) -> tuple[float, np.ndarray]:
        lr = runs["peak_lr"].to_numpy(float)
        values = np.unique(lr)
        cuts = np.concatenate([[0.0], np.sqrt(values[1:] * values[:-1]), [np.inf]])
        scores = [_f1(lr > cut, diverged) for cut in cuts]
        cut = float(cuts[len(cuts) - 1 - int(np.argmax(scores[::-1]))])  # the highest of equals
        above = lr > cut
        share = [smoothed_share(diverged[above == side]) for side in (False, True)]
        return cut, np.array(share)

    def _probability(self, table: pd.DataFrame, state: tuple[float, np.ndarray]) -> np.ndarray:
        return state[1][self.flag(table).astype(int)]


def _f1(flagged: np.ndarray, diverged: np.ndarray) -> float:
    return 2.0 * np.sum(flagged & diverged) / max(flagged.sum() + diverged.sum(), 1)


class LogisticRegression(DivergenceClassifier):
    """Logistic regression on standardised inputs or on their logs.

    With one kind of outcome only there is nothing to regress: the smoothed share is given.

    Parameters
    ----------
    logs : bool
        Use logs. A warm-up of no steps counts as one.
    penalty : float, optional
        scikit-learn's ``C``; by default that of `PENALTIES` with the best log loss over folds
        within the fitted runs (10 where one kind of outcome has fewer runs than folds).

    Raises
    ------
    ImportError
        By ``fit``, when scikit-learn is not installed.

    Examples
    --------
    >>> from bayes_optlaws import datasets, read_runs
    >>> runs = read_runs(datasets.load("pocket"))
    >>> p = LogisticRegression(penalty=10.0).fit(runs).predict(runs)
    >>> bool(p[runs["diverged"]].mean() > 0.7 > 0.1 > p[~runs["diverged"]].mean())
    True
    """

    def __init__(self, *, logs: bool = True, penalty: float | None = None) -> None:
        self.logs, self.penalty = logs, penalty
        self.name = "logistic-logs" if logs else "logistic-raw"

    def _estimate(self, runs: pd.DataFrame, diverged: np.ndarray) -> tuple:
        x = self._columns(runs)
        sd = x.std(axis=0)
        centre, unit = x.mean(axis=0), np.where(sd > 1e-12 * np.abs(x).max(axis=0), sd, 1.0)
        least = int(min(diverged.sum(), (~diverged).sum()))
        if least == 0:
            return centre, unit, None, smoothed_share(diverged)
        return centre, unit, self._regress((x - centre) / unit, diverged, least), None

    def _regress(self, z: np.ndarray, diverged: np.ndarray, least: int) -> Any:
        try:
            from sklearn.linear_model import LogisticRegression as Regression
            from sklearn.model_selection import GridSearchCV, StratifiedKFold
        except ImportError as error:
            raise ImportError(
                "logistic regression needs scikit-learn: pip install 'bayes-optlaws[ml]'"
            ) from error
        model = Regression(C=10.0 if self.penalty is None else self.penalty, max_iter=10_000)
        if self.penalty is None and least >= FOLDS:
            folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
            model = GridSearchCV(
                model, {"C": list(PENALTIES)}, scoring="neg_log_loss", cv=folds, n_jobs=1
            )
        return model.fit(z, diverged)

    def _probability(self, table: pd.DataFrame, state: tuple) -> np.ndarray:
        centre, unit, model, share = state
        if model is None:
            return np.full(len(table), share)
        return model.predict_proba((self._columns(table) - centre) / unit)[:, 1]

    def _columns(self, table: pd.DataFrame) -> np.ndarray:
        columns = read_columns(table, INPUTS)
        columns["warmup_steps"] = np.maximum(columns["warmup_steps"], 1.0)
        x = np.column_stack(list(columns.values()))
        return np.log(x) if self.logs else x


class CriterionR(DivergenceClassifier):
    r"""The criterion R by maximum likelihood: the paper's way, no prior and no correction.

    .. math::

        R = \kappa\, \tilde S (x - \eta_L)_+^2 / (a\, \eta_L^2), \qquad
        \eta_L = c_0 + c_1 \tilde S^{c_2} \tilde N^{-c_3}

    with N and S in billions, x the peak LR over the highest one fitted, a the warm-up in billions
    of tokens, the last two squared in the paper; P(diverged) = logistic(slope log R). The shape is
    inferred: the paper's text (arXiv 2409.04777, Eq. 4) gives its five parameters and the
    boundary, not the formula.  The excess over :math:`\eta_L` has a floor of 0.001
    :math:`\eta_L` and all parameters have bounds (own choice), because the likelihood has no
    maximum where the two kinds of runs can be separated.

    Parameters
    ----------
    squared : bool
        Square peak LR and warm-up first.

    Examples
    --------
    >>> from bayes_optlaws import datasets, read_runs
    >>> runs = read_runs(datasets.load("pocket"))
    >>> rule = CriterionR().fit(runs)
    >>> list(rule.parameters.index)
    ['kappa', 'c0', 'c1', 'c2', 'c3', 'slope']
    """

    BOUNDS = ((-60.0, 60.0), (-12.0, 6.0), (-12.0, 6.0), (0.0, 4.0), (0.0, 4.0), (1e-3, 50.0))
    """Of log kappa, log c0, log c1, c2, c3 and the slope."""

    def __init__(self, *, squared: bool = True) -> None:
        self.squared = squared
        self.name = "r-likelihood" if squared else "r-likelihood-unsquared"

    @property
    def parameters(self) -> pd.Series:
        """Fitted parameters by name."""
        v = self._fitted()[1]
        values = [*np.exp(v[:3]), *v[3:]]
        return pd.Series(values, index=["kappa", "c0", "c1", "c2", "c3", "slope"])

    def _estimate(self, runs: pd.DataFrame, diverged: np.ndarray) -> tuple[float, np.ndarray]:
        unit = float(runs["peak_lr"].max())
        inputs = self._inputs(runs, unit)
        sign = np.where(diverged, 1.0, -1.0)

        def negative(v: np.ndarray) -> float:
            return -float(np.sum(log_expit(sign * v[5] * self._log_r(v, inputs))))

        found = []
        for threshold in (-4.0, -2.5, -1.0):
            for slope in (0.5, 2.0):
                start = np.array([0.0, threshold, threshold, 0.3, 0.3, slope])
                # kappa: as many runs with R > 1 as have diverged
                start[0] = -np.quantile(self._log_r(start, inputs), 1.0 - smoothed_share(diverged))
                found.append(minimize(negative, start, method="L-BFGS-B", bounds=self.BOUNDS))
        found.sort(key=lambda r: r.fun)
        # the floor of the excess bends the likelihood: a simplex goes on where gradients stop
        polished = [
            minimize(
                negative, r.x, method="Nelder-Mead", bounds=self.BOUNDS,
                options={"maxiter": 4000, "maxfev": 4000, "adaptive": True},
            )
            for r in found[:3]
        ]  # fmt: skip
        best = min([*found, *polished], key=lambda r: r.fun)
        return unit, best.x

    def _probability(self, table: pd.DataFrame, state: tuple[float, np.ndarray]) -> np.ndarray:
        unit, v = state
        return expit(v[5] * self._log_r(v, self._inputs(table, unit)))

    def _inputs(self, table: pd.DataFrame, unit: float) -> tuple[np.ndarray, ...]:
        c = read_columns(table, ("n_params", "tokens", "warmup_steps", "batch_tokens", "peak_lr"))
        warmup = np.log(np.maximum(c["warmup_steps"], 1.0) * c["batch_tokens"] / 1e9)
        power = 2.0 if self.squared else 1.0
        return (
            np.log(c["n_params"] / 1e9), np.log(c["tokens"] / 1e9),
            power * warmup, power * np.log(c["peak_lr"] / unit),
        )  # fmt: skip

    @staticmethod
    def _log_r(v: np.ndarray, inputs: tuple[np.ndarray, ...]) -> np.ndarray:
        size, tokens, warmup, lr = inputs
        threshold = np.logaddexp(v[1], v[2] + v[3] * tokens - v[4] * size)
        excess = np.maximum(np.expm1(np.clip(lr - threshold, -50.0, 50.0)), FLOOR)
        return v[0] + tokens - warmup + 2.0 * np.log(excess)


def classifiers() -> list[DivergenceClassifier]:
    """Return one of each, not yet fitted.

    Examples
    --------
    >>> [c.name for c in classifiers()][:4]
    ['majority', 'peak-lr', 'logistic-raw', 'logistic-logs']
    """
    return [
        MajorityClass(),
        PeakLrThreshold(),
        LogisticRegression(logs=False),
        LogisticRegression(logs=True),
        CriterionR(squared=True),
        CriterionR(squared=False),
    ]
