"""Public tables of training runs, turned into the columns of the run table.

Each function takes the public table as it was published or as its prepared ``runs.csv`` gives it,
and returns one row a run. What is assumed rather than read is named in each docstring.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from bayes_optlaws.schedules import Schedule

# Nats above the best run of the same (N, D) cell; no run lies between 0.54 and 1.74.
_STEPLAW_DIVERGED_ABOVE_BEST = 1.0
_MPL_FAMILIES = {"wsd": "wsd-exponential", "wsdld": "wsd-linear", "wsdcon": "two-stage"}
_MPL_PEAK, _MPL_LOW, _MPL_WARMUP = 3e-4, 3e-5, 2160


def _cell(n_params: pd.Series, tokens: pd.Series) -> list[str]:
    """Label of a (model size, tokens) cell, such as ``215M/11.4B``."""

    def short(value: float) -> str:
        unit, scale = ("B", 1e9) if value >= 1e9 else ("M", 1e6)
        return f"{value / scale:.3g}{unit}"

    return [f"{short(n)}/{short(d)}" for n, d in zip(n_params, tokens, strict=True)]


def steplaw_raw(raw: pd.DataFrame) -> pd.DataFrame:
    """Turn ``dense_lr_bs_loss.csv`` into the columns of its prepared ``runs.csv``."""
    best = raw.groupby(["N", "D"])["smooth loss"].transform("min")
    return pd.DataFrame(
        {
            "run_id": raw["exp_name"],
            "arch": "dense",
            "n_params": raw["N"],
            "tokens": raw["bs"] * 2048.0 * raw["ti"],
            "tokens_nominal": raw["D"],
            "batch_tokens": raw["bs"] * 2048,
            "steps": raw["ti"],
            "peak_lr": raw["lr"].astype(float),
            "min_lr": 1e-5,
            "final_loss_raw": raw["loss"],
            "final_loss": raw["smooth loss"],
            "diverged": raw["smooth loss"] - best > _STEPLAW_DIVERGED_ABOVE_BEST,
            "h": raw["h"],
            "ffnh": raw["ffnh"],
            "numh": raw["numh"],
            "numl": raw["numl"],
        }
    )


def steplaw(table: pd.DataFrame) -> pd.DataFrame:
    """Step Law, the dense runs.

    Assumed: a linear warm-up of min(2000, steps / 2) steps (the table gives none). From the run
    names and the paper: one cosine to a minimal learning rate of 1e-5.
    """
    t = table[table["arch"] == "dense"].reset_index(drop=True)
    out = pd.DataFrame(
        {
            "run_id": t["run_id"],
            "group": "steplaw",
            "block": _cell(t["n_params"], t["tokens_nominal"]),
            "n_params": t["n_params"],
            "tokens": t["tokens"],
            "batch_tokens": t["batch_tokens"],
            "steps": t["steps"],
            "peak_lr": t["peak_lr"],
            "warmup_steps": np.minimum(2000.0, t["steps"] / 2),
            "schedule": "cosine",
            "min_lr": t["min_lr"],
            "final_loss": t["final_loss"],
            "diverged": t["diverged"].astype(bool),
        }
    )
    kept = ["tokens_nominal", "final_loss_raw", "h", "ffnh", "numh", "numl"]
    return out.join(t[kept])


def marin(table: pd.DataFrame) -> pd.DataFrame:
    """Marin optimizer sweep, the AdamW runs that have a loss.

    Inferred by whoever prepared the table: model sizes, tokens, the sequence length of 4096 and
    the cosine to 0.
    """
    return marin_optimizers(table[table["optimizer"] == "adamw"])


def marin_optimizers(table: pd.DataFrame) -> pd.DataFrame:
    """Marin optimizer sweep, the runs of all four variants of Adam that have a loss."""
    t = table[table["missing"] == 0].reset_index(drop=True)
    out = pd.DataFrame(
        {
            "run_id": t["run_id"],
            "group": "marin",
            "block": _cell(t["n_params"], t["tokens"]),
            "n_params": t["n_params"],
            "tokens": t["tokens"],
            "batch_tokens": t["batch_tokens"],
            "steps": t["steps"],
            "peak_lr": t["peak_lr"],
            "warmup_steps": t["warmup_steps"],
            "schedule": "cosine",
            "min_lr": t["min_lr"],
            "final_loss": t["final_loss"],
            "diverged": t["diverged"].astype(bool),
        }
    )
    kept = [
        "optimizer",
        "model_label",
        "chinchilla_ratio",
        "changed_from_baseline",
        "copy_of_baseline_value",
        "weight_decay",
        "beta1",
        "beta2",
        "epsilon",
        "max_grad_norm",
    ]
    return out.join(t[kept])


def _two_stage(peak: float, steps: float, warmup: float, plateau: float, cooldown: float) -> dict:
    """Peak until step 40,000, 1,000 steps down to the plateau, linear cooldown to 0."""
    corners = [0.0, warmup, 40_000.0, 41_000.0, cooldown, steps]
    rates = [0.0, peak, peak, plateau, plateau, 0.0]
    return Schedule.from_array(np.interp(np.arange(steps + 1), corners, rates)).to_row()


def schaipp(table: pd.DataFrame) -> pd.DataFrame:
    """Schaipp et al., all schedule families.

    ``wsd-linear`` is ``wsd``. The two-stage runs hold the peak to step 40,000 before they decay,
    which the polygon template has no phase for: they are ``array`` rows with exact integrals (own
    choice: all that follows the warm-up counts as cooldown). Their phase points were read off
    the logged learning rate.
    """
    t = table.reset_index(drop=True)
    dataset = t["dataset"].fillna("n/a")
    two_stage = t["schedule"] == "wsd-twostage"
    family = t["schedule"].replace({"wsd-linear": "wsd", "wsd-twostage": "array"})
    holds = family.isin(["wsd", "wsd-sqrt"])
    out = pd.DataFrame(
        {
            "run_id": t["run_id"],
            "group": dataset,
            "block": _cell(t["n_params"], t["tokens"]),
            "n_params": t["n_params"],
            "tokens": t["tokens"],
            "batch_tokens": t["batch_tokens"],
            "steps": t["steps"],
            "peak_lr": t["peak_lr"],
            "warmup_steps": t["warmup_steps"],
            "schedule": family,
            "min_lr": t["min_lr"],
            "cooldown_start_step": t["cooldown_start"].where(holds).astype(float),
            "final_loss": t["final_loss"],
            "diverged": t["diverged"].astype(bool),
            "seed": t["seed"],
        }
    )
    for i in np.flatnonzero(two_stage):
        steps = float(t.at[i, "steps"])
        # 5.25e-4 in the runs of 100,000 steps, 3.75e-4 in those of 200,000: the logged rates.
        plateau = {100_000.0: 5.25e-4, 200_000.0: 3.75e-4}[steps]
        row = _two_stage(
            t.at[i, "peak_lr"], steps, t.at[i, "warmup_steps"], plateau, t.at[i, "cooldown_start"]
        )
        for column, value in row.items():
            out.loc[i, column] = value
    kept = ["dataset", "n_params_nonembed", "weight_decay", "resumed_from_trunk", "curve_file"]
    return out.join(t[kept]).join(t["group"].rename("folder"))


def _mpl_schedule(name: str, steps: float) -> Schedule:
    """Schedule of one run from its name; constants from the repository and the logged LR."""
    peak, low, warmup = _MPL_PEAK, _MPL_LOW, _MPL_WARMUP
    if name.startswith("constant"):
        return Schedule.constant(peak_lr=peak, steps=steps, warmup_steps=warmup)
    if name.startswith("cosine"):
        return Schedule.cosine(peak_lr=peak, steps=steps, warmup_steps=warmup, min_lr=low)
    if name.startswith("wsdld"):
        return Schedule.wsd(
            peak_lr=peak,
            steps=steps,
            warmup_steps=warmup,
            cooldown_start_step=20_000,
            min_lr=low,
        )
    t = np.arange(steps + 1)
    rate = peak * np.minimum(t / warmup, 1.0)
    if name.startswith("wsdcon"):
        rate[t >= 8_000] = int(name.split("_")[1]) * 1e-5
    else:
        late = t > 20_000
        rate[late] = peak * (low / peak) ** ((t[late] - 20_000) / (steps - 20_000))
    return Schedule.from_array(rate)


def multi_power_law(table: pd.DataFrame) -> pd.DataFrame:
    """Multi-Power-Law runs, one row a loss curve; the public source has no batch size.

    Sizes are the nominal labels. The two-stage runs of the 25M model end where their curves do
    (14,144 steps instead of 16,000). Exponential and two-stage schedules are ``array`` rows.
    """
    t = table.reset_index(drop=True)
    short = t["steps"] - t["last_logged_step"] > 1000
    steps = t["steps"].where(~short, t["last_logged_step"]).astype(float)
    names = t["run_id"].str.split("-", n=2).str[2]
    rows = [_mpl_schedule(name, s).to_row() for name, s in zip(names, steps, strict=True)]
    out = pd.DataFrame(
        {
            "run_id": t["run_id"],
            "group": "multi-power-law",
            "block": [f"{n / 1e6:.0f}M" for n in t["n_params"]],
            "n_params": t["n_params"],
        }
    )
    return out.join(pd.DataFrame(rows)).join(
        pd.DataFrame(
            {
                "family": names.str.split("_").str[0].replace(_MPL_FAMILIES),
                "final_loss": t["final_loss"],
                "diverged": t["diverged"].astype(bool),
                "curve_file": t["curve_file"],
            }
        )
    )


def multi_power_law_raw(files: dict[str, Path]) -> pd.DataFrame:
    """Turn the 27 curve files, by name such as ``25_cosine_24000.csv``, into ``runs.csv``."""
    rows = []
    for file_name, path in files.items():
        size, name = file_name.removesuffix(".csv").split("_", 1)
        curve = pd.read_csv(path).sort_values("step")
        rows.append(
            {
                "run_id": f"mpl-{size}M-{name}",
                "n_params": float(size) * 1e6,
                "steps": 16_000 if name.startswith("wsdcon") else int(name.split("_")[-1]),
                "last_logged_step": int(curve["step"].iloc[-1]),
                "final_loss": float(curve["loss"].iloc[-1]),
                "diverged": 0,
                "curve_file": f"curves/{file_name}",
            }
        )
    return pd.DataFrame(rows)


def as_published(table: pd.DataFrame) -> pd.DataFrame:
    """Tables without learning rates: only ``diverged`` is made a bool."""
    return table.assign(diverged=table["diverged"].astype(bool))


def _far(t: pd.DataFrame, group: object, kept: list[str], **columns: object) -> pd.DataFrame:
    """Run table from columns that the prepared table names as the run table does."""
    steps = t["steps"] if "steps" in t else t["tokens"] / t["batch_tokens"]
    tokens = t["tokens"] if "tokens" in t else t["steps"] * t["batch_tokens"]
    batch = t["batch_tokens"] if "batch_tokens" in t else tokens / steps
    out = pd.DataFrame(
        {
            "run_id": t["run_id"],
            "group": group,
            "block": _cell(t["n_params"], tokens),
            "n_params": t["n_params"],
            "tokens": tokens,
            "batch_tokens": batch,
            "steps": steps,
            "peak_lr": t["peak_lr"],
            "warmup_steps": t["warmup_steps"],
            "schedule": t["schedule"],
            "min_lr": t["min_lr"].fillna(0.0) if "min_lr" in t else 0.0,
            "final_loss": t["final_loss"],
            "diverged": t["diverged"].astype(bool) if "diverged" in t else False,
        }
    )
    return out.assign(**columns).join(t[kept])


def chinchilla_epoch(table: pd.DataFrame) -> pd.DataFrame:
    """Chinchilla's points by Epoch AI, all of them.

    Assumed: one batch, one peak learning rate, a cosine to a tenth and 1 % of warm-up; the figure
    gives none of them. ``few_tokens`` marks the five points of fewest tokens a parameter, which
    Besiroglu et al. (arXiv 2404.10102) leave out.
    """
    t = table.reset_index(drop=True)
    few = (t["tokens"] / t["n_params"]).rank(method="first") <= 5
    return _far(t, "chinchilla", ["flops"], few_tokens=few)


def openlm(table: pd.DataFrame) -> pd.DataFrame:
    """Runs of open_lm, without those that stop before their warm-up ends.

    ``group`` is the training set; all losses are those on C4.
    """
    done = table["warmup_steps"] < table["tokens"] / table["batch_tokens"]
    t = table[done].reset_index(drop=True)
    kept = ["n_params_nonembed", "weight_decay", "multiplier", "seed", "loss_openlm"]
    return _far(t, t["group"], kept)


def loss_to_loss(table: pd.DataFrame) -> pd.DataFrame:
    """IsoFLOP sweeps and one larger run a data set; ``group`` is the data set.

    Assumed: peak learning rate, cosine to 0 and 5 % of warm-up; the table gives none of them.
    """
    t = table.reset_index(drop=True)
    return _far(t, t["group"], ["iso_flop", "kind", "n_layers", "d_model", "train_loss"])


def olmo_ladder(table: pd.DataFrame) -> pd.DataFrame:
    """OLMo-2 ladder: cosine, WSD and constant runs, five of them made twice.

    All rows are kept. The WSD runs of one size share a trunk, of which the constant run is the
    end: ``trunk`` names it.
    """
    t = table.reset_index(drop=True)
    size = t["run_id"].str.split("-").str[1]
    own = t["run_id"].where(t["schedule"] == "cosine", "trunk-" + size)
    hold = t["cooldown_start_step"].where(t["schedule"] == "wsd").astype(float)
    return _far(t, "olmo", ["multiplier", "loss_pile"], cooldown_start_step=hold, trunk=own)


def gemstones(table: pd.DataFrame) -> pd.DataFrame:
    """Gemstones: constant, half-LR and cooled-down points.

    All points are kept: a constant run read at a step is a finished run of that length. Points
    of one trunk share its data and its seed: ``trunk`` names it. Assumed: the learning rates
    (0.005 and half of it) and a warm-up of 75 steps.
    """
    t = table.reset_index(drop=True)
    hold = t["cooldown_start_step"].where(t["schedule"] == "wsd").astype(float)
    trunk = t["shape"] + "-" + t["lr_label"]
    return _far(t, "gemstones", ["shape", "lr_label"], cooldown_start_step=hold, trunk=trunk)


def gemstones_lr(table: pd.DataFrame) -> pd.DataFrame:
    """Gemstones' sweep of learning rates over four shapes.

    Assumed: 2,000 steps, 100 of them warm-up, and a constant schedule.
    """
    return _far(table.reset_index(drop=True), "gemstones-lr", ["shape"])


def cifar5m(table: pd.DataFrame) -> pd.DataFrame:
    """Transformers on CIFAR-5M pixels; cyclic and quadratic schedules are ``array`` rows."""
    t = table.reset_index(drop=True)
    held = t["cooldown_start_step"].where(t["schedule"] == "wsd").astype(float)
    kept = ["conv_warmup", "conv_cooldown", "escape_warmup", "escape_cooldown", "family", "width"]
    return _far(t, "cifar5m", kept, cooldown_start_step=held, seed=t["seed"])


CONVERT: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "steplaw": steplaw,
    "marin": marin,
    "marin-optimizers": marin_optimizers,
    "schaipp": schaipp,
    "multi-power-law": multi_power_law,
    "porian": as_published,
    "modded-nanogpt": as_published,
    "chinchilla-epoch": chinchilla_epoch,
    "openlm": openlm,
    "loss-to-loss": loss_to_loss,
    "olmo-ladder": olmo_ladder,
    "gemstones": gemstones,
    "gemstones-lr": gemstones_lr,
    "cifar5m": cifar5m,
}
