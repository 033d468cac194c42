"""Chains of NUTS by nutpie along given axes, for densities that are plain functions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import xarray as xr

from bayes_optlaws.kernels.threads import one_blas_thread


def run_nuts(
    density: Callable[[np.ndarray], tuple[float, np.ndarray]],
    start: np.ndarray,
    axes: np.ndarray,
    random_seed: int,
    **options: Any,
) -> tuple[np.ndarray, xr.Dataset]:
    """Draws of shape (chains, draws, size), and statistics, by NUTS along the columns of ``axes``.

    The chains are the threads, so BLAS gets none of its own.
    """
    import nutpie
    from nutpie.compiled_pyfunc import from_pyfunc

    def along(z: np.ndarray) -> tuple[float, np.ndarray]:
        with np.errstate(all="ignore"):  # a step too far leaves what floats hold
            x = start + axes @ z
        if not np.isfinite(x).all():
            return -np.inf, np.zeros_like(z)
        value, gradient = density(x)
        with np.errstate(all="ignore"):
            return value, axes.T @ gradient

    size = start.size
    compiled = from_pyfunc(
        size,
        lambda: along,
        lambda *_: lambda z: {"x": start + axes @ z},
        [np.dtype(np.float64)],
        [(size,)],
        ["x"],
        dims={"x": ("dimension",)},
        coords={"dimension": np.arange(size)},
    )
    with one_blas_thread(), warnings.catch_warnings():
        # interrupted early, a trace has more chains than draws
        warnings.filterwarnings("ignore", "Found chain dimension", UserWarning)
        tree = nutpie.sample(
            compiled, seed=random_seed, init_mean=np.zeros(size), save_warmup=False, **options
        )
    x = tree["posterior"]["x"].to_numpy()
    if x.shape[:2] != (options["chains"], options["draws"]):
        # nutpie answers Ctrl-C with the draws that it has
        raise KeyboardInterrupt(f"sampling was interrupted after {x.shape[1]} draws")
    return x, tree["sample_stats"].to_dataset()


def run_chains(
    density: Callable[[np.ndarray], tuple[float, np.ndarray]],
    centre: np.ndarray,
    axes: np.ndarray,
    seeds: np.ndarray,
    *,
    chains: int,
    accept: tuple[float, float],
    **options: Any,
) -> tuple[np.ndarray, xr.Dataset]:
    """Chains by `run_nuts`; those with divergent transitions are run again with shorter steps.

    Parameters
    ----------
    density : callable
        From a point to the log density there and its gradient.
    centre : array, shape (size,)
        Where the chains start.
    axes : array, shape (size, size)
        Factor of the covariance that is expected.
    seeds : int array, shape (2,)
    chains : int
    accept : tuple of float
        Target acceptance, at first and again.
    **options
        Of nutpie, ``draws`` and ``tune`` among them.

    Returns
    -------
    draws : array, shape (chains, draws, size)
    sample_stats : Dataset
    """
    x, stats = run_nuts(
        density, centre, axes, int(seeds[0]), chains=chains, target_accept=accept[0], **options
    )
    bad = stats["diverging"].to_numpy().any(axis=1)
    if bad.any():
        again, other = run_nuts(
            density, centre, axes, int(seeds[1]), chains=int(bad.sum()), target_accept=accept[1],
            **options,
        )  # fmt: skip
        x = np.concatenate([x[~bad], again])
        stats = xr.concat([stats.isel(chain=~bad), other], dim="chain", join="override")
        stats = stats.assign_coords(chain=np.arange(chains))
    return x, stats


MOST_LENGTHS = 8
"""Chains go on until they are at most this many times as long as at first."""


def longer_chains(
    density: Callable[[np.ndarray], tuple[float, np.ndarray]],
    centre: np.ndarray,
    axes: np.ndarray,
    random_seed: int,
    *,
    first: int,
    draws: int,
    **options: Any,
) -> Iterator[tuple[np.ndarray, xr.Dataset]]:
    """The same number of draws from chains that are ever longer, until the caller has enough.

    Chains that are longer than the draws are thinned.

    Parameters
    ----------
    density, centre, axes
        As of `run_chains`.
    random_seed : int
    first : int
        Transitions of each chain at first, no fewer than draws; half as many are added at a
        time, in chains of their own that are tuned anew.
    draws : int
        Of each chain.
    **options
        Of `run_chains`.

    Yields
    ------
    draws : array, shape (chains, draws, size)
    sample_stats : Dataset
        Of all transitions.
    """
    lengths = [first] + [(first + 1) // 2] * (2 * MOST_LENGTHS - 2)
    seeds = np.random.SeedSequence(random_seed).generate_state(2 * len(lengths), np.uint32)
    parts: list[np.ndarray] = []
    stats: list[xr.Dataset] = []
    for length, pair in zip(lengths, seeds.reshape(-1, 2), strict=True):
        x, s = run_chains(density, centre, axes, pair, draws=length, **options)
        parts.append(x)
        stats.append(s)
        every = np.concatenate(parts, axis=1)
        taken = every[:, transition_of(every.shape[1], draws)]
        joined = xr.concat(stats, dim="draw", join="override")
        yield taken, joined.assign_coords(draw=np.arange(joined.sizes["draw"]))


def transition_of(transitions: int, draws: int) -> np.ndarray:
    """Which transition each draw of a thinned chain takes, shape (draws,)."""
    return np.arange(draws) * transitions // draws


def thinned(stats: xr.Dataset, draws: int) -> xr.Dataset:
    """Statistics of the transitions that draws took; a divergence is kept in the draw before it.

    Parameters
    ----------
    stats : Dataset
        With dims chain and draw, as from `longer_chains`; or of a sampler without chains.
    draws : int
    """
    transitions = stats.sizes.get("draw", draws)
    if transitions <= draws:
        return stats
    taken = transition_of(transitions, draws)
    out = stats.isel(draw=taken).assign_coords(draw=np.arange(draws))
    flags = np.logical_or.reduceat(stats["diverging"].to_numpy(), taken, axis=1)
    return out.assign(diverging=(("chain", "draw"), flags))
