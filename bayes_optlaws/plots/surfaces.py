"""Surfaces over peak LR and warm-up at one scale: expected loss, and the stable region."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayes_optlaws.inference.fitted import FittedLaw, HasFitted, fitted_law
from bayes_optlaws.plots.style import BLUE, RED, axes, figure_of, legend_below
from bayes_optlaws.runs.readers import read_candidates
from bayes_optlaws.text.figures import shown_once
from bayes_optlaws.text.numbers import scale_label, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DRAWS = 500
_SCHEDULES = ("linear", "cosine", "wsd", "wsd-sqrt")
DIVERGES = 0.5
"""A setting counts as divergent from this probability: where the paper's criterion R is 1."""


@dataclass(frozen=True)
class _Settings:
    """A grid over peak LR and warm-up at one scale, and the runs that were made there."""

    lr: np.ndarray
    warmup: np.ndarray
    candidates: pd.DataFrame
    finished: pd.DataFrame
    diverged: pd.DataFrame
    title: str

    def on_grid(self, values: pd.Series) -> np.ndarray:
        return values.to_numpy(float).reshape(len(self.warmup), len(self.lr))


def _settings(
    law: FittedLaw,
    n_params: float,
    tokens: float,
    batch_tokens: float | None,
    schedule: str,
    cooldown: float,
    grid: int,
) -> _Settings:
    if schedule not in _SCHEDULES:
        raise ValueError(
            f"schedule is {schedule!r}: the surface can be drawn for {', '.join(_SCHEDULES)}"
        )
    if not 0 < cooldown < 1:
        raise ValueError(f"cooldown is {cooldown}: it is a share of the run, between 0 and 1")
    runs = law.runs
    if batch_tokens is None:
        batch_tokens = float(runs["batch_tokens"].median())
    steps = tokens / batch_tokens
    share = np.maximum(runs["warmup_steps"], 1.0) / runs["steps"]
    least, most = float(share.min()), float(min(share.max(), 0.95))
    if schedule.startswith("wsd"):
        most = min(most, 1 - cooldown)
    low, high = float(runs["peak_lr"].min()), float(runs["peak_lr"].max())
    if not (low < high and least < most):
        raise ValueError(
            f"peak_lr covers {low:g} to {high:g} and the warm-up's share {least:g} to {most:g}: "
            "a surface needs runs that differ in both"
        )
    lr, warmup = np.geomspace(low, high, grid), np.geomspace(least, most, grid) * steps
    lr_at, warmup_at = (a.ravel() for a in np.meshgrid(lr, warmup))
    candidates = pd.DataFrame(
        {
            "n_params": float(n_params),
            "tokens": float(tokens),
            "batch_tokens": batch_tokens,
            "peak_lr": lr_at,
            "warmup_steps": warmup_at,
            "schedule": schedule,
        }
    )
    if schedule.startswith("wsd"):
        candidates["cooldown_start_step"] = (1 - cooldown) * steps
    here = runs[np.isclose(runs["n_params"], n_params) & np.isclose(runs["tokens"], tokens)]
    return _Settings(
        lr,
        warmup,
        read_candidates(candidates, warn=False),
        here[~here["diverged"]],
        here[here["diverged"]],
        f"{scale_label(n_params, tokens)}, {schedule}, {short(steps)} steps",
    )


def _label_axes(ax: Axes, settings: _Settings) -> None:
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="peak LR",
        ylabel="warm-up, steps",
        title=settings.title,
        xlim=(settings.lr[0], settings.lr[-1]),
        ylim=(settings.warmup[0], settings.warmup[-1]),
    )


def _draw_diverged(ax: Axes, settings: _Settings) -> None:
    if len(settings.diverged):
        ax.scatter(
            settings.diverged["peak_lr"],
            settings.diverged["warmup_steps"],
            marker="X",
            color=RED,
            edgecolor="white",
            linewidth=0.8,
            s=70,
            label="diverged run",
            clip_on=False,
            zorder=4,
        )


@shown_once
def loss_surface(
    law: FittedLaw | HasFitted,
    *,
    n_params: float,
    tokens: float,
    batch_tokens: float | None = None,
    schedule: str = "linear",
    cooldown: float = 0.2,
    grid: int = 25,
    ax: Axes | None = None,
    random_seed: int = 0,
) -> Figure:
    """Plot the expected loss over peak LR and warm-up, with the runs made at that scale.

    Parameters
    ----------
    law : OptLaw or FittedLaw
    n_params, tokens : float
        Model size and token budget.
    batch_tokens : float, optional
        Tokens a step; default: the median of the fitted runs.
    schedule : {"linear", "cosine", "wsd", "wsd-sqrt"}
    cooldown : float
        Share of the run that the cooldown of the two ``wsd`` takes.
    grid : int
        Points along each axis, over the range of the fitted runs in peak LR and in the warm-up's
        share of the run.
    ax : matplotlib Axes, optional
    random_seed : int

    Returns
    -------
    matplotlib Figure
        Colour: mean of the expected loss, nats per token, given that the run finishes. Hatched:
        settings that diverge with probability 1/2 or more (as the paper's Fig. 5). Circles: runs
        at this scale, in the same colours; crosses: runs there that diverged; star: lowest
        expected loss outside the hatched region.

    Raises
    ------
    ValueError
        When the schedule is none of those, or the range of peak LR or warm-up is a point.
    """
    law = fitted_law(law).usual()
    at = _settings(law, n_params, tokens, batch_tokens, schedule, cooldown, grid)
    predicted = law.predict(at.candidates, kind="mean", random_seed=random_seed, max_draws=_DRAWS)
    loss, risk = at.on_grid(predicted["loss_mean"]), at.on_grid(predicted["p_diverge"])
    alone, ax = ax is None, axes(ax, (6.2, 4.6))
    values = np.concatenate([loss.ravel(), at.finished["final_loss"].to_numpy(float)])
    # Losses far up the side would leave no colour for the bottom of the bowl.
    bottom, top = values.min(), np.quantile(values, 0.9)
    levels = np.linspace(bottom, max(top, bottom * (1 + 1e-6)), 21)
    colours = ax.contourf(at.lr, at.warmup, loss, levels=levels, cmap="viridis_r", extend="max")
    figure = figure_of(ax)
    figure.colorbar(colours, ax=ax, label="expected final loss, nats per token", format="%.3f")
    lost = np.nan_to_num(risk) >= DIVERGES
    if lost.any() and not lost.all():
        _hatch(ax, at, risk)
    if len(at.finished):
        low, high = colours.get_clim()
        ax.scatter(
            at.finished["peak_lr"],
            at.finished["warmup_steps"],
            c=at.finished["final_loss"],
            cmap=colours.cmap,
            vmin=low,
            vmax=high,
            edgecolor="white",
            s=42,
            label="run",
            zorder=3,
            clip_on=False,
        )
    _draw_diverged(ax, at)
    best = int(np.argmin(np.where(lost, np.inf, loss))) if not lost.all() else None
    if best is not None:
        ax.plot(
            at.candidates["peak_lr"].iloc[best],
            at.candidates["warmup_steps"].iloc[best],
            "*",
            color="white",
            markeredgecolor="black",
            markersize=14,
            label="lowest expected loss",
            clip_on=False,
            zorder=5,
        )
    _label_axes(ax, at)
    legend_below(ax, alone=alone)
    return figure


def _hatch(ax: Axes, at: _Settings, risk: np.ndarray) -> None:
    """Hatch the settings that diverge more often than not, and draw their edge."""
    region = ax.contourf(
        at.lr, at.warmup, risk, levels=[DIVERGES, 1.01], colors="none", hatches=["///"]
    )
    region.set(edgecolor="black", linewidth=0.0)
    ax.contour(at.lr, at.warmup, risk, levels=[DIVERGES], colors="black", linewidths=1.4)
    ax.fill(
        [],
        [],
        facecolor="white",
        edgecolor="black",
        hatch="///",
        label=f"diverges with {100 * DIVERGES:g} % or more",
    )


@shown_once
def stable_region(
    law: FittedLaw | HasFitted,
    *,
    n_params: float,
    tokens: float,
    batch_tokens: float | None = None,
    schedule: str = "linear",
    cooldown: float = 0.2,
    prob: float = 0.9,
    grid: int = 40,
    ax: Axes | None = None,
    random_seed: int = 0,
) -> Figure:
    """Plot the probability of divergence over peak LR and warm-up, with the runs at that scale.

    Parameters
    ----------
    law : OptLaw or FittedLaw
        Fitted, with ``divergence``.
    n_params, tokens : float
        Model size and token budget.
    batch_tokens : float, optional
        Tokens a step; default: the median of the fitted runs.
    schedule : {"linear", "cosine", "wsd", "wsd-sqrt"}
        Named in the title; the criterion looks at peak LR and warm-up only.
    cooldown : float
        Share of the run that the cooldown of the two ``wsd`` takes.
    prob : float
        Probability that the boundary lies between the two dashed lines.
    grid : int
        Points along each axis, over the range of the fitted runs.
    ax : matplotlib Axes, optional
    random_seed : int

    Returns
    -------
    matplotlib Figure
        Colour: P(diverge). Solid line: one half; dashed: where the interval of the probability
        ends at one half. Dots: runs at this scale that finished; crosses: those that diverged.

    Raises
    ------
    ValueError
        When the law has no divergence part, the schedule is none of those, or the range of peak
        LR or warm-up is a point.
    """
    law = fitted_law(law).usual()
    at = _settings(law, n_params, tokens, batch_tokens, schedule, cooldown, grid)
    predicted = law.predict(
        at.candidates, kind="mean", prob=prob, random_seed=random_seed, max_draws=_DRAWS
    )
    if not law.models_divergence:
        raise ValueError(
            "this law does not model divergence: fit OptLaw(divergence=True) to draw its region"
        )
    alone, ax = ax is None, axes(ax, (6.2, 4.6))
    risk = at.on_grid(predicted["p_diverge"])
    colours = ax.contourf(
        at.lr, at.warmup, risk, levels=np.linspace(0, 1, 11), cmap="Oranges", vmax=1.3
    )
    figure = figure_of(ax)
    bar = figure.colorbar(colours, ax=ax, label="probability that the run diverges")
    bar.set_ticks([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    edges = [
        ("p_diverge", "-", "even odds"),
        ("p_diverge_upper", "--", f"{100 * prob:g} % interval of that line"),
        ("p_diverge_lower", "--", None),
    ]
    for column, style, label in edges:
        line = at.on_grid(predicted[column])
        ax.contour(
            at.lr, at.warmup, line, levels=[DIVERGES], colors="black", linestyles=style,
            linewidths=1.8 if style == "-" else 1.0,
        )  # fmt: skip
        if label and line.min() < DIVERGES < line.max():
            ax.plot([], [], style, color="black", label=label)
    if len(at.finished):
        ax.scatter(
            at.finished["peak_lr"], at.finished["warmup_steps"], color=BLUE, edgecolor="white",
            linewidth=0.8, s=42, label="run that finished", zorder=3, clip_on=False,
        )  # fmt: skip
    _draw_diverged(ax, at)
    _label_axes(ax, at)
    if law.divergence_note:
        ax.text(
            0.02, 0.98, law.divergence_note.split(":")[0], transform=ax.transAxes, va="top",
            fontsize="small", bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )  # fmt: skip
    legend_below(ax, alone=alone)
    return figure
