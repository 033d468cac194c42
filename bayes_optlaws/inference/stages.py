"""Later training stages: continual training and fine-tuning, ranked after what came before.

Scores rank the candidates of one stage; their level is that of no loss, because other data have
other losses. A score is made of two parts. The law, fitted to runs from scratch, says how
schedules differ: by the stage's own schedule, or by the paper's history-aware form (Sections 5.3
and 5.4), in which the convergence integral adds up over the stages and escape terms are those of
the current stage over the square of its peak LR. What a change of stage does to that order is
learned from measured later stages (`bayes_optlaws.inference.stage_change`, own choice), and each
configuration deviates from both. The law itself is never fitted to later stages.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike

import numpy as np
import pandas as pd

from bayes_optlaws.inference.predictor import Predictor
from bayes_optlaws.inference.stage_change import Reference, change_columns
from bayes_optlaws.inference.stage_posterior import (
    Scales,
    StageData,
    StagePrior,
    condition,
    learn_scales,
)
from bayes_optlaws.model.features import Earlier
from bayes_optlaws.runs.columns import tidy_columns
from bayes_optlaws.runs.files import load
from bayes_optlaws.runs.stages import (
    chain,
    earlier_of_candidates,
    earlier_of_more,
    earlier_of_runs,
    read_stages,
    set_keys,
    setting_keys,
)

__all__ = ["StagePrior", "StageScores", "Table", "history", "prepare", "read_stages", "split"]

type Table = str | PathLike | pd.DataFrame
"""A run table, or the path of one."""

UNKNOWN_RISK = (
    "Whether a later stage diverges is not known from runs from scratch: losses and probabilities "
    "are those of runs that finish."
)
"""What is said of every answer about a later stage."""


def history(runs: str | PathLike | pd.DataFrame, run_id: str) -> pd.DataFrame:
    """Return the stages that end with a run: what candidates that continue it have behind them.

    Parameters
    ----------
    runs : path or DataFrame
        Run table with ``stage`` and ``parent``, see `read_stages`.
    run_id : str
        The run whose final weights are the start.

    Returns
    -------
    DataFrame
        One row a stage, the first from scratch: the ``history`` of `OptLaw.rank`.

    Raises
    ------
    KeyError
        When the run is not in the table.

    Examples
    --------
    >>> import bayes_optlaws as bo
    >>> runs = bo.datasets.load("pocket-stages")
    >>> history(runs, "strong_d64_4000-005")[["run_id", "stage"]]
                         run_id  stage
    0    families_d64_12000-003      1
    108     strong_d64_4000-005      2
    """
    return chain(read_stages(runs), run_id)


def split(
    source: str | PathLike | pd.DataFrame,
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return the runs from scratch, and the whole table where it holds later stages, else None.

    Parameters
    ----------
    source : str, path or DataFrame
        Run table, with or without a column ``stage``.

    Returns
    -------
    runs : DataFrame
    stage_runs : DataFrame or None
    """
    runs = tidy_columns(load(source))
    if "stage" not in runs.columns or not (pd.to_numeric(runs["stage"], errors="coerce") > 1).any():
        return runs, None
    table = read_stages(runs)
    return runs[(table["stage"] == 1).to_numpy()], table


@dataclass(frozen=True)
class LaterRuns:
    """How runs of later stages that were made came out.

    Parameters
    ----------
    n_runs, n_diverged : int
    highest_lr : float
        Highest peak LR of those that finished, per step; 0 where there is none.
    """

    n_runs: int = 0
    n_diverged: int = 0
    highest_lr: float = 0.0

    @classmethod
    def of(cls, later: pd.DataFrame) -> LaterRuns:
        """Count the validated runs of later stages."""
        lost = later["diverged"].to_numpy(bool)
        highest = later.loc[~lost, "peak_lr"].max() if (~lost).any() else 0.0
        return cls(len(later), int(lost.sum()), float(highest))

    def note(self, candidates: pd.DataFrame) -> str:
        """Say that the risk of a later stage is unknown, and what the runs made show of it.

        Parameters
        ----------
        candidates : DataFrame
            Validated candidates of a later stage.

        Examples
        --------
        >>> LaterRuns(350, 0, 0.008).note(pd.DataFrame({"peak_lr": [0.01]}))[-72:]
        'stages none diverged, at peak LRs up to 0.008; candidates go up to 0.01.'
        """
        if not self.n_runs:
            return UNKNOWN_RISK
        lost = f"{self.n_diverged:,}" if self.n_diverged else "none"
        said = f"{UNKNOWN_RISK} Of {self.n_runs:,} runs of later stages {lost} diverged"
        if self.highest_lr:
            what = "at" if not self.n_diverged else "others finished at"
            said += f", {what} peak LRs up to {self.highest_lr:.3g}"
        most = candidates["peak_lr"].max()
        beyond = f"; candidates go up to {most:.3g}" if most > 1.05 * self.highest_lr else ""
        return f"{said}{beyond}."


@dataclass(frozen=True)
class StageScores:
    """Candidates of a later stage, what they continue, and what was measured beside them.

    Made by `prepare`.

    Attributes
    ----------
    candidates : DataFrame
        Validated candidates.
    earlier : Earlier
        Of the measured configurations, then the candidates.
    measured : DataFrame
        One row a measured configuration of a later stage; empty where there is none.
    data : StageData or None
        Their losses.
    set_of : int array, shape (n_candidates,)
        Set of ``data`` that each candidate belongs to, -1 for none.
    configuration : int array, shape (n_measured + n_candidates,)
        Equal for runs of one configuration; those measured are numbered as they stand.
    keys : list of tuple
        What each candidate's set shares: group, model size, tokens, earlier stages.
    reference : Reference
        Scale of the runs that the law was fitted to.
    prior : StagePrior
    made : LaterRuns
        How the runs of later stages came out.
    """

    candidates: pd.DataFrame
    earlier: Earlier
    measured: pd.DataFrame
    data: StageData | None
    set_of: np.ndarray
    configuration: np.ndarray
    keys: list[tuple]
    reference: Reference
    prior: StagePrior = field(default_factory=StagePrior)
    made: LaterRuns = field(default_factory=LaterRuns)

    @property
    def level_learned(self) -> np.ndarray:
        """Whether runs of a candidate's own set were measured, shape (n_candidates,)."""
        return self.set_of >= 0

    def check_comparable(self, n: int | None = None) -> None:
        """Raise ValueError where candidates have no level in common and none that is known.

        Parameters
        ----------
        n : int, optional
            Look at the first ones alone.
        """
        if self.level_learned[:n].all():
            return
        keys = list(dict.fromkeys(self.keys[:n]))
        if len(keys) > 1:
            names = ("group", "n_params", "tokens", "number of earlier stages")
            at = next(i for i in range(4) if keys[0][i] != keys[1][i])
            raise ValueError(
                f"candidates of one ranking must share group, model size, tokens and number of "
                f"earlier stages unless runs of each set were measured: {names[at]} is "
                f"{keys[0][at]} and {keys[1][at]}; rank them apart, or give such runs as stage_runs"
            )

    @property
    def table(self) -> pd.DataFrame:
        """Measured configurations, then the candidates."""
        return pd.concat([self.measured, self.candidates], ignore_index=True)

    @property
    def which_set(self) -> np.ndarray:
        """Set of each row of `table`, those with measured runs first."""
        known = np.zeros(0, int) if self.data is None else self.data.which_set
        labels = {k: i for i, k in enumerate(dict.fromkeys(self.keys))}
        fresh = np.array([labels[k] for k in self.keys]) + (known.max() + 1 if known.size else 0)
        return np.concatenate([known, np.where(self.set_of >= 0, self.set_of, fresh)])

    def law_scores(self, predictor: Predictor, rng: np.random.Generator) -> np.ndarray:
        """Joint draws of the law's part of the score, measured configurations first.

        Without the correction from neighbours: those are runs from scratch, whose residuals say
        nothing of a later stage.
        """
        table, predictor = self.table, predictor.without_neighbours()
        out = predictor.mean(table, rng)
        if self.prior.history:
            plain = predictor.features.dictionary(table)
            aware = predictor.features.dictionary(table, self.earlier)
            change = predictor.standardizer(aware) - predictor.standardizer(plain)
            out += predictor.draws.beta @ change.T
        if self.prior.score_weight != 1:  # differences within a set alone: the level stays
            for label in np.unique(self.which_set):
                mine = self.which_set == label
                level = out[:, mine].mean(axis=1, keepdims=True)
                out[:, mine] = level + self.prior.score_weight * (out[:, mine] - level)
        return out

    def scores(self, predictor: Predictor, rng: np.random.Generator) -> np.ndarray:
        """Joint draws of the score, with what a change of stage does."""
        out = self.law_scores(predictor, rng)
        z = change_columns(self.table, self.reference)
        return out + self.prior.change.draw(z, self.which_set, len(out), rng)

    def scales(self, scores: np.ndarray) -> Scales:
        """Posterior of the deviation and noise sds, given joint draws of the scores."""
        m = len(self.measured)
        old = scores[:, :m]
        cov = np.atleast_2d(np.cov(old.T)) if m else np.zeros((0, 0))
        return learn_scales(old.mean(axis=0), cov, self.data, self.prior)

    def log_loss(
        self, predictor: Predictor, kind: str, rng: np.random.Generator
    ) -> tuple[np.ndarray, float]:
        """Joint draws of the candidates' log loss (or log score), and the median noise sd.

        Parameters
        ----------
        predictor : Predictor
        kind : {"new_run", "mean"}
        rng : numpy Generator

        Returns
        -------
        log_loss : array, shape (n_draws, n_candidates)
        noise_sd : float
            Of log loss over seeds.
        """
        scores = self.scores(predictor, rng)
        scales = self.scales(scores)
        out, noise = condition(
            scores, self.data, self.set_of, self.configuration, scales, self.prior.level_sd, rng
        )
        if kind == "new_run":
            out += noise[:, None] * rng.standard_normal(out.shape)
        return out, float(np.median(noise))


def prepare(
    candidates: pd.DataFrame,
    history: str | PathLike | pd.DataFrame,
    stage_runs: str | PathLike | pd.DataFrame | None = None,
    *,
    reference: Reference,
    prior: StagePrior | None = None,
    more: pd.DataFrame | None = None,
) -> StageScores:
    """Check everything a later stage is scored with, before any computation.

    Parameters
    ----------
    candidates : DataFrame
        Validated candidates of the stage to come.
    history : path or DataFrame
        Earlier stages: one row a stage for all candidates, or rows with a column ``candidate``.
    stage_runs : path or DataFrame, optional
        Run table with ``stage`` and ``parent`` whose later stages were measured.
    reference : Reference
        Scale of the law's runs; normalised escape terms are put at its peak LR.
    prior : StagePrior, optional
    more : DataFrame, optional
        Validated runs of later stages that could be made; they are scored as candidates that follow
        the others. Where the history differs by candidate, the column ``candidate`` names the one
        whose history a run has.

    Returns
    -------
    StageScores

    Notes
    -----
    A set is what shares ``group`` (the data), model size, tokens and number of earlier stages: its
    runs have a level in common. Diverged runs teach nothing here.
    """
    before = earlier_of_candidates(candidates, history)
    if more is not None:
        before = np.hstack([before, earlier_of_more(more, candidates, before, history)])
        candidates = pd.concat([candidates, more])
    made = LaterRuns()
    measured, data, past = candidates.iloc[:0], None, np.zeros((3, 0))
    sets: dict[tuple, int] = {}
    settings: dict[tuple, int] = {}
    if stage_runs is not None:
        table = read_stages(stage_runs)
        past = earlier_of_runs(table)
        made = LaterRuns.of(table[table["stage"] > 1])
        later = ((table["stage"] > 1) & ~table["diverged"]).to_numpy()
        if later.any():
            measured, data, past, sets, settings = _configurations(table[later], past[:, later])
    keys = set_keys(candidates, before[2])
    full = [(s, *c) for s, c in zip(keys, setting_keys(candidates, before), strict=True)]
    both = np.hstack([past[:, : len(measured)], before])
    for key in full:
        settings.setdefault(key, len(settings))
    configuration = [*range(len(measured)), *(settings[k] for k in full)]
    return StageScores(
        candidates,
        Earlier(both[0], both[1], reference.lr),
        measured,
        data,
        np.array([sets.get(k, -1) for k in keys]),
        np.array(configuration),
        keys,
        reference,
        StagePrior() if prior is None else prior,
        made,
    )


def _configurations(
    runs: pd.DataFrame, past: np.ndarray
) -> tuple[pd.DataFrame, StageData, np.ndarray, dict, dict]:
    """Replicates merged: first rows, losses, what came before, sets and settings by key."""
    keys = set_keys(runs, past[2])
    full = [(s, *c) for s, c in zip(keys, setting_keys(runs, past), strict=True)]
    sets, settings = ({k: i for i, k in enumerate(dict.fromkeys(x))} for x in (keys, full))
    which = np.array([settings[k] for k in full])
    log_loss = np.log(runs["final_loss"].to_numpy(float))
    count = np.bincount(which)
    mean = np.bincount(which, log_loss) / count
    first = np.unique(which, return_index=True)[1]
    data = StageData(
        mean,
        count.astype(float),
        float(np.sum((log_loss - mean[which]) ** 2)),
        np.array([sets[keys[i]] for i in first]),
    )
    return runs.iloc[first], data, past[:, first], sets, settings
