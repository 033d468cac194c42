"""FittedLaw: a posterior with what it was learned from, and what it predicts.

Everything that answers questions takes a `FittedLaw`: rankings, designs, suggestions,
leave-one-out, plots, reports, files.  It is frozen, so that an answer always belongs to the
table and options that it names; a law that is fitted again gets a new one.

Tables that come in here are validated: `bayes_optlaws.OptLaw` does that once, at its methods.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pandas as pd
import xarray as xr

from bayes_optlaws.inference import caveats, datatree, gate, stages
from bayes_optlaws.inference.draws import Draws
from bayes_optlaws.inference.loss_draws import LossDraws, columns, draws_for, losses
from bayes_optlaws.inference.nuts import Sample, figures
from bayes_optlaws.inference.predictor import Predictor
from bayes_optlaws.inference.stage_change import Reference
from bayes_optlaws.model.divergence import DivergencePriors, divergence_probability
from bayes_optlaws.model.encoding import RunEncoding
from bayes_optlaws.model.neighbours import Neighbours
from bayes_optlaws.model.priors import Priors
from bayes_optlaws.model.risk import RiskBasis, risk_basis
from bayes_optlaws.model.tails import Tails

KINDS = ("new_run", "mean")
"""What a prediction is of: the loss of one new run, or the expected loss over seeds."""

RISK_DRAWS = 400
"""Posterior draws whose width is compared with the prior's, where the risk is described."""

LEAST_SHARE = 0.1
"""Share of the lowest loss of the runs below which no prediction goes. Published laws of text keep
more than half of what small models reach, however large the run (own choice)."""

CHUNK = 2000
"""Candidates predicted at once; keeps memory bounded for long tables."""


class HasFitted(Protocol):
    """Anything with a fitted law in it, as `bayes_optlaws.OptLaw`."""

    @property
    def fitted(self) -> FittedLaw:
        """The fitted law."""
        ...


def fitted_law(law: FittedLaw | HasFitted) -> FittedLaw:
    """Return the fitted law of an `OptLaw`, or the fitted law that was given.

    Raises
    ------
    RuntimeError
        If the law was not fitted.
    """
    return law if isinstance(law, FittedLaw) else law.fitted


def check_prob(prob: float) -> None:
    """Raise ValueError unless ``prob`` lies strictly between 0 and 1."""
    if not 0 < prob < 1:
        raise ValueError(f"prob must lie strictly between 0 and 1, got {prob!r}")


def check_kind(kind: str) -> None:
    """Raise ValueError where ``kind`` is none of `KINDS`."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")


@dataclass(frozen=True, eq=False)
class FittedLaw:
    """A law with its posterior.

    Parameters
    ----------
    encoding : RunEncoding
    priors : Priors
    sample : Sample
    random_seed : int
    divergence_priors : DivergencePriors, optional
        None where divergence is not modelled.
    stage_runs : DataFrame, optional
        Validated run table with later stages, see `bayes_optlaws.inference.stages`.
    stage_prior : StagePrior
    options : mapping
        Of the law, as they were given; see `bayes_optlaws.OptLaw`.
    neighbours : Neighbours, optional
        Correction of predictions from runs of nearly the same settings.
    tails : Tails, optional
        Of the noise of new runs, where they are not those of the likelihood.

    Attributes
    ----------
    cache : dict
        What was computed from it on demand, by name.
    """

    encoding: RunEncoding
    priors: Priors
    sample: Sample
    random_seed: int
    divergence_priors: DivergencePriors | None = None
    stage_runs: pd.DataFrame | None = None
    stage_prior: stages.StagePrior = field(default_factory=stages.StagePrior)
    options: Mapping[str, Any] = field(default_factory=dict)
    neighbours: Neighbours | None = None
    tails: Tails | None = None
    cache: dict[str, Any] = field(init=False, repr=False, default_factory=dict)

    @property
    def runs(self) -> pd.DataFrame:
        """Validated run table."""
        return self.encoding.runs

    @property
    def draws(self) -> Draws:
        """Posterior draws, chain by chain."""
        return self.sample.draws

    @property
    def noise_df(self) -> float:
        """Degrees of freedom of the noise of a new run; infinite: normal."""
        return self.encoding.measurement.df if self.tails is None else self.tails.df

    @property
    def models_divergence(self) -> bool:
        """Whether the probability of divergence is modelled."""
        return self.divergence_priors is not None

    @property
    def divergence_note(self) -> str | None:
        """What a reader of ``p_diverge`` must know, as when no run of the table diverged."""
        return self.encoding.divergence.message if self.models_divergence else None

    @cached_property
    def draw_tree(self) -> xr.DataTree:
        """All draws in one group ``posterior``; sample_stats, observed_data, constant_data.

        ``coefficient`` (chain, draw, feature) are those of standardised columns; ``exponent``
        (chain, draw, exponent_group) those of the drawn combination. What `OptLaw.posterior` has
        beside it is made of it, see `bayes_optlaws.inference.groups`.
        """
        return datatree.to_tree(self.encoding, self.sample)

    @cached_property
    def diagnostics(self) -> dict[str, float]:
        """Figures of the gate: worst R-hat, ESS and E-BFMI over hyper-parameters and coefficients.

        After importance sampling ``pareto_k`` and ``effective_draws``, the worse of the loss part
        and the divergence part; both kinds of figures where the parts differ in method.
        ``screening_k`` is the Pareto k of the weights by which screened exponent combinations are
        made good, 0 where there are none.
        """
        sample = self.sample
        flat = {n: np.concatenate(v) for n, v in self._quantities().items()}
        loss = figures(sample, flat)
        if sample.method == "nuts":
            # nan: the screened combinations have all the weight, nothing was re-weighted
            k = 0.0 if np.isnan(sample.pareto_k) else float(sample.pareto_k)
            loss = loss | {"screening_k": k}
        if sample.divergence_stats is None:
            return loss
        z = {"divergence_z": self.draw_tree["posterior"]["divergence_z"].to_numpy()}
        return gate.worst(loss, gate.diagnose(z, sample.divergence_stats))

    @property
    def method(self) -> str:
        """What made the draws of the loss part: ``"nuts"`` or ``"importance"``."""
        return self.sample.method

    def _quantities(self) -> dict[str, np.ndarray]:
        posterior = self.draw_tree["posterior"]
        names = [*self.sample.draws.hyper, "intercept", "coefficient"]
        return {n: posterior[n].to_numpy() for n in names}

    @property
    def failing_quantities(self) -> list[str]:
        """Names of the quantities whose R-hat or effective sample size fails."""
        quantities = self._quantities() if self.method == "nuts" else {}
        stats = self.sample.divergence_stats
        if stats is not None and "energy" in stats:
            z = self.draw_tree["posterior"]["divergence_z"]
            quantities["divergence_z"] = z.to_numpy()
        return gate.failing(quantities)

    @property
    def failures(self) -> list[str]:
        """What of the convergence gate fails, in words; empty where it passes."""
        return gate.failures(self.diagnostics)

    def require_converged(self, allow_unconverged: bool = False) -> bool:
        """Whether the posterior passes the gate.

        Raises
        ------
        ConvergenceError
            If it does not, unless ``allow_unconverged``.
        """
        failed = self.failures
        if failed and not allow_unconverged:
            raise gate.ConvergenceError(
                "the posterior did not converge (" + "; ".join(failed) + "): no interval is given. "
                "Fit again with more tune and draws, or pass allow_unconverged=True to see "
                "results marked as unconverged"
            )
        return not failed

    def notes(
        self, table: pd.DataFrame, stage: stages.StageScores | None = None
    ) -> tuple[str, ...]:
        """What a reader of any answer on these candidates must know, one sentence each.

        Parameters
        ----------
        table : DataFrame
            Validated candidate table.
        stage : StageScores, optional
            Of a later stage: what makes runs from scratch diverge says nothing of its risk.
        """
        failed = self.failures
        out = [caveats.unconverged_note(failed)] if failed else []
        out += caveats.setting_notes(self.encoding.finished, table)
        out += caveats.reading_notes(self.runs, table)
        out += self.encoding.covariates.notes(table)
        if stage is not None:
            return (*out, stage.made.note(table))
        risk = self.risk_basis(table, prior_share=False).note
        return (*out, f"{risk[0].upper()}{risk[1:]}.") if risk else tuple(out)

    def risk_basis(self, table: pd.DataFrame, *, prior_share: bool = True) -> RiskBasis:
        """What the probabilities of divergence of these candidates rest on.

        Parameters
        ----------
        table : DataFrame
            Validated candidate table.
        prior_share : bool
            Also compare the posterior's width with the prior's.
        """
        if self.divergence_priors is None:
            return risk_basis(None)
        return risk_basis(
            self.encoding.divergence, table,
            posterior=self.draws.thin(RISK_DRAWS).divergence if prior_share else None,
            priors=self.divergence_priors,
        )  # fmt: skip

    def summary(self, prob: float = 0.9) -> pd.DataFrame:
        """Posterior of coefficients, exponents and scales; see `OptLaw.summary`."""
        check_prob(prob)
        return datatree.summary(self.encoding, self.draws, self.draw_tree, prob)

    def predictor(self, draws: Draws | None = None) -> Predictor:
        """Joint predictive draws for any table, on the log-loss scale; from all draws by default.

        Parameters
        ----------
        draws : Draws, optional
        """
        e = self.encoding
        return Predictor(
            e.features, e.standardizer, e.discrepancy, e.noise, e.transfer, e.centre, self.priors,
            self.draws if draws is None else draws,
            least=float(np.log(LEAST_SHARE * e.finished["final_loss"].min())), effects=e.effects,
            noise_df=self.noise_df, neighbours=self.neighbours,
        )  # fmt: skip

    def candidates(self, source: stages.Table) -> pd.DataFrame:
        """Read a candidate table, with the covariates and groups of this law.

        Parameters
        ----------
        source : DataFrame or path

        Raises
        ------
        RunTableError, CovariateError
            Listing every fault, levels that no run had among them.
        """
        return self.encoding.candidates(source)

    def assuming(self, values: Mapping[str, Any]) -> FittedLaw:
        """The same law, with values of covariates for tables that have no such column.

        Parameters
        ----------
        values : mapping
            Covariate to value, as ``{"optimizer": "adamw"}``.

        Raises
        ------
        CovariateError
            Where a name is none of the law's covariates.
        """
        if not values:
            return self
        encoding, known = self.encoding.assuming(values), self.neighbours
        known = None if known is None else replace(known, encoding=encoding)
        return replace(self, encoding=encoding, neighbours=known)

    def usual(self) -> FittedLaw:
        """The same law, where nothing else is assumed with the covariates that most runs have."""
        known = self.encoding.covariates
        return self.assuming({**known.usual(self.encoding.finished), **known.assumed})

    def risk(self, table: pd.DataFrame, draws: Draws | None = None) -> np.ndarray | None:
        """Probability of divergence by draw, shape (n_draws, n); None where it is not modelled.

        Parameters
        ----------
        table : DataFrame
        draws : Draws, optional
        """
        if not self.models_divergence:
            return None
        draws = self.draws if draws is None else draws
        out = np.empty((draws.n, len(table)))

        def work(start: int) -> None:
            part = slice(start, start + CHUNK)
            inputs = self.encoding.divergence.scale.inputs(table.iloc[part])
            out[:, part] = divergence_probability(draws.divergence, inputs)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(work, range(0, len(table), CHUNK)))
        return out

    def stage(
        self,
        table: pd.DataFrame,
        history: stages.Table | None,
        stage_runs: stages.Table | None = None,
        more: pd.DataFrame | None = None,
    ) -> stages.StageScores | None:
        """What a later stage is scored with; None for runs from scratch.

        Parameters
        ----------
        table : DataFrame
            Candidates.
        history, stage_runs : DataFrame or path, optional
            As in `OptLaw.predict_draws`.
        more : DataFrame, optional
            Runs that could be made, as in `stages.prepare`.
        """
        if history is None:
            if stage_runs is not None:
                raise ValueError(
                    "stage_runs is given without history: name the stages that the candidates "
                    "continue, as in history=bayes_optlaws.inference.stages.history(runs, run_id)"
                )
            return None
        reference = Reference.of(self.encoding.finished)
        runs = self.stage_runs if stage_runs is None else stage_runs
        return stages.prepare(
            table, history, runs, reference=reference, prior=self.stage_prior, more=more
        )

    def draw_loss(
        self,
        table: pd.DataFrame,
        kind: str,
        rng: np.random.Generator,
        *,
        max_draws: int,
        stage: stages.StageScores | None = None,
    ) -> LossDraws:
        """Joint draws of loss and risk of any candidates.

        The risk of a later stage is unknown: what makes a run from scratch diverge, too short a
        warm-up of fresh weights, is not what a warmed model at a re-warmed peak LR meets.

        Parameters
        ----------
        table : DataFrame
        kind : {"new_run", "mean"}
        rng : numpy Generator
        max_draws : int
            At most, see `draws_for`.
        stage : StageScores, optional
        """
        draws = self.draws.thin(draws_for(len(table), max_draws))
        predictor = self.predictor(draws)
        if stage is not None:
            log_loss, noise = stage.log_loss(predictor, kind, rng)
            return LossDraws(losses(log_loss), None, noise)
        log_loss, noise_sd = predictor.mean_and_noise_sd(table, rng)
        if kind == "new_run":
            log_loss += predictor.noise_draws(noise_sd, rng)
            log_loss = predictor.capped(log_loss)
        return LossDraws(losses(log_loss), self.risk(table, draws), float(np.median(noise_sd)))

    def draw_losses(
        self,
        table: pd.DataFrame,
        random_seed: int,
        *,
        max_draws: int,
        stage: stages.StageScores | None = None,
    ) -> tuple[LossDraws, LossDraws]:
        """Draws of the expected loss and of one new run, which differ by that run's noise alone.

        Those that `draw_loss` gives with the same seed.

        Parameters
        ----------
        table : DataFrame
        random_seed : int
        max_draws : int
        stage : StageScores, optional
        """
        rng, again = (np.random.default_rng(random_seed) for _ in range(2))
        if stage is not None:
            options: dict[str, Any] = {"max_draws": max_draws, "stage": stage}
            mean = self.draw_loss(table, "mean", rng, **options)
            return mean, self.draw_loss(table, "new_run", again, **options)
        draws = self.draws.thin(draws_for(len(table), max_draws))
        predictor = self.predictor(draws)
        log_loss, noise_sd = predictor.mean_and_noise_sd(table, rng)
        risk, noise = self.risk(table, draws), float(np.median(noise_sd))
        one_run = predictor.capped(log_loss + predictor.noise_draws(noise_sd, rng))
        return LossDraws(losses(log_loss), risk, noise), LossDraws(losses(one_run), risk, noise)

    def replicated(
        self, rng: np.random.Generator, *, max_draws: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws of the log loss of the finished runs, expected and as it would be measured again.

        Parameters
        ----------
        rng : numpy Generator
        max_draws : int

        Returns
        -------
        mean, replicated : arrays, shape (n_draws, n_finished)
            The second with the seeds and standard errors of the table.
        """
        table = self.encoding.finished
        # as the fit has them: with their own residuals as neighbours nothing would be checked
        predictor = self.predictor(self.draws.thin(max_draws)).without_neighbours()
        mean = predictor.mean(table, rng)
        measured = np.log(table["final_loss"].to_numpy(float))
        sd = self.encoding.measurement.sd(predictor.noise_sd(table), table, measured)
        return mean, predictor.capped(mean + predictor.noise_draws(sd, rng))

    def predict_draws(
        self,
        table: pd.DataFrame,
        kind: str = "new_run",
        *,
        finished: bool = False,
        stage: stages.StageScores | None = None,
        random_seed: int = 0,
        max_draws: int = 4000,
        allow_unconverged: bool = False,
    ) -> xr.DataArray:
        """Joint draws of the final loss of every candidate; see `OptLaw.predict_draws`.

        Parameters
        ----------
        table : DataFrame
        kind, finished, random_seed, max_draws, allow_unconverged
            As there.
        stage : StageScores, optional
            Of a later stage, from `stage`.
        """
        check_kind(kind)
        converged = self.require_converged(allow_unconverged)
        rng = np.random.default_rng(random_seed)
        drawn = self.draw_loss(table, kind, rng, max_draws=max_draws, stage=stage)
        loss = drawn.loss
        if drawn.risk is not None and not finished:
            lost = rng.random(drawn.risk.shape) < drawn.risk
            loss = np.where(lost, np.inf, loss)
        return xr.DataArray(
            loss,
            dims=("sample", "candidate"),
            coords={"candidate": table.index.to_numpy()},
            name="final_loss",
            attrs={
                "kind": kind,
                "units": "nats per token",
                "converged": int(converged),
                "level": "loss" if stage is None or stage.level_learned.all() else "score",
                "noise_sd": drawn.noise_sd,
            },
        )

    def predict(
        self,
        table: pd.DataFrame,
        kind: str = "new_run",
        prob: float = 0.9,
        *,
        stage: stages.StageScores | None = None,
        random_seed: int = 0,
        max_draws: int = 4000,
        allow_unconverged: bool = False,
    ) -> pd.DataFrame:
        """Predict the final loss of every candidate; see `OptLaw.predict`.

        Parameters
        ----------
        table : DataFrame
        kind, prob, random_seed, max_draws, allow_unconverged
            As there.
        stage : StageScores, optional
            Of a later stage, from `stage`.
        """
        check_prob(prob)
        check_kind(kind)
        converged = self.require_converged(allow_unconverged)
        tail = (1 - prob) / 2
        most = draws_for(len(table), max_draws)
        size = CHUNK if stage is None else len(table)

        def predicted(start: int) -> pd.DataFrame:
            part = table.iloc[start : start + size]
            rng = np.random.default_rng(random_seed)
            drawn = self.draw_loss(part, kind, rng, max_draws=most, stage=stage)
            return columns(drawn, tail)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            parts = list(pool.map(predicted, range(0, len(table), size)))
        out = pd.concat(parts, ignore_index=True).set_axis(table.index, axis=0)
        out["extrapolation"] = self.extrapolation(table)
        if stage is not None:
            out["level"] = np.where(stage.level_learned, "loss", "score")
            out["score"] = out["loss_mean"]
            losses = ["loss_mean", "loss_sd", "loss_lower", "loss_upper"]
            out.loc[~stage.level_learned, losses] = np.nan
        out.attrs["notes"] = list(self.notes(table, stage))
        if not converged:
            out.attrs["unconverged"] = True
        return out

    def extrapolation(self, table: pd.DataFrame) -> np.ndarray:
        """Decades in (N, tokens) from each row to the nearest fitted scale, shape (n,)."""
        return self.encoding.discrepancy.distance(table) / np.log(10.0)
