"""The rules of the run table, each checked on whole columns."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bayes_optlaws.runs.columns import (
    EMPTY,
    LARGEST,
    POSITIVE,
    SMALLEST,
    Table,
    is_blank,
    label_words,
)
from bayes_optlaws.runs.faults import objects
from bayes_optlaws.schedules import INTEGRAL_COLUMNS, SCHEDULES

ASSUMED_WARMUP = 0.05
"""Share of the steps that is assumed where a table says nothing of a warm-up (own choice)."""
_ORDER = "phase points must be in order: warm-up <= decay end <= cooldown start < steps"
_FLAGS = (bool, np.bool_, int, float, np.integer, np.floating, str)


def budget(t: Table, *, near: Mapping[str, object] = EMPTY) -> None:
    """Fill the third of tokens, batch_tokens, steps from the other two."""
    names = ("tokens", "batch_tokens", "steps")
    blank = {
        name: t.positive(name, f"give {unit}", least=1.0)
        for name, unit in zip(
            names,
            ("the training tokens of the whole run", "tokens per step", "the number of steps"),
            strict=True,
        )
    }
    remedy = "give two of tokens, batch_tokens, steps"
    present = [c for c in names if c in t.frame.columns]
    if len(present) < 2:
        for name in [c for c in names if c not in present][: 2 - len(present)]:
            t.absent(name, "two of tokens, batch_tokens, steps are required", remedy, near)
        for name in names:
            t.ok[name] &= False
        return
    few = sum(b.astype(int) for b in blank.values()) >= 2
    first = np.select([blank[c] for c in present], present, present[0])
    for name in present:
        t.report.rows(
            few & (first == name),
            name,
            t.empty_cells,
            "two of tokens, batch_tokens, steps must be given",
            remedy,
        )
    tokens, batch, steps = (t.x[c] for c in names)
    with np.errstate(all="ignore"):
        product, ratio, per_step = batch * steps, tokens / batch, tokens / steps
        all_three = t.ok["tokens"] & t.ok["batch_tokens"] & t.ok["steps"]
        off = all_three & ~(np.abs(product / tokens - 1.0) <= 0.01)
    t.report.rows(
        off,
        "steps",
        steps,
        "tokens, batch_tokens and steps must agree: tokens = batch_tokens x steps within 1 %",
        "correct one of the three or leave one out",
    )
    for name, others, value in (
        ("tokens", ("batch_tokens", "steps"), product),
        ("batch_tokens", ("tokens", "steps"), per_step),
        ("steps", ("tokens", "batch_tokens"), ratio),
    ):
        fill = blank[name] & t.ok[others[0]] & t.ok[others[1]]
        t.x[name] = np.where(fill, value, t.x[name])
        small = fill & ~((value >= 1.0) & (value <= LARGEST))
        t.report.rows(
            small, name, value, f"must be at least 1, from {others[0]} and {others[1]}", remedy
        )
        t.ok[name] = t.ok[name] | (fill & ~small)


def warmup(t: Table) -> None:
    """Check the warm-up, or assume one where no row gives it."""
    t.warmup_assumed = not t.has("warmup_steps")
    if t.warmup_assumed:
        t.x["warmup_steps"] = ASSUMED_WARMUP * t.x["steps"]
        t.ok["warmup_steps"] = t.ok["steps"].copy()
        # Two steps leave a warm-up of one step, the least, and a cooldown of one step.
        short = t.ok["steps"] & (t.x["steps"] < 2.0)
        t.report.rows(short, "steps", t.x["steps"], "a run has at least 2 steps", "lengthen it")
        t.ok["warmup_steps"] &= ~short
        return
    values, blank = t.numbers("warmup_steps")
    t.need("warmup_steps", blank, "give the steps of the warm-up, 0 for none")
    good = ~np.isnan(values)
    negative = good & ~((values >= 0) & (values <= LARGEST))
    t.report.rows(
        negative,
        "warmup_steps",
        values,
        "must be finite and not negative",
        "give the steps of the warm-up, 0 for none",
    )
    good &= ~negative
    long = good & t.ok["steps"] & (np.maximum(values, 1.0) >= t.x["steps"])
    t.report.rows(
        long,
        "warmup_steps",
        values,
        "the warm-up (at least one step) must end before the run: warmup_steps < steps",
        "shorten the warm-up, or check tokens and batch_tokens",
    )
    t.x["warmup_steps"], t.ok["warmup_steps"] = values, good & ~long


def schedule(t: Table, *, near: Mapping[str, object] = EMPTY) -> np.ndarray:
    """Normalised schedule names, shape (n,); "" where unknown."""
    remedy = f"use one of {', '.join(SCHEDULES)}"
    if "schedule" not in t.frame.columns:
        t.absent("schedule", "the column is required", remedy, near)
        return t.empty_cells
    raw, words = t.cells("schedule"), label_words(t.frame["schedule"])
    blank = np.array([not w for w in words], dtype=bool)
    t.need("schedule", blank, remedy)
    tidy = {w: w.lower().replace("_", "-") for w in set(words)}
    names = objects(tidy[w] for w in words)
    names[names == "wsd-linear"] = "wsd"
    known = np.isin(names, objects(SCHEDULES))
    t.report.rows(~known & ~blank, "schedule", raw, "unknown schedule", remedy)
    names[~known] = ""
    return names


def min_lr(t: Table, kind: np.ndarray) -> None:
    """Check the last learning rate; 0 where it is not given."""
    values, blank = t.numbers("min_lr")
    values = np.where(blank, 0.0, values)
    good = ~np.isnan(values)
    out = good & ~((values >= 0) & (values <= LARGEST))
    remedy = "give the learning rate at the last step, 0 for none"
    t.report.rows(out, "min_lr", values, "must be finite and not negative", remedy)
    t.x["min_lr"], t.ok["min_lr"] = values, good & ~out
    both = t.ok["min_lr"] & t.ok["peak_lr"]
    flat = (kind == "constant") | (kind == "array")
    high = both & np.where(flat, values > t.x["peak_lr"], values >= t.x["peak_lr"])
    t.report.rows(
        high & (kind != ""),
        "min_lr",
        values,
        "must be below peak_lr (for a constant or array schedule: at most peak_lr)",
        "lower min_lr, or use schedule constant for a run that never cools down",
    )


def phases(t: Table, kind: np.ndarray) -> None:
    """Check and fill decay_end_step, plateau_lr, cooldown_start_step."""
    a1, steps, peak = t.x["warmup_steps"], t.x["steps"], t.x["peak_lr"]
    known = t.ok["warmup_steps"] & t.ok["steps"]
    polygon, array, flat = kind == "polygon", kind == "array", kind == "constant"
    wsd = (kind == "wsd") | (kind == "wsd-sqrt")
    fixed = (kind != "") & ~polygon & ~array

    def point(name: str, default: np.ndarray, required: np.ndarray, tied: np.ndarray) -> np.ndarray:
        """Fill a phase point; return where the user has set it."""
        values, blank = t.numbers(name)
        t.report.rows(
            blank & required,
            name,
            t.empty_cells,
            "the schedule needs it (polygon: all three phase columns; wsd: cooldown_start_step)",
            f"give {name}, or choose a schedule without it",
        )
        # A constant schedule "cools down" at the last step, and steps may be off by rounding.
        slack = np.where(flat & (name == "cooldown_start_step"), 0.01, 1e-6) * default
        t.report.rows(
            tied & known & t.ok["peak_lr"] & (np.abs(values - default) > slack),
            name,
            values,
            "contradicts the schedule, which has no such phase",
            f"leave {name} empty, or use schedule wsd or polygon",
        )
        t.x[name] = np.where(blank | tied, default, values)
        return ~np.isnan(values) & ~tied & (kind != "")

    set2 = point("decay_end_step", a1, polygon, fixed)
    set_plateau = point("plateau_lr", peak, polygon, fixed)
    a2 = t.x["decay_end_step"]
    default3 = np.where(flat, steps, np.where(array, a2, a1))
    set3 = point("cooldown_start_step", default3, polygon | wsd, fixed & ~wsd)
    a3, plateau = t.x["cooldown_start_step"], t.x["plateau_lr"]

    late2 = set2 & ((t.ok["warmup_steps"] & (a2 < a1)) | (t.ok["steps"] & ~(a2 < steps)))
    late3 = set3 & ((t.ok["warmup_steps"] & (a3 < a1)) | (t.ok["steps"] & ~(a3 < steps)))
    late3 |= set3 & set2 & ~late2 & (a3 < a2)
    remedy = "correct the phase points" + (", or give warmup_steps" if t.warmup_assumed else "")
    for name, bad in (("decay_end_step", late2), ("cooldown_start_step", late3)):
        t.report.rows(bad, name, t.x[name], _ORDER, remedy)
    outside = set_plateau & ~((plateau >= SMALLEST) & ~(t.ok["peak_lr"] & (plateau > peak)))
    t.report.rows(
        outside,
        "plateau_lr",
        plateau,
        "must be positive and at most peak_lr",
        "give the learning rate of the plateau",
    )
    below = t.ok["min_lr"] & set_plateau & ~outside & polygon & (t.x["min_lr"] >= plateau)
    below &= ~(t.ok["peak_lr"] & (t.x["min_lr"] >= peak))
    t.report.rows(
        below, "plateau_lr", plateau, "must be above min_lr", "lower min_lr or raise plateau_lr"
    )


def array_integrals(t: Table, kind: np.ndarray) -> None:
    """Check the integrals that rows with schedule "array" carry."""
    array = kind == "array"
    if not array.any():
        return
    for name in INTEGRAL_COLUMNS:
        values, blank = t.numbers(name)
        least = 0.0 if name == "escape_cooldown" else SMALLEST
        with np.errstate(invalid="ignore"):
            good = (values >= least) & (values <= LARGEST)
        t.report.rows(
            array & (blank | ~np.isnan(values)) & ~good,
            name,
            np.where(blank, "", objects(values)),
            "a schedule given as array needs its integral, positive and finite",
            "fill the row from Schedule.from_array(...).to_row()",
        )
        t.x[name] = values


def measurement(t: Table, loss: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns that say how a loss was measured, those that there are."""
    out = {}
    if "loss_sd" in t.frame.columns:
        sd, blank = t.numbers("loss_sd")
        bad = ~blank & ~np.isnan(sd) & ~((sd >= 0) & (sd <= LARGEST))
        with np.errstate(invalid="ignore"):
            wide = ~blank & ~bad & (sd >= loss)
        remedy = "give the standard error of final_loss as measured, in its unit, or leave it empty"
        t.report.rows(bad, "loss_sd", sd, "must be finite and not negative", remedy)
        t.report.rows(wide, "loss_sd", sd, "must be below the loss it belongs to", remedy)
        out["loss_sd"] = sd
    if "n_seeds" in t.frame.columns:
        n, blank = t.numbers("n_seeds")
        bad = ~blank & ~np.isnan(n) & ~((n >= 1) & (n <= LARGEST) & (n == np.round(n)))
        remedy = "give how many runs final_loss is the mean of, 1 for a single run"
        t.report.rows(bad, "n_seeds", n, "must be a whole number of at least 1", remedy)
        out["n_seeds"] = n
    return out


def outcome(
    t: Table, min_runs: int, *, near: Mapping[str, object] = EMPTY
) -> tuple[np.ndarray, np.ndarray]:
    """Return loss (NaN where diverged and unknown) and the divergence flag."""
    loss, blank = t.numbers("final_loss")
    remedy = "give the final loss in nats per token"
    if "final_loss" not in t.frame.columns:
        t.absent("final_loss", "the column is required", remedy, near)
        loss, blank = np.ones(t.n), np.zeros(t.n, dtype=bool)
    diverged = np.zeros(t.n, dtype=bool)
    unknown = np.zeros(t.n, dtype=bool)
    if "diverged" in t.frame.columns and t.frame["diverged"].dtype == bool:
        diverged = t.frame["diverged"].to_numpy()
    elif t.has("diverged"):
        raw = t.cells("diverged")
        empty = is_blank(raw)
        words = [str(v).strip().lower() if isinstance(v, _FLAGS) else "?" for v in raw]
        diverged = np.isin(words, ["true", "yes", "1", "1.0"])
        unknown = ~diverged & ~np.isin(words, ["false", "no", "0", "0.0"])
        ways = "use true or false (or 1 or 0, yes or no)"
        t.report.rows(unknown & ~empty, "diverged", raw, "must be true or false", ways)
        t.report.rows(empty, "diverged", raw, "must be filled in every row or in none", ways)
    infinite = np.isposinf(loss)
    absent = (blank | infinite) & ~diverged & ~unknown
    shown = np.where(blank, "", objects(loss))
    told = "diverged" in t.frame.columns and t.has("diverged")
    t.no_loss = np.zeros(t.n, dtype=bool) if told else absent
    t.report.rows(
        absent,
        "final_loss",
        shown,
        "must be finite where the run did not diverge",
        "say what became of these runs: status={'no loss': 'diverged'}, or 'drop'"
        if t.no_loss.any()
        else "give the final loss, or mark the run as diverged",
    )
    low = ~blank & ~infinite & (loss <= 0)
    t.report.rows(low, "final_loss", loss, "must be positive", remedy)
    huge = ~infinite & ((loss > LARGEST) | ((loss > 0) & (loss < SMALLEST)))
    t.report.rows(huge, "final_loss", loss, POSITIVE, remedy)
    count = int(np.sum(~diverged))
    if count < min_runs:
        t.report.table(
            "final_loss",
            count,
            f"at least {min_runs} runs must not have diverged",
            "add runs, or lower min_runs",
        )
    return np.where(infinite, np.nan, loss), diverged
