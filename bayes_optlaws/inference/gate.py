"""The gate: no interval leaves the package unless what made the draws passes all of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping

import numpy as np
import xarray as xr
from arviz_stats.base import array_stats

from bayes_optlaws.inference.importance import MAX_PARETO_K, MIN_EFFECTIVE

MAX_RHAT, MIN_ESS, MIN_BFMI = 1.01, 400.0, 0.3
"""Worst figures of chains that are accepted; no transition may be divergent."""

NUTS_FIGURES = ("rhat", "ess_bulk", "ess_tail", "divergent", "bfmi")
IMPORTANCE_FIGURES = ("pareto_k", "effective_draws")
"""Names of what the gate judges, by the method that made the draws."""

METHODS = ("nuts", "importance")
"""How a posterior may be sampled."""


class ConvergenceWarning(UserWarning):
    """A fit whose output does not pass the gate; the message says which part and quantities."""


class ConvergenceError(RuntimeError):
    """The sampler's output does not pass the gate; the message says which part failed."""


def _scalars(variables: Mapping[str, np.ndarray]) -> Iterator[tuple[str, float, float, float]]:
    """Label, R-hat, and effective sample sizes (bulk, tails) of every scalar quantity."""
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a stuck chain: nan, which fails
        for name, value in variables.items():
            flat = value.reshape(*value.shape[:2], -1)
            for j in range(flat.shape[2]):
                x = flat[:, :, j]
                yield (
                    name if flat.shape[2] == 1 else f"{name}[{j}]",
                    float(array_stats.rhat(x)),
                    float(array_stats.ess(x, method="bulk")),
                    float(array_stats.ess(x, method="tail", prob=(0.1, 0.9))),
                )


def diagnose(variables: Mapping[str, np.ndarray], sample_stats: xr.Dataset) -> dict[str, float]:
    """Worst convergence figures over all scalar quantities.

    Parameters
    ----------
    variables : mapping of str to array, shape (chains, draws, ...)
    sample_stats : Dataset
        With ``diverging`` and ``energy``; after importance sampling ``pareto_k`` and
        ``effective_draws``, and then the variables play no part.

    Returns
    -------
    dict
        ``rhat``, ``ess_bulk``, ``ess_tail``, ``divergent``, ``bfmi``; nan where undefined. After
        importance sampling ``pareto_k``, ``effective_draws``.
    """
    if set(IMPORTANCE_FIGURES) <= set(sample_stats):
        return {name: float(sample_stats[name]) for name in IMPORTANCE_FIGURES}
    _, rhat, bulk, tail = zip(*_scalars(variables), strict=True)
    energy = sample_stats["energy"].to_numpy()
    bfmi = np.mean(np.diff(energy, axis=1) ** 2, axis=1) / np.var(energy, axis=1)
    return {
        "rhat": float(np.max(rhat)),
        "ess_bulk": float(np.min(bulk)),
        "ess_tail": float(np.min(tail)),
        "divergent": float(sample_stats["diverging"].sum()),
        "bfmi": float(np.min(bfmi)),
    }


def mixed(variables: Mapping[str, np.ndarray], sample_stats: xr.Dataset) -> bool:
    """Whether draws pass what of the gate longer chains can mend: R-hat and effective sample sizes.

    Fewer draws than the gate wants pass: longer chains, thinned, would not mend it.

    Parameters
    ----------
    variables, sample_stats
        As of `diagnose`.
    """
    chains, draws = next(iter(variables.values())).shape[:2]
    if chains * draws < MIN_ESS:
        return True
    return not failures(diagnose(variables, sample_stats) | {"divergent": 0.0, "bfmi": 1.0})


def worst(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Figures of two parts of a law together: the worse of those that both have."""
    by = {"rhat": np.maximum, "pareto_k": np.maximum, "divergent": np.add}
    both = {k: float(by.get(k, np.minimum)(one[k], other[k])) for k in other if k in one}
    return {**one, **other, **both}


def failing(variables: Mapping[str, np.ndarray]) -> list[str]:
    """Names of the scalar quantities whose R-hat or effective sample size fails.

    Parameters
    ----------
    variables : mapping of str to array, shape (chains, draws, ...)
    """
    return [
        name
        for name, rhat, bulk, tail in _scalars(variables)
        if not (rhat <= MAX_RHAT and min(bulk, tail) >= MIN_ESS)
    ]


def failures(figures: Mapping[str, float]) -> list[str]:
    """What of the gate fails, in words; a figure that is nan fails.

    Parameters
    ----------
    figures : dict
        Those of NUTS, of importance sampling, or both (a law's two parts may differ in method).

    Raises
    ------
    ValueError
        If the figures of neither are complete.
    """
    judged = [names for names in (NUTS_FIGURES, IMPORTANCE_FIGURES) if set(names) <= set(figures)]
    known = {name for names in judged for name in names} | {"screening_k"}
    if not (set(figures) <= known and judged):
        raise ValueError(f"figures of no sampler, or not all of them: {sorted(figures)}")
    out = []
    if NUTS_FIGURES in judged:
        if not figures["rhat"] <= MAX_RHAT:
            out.append(f"R-hat {figures['rhat']:.3f} > {MAX_RHAT}")
        for name in ("ess_bulk", "ess_tail"):
            if not figures[name] >= MIN_ESS:
                out.append(f"{name} {figures[name]:.0f} < {MIN_ESS:.0f}")
        if not figures["divergent"] == 0:
            out.append(f"{figures['divergent']:.0f} divergent transitions")
        k = figures.get("screening_k", 0.0)
        if not k <= MAX_PARETO_K:
            out.append(f"Pareto k of the screening weights {k:.2f} > {MAX_PARETO_K}")
        if not figures["bfmi"] >= MIN_BFMI:
            out.append(f"E-BFMI {figures['bfmi']:.2f} < {MIN_BFMI}")
    if IMPORTANCE_FIGURES in judged:
        if not figures["pareto_k"] <= MAX_PARETO_K:
            out.append(f"Pareto k {figures['pareto_k']:.2f} > {MAX_PARETO_K}")
        if not figures["effective_draws"] >= MIN_EFFECTIVE:
            out.append(f"effective draws {figures['effective_draws']:.0f} < {MIN_EFFECTIVE:.0f}")
    return out


def gate_text(figures: Mapping[str, float]) -> str:
    """The figures of the gate as a clause of text."""
    said = []
    if "rhat" in figures:
        said.append(
            f"R-hat at most {figures['rhat']:.3f}, effective sample sizes at least "
            f"{min(figures['ess_bulk'], figures['ess_tail']):.0f}, {figures['divergent']:.0f} "
            f"divergent transitions, E-BFMI at least {figures['bfmi']:.2f}"
        )
    if "pareto_k" in figures:
        said.append(
            f"importance sampling with Pareto k {figures['pareto_k']:.2f} and "
            f"{figures['effective_draws']:.0f} effective draws"
        )
    return "; ".join(reversed(said))


def check_method(method: str) -> None:
    """Raise ValueError where ``method`` is none of `METHODS`."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
