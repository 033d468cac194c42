"""Which runs are fitted and which are tested: the protocols of held-out evaluation.

=======================  =========================================================================
protocol                 splits
=======================  =========================================================================
``kfold-within-block``   k; the runs of every block are dealt to the k folds at random
``hold-out-largest-n``   one; tested: all runs of the largest model size
``hold-out-largest-d``   one; tested: all runs of the largest token budget, of whatever model size
``leave-block-out``      one a block; tested: the runs of one (model size, token budget)
``hold-out-schedule``    one a schedule family; tested: all its runs
=======================  =========================================================================

A block is a model size and a token budget; budgets (and sizes) within 2 % are one, because budgets
are rounded to whole steps. Divergent runs are never tested, their loss says nothing about a law;
they stay in the fit unless they belong to what is held out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

PROTOCOLS = (
    "kfold-within-block",
    "hold-out-largest-n",
    "hold-out-largest-d",
    "leave-block-out",
    "hold-out-schedule",
)

TOLERANCE = 0.02
"""Sizes and budgets that differ by less than this fraction are the same (own choice)."""


@dataclass(frozen=True)
class Split:
    """One fit and one test.

    Attributes
    ----------
    name : str
    fit, test : ndarray of int
        Row positions in the run table, disjoint; `test` holds finished runs only.
    """

    name: str
    fit: np.ndarray
    test: np.ndarray


def clusters(values: ArrayLike, *, tolerance: float = TOLERANCE) -> np.ndarray:
    """Number the distinct values from the smallest up, those within `tolerance` sharing one number.

    Examples
    --------
    >>> clusters([100.0, 50.0, 101.0, 50.0])
    array([1, 0, 1, 0])
    """
    x = np.log(np.asarray(values, dtype=float))
    order = np.argsort(x, kind="stable")
    code = np.empty(x.size, dtype=int)
    code[order] = np.concatenate([[0], np.cumsum(np.diff(x[order]) > np.log1p(tolerance))])
    return code


def block_labels(runs: pd.DataFrame) -> np.ndarray:
    """Label of every run's block, shape (n,): model size and token budget.

    Examples
    --------
    >>> from bayes_optlaws import datasets
    >>> labels = block_labels(datasets.load("pocket"))
    >>> str(labels[0]), len(set(labels))
    ('N=1.032e+04 D=1.229e+06', 7)
    """
    n, d = (runs[c].to_numpy(dtype=float) for c in ("n_params", "tokens"))
    size = clusters(n)
    label = np.empty(len(runs), dtype=object)
    for s in range(size.max() + 1):
        same = np.flatnonzero(size == s)
        budget = clusters(d[same])
        for b in range(budget.max() + 1):
            rows = same[budget == b]
            label[rows] = f"N={np.median(n[rows]):.4g} D={np.median(d[rows]):.4g}"
    return label


def make_splits(
    runs: pd.DataFrame,
    protocol: str = "kfold-within-block",
    *,
    k: int = 5,
    test: ArrayLike | Mapping | None = None,
    random_seed: int = 0,
) -> list[Split]:
    """Return the splits of a protocol, or of masks.

    Parameters
    ----------
    runs : DataFrame
        Validated run table.
    protocol : str
        One of `PROTOCOLS`; see the module.
    k : int
        Number of folds.
    test : array_like of bool or mapping, optional
        In place of a protocol: the runs to test, shape (n,), the others being fitted; or a mapping
        from the name of a split to such a mask or to a pair of masks (fit, test).
    random_seed : int
        Of the folds.

    Returns
    -------
    list of Split

    Raises
    ------
    ValueError
        When a split would fit or test nothing, or would test runs that it fits.

    Examples
    --------
    >>> from bayes_optlaws import datasets, read_runs
    >>> runs = read_runs(datasets.load("pocket"))
    >>> split, = make_splits(runs, "hold-out-largest-n")
    >>> split.fit.size, split.test.size
    (225, 28)
    >>> split, = make_splits(runs, test=runs["tokens"] > 3e6)
    >>> split.fit.size, split.test.size
    (140, 110)
    """
    if test is not None:
        masks = test if isinstance(test, Mapping) else {"test": test}
    elif protocol in PROTOCOLS:
        masks = _protocol_masks(runs, protocol, k, random_seed)
    else:
        raise ValueError(f"protocol = {protocol!r}: choose from {', '.join(PROTOCOLS)}")
    return [_split(runs, str(name), mask) for name, mask in masks.items()]


def _protocol_masks(runs: pd.DataFrame, protocol: str, k: int, random_seed: int) -> dict:
    if protocol == "kfold-within-block":
        fold = _folds(block_labels(runs), k, random_seed)
        return {f"fold {i + 1} of {k}": fold == i for i in range(k)}
    if protocol in ("hold-out-largest-n", "hold-out-largest-d"):
        column = "n_params" if protocol.endswith("n") else "tokens"
        code = clusters(runs[column])
        if code.max() == 0:
            raise ValueError(
                f"protocol {protocol!r} needs at least two values of {column}, this table has one; "
                "choose 'kfold-within-block'"
            )
        return {f"largest {column}": code == code.max()}
    label = (
        block_labels(runs) if protocol == "leave-block-out" else runs["schedule"].to_numpy(object)
    )
    alive = pd.unique(label[~runs["diverged"].to_numpy(bool)])
    if len(alive) < 2:
        what = "block" if protocol == "leave-block-out" else "schedule"
        raise ValueError(
            f"protocol {protocol!r} needs at least two {what}s with finished runs, this table "
            f"has {len(alive)}; choose 'kfold-within-block'"
        )
    return {name: label == name for name in sorted(alive)}


def _folds(blocks: np.ndarray, k: int, random_seed: int) -> np.ndarray:
    if k < 2:
        raise ValueError(f"k = {k}: there must be at least 2 folds; 5 is the default")
    rng = np.random.default_rng(random_seed)
    fold = np.empty(blocks.size, dtype=int)
    dealt = 0
    for name in pd.unique(blocks):
        rows = rng.permutation(np.flatnonzero(blocks == name))
        # Dealing goes on where the last block stopped, so that small blocks fill all folds alike.
        fold[rows] = (dealt + np.arange(rows.size)) % k
        dealt += rows.size
    return fold


def _split(runs: pd.DataFrame, name: str, mask: ArrayLike | tuple) -> Split:
    if isinstance(mask, tuple):
        fit, test = (_as_mask(m, len(runs), name) for m in mask)
    else:
        test = _as_mask(mask, len(runs), name)
        fit = ~test
    both = np.flatnonzero(fit & test)
    if both.size:
        raise ValueError(
            f"split {name!r}: row {runs.index[both[0]]} and {both.size - 1} others would be fitted "
            "and tested; give masks that exclude each other"
        )
    diverged = runs["diverged"].to_numpy(dtype=bool)
    test = test & ~diverged
    for part, rule in ((test, "tested"), (fit & ~diverged, "fitted")):
        if not part.any():
            raise ValueError(f"split {name!r}: no finished run would be {rule}; change the mask")
    return Split(name, np.flatnonzero(fit), np.flatnonzero(test))


def _as_mask(mask: ArrayLike, n: int, name: str) -> np.ndarray:
    out = np.asarray(mask)
    if out.dtype != bool or out.shape != (n,):
        raise ValueError(
            f"split {name!r}: the mask has type {out.dtype} and shape {out.shape}; it must be "
            f"boolean of shape ({n},), one value a run"
        )
    return out
