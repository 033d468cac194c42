"""The models of a law drawn as graphs, by graphviz."""

from __future__ import annotations

import importlib.util
import shutil
from typing import Any

import pymc as pm

from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.inference.full_model import full_model
from bayes_optlaws.inference.pymc_model import law_model

MODELS = ("full", "marginal")
"""What can be drawn: every unknown, or the model that is sampled."""


def graph(law: FittedLaw, model: str = "full") -> Any:
    """Draw a model of a fitted law.

    Parameters
    ----------
    law : FittedLaw
    model : {"full", "marginal"}
        ``"full"``: coefficients, exponents, discrepancy, losses and divergences, see
        `bayes_optlaws.inference.full_model`. ``"marginal"``: that which is sampled.

    Returns
    -------
    graphviz.Digraph
        Shown by a notebook; ``.render("model")`` writes a file.

    Raises
    ------
    ImportError
        If graphviz or its program ``dot`` is missing, in one line.
    ValueError
        If there is no such model.
    """
    if model not in MODELS:
        raise ValueError(f"model must be one of {MODELS}, got {model!r}")
    if importlib.util.find_spec("graphviz") is None or shutil.which("dot") is None:
        raise ImportError(
            "a graph needs graphviz: pip install 'bayes-optlaws[graph]', and its program dot "
            "(apt install graphviz, brew install graphviz)"
        )
    built = full_model(law, exponents="categorical") if model == "full" else law_model(law)
    data = {v.name for v in built.data_vars}
    shown = [name for name in built.named_vars if name not in data]
    return pm.model_to_graphviz(built, var_names=shown)
