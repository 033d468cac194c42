"""Sample the hyper-parameters with NUTS, and refuse what did not converge.

Thousands of exponent combinations take part in every evaluation, but near the mode a few hundred
carry most of the weight.  NUTS runs with those; exponents are then drawn from all combinations,
and each hyper-parameter draw has the exact importance weight of what was left out, by which the
draws are resampled.  If the weights are too uneven the model is sampled again with more
combinations, in the end with all.  (The reports give the share that was sampled with and the
shape of the weights' tail.)
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import nutpie
import pymc as pm
import xarray as xr
from arviz_stats.base import array_stats
from threadpoolctl import threadpool_limits

from bayes_optlaws._hyper import hyper_inputs
from bayes_optlaws.divergence import (
    DivergenceData,
    DivergencePriors,
    add_divergence,
    parameters,
    starting_point,
)
from bayes_optlaws.divergence import data_inputs as divergence_inputs
from bayes_optlaws.hyper import HyperSpace, ModelData
from bayes_optlaws.likelihood import log_evidence_by_combination
from bayes_optlaws.model import build_model, data_inputs
from bayes_optlaws.posterior import Draws, recover
from bayes_optlaws.priors import Priors

SCREEN_SIZES = (256, 1024)
"""Numbers of exponent combinations that sampling is tried with before all of them."""

SCREEN_MASS = 0.98
"""Fewer combinations are taken when they already carry this weight near the mode."""

SCREEN_DRAWS, SCREEN_SPREAD = 16, 1.5
"""Screening looks at the mode and at this many points around it, this much over-dispersed."""

MIN_EFFICIENCY = 0.8
"""Least effective share of draws after reweighting."""

DIVERGENCE_DRAWS, DIVERGENCE_TUNE, DIVERGENCE_ACCEPT = 2000, 1000, 0.95
"""Least draws and tuning of the divergence part, and its target acceptance."""

MAX_RHAT, MIN_ESS, MIN_BFMI = 1.01, 400.0, 0.3
"""The gate: no interval leaves the package unless all of it holds."""


class ConvergenceError(RuntimeError):
    """The sampler's output does not pass the gate; the message says which part failed."""


@dataclass(frozen=True)
class Sample:
    """Posterior draws with their provenance.

    Parameters
    ----------
    draws : Draws
        Flattened over chains, chain by chain.
    chains : int
    sample_stats : xarray.Dataset
    kept : float
        Exponent combinations that NUTS ran with, as a share of all.
    pareto_k : float
        Shape of the tail of the importance weights of the others; nan when there are none.
    divergence_stats : xarray.Dataset, optional
        Sampler statistics of the divergence part.
    """

    draws: Draws
    chains: int
    sample_stats: xr.Dataset
    kept: float
    pareto_k: float
    divergence_stats: xr.Dataset | None = None


def combination_weights(space: HyperSpace, x: np.ndarray) -> np.ndarray:
    """Posterior weight of every exponent combination at one point, shape (n_combinations,)."""
    data = space.data
    inputs = [np.ascontiguousarray(v) for v in space.kernel_inputs(space.split(x))]
    args = data.kernel_args(space.priors)
    w, d, scale_factor, _, _, _, shared_factor = hyper_inputs(*inputs, *args[:5])
    by_k = log_evidence_by_combination(
        w, d, scale_factor, inputs[4], shared_factor, *args[5:9], data.log_prior, *data.tree.args
    )
    weight = np.exp(by_k - by_k.max())
    return weight / weight.sum()


def screen(space: HyperSpace, mode: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Average weight of every combination at and around the mode, shape (n_combinations,)."""
    factor = space.curvature_factor(mode)
    total = combination_weights(space, mode)
    for _ in range(SCREEN_DRAWS):
        x = mode + SCREEN_SPREAD * factor @ rng.standard_normal(mode.size)
        x = np.clip(x, space.mean - 5 * space.sd, space.mean + 5 * space.sd)
        total += combination_weights(space, x)
    return total / (SCREEN_DRAWS + 1)


_compiled: dict = {}


def _compile(data: ModelData, priors: Priors):
    """Compile the model once for each structure in this process; tables are swapped in."""
    key = (tuple((k, tuple(v)) for k, v in data.coords.items()), bool(data.fields), priors)
    if key not in _compiled:
        _compiled[key] = nutpie.compile_pymc_model(build_model(data, priors))
    return _compiled[key].with_data(**data_inputs(data, priors))


def _nuts(compiled, start: np.ndarray, random_seed: int, **options) -> xr.DataTree:
    """Run NUTS from ``start``; the chains are the threads, so BLAS gets none of its own."""
    with threadpool_limits(1):
        return nutpie.sample(
            compiled, seed=random_seed, init_mean=start, save_warmup=False, **options
        )


def _sample_hyper(
    space: HyperSpace, start: np.ndarray, random_seed: int, **options
) -> tuple[dict[str, np.ndarray], xr.Dataset]:
    tree = _nuts(_compile(space.data, space.priors), start, random_seed, **options)
    posterior = tree["posterior"].to_dataset()
    total = posterior.sizes["chain"] * posterior.sizes["draw"]
    hyper = {name: posterior[name].to_numpy().reshape(total, -1) for name, *_ in space.parts}
    return hyper, tree["sample_stats"].to_dataset()


def sample(
    data: ModelData,
    priors: Priors,
    *,
    draws: int,
    tune: int,
    chains: int,
    random_seed: int,
    progressbar: bool,
) -> Sample:
    """Sample the model of ``data``; see the module's text for how exponents are screened.

    Parameters
    ----------
    data : ModelData
    priors : Priors
    draws, tune, chains : int
        Of NUTS.
    random_seed : int
    progressbar : bool

    Returns
    -------
    Sample
    """
    rng = np.random.default_rng(random_seed)
    space = HyperSpace(data, priors)
    mode = space.mode()
    weight = screen(space, mode, rng)
    order = np.argsort(-weight)
    enough = int(np.searchsorted(np.cumsum(weight[order]), SCREEN_MASS)) + 1
    for size in (*SCREEN_SIZES, weight.size):
        active = np.zeros(weight.size, dtype=bool)
        active[order[: size if size == weight.size else min(size, enough)]] = True
        part = HyperSpace(data.restrict(active), priors)
        hyper, stats = _sample_hyper(
            part,
            part.mode(mode),
            random_seed,
            draws=draws,
            tune=tune,
            chains=chains,
            progress_bar=progressbar,
        )
        recovered, log_ratio = recover(space, hyper, active, rng)
        ratio = np.exp(log_ratio - log_ratio.max())
        efficiency = ratio.sum() ** 2 / (ratio**2).sum() / ratio.size
        if efficiency >= MIN_EFFICIENCY:
            break
    pareto_k = np.nan
    if np.ptp(log_ratio) > 1e-9:
        pareto_k = float(array_stats.psislw(-log_ratio)[1])  # takes minus log weights
        index = [
            c * draws + _systematic(ratio[c * draws : (c + 1) * draws], rng) for c in range(chains)
        ]
        recovered = recovered.take(np.concatenate(index))
    return Sample(recovered, chains, stats, active.mean(), pareto_k)


def sample_divergence(
    data: DivergenceData,
    priors: DivergencePriors,
    *,
    draws: int,
    tune: int,
    chains: int,
    random_seed: int,
) -> tuple[dict[str, np.ndarray], xr.Dataset]:
    """Sample the divergence part; given the runs it is independent of the loss part.

    It is cheap and its draws are more correlated, so it is sampled longer and thinned.

    Parameters
    ----------
    data : DivergenceData
    priors : DivergencePriors
    draws, tune, chains, random_seed
        As in `sample`.

    Returns
    -------
    values : dict of str to array, shape (chains * draws, ...)
        ``divergence_z`` and the parameters that `divergence_probability` takes.
    sample_stats : Dataset
    """
    rotation, start = starting_point(data, priors)
    key = ("divergence", data.scale.names, priors)
    if key not in _compiled:
        with pm.Model() as model:
            add_divergence(data, priors, rotation=rotation)
        _compiled[key] = nutpie.compile_pymc_model(model, var_names=["divergence_z"])
    compiled = _compiled[key]
    inside = {variable.name for variable in compiled.shared_var_keys}
    inputs = divergence_inputs(data, rotation)
    compiled = compiled.with_data(**{k: v for k, v in inputs.items() if k in inside})
    every = -(-DIVERGENCE_DRAWS // draws)
    tree = _nuts(
        compiled,
        start,
        random_seed,
        draws=draws * every,
        tune=max(tune, DIVERGENCE_TUNE),
        chains=chains,
        target_accept=DIVERGENCE_ACCEPT,
        progress_bar=False,
    )
    z = tree["posterior"]["divergence_z"].to_numpy()[:, ::every]
    z = z.reshape(chains * draws, -1)
    values = {"divergence_z": z} | parameters(z, data, priors, rotation)
    return values, tree["sample_stats"].to_dataset()


def _systematic(weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices of a systematic resample, in order."""
    position = (np.arange(weight.size) + rng.random()) / weight.size
    index = np.searchsorted(np.cumsum(weight / weight.sum()), position)
    return np.minimum(index, weight.size - 1)


def diagnose(variables: dict[str, np.ndarray], sample_stats: xr.Dataset) -> dict[str, float]:
    """Worst convergence figures over all scalar quantities.

    Parameters
    ----------
    variables : dict of str to array, shape (chains, draws, ...)
    sample_stats : Dataset
        With ``diverging`` and ``energy``.

    Returns
    -------
    dict
        ``rhat``, ``ess_bulk``, ``ess_tail``, ``divergent``, ``bfmi``; nan where undefined.
    """
    rhat, bulk, tail = [], [], []
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a stuck chain: nan, which fails
        for value in variables.values():
            flat = value.reshape(*value.shape[:2], -1)
            for j in range(flat.shape[2]):
                x = flat[:, :, j]
                rhat.append(float(array_stats.rhat(x)))
                bulk.append(float(array_stats.ess(x, method="bulk")))
                tail.append(float(array_stats.ess(x, method="tail", prob=(0.1, 0.9))))
    energy = sample_stats["energy"].to_numpy()
    bfmi = np.mean(np.diff(energy, axis=1) ** 2, axis=1) / np.var(energy, axis=1)
    return {
        "rhat": float(np.max(rhat)),
        "ess_bulk": float(np.min(bulk)),
        "ess_tail": float(np.min(tail)),
        "divergent": float(sample_stats["diverging"].sum()),
        "bfmi": float(np.min(bfmi)),
    }


def failures(figures: dict[str, float]) -> list[str]:
    """What of the gate fails, in words; a figure that is nan fails."""
    out = []
    if not figures["rhat"] <= MAX_RHAT:
        out.append(f"R-hat {figures['rhat']:.3f} > {MAX_RHAT}")
    for name in ("ess_bulk", "ess_tail"):
        if not figures[name] >= MIN_ESS:
            out.append(f"{name} {figures[name]:.0f} < {MIN_ESS:.0f}")
    if not figures["divergent"] == 0:
        out.append(f"{figures['divergent']:.0f} divergent transitions")
    if not figures["bfmi"] >= MIN_BFMI:
        out.append(f"E-BFMI {figures['bfmi']:.2f} < {MIN_BFMI}")
    return out
