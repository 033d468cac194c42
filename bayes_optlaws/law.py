"""OptLaw: the whole of the package in one object.

A table of finished runs goes through the same steps each time:

1. `runs.read_runs` checks it, every fault in one report;
2. `features.FeatureSet` evaluates the Opt-Law features at every candidate exponent,
   `transfer.Discrepancy` adds the columns in which the law may be wrong,
   `noise.NoiseClasses` groups runs of like noise;
3. `likelihood.SufficientStatistics` reduces the runs to Gram matrices;
4. `sampling.sample` runs NUTS over the few hyper-parameters (the density of `model.build_model`,
   a PyMC model, without compiling one), then draws exponents, coefficients and discrepancy
   exactly (`posterior.recover`);
5. `posterior.Predictor` carries joint draws to candidates, `ranking.Ranking` decides.

Divergent runs take no part in the loss (their loss says nothing about the law); they are what
`divergence` learns from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from bayes_optlaws import archive, sampling, stages
from bayes_optlaws._law_predictions import Predictions, check_prob
from bayes_optlaws._law_repr import law_html, law_text
from bayes_optlaws.design import DesignPlan, design
from bayes_optlaws.divergence import (
    DivergenceData,
    DivergencePriors,
    add_divergence,
    divergence_probability,
)
from bayes_optlaws.features import FeatureSet, Standardizer
from bayes_optlaws.hyper import ModelData
from bayes_optlaws.likelihood import SufficientStatistics
from bayes_optlaws.loo import loo
from bayes_optlaws.loss_equivalent import loss_equivalent
from bayes_optlaws.noise import NoiseClasses
from bayes_optlaws.priors import Priors
from bayes_optlaws.report import report
from bayes_optlaws.runs import read_candidates, read_runs
from bayes_optlaws.slopes import slope_rows
from bayes_optlaws.suggest import Suggestion, suggest
from bayes_optlaws.transfer import Discrepancy


class OptLaw(Predictions):
    """Bayesian Opt-Law: final loss from schedule, model size and token budget.

    Parameters
    ----------
    features : {"auto", "paper"}
        ``"auto"`` adds trends in model size and tokens whose slopes are known from published laws,
        and batch columns when the batch size varies; ``"paper"`` adds nothing.
    transfer : bool
        Let the law be wrong, the more so the further from scales and settings seen.
    divergence : bool or DivergencePriors
        Model the probability of divergence beside the loss.
    exponents : str or mapping, optional
        Candidate exponents: ``"trend"`` (the default: for model size and data negative ones and
        the logarithm), ``"saturating"`` (negative), ``"paper"`` (positive, the paper's four
        groups and form, without priors of slopes), ``"signed"``, ``"both"``, or a mapping
        from group to values; see `bayes_optlaws.features.EXPONENT_PRESETS`.
    priors : Priors, optional

    Examples
    --------
    >>> import bayes_optlaws as bo
    >>> runs = bo.datasets.load("pocket")
    >>> law = bo.OptLaw().fit(runs, random_seed=1, progressbar=False)  # doctest: +SKIP
    >>> law.rank(candidates).table  # doctest: +SKIP
    """

    def __init__(
        self,
        features: str = "auto",
        transfer: bool = True,
        divergence: bool | DivergencePriors = True,
        exponents: str | Mapping[str, tuple[float, ...]] | None = None,
        priors: Priors | None = None,
    ) -> None:
        if features not in ("auto", "paper"):
            raise ValueError(f"features must be 'auto' or 'paper', got {features!r}")
        self.features = features
        self.transfer = bool(transfer)
        self.divergence = bool(divergence)
        self.divergence_priors = (
            divergence if isinstance(divergence, DivergencePriors) else DivergencePriors()
        )
        self.exponents = exponents
        self.priors = Priors() if priors is None else priors
        FeatureSet.from_options(exponents)  # a wrong option fails here, not after sampling
        self._sample: sampling.Sample | None = None
        self.stage_runs: pd.DataFrame | None = None
        self.stage_prior = stages.StagePrior()

    def fit(
        self,
        runs: pd.DataFrame | str | Path,
        draws: int = 1000,
        tune: int = 300,
        chains: int = 4,
        random_seed: int | None = None,
        progressbar: bool = True,
    ) -> OptLaw:
        """Sample the posterior given a table of finished runs.

        Parameters
        ----------
        runs : DataFrame or path
            Run table; checked by `read_runs` first. Of a table with a column ``stage`` only the
            runs from scratch are fitted; the whole becomes ``stage_runs``, which teaches what a
            later stage changes (see `rank`).
        draws, tune, chains : int
            Of NUTS, for each chain.
        random_seed : int, optional
            Same seed and table, same posterior within Monte-Carlo error.
        progressbar : bool

        Returns
        -------
        OptLaw
            Itself.

        Raises
        ------
        RunTableError
            If the table has faults; nothing was sampled.
        """
        for name, value, least in (
            ("draws", draws, 100),
            ("tune", tune, 50),
            ("chains", chains, 2),
        ):
            if not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
        runs, self.stage_runs = stages.split(runs)
        self._prepare(read_runs(runs))
        if random_seed is None:
            random_seed = int(np.random.SeedSequence().generate_state(1)[0])
        self._sample = None
        self.__dict__.pop("posterior", None)
        self.__dict__.pop("diagnostics", None)
        options = {"draws": draws, "tune": tune, "chains": chains, "random_seed": random_seed}
        sample = sampling.sample(self._data, self.priors, progressbar=progressbar, **options)
        if self.divergence:
            values, stats = sampling.sample_divergence(
                self._divergence, self.divergence_priors, **options
            )
            sample = replace(
                sample, draws=replace(sample.draws, divergence=values), divergence_stats=stats
            )
        self._sample = sample
        self.random_seed = random_seed
        return self

    def _prepare(self, runs: pd.DataFrame) -> None:
        """Everything that follows from the table alone, before any sampling."""
        self.runs = runs
        self._fitted = runs[~runs["diverged"]]
        self._divergence = DivergenceData.from_runs(runs)
        table = self._fitted
        vary = self.features == "auto" and table["batch_tokens"].nunique() > 1
        self._features = FeatureSet.from_options(
            self.exponents,
            batch=vary,
            reference_batch=float(np.exp(np.log(table["batch_tokens"]).mean())),
            trends=self.features == "auto",
        ).levelled(table)
        raw = self._features.dictionary(table)
        self._standardizer = Standardizer.fit(raw, self._features.column_exponent)
        self._discrepancy = Discrepancy.fit(table)
        self._noise = NoiseClasses.fit(table, self._discrepancy, constant=not self.transfer)
        log_loss = np.log(table["final_loss"].to_numpy(float))
        self._centre = float(log_loss.mean())
        d = self._discrepancy
        rows = self._rows(table, raw)
        empty = np.zeros((0, 0))
        slopes, slope = self._slope_rows(table)
        self._data = ModelData(
            SufficientStatistics.from_rows(
                rows, log_loss - self._centre, self._noise.label,
                n_classes=len(self._noise.covariates),
            ).append(
                SufficientStatistics.from_rows(
                    slopes, slope, np.zeros(len(slope), dtype=int), n_classes=1
                )
            ),
            self._features.tree,
            self._features.column_block,
            self._noise.covariates,
            self._noise.names,
            d.cells if self.transfer else empty,
            d.fields if self.transfer else (),
            d.n_local if self.transfer else 0,
            d.n_drift if self.transfer else (),
        )  # fmt: skip

    def _slope_rows(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the likelihood that state the law's slopes; none for the paper's form."""
        other = self._discrepancy.n_columns if self.transfer else 0
        if not self._features.trends:
            return np.zeros((0, self._features.n_columns + other)), np.zeros(0)
        x, y = slope_rows(
            lambda t: self._standardizer(self._features.dictionary(t)), table, self.priors.slopes
        )
        return np.hstack([x, np.zeros((len(x), other))]), y

    def _rows(self, table: pd.DataFrame, raw: np.ndarray | None = None) -> np.ndarray:
        """Columns of the likelihood: standardised dictionary, then discrepancy."""
        raw = self._features.dictionary(table) if raw is None else raw
        x = self._standardizer(raw)
        return np.hstack([x, self._discrepancy.basis(table)]) if self.transfer else x

    @property
    def model(self):
        """The PyMC model (all exponent combinations), a `pymc.Model`."""
        if not hasattr(self, "_data"):
            raise RuntimeError("the model depends on the runs: call fit(runs) first")
        from bayes_optlaws.model import build_model  # PyMC is slow to import, and a fit needs none

        model = build_model(self._data, self.priors)
        if self.divergence:
            with model:
                add_divergence(self._divergence, self.divergence_priors)
        return model

    @property
    def divergence_note(self) -> str | None:
        """What a reader of ``p_diverge`` must know, as when no run of the table diverged."""
        return self._divergence.message if self.divergence else None

    @cached_property
    def diagnostics(self) -> dict[str, float]:
        """Worst R-hat, ESS and E-BFMI over all hyper-parameters and coefficients."""
        sample = self._require_fit()
        posterior = self.posterior["posterior"]
        names = [*sample.draws.hyper, "intercept", "coefficient"]
        loss = sampling.diagnose({n: posterior[n].to_numpy() for n in names}, sample.sample_stats)
        if sample.divergence_stats is None:
            return loss
        z = {"divergence_z": posterior["divergence_z"].to_numpy()}
        other = sampling.diagnose(z, sample.divergence_stats)
        worst = {"rhat": np.maximum, "divergent": np.add}
        return {k: float(worst.get(k, np.minimum)(loss[k], other[k])) for k in loss}

    @cached_property
    def posterior(self) -> xr.DataTree:
        """ArviZ DataTree: posterior, sample_stats, observed_data, constant_data.

        ``coefficient`` (chain, draw, feature) are those of standardised columns; ``exponent``
        (chain, draw, exponent_group) those of the drawn combination.
        """
        return archive.to_tree(self, self._require_fit())

    def design(
        self,
        pool: pd.DataFrame | str | Path,
        decide: pd.DataFrame | str | Path,
        n_runs: int | None = 5,
        objective: str = "regret",
        cost="flops",
        budget: float | None = None,
        **options,
    ) -> DesignPlan:
        """Propose the extra small runs that would help most to choose among candidates.

        Parameters
        ----------
        pool : DataFrame or path
            Runs that could be made: a candidate table, see `bayes_optlaws.pool`.
        decide : DataFrame or path
            Candidate table of the large runs among which the choice is.
        n_runs, objective, cost, budget, **options
            As in `bayes_optlaws.design.design`.

        Returns
        -------
        DesignPlan
        """
        pool = read_candidates(pool)
        known = "p_diverge" in options or "p_diverge" in pool.columns
        if self._require_fit().draws.divergence and not known:
            inputs = self._divergence.scale.inputs(pool)
            thinned = self._require_fit().draws.thin(200).divergence
            options["p_diverge"] = divergence_probability(thinned, inputs).mean(axis=0)
        return design(
            self, pool, decide=decide, n_runs=n_runs, objective=objective, cost=cost,
            budget=budget, **options,
        )  # fmt: skip

    def suggest(
        self,
        n_params: float,
        tokens: float,
        batch_tokens: float | Sequence[float],
        *,
        families: Sequence[str] | str | None = None,
        bounds: Mapping[str, float | tuple[float, float]] | None = None,
        max_p_diverge: float = 0.05,
        **options,
    ) -> Suggestion:
        """Search the schedule of lowest expected loss whose risk of divergence is bounded.

        Parameters
        ----------
        n_params, tokens : float
            Model size and budget of the run to plan.
        batch_tokens : float or sequence
            Tokens a step; of several, the best is chosen too.
        families : str or sequence, optional
            Schedule families; by default those of the fitted runs.
        bounds : mapping, optional
            Of ``peak_lr``, ``warmup_steps``, ``cooldown``, ``decay``, ``plateau``; by default the
            ranges of the fitted runs that finished.
        max_p_diverge : float
        **options
            As in `bayes_optlaws.suggest.suggest`.

        Returns
        -------
        Suggestion
        """
        return suggest(
            self, n_params, tokens, batch_tokens, families=families, bounds=bounds,
            max_p_diverge=max_p_diverge, **options,
        )  # fmt: skip

    def loss_equivalent(
        self, candidate: pd.DataFrame, *, tolerance: float | None = None, **options
    ) -> pd.DataFrame:
        """Find schedules of the same expected loss as a candidate, as unlike it as there are.

        Parameters
        ----------
        candidate : DataFrame
            Candidate table of one row.
        tolerance : float, optional
            Largest difference that counts as none, nats; by default the seed noise there.
        **options
            As in `bayes_optlaws.loss_equivalent.loss_equivalent`.

        Returns
        -------
        DataFrame
            The candidate and such schedules, with the probability of being within the tolerance.
        """
        return loss_equivalent(self, candidate, tolerance=tolerance, **options)

    def report(
        self,
        candidates: pd.DataFrame | str | Path | None = None,
        pool: pd.DataFrame | str | Path | None = None,
        path: str | Path = "report.html",
        **options,
    ) -> Path:
        """Write one HTML page: the answer, the next runs, the checks, the posterior.

        Parameters
        ----------
        candidates, pool, path, **options
            As in `bayes_optlaws.report.report`.

        Returns
        -------
        Path
        """
        self._require_fit()
        return report(self, candidates, pool, path, **options)

    def loo(self):
        """Leave-one-out cross-validation with coefficients and discrepancy integrated out.

        Returns
        -------
        arviz_stats ELPDData
            On the log-loss scale, one observation a convergent run.
        """
        self._require_fit()
        return loo(self)

    def summary(self, prob: float = 0.9) -> pd.DataFrame:
        """Posterior of the coefficients, exponents and scales.

        Parameters
        ----------
        prob : float
            Probability inside the central interval.

        Returns
        -------
        DataFrame
            Rows ``intercept`` and the features (standardised columns), ``exponent[group]`` and
            the hyper-parameters; columns mean, sd, lower, upper, ess_bulk, rhat, block, and
            ``paper_units`` (posterior mean of the coefficient of the raw feature, in the
            paper's units: billions of parameters and tokens, LR over 1.5e-2).
        """
        check_prob(prob)
        return archive.summary(self, prob)

    def save(self, path: str | Path) -> Path:
        """Write the law, its runs and its posterior to one NetCDF file.

        The file is written beside its final place and moved there when complete.
        """
        return archive.save(self, self._require_fit(), Path(path))

    @classmethod
    def load(cls, path: str | Path) -> OptLaw:
        """Read a law written by `save`; nothing is sampled again."""
        return archive.load(cls, Path(path))

    def __repr__(self) -> str:
        """Say what the law is and how far it is."""
        return law_text(self)

    def _repr_html_(self) -> str:
        return law_html(self)
