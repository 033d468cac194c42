"""Plots of a law, its fit and its decisions; each returns the figure and never shows it.

Colours are those of Okabe and Ito, or viridis; nothing is said by colour alone where a marker or
a label can say it too.
"""

from bayes_optlaws.plots.allocation import frontier, isoflop
from bayes_optlaws.plots.calibration import calibration
from bayes_optlaws.plots.decision import pairs, plan, ranks, resolution, schedules, tie_graph
from bayes_optlaws.plots.fit import pit, predictions, predictive_check
from bayes_optlaws.plots.posterior import coefficients, exponents
from bayes_optlaws.plots.prior import prior_check
from bayes_optlaws.plots.surfaces import loss_surface, stable_region
from bayes_optlaws.plots.watch import watch

__all__ = [
    "calibration",
    "coefficients",
    "exponents",
    "frontier",
    "isoflop",
    "loss_surface",
    "pairs",
    "pit",
    "plan",
    "predictions",
    "predictive_check",
    "prior_check",
    "ranks",
    "resolution",
    "schedules",
    "stable_region",
    "tie_graph",
    "watch",
]
