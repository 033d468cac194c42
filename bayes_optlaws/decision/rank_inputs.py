"""What a ranking is given, checked: joint draws, labels, probabilities of divergence."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

LOSS_COLUMNS = ("loss_mean", "loss_lower", "loss_upper")
SCORE_COLUMNS = ("score", "gap_lower", "gap_upper")


@dataclass(frozen=True)
class Outcomes:
    """Joint draws of what candidates end with, all of shape (n_samples, n_candidates), nats.

    Parameters
    ----------
    counted : DataArray
        What order, probabilities and regret are counted on; +inf where a run diverged, unless
        its price stands there.
    expected : array
        Expected loss over seeds, divergence at its price: what ties are judged on.
    one_run : array
        Loss of a single new run, of which mean and interval are shown; +inf is left out.
    finished : array
        Expected loss over the seeds that finish: the order without the risk.
    p_diverge : array, shape (n_candidates,)
        NaN where it is not modelled.
    modelled : bool
        Whether the risk of divergence is modelled.
    """

    counted: xr.DataArray
    expected: np.ndarray
    one_run: np.ndarray
    finished: np.ndarray
    p_diverge: np.ndarray
    modelled: bool = True

    @classmethod
    def of(cls, draws: xr.DataArray, p_diverge: np.ndarray, modelled: bool) -> Outcomes:
        """Outcomes of which nothing but the draws is known."""
        values = draws.to_numpy()
        p = p_diverge if modelled else np.full(values.shape[1], np.nan)
        return cls(draws, values, values, values, p, modelled)


def priced(loss: np.ndarray, risk: np.ndarray | None, price: float) -> np.ndarray:
    """Expected loss over seeds of which a share diverges and counts as a price.

    Parameters
    ----------
    loss : array, shape (n_draws, n)
        Expected loss of the seeds that finish, nats.
    risk : array, shape (n_draws, n), or None
    price : float
        Nats; where a loss is above it the two count the same.

    Examples
    --------
    >>> priced(np.array([[2.0, 3.0, 9.0]]), np.array([[0.0, 0.5, 0.5]]), 7.0)
    array([[2., 5., 9.]])
    """
    return loss if risk is None else loss + risk * np.maximum(price - loss, 0.0)


def listed(names: Sequence[Hashable], most: int = 3) -> str:
    """Return the first names joined by commas, and how many are left out.

    >>> listed(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    text = ", ".join(str(name) for name in names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most:,} more"


def checked_draws(
    draws: xr.DataArray | np.ndarray, labels: Sequence[Hashable] | pd.Index | None
) -> xr.DataArray:
    """Return the draws as floats with dims (sample, candidate) and all-different labels."""
    if isinstance(draws, xr.DataArray):
        if set(draws.dims) != {"sample", "candidate"}:
            raise ValueError(
                f"draws have the dims {tuple(draws.dims)}: they must be ('sample', 'candidate')"
            )
        draws = draws.transpose("sample", "candidate")
        if labels is None and "candidate" in draws.coords:
            labels = draws.indexes["candidate"]
        values = draws.to_numpy()
    else:
        values = np.asarray(draws)
    values = np.ascontiguousarray(values, dtype=float)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            f"draws have the shape {values.shape}: they must be (n_samples, n_candidates), "
            "with at least one of each"
        )
    index = pd.RangeIndex(values.shape[1]) if labels is None else pd.Index(labels)
    if isinstance(index, pd.MultiIndex):
        index = index.to_flat_index()
    if len(index) != values.shape[1]:
        raise ValueError(
            f"there are {len(index)} labels for {values.shape[1]} candidates: give one each"
        )
    if not index.is_unique:
        repeated = index[index.duplicated()].unique()
        raise ValueError(
            f"labels must be all different, these are repeated: {listed(repeated, 10)}; "
            "number or rename them"
        )
    for fault, found in (("NaN", np.isnan(values)), ("-inf", values == -np.inf)):
        if found.any():
            bad = index[found.any(axis=0)]
            raise ValueError(
                f"draws must be finite, or +inf where a run diverged: {found.sum():,} are {fault}, "
                f"of the candidates {listed(bad, 10)}"
            )
    return xr.DataArray(
        values, dims=("sample", "candidate"), coords={"candidate": index.to_numpy()}, name="loss"
    )


def checked_p_diverge(
    given: pd.Series | np.ndarray | Sequence[float] | None,
    share: np.ndarray,
    index: pd.Index,
    n_samples: int,
) -> np.ndarray:
    """Return the given probabilities in the order of the candidates, else the share of draws."""
    if given is None:
        return share
    if isinstance(given, pd.Series):
        missing = index.difference(given.index)
        if len(missing):
            raise ValueError(
                f"p_diverge has no entry for {listed(missing, 10)}: its index must hold the "
                "labels of the candidates; pass an array to go by position"
            )
        given = given.reindex(index)
    given = np.asarray(given, dtype=float)
    if given.shape != share.shape:
        raise ValueError(
            f"p_diverge has the shape {given.shape}: it must be {share.shape}, one a candidate"
        )
    if not ((given >= 0) & (given <= 1)).all():
        bad = index[~((given >= 0) & (given <= 1))]
        raise ValueError(f"p_diverge must be from 0 to 1: it is not for {listed(bad, 10)}")
    # Beyond Monte-Carlo error the draws would rank by another risk than the one shown.
    apart = np.abs(given - share)
    if apart.max() > 0.05 + 3 / np.sqrt(n_samples):
        worst = int(apart.argmax())
        raise ValueError(
            f"p_diverge of {index[worst]} is {given[worst]:.3f}, but the share of infinite draws "
            f"is {share[worst]:.3f}: draws must be +inf where the run diverged"
        )
    return given


def as_scores(table: pd.DataFrame, ordered: np.ndarray, prob: float) -> pd.DataFrame:
    """Put the score and its interval beside the first candidate in the place of the loss."""
    with np.errstate(invalid="ignore"):
        gap = ordered - ordered[:, [0]]
    gap = np.where(np.isfinite(gap), gap, np.nan)
    some = np.isfinite(gap).any(axis=0)
    tail = (1 - prob) / 2
    bounds = np.full((2, len(table)), np.nan)
    bounds[:, some] = np.nanquantile(gap[:, some], [tail, 1 - tail], axis=0)
    values = (table["loss_mean"], *bounds)
    rest = table.drop(columns=list(LOSS_COLUMNS))
    for place, (name, value) in enumerate(zip(SCORE_COLUMNS, values, strict=True)):
        rest.insert(place, name, value)
    return rest
