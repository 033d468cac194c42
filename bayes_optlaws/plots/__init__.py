"""Plots of a law, its fit and its decisions; each returns the figure and never shows it.

Colours are those of Okabe and Ito, or viridis; nothing is said by colour alone where a marker or
a label can say it too.
"""

from __future__ import annotations

from bayes_optlaws.plots.decision import pairs, ranks, resolution, schedules
from bayes_optlaws.plots.fit import loss_surface, predictions, predictive_check
from bayes_optlaws.plots.posterior import coefficients, exponents

__all__ = [
    "coefficients",
    "exponents",
    "loss_surface",
    "pairs",
    "predictions",
    "predictive_check",
    "ranks",
    "resolution",
    "schedules",
]
