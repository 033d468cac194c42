"""Sample the hyper-parameters with NUTS, and refuse what did not converge.

Chains move in coordinates in which the posterior is nearly white: a pilot by importance sampling
(`bayes_optlaws.inference.importance`) finds centre and covariance first.  Hundreds of exponent
combinations take part in every evaluation, but where the pilot's draws lie a few carry most of the
weight.  NUTS runs with those; exponents are then drawn from all combinations,
and each hyper-parameter draw has the exact importance weight of what was left out, by which the
draws are resampled.  If the weights are too uneven the model is sampled again with more
combinations, in the end with all.  (The reports give the share that was sampled with and the
shape of the weights' tail.)

The posterior of the noise ratio has a long tail, which is mapped to that of a normal
(`bayes_optlaws.inference.tail_map`).  Chains go on until the draws, as they will be used, have the
R-hat and the effective sizes of the gate.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import xarray as xr
from arviz_stats.base import array_stats

from bayes_optlaws.inference.chains import longer_chains
from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.draws import Draws, recover
from bayes_optlaws.inference.gate import (
    NUTS_FIGURES,
    check_method,
    diagnose,
    failures,
    mixed,
)
from bayes_optlaws.inference.importance import (
    MAX_PARETO_K,
    MIN_EFFECTIVE,
    Weighted,
    importance_draws,
    pilot_draws,
)
from bayes_optlaws.inference.noise_coordinates import NoiseCoordinates
from bayes_optlaws.inference.resampling import systematic
from bayes_optlaws.inference.tail_map import Mapped, TailMap
from bayes_optlaws.kernels.hyper import hyper_inputs
from bayes_optlaws.kernels.marginal import log_evidence_by_combination
from bayes_optlaws.kernels.threads import one_blas_thread
from bayes_optlaws.model.data import ModelData
from bayes_optlaws.model.priors import Priors

SCREEN_SIZES = (64, 128, 256, 512, 1024)
"""Numbers of exponent combinations that sampling may be tried with before all of them."""

SCREEN_DRAWS = 64
"""Screening looks at this many draws of the pilot."""

EXPECTED_EFFICIENCY, MIN_EFFICIENCY = 0.85, 0.65
"""Least effective share of draws after reweighting: foreseen at those points, and accepted."""

LEAST_SHARE = 0.5
"""Share that the screened combinations have at every point looked at, once they were too few."""

NEGLIGIBLE = 0.005
"""Total variation between weighted and equal draws up to which the weights are left out: less than
the Monte-Carlo error of thousands of draws; the shape of such weights' tail says nothing."""

TARGET_ACCEPT = (0.85, 0.97)
"""Of the loss part; the second for chains that had divergent transitions with the first, as in
narrow corners of the noise of small tables."""

LEAST_SIGNED = 0.1
"""Effective share of draws with the signs that priors state, for importance sampling to be used."""


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
    method : {"nuts", "importance"}
        What made the draws of the loss part. By importance sampling ``pareto_k`` is that of the
        proposal, and the statistics are ``effective_draws`` and ``evaluations``.
    note : str
        What a reader must know of how they were made, as when importance sampling was asked for
        and did not pass its gate; else empty.
    """

    draws: Draws
    chains: int
    sample_stats: xr.Dataset
    kept: float
    pareto_k: float
    divergence_stats: xr.Dataset | None = None
    method: str = "nuts"
    note: str = ""


def combination_weights(space: HyperSpace, hyper: dict[str, np.ndarray]) -> np.ndarray:
    """Posterior weight of every exponent combination at one point, shape (n_combinations,)."""
    data = space.data
    inputs = [np.ascontiguousarray(v) for v in space.kernel_inputs(hyper)]
    args = data.kernel_args(space.priors)
    w, d, scale_factor, _ = hyper_inputs(*inputs, *args[:4])
    by_k = log_evidence_by_combination(w, d, scale_factor, inputs[4], inputs[5], *args[4:])
    weight = np.exp(by_k - by_k.max())
    return weight / weight.sum()


def screen(space: HyperSpace, hyper: dict[str, np.ndarray]) -> np.ndarray:
    """Weight of every combination at some points, shape (points, n_combinations)."""
    n = len(next(iter(hyper.values())))
    points = [{k: v[i] for k, v in hyper.items()} for i in range(n)]
    return np.array([combination_weights(space, point) for point in points])


def screened(weight: np.ndarray, above: int = 0, least: float = 0.0) -> np.ndarray:
    """Choose the combinations to sample with, by their weights at some points.

    Draws with some of them get importance weights inverse to the share that these have.

    Parameters
    ----------
    weight : array, shape (points, n_combinations)
    above : int
        More of them than this.
    least : float
        Least share that they have at each point.

    Returns
    -------
    bool array, shape (n_combinations,)
        The heaviest: as many of `SCREEN_SIZES` as are enough, or all.
    """
    total = weight.shape[1]
    order = np.argsort(-weight.mean(axis=0), kind="stable")
    chosen = np.zeros(total, dtype=bool)
    for size in (*SCREEN_SIZES, total):
        share = weight[:, order[:size]].sum(axis=1)
        expected = 1.0 / (share.mean() * (1.0 / share).mean())
        enough = expected >= EXPECTED_EFFICIENCY and share.min() >= least
        if size >= total or (size > above and enough):
            chosen[order[:size]] = True
            break
    return chosen


def sample(
    data: ModelData,
    priors: Priors,
    *,
    draws: int,
    tune: int,
    chains: int,
    random_seed: int,
    progressbar: bool,
    method: str = "nuts",
    start: np.ndarray | None = None,
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
    method : {"nuts", "importance"}
        By importance sampling where that passes its gate, else by NUTS, with a warning and a note
        in the sample. The draws are then ``chains * draws`` equally weighted ones, and ``tune``
        plays no part.
    start : array, optional
        Where the search for the mode begins, as a point of `HyperSpace`; by default the prior's
        centre.

    Returns
    -------
    Sample
    """
    check_method(method)
    note = ""
    if method == "importance":
        found, note = _sample_by_importance(
            data, priors, draws * chains, chains, random_seed, start
        )
        if found is not None:
            return found
        warnings.warn(note, UserWarning, stacklevel=2)
    rng = np.random.default_rng(random_seed)
    space = HyperSpace(data, priors)
    with one_blas_thread():
        return _sample_by_nuts(
            space, rng, random_seed, draws=draws, tune=tune, chains=chains,
            progressbar=progressbar, note=note, start=start,
        )  # fmt: skip


class _Coordinates:
    """The coordinates that chains move in: the noise by total and ratio, the ratio by its map."""

    def __init__(self, space: HyperSpace, by: TailMap | None) -> None:
        self.space, self.by, self.noise = space, by, NoiseCoordinates(space)
        self.density = self.noise if by is None else Mapped(self.noise, by)

    def hyper(self, v: np.ndarray) -> dict[str, np.ndarray]:
        """Hyper-parameters at each row of v."""
        return self.space.split(self.noise.to_logs(v if self.by is None else self.by.back(v)))


def _whitened(there: _Coordinates, pilot: Weighted) -> tuple[np.ndarray, np.ndarray]:
    """Centre of the pilot draws, and the factor of their covariance, shrunk to that at the mode."""
    x = pilot.x if there.by is None else there.by.forward(pilot.x)
    size = x.shape[1]
    centre = pilot.weight @ x
    off = x - centre
    laplace = there.density.curvature_factor(x[np.argmax(pilot.weight)])
    spread = pilot.ess * (off.T @ (off * pilot.weight[:, None])) + size * laplace @ laplace.T
    return centre, np.linalg.cholesky(spread / (pilot.ess + size))


def _sample_by_nuts(
    space: HyperSpace,
    rng: np.random.Generator,
    random_seed: int,
    *,
    draws: int,
    tune: int,
    chains: int,
    progressbar: bool,
    note: str,
    start: np.ndarray | None,
) -> Sample:
    data, priors = space.data, space.priors
    noise = NoiseCoordinates(space)
    pilot = pilot_draws(noise, rng=rng, start=start)
    by = None if noise.ratio is None else TailMap.fit(noise.ratio, pilot.x, pilot.weight)
    centre, axes = _whitened(_Coordinates(space, by), pilot)
    few = pilot.x[pilot.resample(SCREEN_DRAWS, rng)]
    weight = screen(space, space.split(noise.to_logs(few)))
    active = screened(weight)
    while True:
        part = HyperSpace(data.restrict(active), priors)
        there = _Coordinates(part, by)
        for v, stats in longer_chains(
            there.density.log_density, centre, axes, random_seed, first=draws, draws=draws,
            tune=tune, chains=chains, accept=TARGET_ACCEPT, progress_bar=progressbar,
        ):  # fmt: skip
            hyper = there.hyper(v.reshape(-1, space.size))
            recovered, log_ratio, share = recover(space, hyper, active, rng)
            ratio = np.exp(log_ratio - log_ratio.max())
            weighted = _unevenness(ratio) > NEGLIGIBLE
            # psislw takes minus log weights
            pareto_k = float(array_stats.psislw(-log_ratio)[1]) if weighted else np.nan
            too_uneven = _efficiency(ratio) < MIN_EFFICIENCY or pareto_k > MAX_PARETO_K
            if weighted and too_uneven and not active.all():
                break
            if weighted or data.signs is not None:
                weights = np.split(ratio * share, chains)
                index = [c * draws + systematic(w, draws, rng) for c, w in enumerate(weights)]
                recovered = recovered.take(np.concatenate(index))
            by_chain = {
                k: x.reshape(chains, draws, *x.shape[1:]) for k, x in recovered.hyper.items()
            }
            if mixed(by_chain, stats):
                return Sample(recovered, chains, stats, active.mean(), pareto_k, note=note)
        else:
            return Sample(recovered, chains, stats, active.mean(), pareto_k, note=note)
        # where the combinations that were left out matter most
        tail = np.argsort(-log_ratio, kind="stable")[:SCREEN_DRAWS]
        there_too = screen(space, {name: value[tail] for name, value in hyper.items()})
        active = screened(np.concatenate([weight, there_too]), int(active.sum()), LEAST_SHARE)


def _sample_by_importance(
    data: ModelData,
    priors: Priors,
    n: int,
    chains: int,
    random_seed: int,
    start: np.ndarray | None,
) -> tuple[Sample | None, str]:
    """A sample, or None and why importance sampling is not to be used here."""
    rng = np.random.default_rng(random_seed)
    space = HyperSpace(data, priors)
    there = NoiseCoordinates(space)
    everything = np.ones(data.tree.n_combinations, dtype=bool)
    wanted, effective = MIN_EFFECTIVE, 0.0
    while effective < MIN_EFFECTIVE:
        with one_blas_thread():
            found = importance_draws(there, rng=rng, start=start, effective=wanted)
            if not found.good:
                figures = {"pareto_k": found.pareto_k, "effective_draws": found.ess}
                return None, (
                    f"importance sampling did not pass its gate ({'; '.join(failures(figures))}); "
                    "NUTS was used instead"
                )
            hyper = space.split(there.to_logs(found.x[found.resample(n, rng)]))
            recovered, _, share = recover(space, hyper, everything, rng)
        effective = found.ess
        if data.signs is not None:
            kept = _efficiency(share)
            effective *= kept
            recovered = recovered.take(rng.permutation(systematic(share, share.size, rng)))
            if effective < MIN_EFFECTIVE and (kept < LEAST_SIGNED or wanted > MIN_EFFECTIVE):
                return None, (
                    f"importance sampling left {effective:.0f} effective draws with the signs that "
                    "priors state; NUTS was used instead"
                )
            wanted = 1.2 * MIN_EFFECTIVE / kept
    stats = xr.Dataset({"effective_draws": effective, "evaluations": found.evaluations})
    return Sample(recovered, chains, stats, 1.0, found.pareto_k, method="importance"), ""


def _efficiency(weight: np.ndarray) -> float:
    """Effective share of weighted draws."""
    return float(weight.sum() ** 2 / (weight**2).sum() / weight.size)


def _unevenness(weight: np.ndarray) -> float:
    """Total variation distance between draws of these weights and equal ones."""
    return 0.5 * float(np.mean(np.abs(weight / weight.mean() - 1.0)))


def figures(sample: Sample, variables: dict[str, np.ndarray]) -> dict[str, float]:
    """Figures that the gate judges of the loss part: those of the method that made the draws.

    Parameters
    ----------
    sample : Sample
    variables : dict of str to array, shape (n_draws, ...)
        Quantities whose chains are to agree.

    Returns
    -------
    dict
        As from `diagnose` after NUTS; ``pareto_k`` and ``effective_draws`` after importance
        sampling.
    """
    stats = sample.sample_stats
    if sample.method == "importance":
        return {
            "pareto_k": sample.pareto_k, "effective_draws": float(stats["effective_draws"])
        }  # fmt: skip
    if "energy" not in stats:  # draws that no sampler made
        return dict.fromkeys(NUTS_FIGURES, np.nan)
    chains = sample.chains
    return diagnose({k: v.reshape(chains, -1, *v.shape[1:]) for k, v in variables.items()}, stats)
