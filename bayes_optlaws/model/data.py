"""What the density of the loss part needs of a run table."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from bayes_optlaws.kernels.marginal import SufficientStatistics, Tree
from bayes_optlaws.model.features import BLOCKS
from bayes_optlaws.model.priors import Priors


@dataclass(frozen=True)
class ModelData:
    """What the model needs of a run table: statistics, layout, coordinates.

    Parameters
    ----------
    statistics : SufficientStatistics
    tree : Tree
    column_block : int array, shape (n_columns,)
        Prior block of each dictionary column, -1 for the intercept.
    noise_covariates : array, shape (n_classes, n_covariates)
        Mean settings of each noise class; ``noise_names`` labels them.
    known_variance : array, shape (n_classes,)
        Variance of measurement of each, see `bayes_optlaws.model.measurement`.
    cells : array, shape (n_cells, 2)
        Inducing points of the discrepancy over scales (empty without transfer).
    fields, noise_names : tuple of str
        Labels.
    n_local : int
        Functions of the local correction.
    n_drift : tuple of int
        Segments of the drifts over log N and over log tokens (empty without transfer).
    effect_parts : tuple of (str, tuple of str)
        Hyper-parameters of the columns of covariates, see `bayes_optlaws.model.effects.Effects`.
    effect_entry : int array, shape (n_effects,)
        Which of them, counted through, each of those columns has.
    active : bool array, shape (n_combinations,), optional
        Combinations that count; all by default.
    exponent_weights : tuple of arrays, shape (n_candidates[g],) each
        Prior weight of every candidate exponent, by group; equal ones where the tuple is empty.
    signs : int array, shape (n_columns,), optional
        1 and -1 for columns whose coefficient is positive or negative, 0 for the others; None
        where all are free. Densities take no notice; draws have these signs.
    """

    statistics: SufficientStatistics
    tree: Tree
    column_block: np.ndarray
    noise_covariates: np.ndarray
    known_variance: np.ndarray
    noise_names: tuple[str, ...]
    cells: np.ndarray
    fields: tuple[str, ...]
    n_local: int
    n_drift: tuple[int, ...] = ()
    effect_parts: tuple[tuple[str, tuple[str, ...]], ...] = ()
    effect_entry: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    active: np.ndarray | None = None
    exponent_weights: tuple[np.ndarray, ...] = ()
    signs: np.ndarray | None = None

    @property
    def log_prior(self) -> np.ndarray:
        """Log prior probability of each exponent combination, minus infinity where inactive."""
        if self.exponent_weights:
            with np.errstate(divide="ignore"):
                logs = [np.log(w) for w in self.exponent_weights]
            out = np.zeros(1)
            for part in logs:
                out = (out[:, None] + part).ravel()
        else:
            k = self.tree.n_combinations
            out = np.full(k, -np.log(k))
        if self.active is not None:
            out[~self.active] = -np.inf
        return out

    @property
    def coords(self) -> dict[str, list[str]]:
        """Labels of the vector-valued hyper-parameters."""
        coords = {"block": list(BLOCKS)}
        if self.noise_names:
            coords["noise_covariate"] = list(self.noise_names)
        if len(self.fields) > 1:
            coords["slope"] = list(self.fields[1:])
        if self.n_drift:
            coords["scale"] = ["N", "tokens"]
        return coords | {f"{name}_of": list(labels) for name, labels in self.effect_parts}

    @property
    def sd_entry(self) -> np.ndarray:
        """Which of (local_sd, drift_sd, effects) each column after the fields has, (n_other,).

        ``local_sd`` is counted only where there are local functions.
        """
        first = 1 if self.n_local else 0
        local = np.zeros(self.n_local, dtype=np.int64)
        return np.concatenate(
            [
                local,
                np.repeat(first + np.arange(len(self.n_drift)), self.n_drift),
                first + len(self.n_drift) + self.effect_entry,
            ]
        )

    def kernel_args(self, priors: Priors) -> tuple[np.ndarray, ...]:
        """Everything that the kernels take after the hyper-parameters."""
        return (
            self.column_block,
            np.array([priors.intercept_sd]),
            np.column_stack([self.noise_covariates, self.known_variance]),
            self.cells,
            *self.statistics.packed(self.column_block.size),
            self.log_prior,
            *self.tree.args,
        )

    def restrict(self, active: np.ndarray) -> ModelData:
        """The model with only some exponent combinations, and only the columns they need.

        Parameters
        ----------
        active : bool array, shape (n_combinations,)
        """
        t = self.tree
        box = active.reshape(tuple(t.n_candidates))
        keep = []
        for g in range(box.ndim):
            keep.append(np.flatnonzero(box.any(axis=tuple(i for i in range(box.ndim) if i != g))))
        columns = np.zeros(
            (len(keep), max(len(k) for k in keep), t.columns.shape[2]), dtype=np.int64
        )
        used = [t.common]
        for g, k in enumerate(keep):
            columns[g, : len(k)] = t.columns[g, k]
            used.append(t.columns[g, k, : t.n_columns[g]].ravel())
        kept = np.concatenate(used)
        position = np.zeros(self.column_block.size, dtype=np.int64)
        position[kept] = np.arange(kept.size)
        tree = Tree(
            position[t.common], position[columns], np.array([len(k) for k in keep]), t.n_columns
        )
        s = self.statistics
        index = np.concatenate([kept, np.arange(self.column_block.size, s.xy.shape[1])])
        statistics = SufficientStatistics(
            np.ascontiguousarray(s.gram[:, index[:, None], index]),
            np.ascontiguousarray(s.xy[:, index]),
            s.yy,
            s.n,
        )
        return replace(
            self,
            statistics=statistics,
            tree=tree,
            column_block=self.column_block[kept],
            active=box[np.ix_(*keep)].ravel(),
            exponent_weights=tuple(
                w[k] / w[k].sum() for w, k in zip(self.exponent_weights, keep, strict=False)
            ),
            signs=None if self.signs is None else self.signs[kept],
        )
