"""What the columns of a table mean together: batch, warm-up, cool-down, loss, schedule, status."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bayes_optlaws.runs.columns import label_words
from bayes_optlaws.runs.conversion import DIRECT, Interpretation, Options, Work
from bayes_optlaws.runs.faults import objects
from bayes_optlaws.runs.magnitudes import ask_about_magnitudes
from bayes_optlaws.runs.names import UNFINISHED, normal, schedule_of, status_of
from bayes_optlaws.runs.recognition import Column
from bayes_optlaws.schedules import SCHEDULES
from bayes_optlaws.text.numbers import count, parse, rate, short
from bayes_optlaws.text.printable import printable

__all__ = ["NO_LOSS", "interpret"]

NO_LOSS = "no loss"
"""Key of `status` for the runs that have no final loss and of which nothing else is said."""
_USUAL_COOLDOWN = 0.2


def interpret(frame: pd.DataFrame, options: Options) -> Interpretation:
    """Turn a table as it comes into the columns of the run table.

    Parameters
    ----------
    frame : DataFrame
    options : Options

    Returns
    -------
    Interpretation
        Cells that are no number stay as they are, for the report of faults.
    """
    work = Work(_without_index(frame), options)
    if len(work.frame.columns) < len(frame.columns):
        work.note("A first column without a name that counts the rows was left out.")
    if not len(frame):
        return work.out
    _name(work)
    for role in DIRECT:
        work.direct(role)
    _batch(work)
    _exact_budget(work)
    # what was settled when the table was first read is not asked again
    work.settled = "warned" in frame.attrs
    if not work.settled:
        ask_about_magnitudes(work)
    _warmup(work)
    _schedule(work)
    _min_lr(work)
    _cooldown(work)
    if options.outcome:
        _loss(work)
        _status(work)
    return work.out


def _without_index(frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out the row numbers that pandas writes unless told not to."""
    name = frame.columns[0] if len(frame.columns) else None
    if not (isinstance(name, str) and (name == "" or name.startswith("Unnamed: 0"))):
        return frame
    cells = pd.to_numeric(frame[name], errors="coerce").to_numpy(float)
    counted = len(cells) and np.array_equal(cells - cells[0], np.arange(len(cells)))
    return frame.drop(columns=[name]) if counted else frame


def _name(work: Work) -> None:
    """Take the first column of names whose cells differ."""
    ways = work.roles.get("run_id", [])
    if not ways:
        return
    best = next(
        (c for c in ways if c.exact or work.frame[c.name].nunique() == len(work.frame)), None
    )
    if best is None:
        work.note(f"{ways[0].name} is not unique, so the rows are named by their position.")
        return
    if best.name != "run_id":
        work.put("run_id", work.frame[best.name], replaces=best)
        work.note(f"{best.name} was taken as run_id.")
    example = str(work.frame["run_id"].iloc[0])
    work.say(best, "run_id", "", example, printable(example))


def _batch(work: Work) -> None:
    """Tokens a step from sequences, from the batch of a device, from samples."""
    length, source = work.sequence_length()
    _tokens_of_samples(work, length, source)
    column = work.column("batch_tokens")
    if column is not None:
        _batch_as_given(work, column, length, source)
        return
    column = work.column("batch_sequences") or work.column("device_batch")
    if column is not None:
        _batch_of_sequences(work, column, length, source)


def _tokens_of_samples(work: Work, length: np.ndarray | None, source: str) -> None:
    """Tokens of a run from its samples, where it has none of its own."""
    samples = work.column("samples")
    if samples is not None and "tokens" not in work.values and length is not None:
        read = work.read(samples)
        work.put("tokens", read.values * length, replaces=samples)
        work.note(f"tokens = {samples.name} x {source}.")
        work.say(samples, "tokens", f"x {source}", read.values[0], short(work.values["tokens"][0]))


def _batch_as_given(work: Work, column: Column, length: np.ndarray | None, source: str) -> None:
    """A batch named in tokens, which may be in sequences all the same."""
    said = work.unit_said(column)
    batch = work.values.get("batch_tokens")
    if batch is None:
        return
    # a step of fewer tokens than one sequence has is counted in sequences
    below = length is not None and bool(np.nanmax(batch, initial=0) < np.nanmin(length))
    if (said == "sequences" or below) and length is not None:
        work.put("batch_tokens", batch * length)
        work.note(f"{column.name} is in sequences: batch_tokens = {column.name} x {source}.")
    elif said == "sequences":
        _ask_length(work, column, batch)


def _tokens_over(work: Work, batch: np.ndarray) -> float:
    """Tokens / (steps x batch), where all rows agree on it; nan otherwise."""
    tokens, steps = work.values.get("tokens"), work.values.get("steps")
    if tokens is None or steps is None:
        return np.nan
    with np.errstate(all="ignore"):
        each = tokens / (steps * batch)
    known = each[np.isfinite(each)]
    # rounded counts of steps blur the ratio by some percent
    return float(np.median(known)) if known.size and np.ptp(np.log(known)) < 0.1 else np.nan


def _batch_of_sequences(work: Work, column: Column, length: np.ndarray | None, source: str) -> None:
    """A batch of a step or of a device, in sequences unless the other columns say tokens."""
    batch, words = work.read(column).values, [str(column.name)]
    partial = column.role == "device_batch"
    devices = work.column("devices")
    for part in (work.column("accumulation"), devices) if partial else ():
        if part is not None:
            batch = batch * work.read(part).values
            words.append(str(part.name))
    said, ratio = work.unit_said(column), _tokens_over(work, batch)
    if said == "tokens" or abs(np.log(ratio)) < 0.06 or np.nanmin(batch, initial=np.inf) >= 65536:
        _put_batch(work, column, batch, batch, " x ".join(words), "in tokens")
        return
    if length is not None:
        if partial and devices is None and not ratio > 0:
            work.ask(
                str(column.name), count(batch[0]), "is the batch of one device; the number of "
                "devices is not in the table", "add a column world_size, or batch_tokens itself",
            )  # fmt: skip
        name = " x ".join([*words, source])
        _put_batch(work, column, batch, batch * length, name, f"x {source}")
        if ratio > 0 and abs(np.log(ratio / np.nanmedian(length))) > 0.06:
            work.note(
                f"tokens / (steps x {column.name}) is {ratio:.4g}, not {np.nanmedian(length):g}: "
                "batch_tokens was taken as tokens / steps."
            )
            work.put("batch_tokens", work.values["tokens"] / work.values["steps"])
    elif ratio > 0:
        each = work.values["tokens"] / work.values["steps"]
        _put_batch(work, column, batch, each, "tokens / steps", "from tokens and steps")
        work.note(
            f"{column.name} is in sequences of about {ratio:.4g} tokens, by tokens and steps."
        )
    else:
        _ask_length(work, column, batch)


def _ask_length(work: Work, column: Column, batch: np.ndarray) -> None:
    low, high = (count(f(batch)) for f in (np.nanmin, np.nanmax))
    work.ask(
        str(column.name), low if low == high else f"{low} to {high}",
        "looks like sequences a step, and how long a sequence is is not known",
        "pass sequence_length=2048 (tokens in one sequence), or, if it is in tokens, "
        f"units={{{column.name!r}: 'tokens'}}",
        sequence_length=2048,
    )  # fmt: skip
    _put_batch(work, column, batch, batch * 2048.0, f"{column.name} x 2048", "x 2048 (to confirm)")


def _put_batch(
    work: Work, column: Column, raw: np.ndarray, batch: np.ndarray, formula: str, how: str
) -> None:
    work.put("batch_tokens", batch, replaces=column)
    work.note(f"batch_tokens = {formula}.")
    at = int(np.argmin(np.isnan(raw)))
    work.say(column, "batch_tokens", how, count(raw[at]), short(batch[at]))


def _exact_budget(work: Work) -> None:
    """Leave out the one of tokens, batch, steps that is rounded, where the other two give it."""
    names = ("tokens", "batch_tokens", "steps")
    if not all(n in work.values for n in names):
        return
    tokens, batch, steps = (work.values[n] for n in names)
    rounded = {n: work.cells[n].rounded for n in ("tokens", "steps") if n in work.cells}
    name, margin = max(rounded.items(), key=lambda item: item[1], default=("", 0.0))
    if not margin:
        return
    with np.errstate(all="ignore"):
        off = np.abs(batch * steps / tokens - 1.0)
    if np.nanmax(off, initial=0.0) <= margin + 0.01:
        with np.errstate(all="ignore"):
            exact = tokens / batch if name == "steps" else batch * steps
        work.put(name, np.where(np.isfinite(exact), exact, work.values[name]))
        work.note(
            f"{name} is rounded in the table and was computed from the other two of tokens, batch "
            "and steps."
        )


def _warmup(work: Work) -> None:
    steps = work.steps()
    column = work.column("warmup_steps")
    if column is not None:
        values = work.values.get("warmup_steps")
        if values is None:
            return
        shares = _shares(values)
        if work.unit_said(column) == "share" or (shares and _in_percent(work)):
            _put_steps(work, column, "warmup_steps", values, steps)
        elif shares and not work.settled and work.unit_said(column) is None:
            work.ask(
                str(column.name), f"{_least(values):.3g} to {np.nanmax(values):.3g}",
                "is below one step: it looks like a share of the steps",
                f"pass units={{{column.name!r}: 'share'}}",
                units={column.name: "share"},
            )  # fmt: skip
            work.put("warmup_steps", values * steps)
        return
    for role in ("warmup_share", "warmup", "warmup_tokens", "warmup_samples"):
        column = work.column(role)
        if column is None:
            continue
        values = work.read(column).values
        if role in ("warmup_tokens", "warmup_samples"):
            length = work.sequence_length()[0] if role == "warmup_samples" else 1.0
            if length is None or "batch_tokens" not in work.values:
                continue
            warm = values * length / work.values["batch_tokens"]
            work.put("warmup_steps", warm, replaces=column)
            work.note(f"warmup_steps = {column.name} over the tokens of a step.")
            work.say(column, "warmup_steps", "/ batch_tokens", values[0], count(warm[0]))
        elif role == "warmup_share" or _shares(values) or work.unit_said(column) == "share":
            if role == "warmup_share" and np.nanmax(values, initial=0) > 1:
                values = values / 100.0
                work.note(f"{column.name} is above 1 and was read in percent.")
            _put_steps(work, column, "warmup_steps", values, steps)
        else:
            work.put("warmup_steps", values, replaces=column)
            work.note(f"{column.name} was taken as warmup_steps.")
            work.say(column, "warmup_steps", "in steps", f"{values[0]:g}", count(values[0]))
        return


def _in_percent(work: Work) -> bool:
    cells = work.cells.get("warmup_steps")
    return cells is not None and cells.example.strip().endswith("%")


def _shares(values: np.ndarray | None) -> bool:
    """Whether a column holds shares: some above 0, none of 1 or more."""
    if values is None:
        return False
    given = values[~np.isnan(values)]
    return bool(given.size and given.max() < 1 and given.max() > 0 and given.min() >= 0)


def _least(values: np.ndarray) -> float:
    return float(np.nanmin(np.where(values > 0, values, np.nan)))


def _put_steps(work: Work, column: Column, role: str, share: np.ndarray, steps: np.ndarray) -> None:
    """Turn a share of the steps into steps."""
    warm = np.round(share * steps)
    at = int(np.argmin(np.isnan(share)))
    before = f"{share[at]:.4g}"
    work.put(role, warm, replaces=column)
    work.note(f"{column.name} is a share of the steps: {role} = {column.name} x steps.")
    work.say(column, role, "share of the steps", before, count(warm[at]))


def _min_lr(work: Work) -> None:
    column, peak = work.column("min_lr_share"), work.values.get("peak_lr")
    if column is not None and work.column("min_lr") is None and peak is not None:
        share = work.read(column).values
        work.put("min_lr", share * peak, replaces=column)
        work.note(f"{column.name} is a share of the peak: min_lr = {column.name} x peak_lr.")
        work.say(column, "min_lr", "share of peak_lr", f"{share[0]:g}", rate(share[0] * peak[0]))
    elif work.column("min_lr") is None and any("min_lr" in normal(n) for n in work.schedule_names):
        work.note(
            "The schedule names a final learning rate that the table does not give: min_lr is "
            "taken as 0."
        )


def _schedule(work: Work) -> None:
    """Translate the names of trainers."""
    column = work.column("schedule")
    if column is None:
        return
    series = work.frame[column.name]
    words = label_words(series)
    unique = [w for w in dict.fromkeys(words) if w]
    said = {normal(k): v for k, v in (work.options.schedules or {}).items()}
    plain = {w.strip().lower().replace("_", "-") for w in unique} <= {*SCHEDULES, "wsd-linear"}
    if column.name == "schedule" and plain and not said:
        work.say(column, "schedule", "", unique[0] if unique else "", unique[0] if unique else "")
        return
    work.schedule_names = tuple(unique)
    meaning: dict[str, str] = {}
    changed = []
    for word in unique:
        if normal(word) in said:
            kind, other = str(said[normal(word)]).lower().replace("_", "-"), None
        else:
            kind, other = schedule_of(word) or (word, None)
        meaning[word] = kind
        if normal(word) != normal(kind):
            changed.append(f"{printable(word)} as {kind}")
        if other is not None:
            work.note(
                f"{printable(word)} has two meanings and was read as {kind}; if yours decays like "
                f"a {other}, pass schedules={{{word!r}: {other!r}}}."
            )
    cells = objects(meaning.get(w, raw) for w, raw in zip(words, series, strict=True))
    work.put("schedule", cells, replaces=column)
    if changed:
        work.note(f"Schedules: {', '.join(changed)}.")
    elif column.name != "schedule":
        work.note(f"{column.name} was taken as schedule.")
    first = unique[0] if unique else ""
    work.say(
        column, "schedule", "names translated" if changed else "", first, meaning.get(first, "")
    )


def _cooldown(work: Work) -> None:
    """Where the cool-down of a warm-up-stable-decay schedule starts."""
    if "schedule" not in work.frame.columns:
        return
    kinds = label_words(work.frame["schedule"])
    stable = np.array([w.strip().lower().startswith("wsd") for w in kinds], dtype=bool)
    if not stable.any():
        return
    steps = work.steps()
    start = work.values.get("cooldown_start_step", np.full(len(steps), np.nan))
    open_ = stable & np.isnan(start)
    exact = work.column("cooldown_start_step")
    if exact is not None and work.cells.get("cooldown_start_step") is not None:
        open_ &= ~work.cells["cooldown_start_step"].unread
    if not open_.any():
        return
    share, source = np.empty(0), ""
    column = work.column("cooldown_share")
    if column is not None:
        share, source = work.read(column).values, str(column.name)
        if np.nanmax(share, initial=0) > 1:
            share = share / 100.0
    elif (column := work.column("cooldown_steps")) is not None:
        share, source = work.read(column).values / steps, str(column.name)
    if column is not None:
        found = np.round(steps * (1.0 - share))
        at = int(np.argmax(open_))
        work.say(column, "cooldown_start_step", "steps minus the cool-down",
                 f"{work.read(column).values[at]:g}", count(found[at]))  # fmt: skip
        work.note(f"cooldown_start_step was computed from {source} where the schedule is wsd.")
    else:
        asked = work.options.cooldown is None
        part = _USUAL_COOLDOWN if asked else parse(work.options.cooldown)
        found = np.round(steps * (1.0 - part))
        if asked:
            work.ask(
                "cooldown_start_step", "absent" if exact is None else "empty",
                f"{int(open_.sum())} wsd rows do not say where the cool-down starts",
                "pass cooldown=0.2 if its last fifth was spent cooling down, as is usual (0.1 to "
                "0.2), or add the column cooldown_start_step",
                cooldown=_USUAL_COOLDOWN,
            )  # fmt: skip
        else:
            work.note(
                f"The cool-down of {int(open_.sum())} wsd rows was taken as the last "
                f"{100 * part:g} % of the steps."
            )
    if exact is not None and work.frame["cooldown_start_step"].dtype.kind not in "iuf":
        raw = objects(work.frame["cooldown_start_step"].to_numpy(dtype=object))
        work.put("cooldown_start_step", np.where(open_, objects(found), raw))
    else:
        work.put("cooldown_start_step", np.where(open_, found, start))


_LOSSES = ("final_loss", "perplexity", "bits_per_token", "bits_per_byte")
_TO_UNIT = {"bits": "bits_per_token", "ppl": "perplexity", "bpb": "bits_per_byte"}


def _loss(work: Work) -> None:
    """Final loss in nats a token, from what there is."""
    ways = [c for role in _LOSSES for c in work.roles.get(role, [])]
    if not ways:
        return
    ways.sort(key=lambda c: not c.given)
    chosen = ways[0]
    kind = chosen.role
    said = work.unit_said(chosen)
    unit = said if said in ("nats", *_TO_UNIT) else work.options.loss_unit
    if unit is not None:
        kind = _TO_UNIT.get(unit, "final_loss")
    cells = work.read(chosen)
    values, words = _nats(work, kind, cells.values)
    if kind == "bits_per_byte" and work.options.bytes_per_token is None:
        work.out.loss_unit = "bits per byte"
        work.note(
            f"{chosen.name} stays in bits per byte: losses are in this unit wherever nats are "
            "named. Pass bytes_per_token= for nats per token."
        )
    elif kind != "final_loss":
        work.note(f"final_loss = {words.format(chosen.name)}, in nats per token.")
        _spread_in_nats(work, kind, cells.values)
    elif chosen.name != "final_loss":
        work.note(f"{chosen.name} was taken as final_loss, in nats per token.")
    _ask_which_loss(work, chosen, values, ways[1:])
    if (
        chosen.name == "final_loss"
        and kind == "final_loss"
        and not cells.example
        and not (cells.unread.any())
    ):
        work.values["final_loss"] = values
        if work.frame["final_loss"].dtype.kind not in "iuf":
            work.put("final_loss", values)
    else:
        raw = objects(work.frame[chosen.name].to_numpy(dtype=object))
        whole = np.where(cells.unread, raw, objects(values)) if cells.unread.any() else values
        work.put("final_loss", whole, replaces=chosen)
    at = int(np.argmin(np.isnan(values))) if len(values) else 0
    before = f"{cells.values[at]:.5g}"
    work.say(chosen, "final_loss", words.format(chosen.name) if words else "", before,
             f"{values[at]:.4f}")  # fmt: skip
    work.values["final_loss"] = np.where(cells.unread, np.nan, values)


def _nats(work: Work, kind: str, values: np.ndarray) -> tuple[np.ndarray, str]:
    """Losses in nats a token, and how."""
    per_token = work.options.bytes_per_token
    with np.errstate(all="ignore"):
        if kind == "perplexity":
            return np.log(values), "log({})"
        if kind == "bits_per_token":
            return values * np.log(2.0), "{} x log(2)"
        if kind == "bits_per_byte" and per_token is not None:
            many = parse(per_token)
            return values * np.log(2.0) * many, f"{{}} x log(2) x {many:g} bytes a token"
    return values, ""


def _spread_in_nats(work: Work, kind: str, values: np.ndarray) -> None:
    """Put ``loss_sd`` in the unit that the loss is converted to."""
    sd = work.values.get("loss_sd")
    if sd is None:
        return
    with np.errstate(all="ignore"):
        factor = 1.0 / values if kind == "perplexity" else _nats(work, kind, np.ones(1))[0]
    work.put("loss_sd", sd * factor)
    work.note("loss_sd was in the unit of the loss and is in nats per token, too.")


def _ask_which_loss(work: Work, chosen: Column, values: np.ndarray, others: list[Column]) -> None:
    """Other columns of losses that say something else."""
    for other in others:
        if other.name == chosen.name:
            continue
        theirs, _ = _nats(work, other.role, work.read(other).values)
        both = np.isfinite(values) & np.isfinite(theirs)
        same = both.any() and np.median(np.abs(theirs[both] / values[both] - 1.0)) < 1e-3
        work.out.unused.append((other.name, None))
        if chosen.name == "final_loss" and not chosen.given:
            continue  # the column of the run table is the loss, whatever else there is
        if same:
            work.note(f"{other.name} says the same as {chosen.name} and was not used.")
        elif chosen.exact or not both.any() or other.role == "bits_per_byte":
            work.note(f"{other.name} was not used: the loss is {chosen.name}.")
        else:
            work.ask(
                str(chosen.name), f"{chosen.name}, {other.name}",
                "both can be the final loss, and they differ",
                f"pass columns={{{chosen.name!r}: 'final_loss'}}, or {other.name!r} in its place",
                columns={chosen.name: "final_loss"},
            )  # fmt: skip


def _status(work: Work) -> None:
    """Which runs diverged, from the words of a tracker."""
    said = {normal(k): v for k, v in (work.options.status or {}).items()}
    exact = work.column("diverged")
    column = exact or work.column("status")
    missing = ~np.isfinite(work.values.get("final_loss", np.ones(len(work.frame))))
    if column is None:
        if "no_loss" in said and missing.any():
            _settle(work, np.where(missing, said["no_loss"], "finished"), "without a final loss")
        return
    series = work.frame[column.name]
    flags = exact is not None and series.dtype.kind == "b"
    words = [] if flags else [normal(w.lower()) for w in label_words(series)]
    known = any(w in UNFINISHED or w in said or w == "finished" for w in words)
    if exact is not None and not known:  # flags, or what the rules of a run table judge
        if column.name != "diverged":
            work.put("diverged", series, replaces=column)
        return
    fate = np.full(len(words), "", dtype=object)
    raw = np.array(words, dtype=object)
    for word in dict.fromkeys(words):
        here = raw == word
        meaning = said.get(word) or status_of(word) or ("" if word else "finished")
        if not meaning and exact is not None and word not in UNFINISHED:
            fate[here] = objects(series.to_numpy(dtype=object))[here]
        else:
            fate[here] = meaning or _ask_status(work, column, word, here, missing)
    unsaid = missing & (fate == "finished")
    if unsaid.any() and "no_loss" in said:
        fate[unsaid] = said["no_loss"]
    _settle(work, fate, f"by {column.name}", column, words)


def _ask_status(
    work: Work, column: Column, word: str, here: np.ndarray, missing: np.ndarray
) -> str:
    """Ask what a word of a tracker means; what it is taken for until there is an answer."""
    k, lost = int(here.sum()), int((here & missing).sum())
    meaning = "drop" if word in ("running", "pending", "queued", "scheduled") else "diverged"
    work.ask(
        str(column.name), word,
        f"{k} run{'s' if k > 1 else ''}, {lost} of them without a loss: diverged, or "
        "stopped for another reason?",
        f"pass status={{{word!r}: 'diverged'}}, or 'drop' to leave them out",
        status={word: meaning},
    )  # fmt: skip
    return meaning


def _settle(
    work: Work,
    fate: np.ndarray,
    source: str,
    column: Column | None = None,
    words: Sequence[str] = (),
) -> None:
    """Mark runs that diverged and leave out those to be dropped."""
    flags = objects({"diverged": True, "finished": False, "drop": False}.get(f, f) for f in fate)
    plain = all(isinstance(f, bool) for f in flags)
    work.put("diverged", flags.astype(bool) if plain else flags, replaces=column)
    diverged, dropped = fate == "diverged", fate == "drop"
    if diverged.any():
        work.note(f"{int(diverged.sum())} runs were marked as diverged {source}.")
    if dropped.any():
        work.note(f"{int(dropped.sum())} runs were left out {source}.")
        work.out.frame = work.frame[~dropped]
        work.values = {k: v[~dropped] for k, v in work.values.items()}
    if column is not None:
        word = next((w for w, f in zip(words, fate, strict=True) if f == "finished"), "")
        word = word or next(iter(words), "")
        meaning = dict(zip(words, fate, strict=True)).get(word, "")
        work.say(column, "diverged", "words translated", word, str(meaning))
