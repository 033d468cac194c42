"""From options and a run table to a fitted law, for the first time and again with more runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from bayes_optlaws.inference import divergence_sampling, residuals, run_weights, stages
from bayes_optlaws.inference import nuts as sampling
from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.model.covariates import check_covariates, check_pooling
from bayes_optlaws.model.divergence import DivergencePriors
from bayes_optlaws.model.encoding import RunEncoding, check_features
from bayes_optlaws.model.features import BATCH_FEATURES, FEATURES, SCALE_FEATURES, FeatureSet
from bayes_optlaws.model.priors import Priors, check_names
from bayes_optlaws.runs.readers import read_runs

_LEAST = {"draws": 100, "tune": 50, "chains": 2}


def check_options(options: Mapping[str, Any]) -> None:
    """Fail on a wrong option of `bayes_optlaws.OptLaw` now, not after sampling.

    Parameters
    ----------
    options : mapping
        All options by name.

    Raises
    ------
    TypeError, ValueError
        If one is of a wrong kind or value.
    """
    check_features(options["features"])
    check_covariates(options["covariates"])
    check_pooling(options["groups"])
    features = FeatureSet.from_options(options["exponents"])
    for name, kind in (("priors", Priors), ("stage_prior", stages.StagePrior)):
        value = options[name]
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name} must be a {kind.__name__} or None, got {value!r}")
    for name in ("transfer", "divergence", "residuals"):
        value = options[name]
        priors = name == "divergence" and isinstance(value, DivergencePriors)
        if not (isinstance(value, bool | np.bool_) or priors):
            allowed = "True, False" + (" or DivergencePriors" * (name == "divergence"))
            raise TypeError(f"{name} must be {allowed}, got {value!r}")
    stated = options["priors"] or Priors()
    # which of the features a law has is known with its table; that it is one of them, now
    every = [f.name for f in (*FEATURES, *BATCH_FEATURES, *SCALE_FEATURES)]
    check_names("coefficients", stated.coefficients, every)
    stated.check_against(every, {g: len(c) for g, c in features.exponents.items()})


def divergence_priors(options: Mapping[str, Any]) -> DivergencePriors | None:
    """Priors of the divergence part; None where it is not modelled."""
    given = options["divergence"]
    if isinstance(given, DivergencePriors):
        return given
    return DivergencePriors() if given else None


def encode(runs: stages.Table, options: Mapping[str, Any]) -> RunEncoding:
    """Check a run table and encode it; see `OptLaw.encode`."""
    return RunEncoding.from_runs(
        read_runs(runs, mixed_groups=options["groups"] is not None), features=options["features"],
        transfer=bool(options["transfer"]), exponents=options["exponents"],
        priors=options["priors"], covariates=options["covariates"], groups=options["groups"],
    )  # fmt: skip


def fit(
    runs: stages.Table,
    options: Mapping[str, Any],
    *,
    draws: int,
    tune: int,
    chains: int,
    random_seed: int | None,
    progressbar: bool,
    method: str,
    start: FittedLaw | None = None,
) -> FittedLaw:
    """Sample the posterior given a table of finished runs; see `OptLaw.fit`.

    Parameters
    ----------
    runs : DataFrame or path
    options : mapping
        Of the law, all of them.
    draws, tune, chains, random_seed, progressbar, method
        As in `OptLaw.fit`.
    start : FittedLaw, optional
        A law whose posterior is likely to be near.
    """
    for name, value in (("draws", draws), ("tune", tune), ("chains", chains)):
        least = _LEAST[name]
        if not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    runs, stage_runs = stages.split(runs)
    encoding = encode(runs, options)
    priors = Priors() if options["priors"] is None else options["priors"]
    if random_seed is None:
        random_seed = int(np.random.SeedSequence().generate_state(1)[0])
    given: dict[str, Any] = {
        "draws": draws, "tune": tune, "chains": chains, "random_seed": random_seed
    }  # fmt: skip
    near = None if start is None else _near(start, HyperSpace(encoding.data, priors))
    encoding, near = run_weights.weighted(encoding, priors, near)
    sample = sampling.sample(
        encoding.data, priors, progressbar=progressbar, method=method, start=near, **given,
    )  # fmt: skip
    risk = divergence_priors(options)
    if risk is not None:
        values, stats = divergence_sampling.sample_divergence(
            encoding.divergence, risk, method=method, **given
        )
        drawn = replace(sample.draws, divergence=values)
        sample = replace(sample, draws=drawn, divergence_stats=stats)
    law = FittedLaw(
        encoding, priors, sample, random_seed, risk, stage_runs,
        options["stage_prior"] or stages.StagePrior(), dict(options),
    )  # fmt: skip
    return residuals.learn(law) if options["residuals"] else law


def _near(law: FittedLaw, space: HyperSpace) -> np.ndarray:
    """Posterior mean of another law as a point of this space; the prior's where it has none."""
    x, start = space.mean.copy(), 0
    for name, size, *_ in space.parts:
        old = law.draws.hyper.get(name)
        at = slice(start, start + size)
        if old is not None and old.shape[1] == size:
            x[at] = (np.log(old) if space.is_log[start] else old).mean(axis=0)
        start += size
    return x


def update(
    law: FittedLaw,
    new_runs: stages.Table,
    *,
    draws: int | None = None,
    tune: int = 150,
    chains: int | None = None,
    random_seed: int | None = None,
    progressbar: bool = False,
    method: str | None = None,
) -> FittedLaw:
    """Fit a law again with more runs, from its posterior as start; see `OptLaw.update`.

    Parameters
    ----------
    law : FittedLaw
    new_runs : DataFrame or path
    draws, tune, chains, random_seed, progressbar, method
        As in `OptLaw.fit`; those of the last fit by default.
    """
    old_chains = law.sample.chains
    return fit(
        joined(law, new_runs), law.options,
        draws=law.draws.n // old_chains if draws is None else draws, tune=tune,
        chains=old_chains if chains is None else chains,
        random_seed=law.random_seed if random_seed is None else random_seed,
        progressbar=progressbar, method=law.method if method is None else method, start=law,
    )  # fmt: skip


def joined(law: FittedLaw, new_runs: stages.Table) -> pd.DataFrame:
    """Return the runs of a law with further ones below, later stages included.

    Parameters
    ----------
    law : FittedLaw
    new_runs : DataFrame or path
        Run table, of any number of rows, without the runs that the law has.
    """
    old = law.runs if law.stage_runs is None else law.stage_runs
    scratch, staged = stages.split(new_runs)
    mixed = law.encoding.covariates.pooled
    new = read_runs(scratch, min_runs=0, mixed_groups=mixed) if staged is None else staged
    if "run_id" not in scratch:  # made from the row position, as those of the law may be
        first = len(old)
        new = new.assign(run_id=[f"run-{first + i:03d}" for i in range(len(new))])
    if "stage" in old and "stage" not in new:
        new = new.assign(stage=1)
    out = pd.concat([old, new], ignore_index=True)
    out.attrs = dict(old.attrs)
    return out
