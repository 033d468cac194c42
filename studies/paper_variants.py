"""Variants of the least-squares law, for the paper's ablations (its Tables 9, 10 and 11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from bayes_optlaws.baselines import Baseline
from bayes_optlaws.baselines.generalized import GeneralizedOptLaw
from bayes_optlaws.evaluation import metrics
from bayes_optlaws.evaluation.protocols import fresh
from bayes_optlaws.evaluation.splits import Split, block_labels, make_splits
from bayes_optlaws.model.features import (
    BATCH_FEATURES,
    BLOCKS,
    FEATURES,
    PAPER_EXPONENTS,
    Feature,
    FeatureSet,
)
from bayes_optlaws.schedules import INTEGRAL_COLUMNS, integrals

__all__ = [
    "SomeBlocks",
    "blocks_added",
    "exponents_changed",
    "point_metrics",
    "selected_exponents",
    "with_decay",
]

GROUPS = {
    "mixed": "Mixed interactions",
    "cross": "Conv. cross-terms",
    "escape": "Escape powers",
    "scale": "Scale powers",
}
"""Exponent groups in the order of the paper's Table 11, and what it calls them."""

_GROUPS_OF_BLOCK = {
    "scale": "scale",
    "convergence": "cross",
    "escape": "escape",
    "mixed": "mixed",
}


@dataclass(frozen=True)
class SomeBlocks(FeatureSet):
    """A feature set of some of the blocks.

    Parameters
    ----------
    exponents, batch, reference_batch
        As for `FeatureSet`; the groups are those of the blocks.
    blocks : tuple of str
        Some of `bayes_optlaws.model.features.BLOCKS`.

    Examples
    --------
    >>> len(SomeBlocks.of(("scale", "convergence")).features)
    7
    """

    blocks: tuple[str, ...] = BLOCKS

    @classmethod
    def of(cls, blocks: Sequence[str], *, batch: bool = False) -> SomeBlocks:
        """Return the set of the named blocks with the paper's candidate exponents."""
        groups = {_GROUPS_OF_BLOCK[b]: PAPER_EXPONENTS for b in blocks}
        return cls(groups, batch, blocks=tuple(blocks))

    @cached_property
    def features(self) -> tuple[Feature, ...]:
        """Features of the blocks, in table order."""
        every = FEATURES + (BATCH_FEATURES if self.batch else ())
        return tuple(f for f in every if f.block in self.blocks)


def point_metrics(law: Baseline, runs: pd.DataFrame, splits: Sequence[Split]) -> pd.Series:
    """Refit a law on every split and judge its point predictions, as the paper does.

    Parameters
    ----------
    law : Baseline
        Not changed.
    runs : DataFrame
        Validated run table.
    splits : sequence of Split

    Returns
    -------
    Series
        ``r2`` (of log losses), ``relative_error`` (percent), ``spearman``, ``top2`` (share),
        ``regret`` (nats); runs are ranked inside block and split.
    """
    labels = block_labels(runs)
    predicted = [
        fresh(law).fit(runs.iloc[s.fit]).predict(
            runs.iloc[s.test].drop(columns=["final_loss", "diverged"])
        )
        for s in splits
    ]  # fmt: skip
    rows = np.concatenate([s.test for s in splits])
    y, f = runs["final_loss"].to_numpy(float)[rows], np.concatenate(predicted)
    contests = np.concatenate([labels[s.test] + f" | {s.name}" for s in splits])
    return pd.Series(
        {
            "r2": metrics.r2(np.log(y), np.log(f)),
            "relative_error": metrics.relative_error(y, f),
            "spearman": metrics.spearman(y, f, contests),
            "top2": metrics.top2(y, f, contests),
            "regret": metrics.regret(y, f, contests),
        }
    )


def blocks_added(runs: pd.DataFrame, *, k: int = 5, random_seed: int = 0) -> pd.DataFrame:
    """Add the feature blocks one at a time, by least squares (the paper's Table 9).

    Parameters
    ----------
    runs : DataFrame
        Validated run table. Where its batch varies, the scale block has the batch columns too.
    k, random_seed : int
        Folds within blocks, the same as in `bayes_optlaws.evaluation.protocols.evaluate`.

    Returns
    -------
    DataFrame
        One row a variant: ``variant``, ``n_features`` and the columns of `point_metrics`.
    """
    splits = make_splits(runs, k=k, random_seed=random_seed)
    batch = runs["batch_tokens"].nunique() > 1
    names = ("Scale only", "+ Convergence", "+ Escape", "+ Mixed interactions")
    rows = []
    for i, name in enumerate(names):
        features = SomeBlocks.of(BLOCKS[: i + 1], batch=batch)
        found = point_metrics(GeneralizedOptLaw(exponents=features), runs, splits)
        rows.append({"variant": name, "n_features": len(features.features), **found})
    return pd.DataFrame(rows)


def selected_exponents(runs: pd.DataFrame) -> dict[str, float]:
    """Exponent of each group that level 1 of the search selects on a table.

    Examples
    --------
    >>> from bayes_optlaws import datasets, read_runs
    >>> sorted(selected_exponents(read_runs(datasets.load("pocket"))))
    ['cross', 'escape', 'mixed', 'scale']
    """
    law = GeneralizedOptLaw(level2=False, batch=runs["batch_tokens"].nunique() > 1).fit(runs)
    found = law.exponents
    return {
        law.features.group_of(f): float(found[f.name])
        for f in law.features.features
        if not f.fixed
    }  # fmt: skip


def exponents_changed(runs: pd.DataFrame, *, k: int = 5, random_seed: int = 0) -> pd.DataFrame:
    """Change the selected exponent of one group at a time (the paper's Table 11).

    The default is what level 1 selects on the whole table; it and every change of it are then
    held fixed over the folds, with the paper's other candidates in place of one exponent.

    Parameters
    ----------
    runs : DataFrame
        Validated run table.
    k, random_seed : int
        As for `blocks_added`.

    Returns
    -------
    DataFrame
        ``perturbed_group``, ``value`` (empty for the default), ``default`` (the group's selected
        exponent) and the columns of `point_metrics`.
    """
    splits = make_splits(runs, k=k, random_seed=random_seed)
    batch = runs["batch_tokens"].nunique() > 1
    chosen = selected_exponents(runs)
    tried = [("Default (selected)", np.nan, np.nan, chosen)]
    for group, name in GROUPS.items():
        tried += [
            (name, p, chosen[group], chosen | {group: p})
            for p in PAPER_EXPONENTS
            if p != chosen[group]
        ]
    rows = []
    for name, value, default, exponents in tried:
        law = GeneralizedOptLaw(
            exponents={g: (p,) for g, p in exponents.items()}, level2=False, batch=batch
        )
        found = point_metrics(law, runs, splits)
        rows.append({"perturbed_group": name, "value": value, "default": default, **found})
    return pd.DataFrame(rows)


def with_decay(table: pd.DataFrame) -> pd.DataFrame:
    """Rows whose second convergence integral starts at the end of the warm-up (Table 10).

    Parameters
    ----------
    table : DataFrame
        Validated run or candidate table.

    Returns
    -------
    DataFrame
        The same with the four integrals in columns and schedule ``array``, by which every law
        takes them as given; ``conv_cooldown`` is the integral from a1 and not from a2.

    Examples
    --------
    >>> from bayes_optlaws import datasets, read_runs
    >>> runs = read_runs(datasets.load("pocket-longer"))
    >>> more = integrals(with_decay(runs)).conv_cooldown > integrals(runs).conv_cooldown + 1e-9
    >>> sorted(runs.loc[more, "schedule"].unique())
    ['polygon']
    """
    found = integrals(table)
    peak, plateau, warmup, end = (
        table[c].to_numpy(float)
        for c in ("peak_lr", "plateau_lr", "warmup_steps", "decay_end_step")
    )
    begin = np.maximum(warmup, 1.0)
    area = 0.5 * (peak + plateau) * np.maximum(end - begin, 0.0)
    values = {name: getattr(found, name) for name in INTEGRAL_COLUMNS}
    values["conv_cooldown"] = values["conv_cooldown"] + area
    return table.assign(schedule="array", **values)
