"""The part of a report that says which answers move with which prior."""

from __future__ import annotations

import pandas as pd

from bayes_optlaws.decision.prior_sensitivity import POWERS, THRESHOLD, prior_sensitivity
from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.report import parts as parts
from bayes_optlaws.text import html
from bayes_optlaws.text.html import number, percent

_MOST_NAMED = 3


def sensitivity(law: FittedLaw, table: pd.DataFrame, random_seed: int) -> str:
    """Return the section of a report on the priors.

    Parameters
    ----------
    law : FittedLaw
    table : DataFrame
        Candidates.
    random_seed : int
    """
    found = prior_sensitivity(law, table, random_seed=random_seed, allow_unconverged=True)
    t = found.table
    shown = pd.DataFrame(
        {
            "P(best) weaker": t["p_best_weaker"],
            "P(best) stronger": t["p_best_stronger"],
            "loss weaker": t["loss_weaker"],
            "loss stronger": t["loss_stronger"],
            "index, best": t["index_p_best"],
            "index, loss": t["index_loss"],
            "answer": ["moves" if m else "holds" for m in t["moves"]],
            "coefficients that move": [_named(names) for names in t["coefficients"]],
        },
        index=t.index,
    )
    formats = {c: percent for c in shown if c.startswith("P(best)")}
    formats |= {c: number(4) for c in shown if c.startswith("loss")}
    formats |= {c: number(3) for c in shown if c.startswith("index")}
    return "".join(
        [
            html.paragraphs(
                [
                    *found.sentences,
                    f"As fitted: {found.choice} is the best with {percent(found.p_best)}, its "
                    f"expected loss is {found.loss:.4f} nats (sd {found.loss_sd:.4f}).",
                ]
            ),
            parts.wide(html.table(shown, formats=formats, max_rows=len(shown)), words=True),
            html.paragraphs(
                [
                    "Each prior in turn is made weaker and stronger, its density to the power "
                    f"{POWERS[0]:g} and {POWERS[1]:g}, by re-weighting the draws. Index: how far "
                    "the posterior distribution of an answer moves as the power doubles; from "
                    f"{THRESHOLD:g} on it is said to move (Kallioinen et al. 2024). A coefficient "
                    "may move while the answer holds: features share most of what they say."
                ]
            ),
        ]
    )


def _named(names: str) -> str:
    every = names.split(", ") if names else []
    more = f" and {len(every) - _MOST_NAMED} more" if len(every) > _MOST_NAMED else ""
    return ", ".join(every[:_MOST_NAMED]) + more if every else "none"
