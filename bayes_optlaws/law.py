"""OptLaw: the whole of the package in one object.

A run table is checked, turned into arrays (`RunEncoding`) and sampled; the result is a frozen
`FittedLaw`, which all that answers takes.  Only the divergence part learns from diverged runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes_optlaws import decision, inference
from bayes_optlaws.inference.options import WithOptions

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from arviz_stats import ELPDData
    from pymc import Model

    from bayes_optlaws.decision.allocate import Allocation
    from bayes_optlaws.decision.design import DesignPlan
    from bayes_optlaws.decision.explain import Explanation
    from bayes_optlaws.decision.ranking import Ranking
    from bayes_optlaws.decision.suggest import Suggestion
    from bayes_optlaws.decision.watch import Watch
    from bayes_optlaws.inference.fitted import FittedLaw
    from bayes_optlaws.inference.predictor import Predictor
    from bayes_optlaws.inference.stages import StagePrior
    from bayes_optlaws.model.divergence import DivergencePriors
    from bayes_optlaws.model.encoding import RunEncoding
    from bayes_optlaws.model.priors import Priors
    from bayes_optlaws.report.explore import Explorer

type Table = pd.DataFrame | str | Path


class OptLaw(WithOptions):
    """Bayesian Opt-Law: final loss from schedule, model size and token budget.

    Options are kept as they are given; `get_params` returns them, and a saved law has all of
    them.

    Parameters
    ----------
    features : {"auto", "paper"}
        ``"auto"`` adds batch columns when the batch size varies; ``"paper"`` never does.
    transfer : bool
        Let the law be wrong, the more so the further from scales and settings seen.
    divergence : bool or DivergencePriors
        Model the probability of divergence beside the loss.
    exponents : str or mapping, optional
        Candidate exponents: ``"trend"`` (the default: for model size and data negative ones and
        the logarithm), ``"saturating"`` (negative), ``"paper"`` (positive, the paper's four
        groups and form, without priors of slopes), ``"signed"``, ``"both"``, or a mapping
        from group to values; see `bayes_optlaws.model.features.EXPONENT_PRESETS`.
    priors : Priors, optional
    stage_prior : StagePrior, optional
        What a change of training stage may do, see `bayes_optlaws.inference.stages`.
    covariates : sequence of str or mapping, optional
        Further columns that the loss depends on, such as ``["weight_decay", "optimizer"]``; a
        mapping says how each is read, see `bayes_optlaws.model.covariates.KINDS`.
    groups : {None, "pooled"}
        ``"pooled"`` fits the groups of a table together: levels apart, slopes as far as they agree.
    residuals : bool
        Learn from the residuals of the fit what runs of nearly the same settings share, where that
        is clear (with ``transfer``, see `bayes_optlaws.model.neighbours`), and how heavy the tails
        of the noise of new runs are (`bayes_optlaws.model.tails`).

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
        stage_prior: StagePrior | None = None,
        covariates: Sequence[str] | Mapping[str, str] | None = None,
        groups: str | None = None,
        residuals: bool = True,
    ) -> None:
        self.features = features
        self.transfer = transfer
        self.divergence = divergence
        self.exponents = exponents
        self.priors = priors
        self.stage_prior = stage_prior
        self.covariates = covariates
        self.groups = groups
        self.residuals = residuals
        inference.fitting.check_options(self.get_params())
        self._fitted_law: FittedLaw | None = None

    def fit(
        self,
        runs: Table,
        draws: int = 500,
        tune: int = 150,
        chains: int = 4,
        random_seed: int | None = None,
        progressbar: bool = True,
        *,
        method: str = "nuts",
    ) -> OptLaw:
        """Sample the posterior given a table of finished runs.

        A fit that is refused, fails or is interrupted leaves the law as it was.

        Parameters
        ----------
        runs : DataFrame or path
            Run table; checked by `read_runs`. Of a table with a column ``stage`` the runs from
            scratch are fitted; the whole becomes ``stage_runs``, which teaches later stages.
        draws, tune, chains : int
            Of each chain. Chains of NUTS go on, and are thinned, until R-hat and effective sample
            sizes pass.
        random_seed : int, optional
            Same seed and table, same posterior within Monte-Carlo error.
        progressbar : bool
        method : {"nuts", "importance"}
            Where importance sampling, the faster, fails its gate: NUTS, with a warning.

        Returns
        -------
        OptLaw
        """
        self._fitted_law = inference.fitting.fit(
            runs, self.get_params(), draws=draws, tune=tune, chains=chains,
            random_seed=random_seed, progressbar=progressbar, method=method,
        )  # fmt: skip
        inference.odd_runs.warn_of_fit(self._fitted_law)
        return self

    def update(self, new_runs: Table, **options: Any) -> OptLaw:
        """Fit again with further runs, from the old posterior as start, with the old options.

        The posterior is that of a fit to all runs. An update that is refused, fails or is
        interrupted leaves the law as it was.

        Parameters
        ----------
        new_runs : DataFrame or path
            Run table of any number of rows, without the runs that the law has.
        **options
            ``draws``, ``tune``, ``chains``, ``random_seed``, ``progressbar``, ``method`` as in
            `fit`; by default those of the last fit.

        Returns
        -------
        OptLaw
        """
        self._fitted_law = inference.fitting.update(self.fitted, new_runs, **options)
        inference.odd_runs.warn_of_fit(self._fitted_law)
        return self

    def odd_runs(self) -> pd.DataFrame:
        """Fitted runs whose loss the others contradict; see `bayes_optlaws.inference.odd_runs`."""
        return inference.odd_runs.odd_runs(self.fitted)

    def encode(self, runs: Table) -> RunEncoding:
        """Check a run table and encode it as `fit` does, without sampling."""
        return inference.fitting.encode(runs, self.get_params())

    @property
    def is_fitted(self) -> bool:
        """Whether the law has a posterior."""
        return self._fitted_law is not None

    @property
    def fitted(self) -> FittedLaw:
        """The posterior with what it was learned from; RuntimeError before `fit`."""
        if self._fitted_law is None:
            raise RuntimeError("this law has no posterior yet: call fit(runs) first")
        return self._fitted_law

    @property
    def runs(self) -> pd.DataFrame:
        """Validated run table that was fitted."""
        return self.fitted.runs

    @property
    def stage_runs(self) -> pd.DataFrame | None:
        """Run table with later stages, where the fitted table had them."""
        return self.fitted.stage_runs

    @property
    def random_seed(self) -> int:
        """Seed of the fit."""
        return self.fitted.random_seed

    @property
    def model(self) -> Model:
        """The `pymc.Model` that is sampled: coefficients and exponents are integrated out."""
        return inference.pymc_model.law_model(self.fitted)

    @property
    def full_model(self) -> Model:
        """The same as a `pymc.Model` with every unknown in it; see `inference.full_model`."""
        return inference.full_model.full_model(self.fitted)

    def graph(self, which: str = "full") -> Any:
        """Draw the ``"full"`` or the ``"marginal"`` model; see `inference.model_graph`."""
        return inference.model_graph.graph(self.fitted, which)

    def prior_predictive(
        self, candidates: Table, runs: Table | None = None, **options: Any
    ) -> xr.DataArray:
        """Losses of candidates that are believed in before a loss is read.

        Parameters
        ----------
        candidates : DataFrame or path
            Candidate table.
        runs : DataFrame or path, optional
            Run table whose settings standardise the features and whose mean log loss centres the
            intercept; by default that of the fit. Its losses take no other part.
        **options
            ``kind``, ``draws`` and ``random_seed``.

        Returns
        -------
        DataArray
            Dims ``sample`` and ``candidate``, nats a token, of runs that finish.
        """
        encoding = self.fitted.encoding if runs is None else self.encode(runs)
        table = encoding.candidates(candidates)
        return inference.prior.prior_predictive(encoding, self.priors, table, **options)

    @property
    def divergence_note(self) -> str | None:
        """What a reader of ``p_diverge`` must know, as when no run of the table diverged."""
        return self.fitted.divergence_note

    @property
    def diagnostics(self) -> dict[str, float]:
        """Worst R-hat, ESS and E-BFMI over all hyper-parameters and coefficients."""
        return self.fitted.diagnostics

    @property
    def posterior(self) -> xr.DataTree:
        """ArviZ DataTree; `bayes_optlaws.inference.groups` says what its groups hold."""
        return inference.groups.arviz_tree(self.fitted)

    @property
    def predictor(self) -> Predictor:
        """Joint predictive draws for any table, on the log-loss scale."""
        return self.fitted.predictor()

    def predict_draws(
        self,
        candidates: Table,
        kind: str = "new_run",
        *,
        finished: bool = False,
        history: Table | None = None,
        stage_runs: Table | None = None,
        random_seed: int = 0,
        max_draws: int = 4000,
        allow_unconverged: bool = False,
    ) -> xr.DataArray:
        """Joint draws of the final loss of every candidate.

        Parameters
        ----------
        candidates : DataFrame or path
            Candidate table: a run table without outcomes, with the covariates of the law.
        kind : {"new_run", "mean"}
            ``"new_run"``: the loss of one run, seed noise included. ``"mean"``: the expected loss
            over the seeds that finish. Divergence is drawn with its probability in both.
        finished : bool
            Draw the loss given that the run does not diverge.
        history : DataFrame or path, optional
            The candidates are a later stage: the stages before it, one row each, or rows with a
            column ``candidate`` where they differ. See `bayes_optlaws.stages`; what a change of
            stage may do has the prior ``law.stage_prior``.
        stage_runs : DataFrame or path, optional
            Run table with ``stage`` and ``parent`` whose later stages were measured; by default
            those of the fitted table. Of use with ``history`` only.
        random_seed : int
        max_draws : int
            At most this many posterior draws are used; of very long tables fewer, at least 250.
        allow_unconverged : bool

        Returns
        -------
        xarray.DataArray
            Dims ``sample`` and ``candidate`` (the index of ``candidates``), nats a token; inf
            where the run diverges, unless ``finished``. With ``history`` the attribute ``level``
            is ``"loss"`` where runs of each candidate's own set were measured, else ``"score"``:
            then only differences mean something.

        Raises
        ------
        ConvergenceError
            If the posterior does not pass the gate.
        """
        inference.fitted.check_kind(kind)
        law = self.fitted
        law.require_converged(allow_unconverged)
        table = law.candidates(candidates)
        return law.predict_draws(
            table, kind, finished=finished, stage=law.stage(table, history, stage_runs),
            random_seed=random_seed, max_draws=max_draws, allow_unconverged=allow_unconverged,
        )  # fmt: skip

    def predict(
        self,
        candidates: Table,
        kind: str = "new_run",
        prob: float = 0.9,
        *,
        history: Table | None = None,
        stage_runs: Table | None = None,
        random_seed: int = 0,
        max_draws: int = 4000,
        allow_unconverged: bool = False,
    ) -> pd.DataFrame:
        """Predict the final loss of every candidate, with its interval.

        Parameters
        ----------
        candidates, kind, history, stage_runs, random_seed, max_draws, allow_unconverged
            As in `predict_draws`.
        prob : float
            Probability inside the central interval.

        Returns
        -------
        DataFrame
            Index of ``candidates``; ``loss_mean``, ``loss_sd``, ``loss_lower``, ``loss_upper``
            (nats a token, given that the run does not diverge); ``p_diverge`` with the
            interval of the probability, ``p_diverge_lower`` and ``p_diverge_upper`` (nan
            without ``divergence``); and ``extrapolation``: decades (factors of ten) in model
            size and tokens to the nearest scale that was fitted; 0 means a scale that was. With
            ``history`` also ``level`` and ``score``: where ``level`` is ``"score"`` no run of the
            candidate's set was measured, and the loss columns are nan.
        """
        inference.fitted.check_prob(prob)
        inference.fitted.check_kind(kind)
        law = self.fitted
        law.require_converged(allow_unconverged)
        table = law.candidates(candidates)
        return law.predict(
            table, kind, prob, stage=law.stage(table, history, stage_runs),
            random_seed=random_seed, max_draws=max_draws, allow_unconverged=allow_unconverged,
        )  # fmt: skip

    def extrapolation(self, candidates: Table) -> np.ndarray:
        """Decades in (N, tokens) from each row to the nearest fitted scale, shape (n,)."""
        return self.fitted.extrapolation(self.fitted.candidates(candidates))

    def rank(
        self,
        candidates: Table,
        kind: str = "mean",
        prob: float = 0.9,
        tie: float | None = None,
        *,
        history: Table | None = None,
        stage_runs: Table | None = None,
        divergence_loss: float | None = None,
        search: bool = True,
        random_seed: int = 0,
        max_draws: int = 4000,
        allow_unconverged: bool = False,
    ) -> Ranking:
        """Rank candidates by joint draws of their final loss.

        Parameters
        ----------
        candidates, history, stage_runs, random_seed, max_draws, allow_unconverged
            As in `predict_draws`.
        kind : {"mean", "new_run"}
            What order, P(best) and regret are those of: the expected loss over seeds, a diverged
            run at its price, or one run of each candidate. Ties are judged on the expected loss
            in both, and ``loss_lower``, ``loss_upper`` are those of a single run.
        prob : float
            Confidence at which a pair counts as separated.
        tie : float, optional
            Practical-equivalence zone in nats; by default the noise sd of a run.
        divergence_loss : float, optional
            Loss that a diverged run counts as, nats; by default a property of the run table,
            `bayes_optlaws.model.risk.divergence_price` (the paper uses 7).
        search : bool
            Also search for a better setting; of a later stage, value one more run of each.

        Returns
        -------
        Ranking
            With ``history`` its ``level`` says whether the draws are losses or scores.

        Raises
        ------
        ValueError
            With ``history``, when the scores of the candidates are not comparable.
        """
        inference.fitted.check_prob(prob)
        inference.fitted.check_kind(kind)
        law = self.fitted
        law.require_converged(allow_unconverged)
        table = law.candidates(candidates)
        return decision.rank.rank(
            law, table, kind=kind, prob=prob, tie=tie,
            stage=law.stage(table, history, stage_runs), divergence_loss=divergence_loss,
            search=search,
            random_seed=random_seed, max_draws=max_draws, allow_unconverged=allow_unconverged,
        )  # fmt: skip

    def design(
        self,
        pool: Table | None = None,
        decide: Table | None = None,
        n_runs: int | None = 5,
        objective: str = "regret",
        cost: str | Sequence[float] | None = "flops",
        budget: float | None = None,
        **options: Any,
    ) -> DesignPlan:
        """Propose the extra small runs that would help most to choose among candidates.

        Parameters
        ----------
        pool : DataFrame or path, optional
            Candidate table of what could be made (default: `bayes_optlaws.default_pool`, of a
            later stage `bayes_optlaws.stage_pool`).
        decide : DataFrame or path
            Candidate table of the large runs among which the choice is.
        n_runs, objective, cost, budget, **options
            As in `bayes_optlaws.decision.design.design`; ``history`` and ``stage_runs`` for a later
            stage.

        Returns
        -------
        DesignPlan
        """
        law = self.fitted
        law.require_converged(bool(options.get("allow_unconverged", False)))
        return decision.design.design(
            law, pool if pool is None else law.candidates(pool), decide=law.candidates(decide),
            n_runs=n_runs, objective=objective, cost=cost, budget=budget, **options,
        )  # fmt: skip

    def suggest(
        self,
        n_params: float | str,
        tokens: float | str,
        batch_tokens: float | str | Sequence[float | str],
        *,
        families: Sequence[str] | str | None = None,
        bounds: Mapping[str, float | tuple[float, float]] | None = None,
        max_p_diverge: float = 0.05,
        **options: Any,
    ) -> Suggestion:
        """Search the schedule of lowest expected loss whose risk of divergence is bounded.

        Parameters
        ----------
        n_params, tokens : float or str
            Model size and budget of the run to plan; "1.5B" is read, too.
        batch_tokens : float or sequence
            Tokens a step; of several, the best is chosen too.
        families, bounds, max_p_diverge, **options
            As in `bayes_optlaws.decision.suggest.suggest`.

        Returns
        -------
        Suggestion
        """
        return decision.suggest.suggest(
            self.fitted, n_params, tokens, batch_tokens, families=families, bounds=bounds,
            max_p_diverge=max_p_diverge, **options,
        )  # fmt: skip

    def loss_equivalent(
        self, candidate: pd.DataFrame, *, tolerance: float | None = None, **options: Any
    ) -> pd.DataFrame:
        """Find schedules of the same expected loss as a candidate, as unlike it as there are.

        Parameters
        ----------
        candidate : DataFrame
            Candidate table of one row.
        tolerance : float, optional
            Largest difference that counts as none, nats; by default the seed noise there.
        **options
            As in `bayes_optlaws.decision.equivalent.loss_equivalent`.

        Returns
        -------
        DataFrame
            The candidate and such schedules, with the probability of being within the tolerance.
        """
        law = self.fitted
        return decision.equivalent.loss_equivalent(
            law, law.candidates(candidate), tolerance=tolerance, **options
        )

    def report(
        self,
        candidates: Table | None = None,
        pool: Table | None = None,
        path: str | Path = "report.html",
        **options: Any,
    ) -> Path:
        """Write one HTML page with the answer and its checks; see `report.page.report`."""
        from bayes_optlaws.report.page import report

        return report(self.fitted, candidates, pool, path, **options)

    def explore(self, path: str | Path | None = None, **options: Any) -> Explorer:
        """Make a page with sliders, what if; see `report.explore`."""
        from bayes_optlaws.report.explore import explore

        return explore(self.fitted, path, **options)

    def explain(self, candidates: Table, **options: Any) -> Explanation:
        """Split the difference of two candidates by parts of the law; see `decision.explain`."""
        return decision.explain.explain(self.fitted, self.fitted.candidates(candidates), **options)

    def allocate(self, **options: Any) -> Allocation:
        """Split a compute budget between model size and tokens; see `decision.allocate`."""
        return decision.allocate.allocate(self.fitted, **options)

    def watch(self, curve: Table, candidate: Table, **options: Any) -> Watch:
        """Update what is expected of a run by its curve so far; see `decision.watch`."""
        return decision.watch.watch_tables(self.fitted, curve, candidate, **options)

    def loo(self) -> ELPDData:
        """Leave-one-out cross-validation with coefficients and discrepancy integrated out.

        Returns
        -------
        arviz_stats ELPDData
            On the log-loss scale, one observation a finished run.
        """
        return inference.loo.loo(self.fitted)

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
            ``attrs["odd_runs"]``: the rows of `odd_runs`.
        """
        out = self.fitted.summary(prob)
        out.attrs["odd_runs"] = self.odd_runs().reset_index().to_dict("records")
        return out

    def save(self, path: str | Path) -> Path:
        """Write the law, its runs and its posterior to one NetCDF file."""
        from bayes_optlaws import archive

        return archive.save(self.fitted, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> OptLaw:
        """Read a law that `save` wrote, from where you trust; nothing is sampled again."""
        from bayes_optlaws import archive

        return cls.from_fitted(archive.load(Path(path)))

    @classmethod
    def from_fitted(cls, fitted: FittedLaw) -> OptLaw:
        """Return a law with a posterior that there is.

        Parameters
        ----------
        fitted : FittedLaw
        """
        law = cls(**fitted.options)
        law._fitted_law = fitted
        return law

    def __repr__(self) -> str:
        """Say what the law is and how far it is."""
        return inference.describe.law_text(self.get_params(), self._fitted_law)

    def _repr_html_(self) -> str:
        return inference.describe.law_html(self.get_params(), self._fitted_law)
