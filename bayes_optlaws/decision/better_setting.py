"""A setting that is not among the candidates and is expected to end lower than all of them."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from bayes_optlaws.text.html import known, percent, significant


@dataclass(frozen=True, eq=False)
class BetterSetting:
    """What a search of settings beside the candidates found.

    Parameters
    ----------
    setting : DataFrame
        The setting of lowest expected loss, a candidate table of one row.
    gain : float
        Expected loss of the best candidate less its own, divergence at its price, nats.
    gain_se : float
        Monte-Carlo standard error of the gain.
    p_better : float
        Probability that its expected loss is below that of every candidate.
    tie : float
        Gains up to this make no difference, nats.
    edge : {"lower", "higher"} or None
        Where the setting lies at the end of the peak LRs that were run: the side to go on.
    next_run : DataFrame or None
        Then, a run beyond that end that would tell, a candidate table of one row.
    """

    setting: pd.DataFrame
    gain: float
    gain_se: float
    p_better: float
    tie: float
    edge: str | None = None
    next_run: pd.DataFrame | None = None

    @property
    def matters(self) -> bool:
        """Whether the gain is more than a tie and more than its Monte-Carlo error."""
        return self.gain > max(self.tie, 2 * self.gain_se)

    def sentences(self) -> list[str]:
        """Say it in plain English."""
        said = []
        if self.matters:
            said.append(
                f"A better setting than all candidates is expected at {described(self.setting)}: "
                f"lower by {known(self.gain, self.gain_se)} nats (P = "
                f"{percent(self.p_better)})."
            )
        else:
            said.append(
                "No setting within the ranges that were run is expected to be better than the "
                f"best candidate by more than {significant(self.tie)} nats."
            )
        if self.edge is not None and self.next_run is not None:
            said.append(edge_sentence(self.edge, self.next_run))
        return said

    def to_dict(self) -> dict[str, object]:
        """Everything as plain values, for JSON."""
        return {
            "setting": plain_setting(self.setting),
            "gain": self.gain,
            "gain_se": self.gain_se,
            "p_better": self.p_better,
            "matters": self.matters,
            "edge": self.edge,
            "next_run": None if self.next_run is None else plain_setting(self.next_run),
        }


_SETTINGS = ("schedule", "n_params", "tokens", "batch_tokens", "peak_lr", "warmup_steps",
             "decay_end_step", "plateau_lr", "cooldown_start_step", "min_lr")  # fmt: skip


def plain_setting(table: pd.DataFrame) -> dict[str, object]:
    """The settings of the first row of a candidate table as plain values."""
    return {name: table.iloc[0][name] for name in _SETTINGS}


def described(table: pd.DataFrame) -> str:
    """Name the settings of the first row of a candidate table.

    Examples
    --------
    >>> row = {"schedule": "wsd", "peak_lr": 0.003, "warmup_steps": 100.0, "steps": 1000.0,
    ...        "cooldown_start_step": 800.0, "batch_tokens": 1024.0}
    >>> described(pd.DataFrame([row]))
    'wsd, peak LR 0.003, warm-up 100 steps, cool-down over the last 20 %'
    """
    row = table.iloc[0]
    text = f"{row['schedule']}, peak LR {row['peak_lr']:.3g}, warm-up {row['warmup_steps']:g} steps"
    if row["schedule"] in ("wsd", "wsd-sqrt", "polygon"):
        share = 100 * (1 - row["cooldown_start_step"] / row["steps"])
        text += f", cool-down over the last {share:.0f} %"
    return text


def edge_sentence(edge: str, next_run: pd.DataFrame) -> str:
    """Say that the optimum lies at the end of what was run, and which run would tell."""
    row = next_run.iloc[0]
    end = "lowest" if edge == "lower" else "highest"
    return (
        f"The best peak LR lies at the {end} that was run, so the optimum may be beyond it: run "
        f"{edge} first, as {described(next_run)} with {row['n_params']:,.0f} parameters and "
        f"{row['tokens']:,.0f} tokens."
    )
