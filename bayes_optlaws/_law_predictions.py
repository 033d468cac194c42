"""Predictions and rankings of a fitted law: the part of `OptLaw` that answers questions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from bayes_optlaws import sampling, stages
from bayes_optlaws.divergence import divergence_probability
from bayes_optlaws.posterior import Draws, Predictor
from bayes_optlaws.ranking import Ranking
from bayes_optlaws.runs import read_candidates

KINDS = ("new_run", "mean")
CHUNK = 2000
"""Candidates predicted at once; keeps memory bounded for long tables."""


class Predictions:
    """Predict and rank with the posterior of a fitted law; `OptLaw` inherits this."""

    def _require_fit(self) -> sampling.Sample:
        if self._sample is None:
            raise RuntimeError("this law has no posterior yet: call fit(runs) first")
        return self._sample

    def _require_converged(self, allow_unconverged: bool) -> bool:
        failed = sampling.failures(self.diagnostics)
        if failed and not allow_unconverged:
            raise sampling.ConvergenceError(
                "the posterior did not converge (" + "; ".join(failed) + "): no interval is given. "
                "Fit again with more tune and draws, or pass allow_unconverged=True to see "
                "results marked as unconverged"
            )
        return not failed

    def _ready(
        self, candidates: pd.DataFrame | str | Path, kind: str, allow_unconverged: bool
    ) -> tuple[pd.DataFrame, bool]:
        """Checked candidates, and whether the posterior passes the gate."""
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
        self._require_fit()
        converged = self._require_converged(allow_unconverged)
        return read_candidates(candidates), converged

    @property
    def predictor(self) -> Predictor:
        """Joint predictive draws for any table, on the log-loss scale."""
        return self._predictor(self._require_fit().draws)

    def _predictor(self, draws: Draws) -> Predictor:
        return Predictor(
            self._features, self._standardizer, self._discrepancy, self._noise, self.transfer,
            self._centre, self.priors, draws,
        )  # fmt: skip

    def predict_draws(
        self,
        candidates: pd.DataFrame | str | Path,
        kind: str = "new_run",
        *,
        finished: bool = False,
        history: pd.DataFrame | str | Path | None = None,
        stage_runs: pd.DataFrame | str | Path | None = None,
        random_seed: int = 0,
        max_draws: int = 4000,
        allow_unconverged: bool = False,
    ) -> xr.DataArray:
        """Joint draws of the final loss of every candidate.

        Parameters
        ----------
        candidates : DataFrame or path
            Candidate table: a run table without outcomes.
        kind : {"new_run", "mean"}
            ``"new_run"``: the loss one run would end with, seed noise included. ``"mean"``: the
            expected loss over the seeds that finish. Whether the run that is made diverges is
            drawn with its probability in both.
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
            At most this many posterior draws are used.
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
        table, converged = self._ready(candidates, kind, allow_unconverged)
        rng = np.random.default_rng(random_seed)
        stage = self._stage(table, history, stage_runs)
        loss, risk, noise_sd = self._draw_stage_loss(table, kind, rng, max_draws, stage)
        if risk is not None and not finished:
            lost = rng.random(risk.shape) < risk
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
                "noise_sd": noise_sd,
            },
        )

    def _stage(self, table: pd.DataFrame, history, stage_runs) -> stages.StageScores | None:
        """What a later stage is scored with; None for runs from scratch."""
        if history is None:
            if stage_runs is not None:
                raise ValueError(
                    "stage_runs is given without history: name the stages that the candidates "
                    "continue, as in history=bayes_optlaws.stages.history(runs, run_id)"
                )
            return None
        reference = float(np.exp(np.log(self._fitted["peak_lr"]).mean()))
        runs = self.stage_runs if stage_runs is None else stage_runs
        return stages.prepare(table, history, runs, reference_lr=reference, prior=self.stage_prior)

    def _draw_loss(
        self, table: pd.DataFrame, kind: str, rng: np.random.Generator, max_draws: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Loss given that the run does not diverge, and the probability that it does."""
        return self._draw_stage_loss(table, kind, rng, max_draws, None)[:2]

    def _draw_stage_loss(
        self,
        table: pd.DataFrame,
        kind: str,
        rng: np.random.Generator,
        max_draws: int,
        stage: stages.StageScores | None,
    ) -> tuple[np.ndarray, np.ndarray | None, float]:
        """`_draw_loss` of a stage (None: from scratch), and the noise sd of log loss.

        The risk of a later stage is that of the same run from scratch (own choice).
        """
        draws = self._require_fit().draws.thin(max_draws)
        predictor = self._predictor(draws)
        if stage is not None:
            log_loss, noise = stage.log_loss(predictor, kind, rng)
        else:
            log_loss, noise_sd = predictor.mean(table, rng), predictor.noise_sd(table)
            noise = float(np.median(noise_sd))
            if kind == "new_run":
                log_loss += noise_sd * rng.standard_normal(log_loss.shape)
                log_loss = predictor.capped(log_loss)
        risk = None
        if draws.divergence:
            inputs = self._divergence.scale.inputs(table)
            risk = divergence_probability(draws.divergence, inputs)
        return np.exp(log_loss), risk, noise

    def predict(
        self,
        candidates: pd.DataFrame | str | Path,
        kind: str = "new_run",
        prob: float = 0.9,
        *,
        history: pd.DataFrame | str | Path | None = None,
        stage_runs: pd.DataFrame | str | Path | None = None,
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
        check_prob(prob)
        table, converged = self._ready(candidates, kind, allow_unconverged)
        stage = self._stage(table, history, stage_runs)
        tail = (1 - prob) / 2
        parts = []
        size = CHUNK if stage is None else len(table)
        for start in range(0, len(table), size):
            part = table.iloc[start : start + size]
            rng = np.random.default_rng(random_seed)
            loss, risk, _ = self._draw_stage_loss(part, kind, rng, max_draws, stage)
            lower, upper = np.quantile(loss, [tail, 1 - tail], axis=0)
            with np.errstate(over="ignore", invalid="ignore"):
                mean, sd = loss.mean(axis=0), loss.std(axis=0)
            # so far from all runs that a draw's square is beyond what floats hold
            columns = [mean, np.nan_to_num(sd, nan=np.inf, posinf=np.inf), lower, upper]
            if risk is None:
                columns += [np.full(len(part), np.nan)] * 3
            else:
                columns += [risk.mean(axis=0), *np.quantile(risk, [tail, 1 - tail], axis=0)]
            parts.append(np.column_stack(columns))
        out = pd.DataFrame(
            np.vstack(parts),
            index=table.index,
            columns=[
                "loss_mean", "loss_sd", "loss_lower", "loss_upper",
                "p_diverge", "p_diverge_lower", "p_diverge_upper",
            ],
        )  # fmt: skip
        out["extrapolation"] = self.extrapolation(table)
        if stage is not None:
            out["level"] = np.where(stage.level_learned, "loss", "score")
            out["score"] = out["loss_mean"]
            losses = ["loss_mean", "loss_sd", "loss_lower", "loss_upper"]
            out.loc[~stage.level_learned, losses] = np.nan
        if not converged:
            out.attrs["unconverged"] = True
        return out

    def extrapolation(self, table: pd.DataFrame) -> np.ndarray:
        """Decades in (N, tokens) from each row to the nearest fitted scale, shape (n,)."""
        return self._discrepancy.distance(table) / np.log(10.0)

    def rank(
        self,
        candidates: pd.DataFrame | str | Path,
        kind: str = "new_run",
        prob: float = 0.9,
        tie: float | None = None,
        *,
        history: pd.DataFrame | str | Path | None = None,
        stage_runs: pd.DataFrame | str | Path | None = None,
        divergence_loss: float = np.inf,
        random_seed: int = 0,
        max_draws: int = 4000,
        allow_unconverged: bool = False,
    ) -> Ranking:
        """Rank candidates by joint draws of their final loss.

        Parameters
        ----------
        candidates, kind, history, stage_runs, random_seed, max_draws, allow_unconverged
            As in `predict_draws`.
        prob : float
            Confidence at which a pair counts as separated.
        tie : float, optional
            Practical-equivalence zone in nats; by default the noise sd of a run among the
            candidates.
        divergence_loss : float
            Loss that a divergent run counts as in expected regret (the paper uses 7); by
            default one nat above the highest loss drawn.

        Returns
        -------
        Ranking
            With ``history`` its ``level`` says whether the draws are losses or scores.

        Raises
        ------
        ValueError
            With ``history``, when candidates of unknown level differ in model size, tokens or
            number of earlier stages: their scores are not comparable.
        """
        check_prob(prob)
        table, _ = self._ready(candidates, kind, allow_unconverged)
        stage = self._stage(table, history, stage_runs)
        if stage is not None:
            stage.check_comparable()
        draws = self.predict_draws(
            table, kind, history=history, stage_runs=stage_runs, random_seed=random_seed,
            max_draws=max_draws, allow_unconverged=allow_unconverged,
        )  # fmt: skip
        if tie is None:
            finite = draws.to_numpy()[np.isfinite(draws.to_numpy())]
            if finite.size:
                tie = float(draws.attrs["noise_sd"] * np.median(finite))
        return Ranking.from_draws(
            draws, prob=prob, tie=tie, kind=kind, divergence_loss=divergence_loss,
            level=draws.attrs["level"],
        )  # fmt: skip


def check_prob(prob: float) -> None:
    if not 0 < prob < 1:
        raise ValueError(f"prob must lie strictly between 0 and 1, got {prob!r}")
