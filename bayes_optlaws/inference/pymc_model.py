r"""The PyMC model: hyper-parameters sampled by NUTS, everything else integrated out exactly.

`build_model` is short on purpose: priors on a handful of positive scales, two kernels, and one
`Evidence` term, the marginal likelihood of `bayes_optlaws.kernels.marginal`.  It is an ordinary
`pymc.Model`: open it, draw it with ``pymc.model_to_graphviz``, sample it with anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pytensor.gradient import disconnected_type
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.link.numba.dispatch.basic import (
    numba_njit,
    register_funcify_default_op_cache_key,
)

from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.inference.hyper_variables import positive
from bayes_optlaws.kernels.hyper import (
    N_HYPER,
    call_kernel,
    log_evidence_and_gradient,
    register_symbol,
)
from bayes_optlaws.model.data import ModelData
from bayes_optlaws.model.divergence import add_divergence
from bayes_optlaws.model.priors import Priors

DATA_NAMES = (
    "column_block",
    "intercept_sd",
    "noise_covariates",
    "cells",
    "products",
    "n_runs",
    "log_prior",
    "tree_common",
    "tree_columns",
    "tree_candidates",
    "tree_widths",
)
"""Names of the data containers, in the order of the kernels' arguments."""


class Evidence(Op):
    """Log marginal likelihood as a PyTensor operation with an analytic gradient.

    Inputs are those of `bayes_optlaws.kernels.hyper.log_evidence_and_gradient`; the first six, the
    hyper-parameters, are differentiable.  The gradient comes out of the same evaluation.
    """

    __props__ = ()

    def make_node(self, *inputs: Any) -> Apply:
        """Outputs: the log evidence and its gradient in each hyper-parameter."""
        # PyMC stores integer data as int32; the kernel reads 64-bit memory
        tensors = [pt.as_tensor_variable(x) for x in inputs]
        tensors = [pt.cast(x, "float64" if x.dtype[:5] == "float" else "int64") for x in tensors]
        return Apply(self, tensors, [pt.dscalar(), *(pt.dvector() for _ in range(N_HYPER))])

    def perform(self, node: Apply, inputs: Sequence[Any], output_storage: list) -> None:
        """Evaluate with the compiled kernel."""
        result = log_evidence_and_gradient(*(np.ascontiguousarray(x) for x in inputs))
        for storage, value in zip(output_storage, result, strict=True):
            storage[0] = np.asarray(value)

    def pullback(
        self, inputs: Sequence[Any], outputs: Sequence[Any], cotangents: Sequence[Any]
    ) -> list[Any]:
        """Gradient of the first output, which is all that is ever differentiated."""
        gradient = [cotangents[0] * g for g in outputs[1:]]
        return [*gradient, *(disconnected_type() for _ in inputs[N_HYPER:])]

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        """Only the first output depends, differentiably, on the hyper-parameters."""
        return [
            [i < N_HYPER and j == 0 for j in range(1 + N_HYPER)] for i in range(len(node.inputs))
        ]


@register_funcify_default_op_cache_key(Evidence)
def _evidence_numba(op: Evidence, node: Apply, **kwargs: Any) -> tuple[Any, int]:
    register_symbol()

    @numba_njit
    def evidence(
        h0: np.ndarray,
        h1: np.ndarray,
        h2: np.ndarray,
        h3: np.ndarray,
        h4: np.ndarray,
        h5: np.ndarray,
        block: np.ndarray,
        intercept: np.ndarray,
        covariates: np.ndarray,
        cells: np.ndarray,
        products: np.ndarray,
        n: np.ndarray,
        log_prior: np.ndarray,
        common: np.ndarray,
        columns: np.ndarray,
        n_candidates: np.ndarray,
        n_columns: np.ndarray,
    ) -> tuple[np.ndarray, ...]:
        size = np.empty(14, dtype=np.int64)
        size[0], size[1], size[2] = products.shape[0], products.shape[1], block.size
        size[3], size[4], size[5] = h1.size, h2.size, h3.size
        size[6], size[7], size[8] = h4.size, h5.size, cells.shape[0]
        size[9], size[10] = log_prior.size, common.size
        size[11], size[12], size[13] = columns.shape
        inputs = (
            np.ascontiguousarray(h0), np.ascontiguousarray(h1), np.ascontiguousarray(h2),
            np.ascontiguousarray(h3), np.ascontiguousarray(h4), np.ascontiguousarray(h5),
            np.ascontiguousarray(intercept), np.ascontiguousarray(covariates),
            np.ascontiguousarray(cells), np.ascontiguousarray(products),
            np.ascontiguousarray(n), np.ascontiguousarray(log_prior),
        )  # fmt: skip
        # what the kernel raises cannot leave it: then the buffers say that nothing came back
        out = (
            np.full(1, np.nan), np.empty(h0.size), np.empty(h1.size), np.empty(h2.size),
            np.empty(h3.size), np.empty(h4.size), np.empty(h5.size),
        )  # fmt: skip
        call_kernel(size, inputs, block, (common, columns, n_candidates, n_columns), out)
        return np.array(out[0][0]), out[1], out[2], out[3], out[4], out[5], out[6]

    return evidence, 6


def build_model(data: ModelData, priors: Priors) -> pm.Model:
    """Assemble the model.

    Parameters
    ----------
    data : ModelData
    priors : Priors

    Returns
    -------
    pymc.Model
        Free variables ``noise_sd``, ``noise_slope``, ``coefficient_sd`` and, with transfer,
        ``scale_length``, ``cell_sd``, ``level_sd``, ``slope_sd``, ``local_sd``, ``drift_sd``; with
        covariates those of `ModelData.effect_parts`.
    """
    transfer = len(data.fields) > 0
    absent = pt.as_tensor(np.zeros(0))
    with pm.Model(coords=data.coords) as model:
        noise_sd = positive("noise_sd", priors.noise_sd)[None]
        slope = scale_length = field_sd = local_sd = absent
        others = []
        if data.noise_names:
            growth = positive("noise_growth", priors.noise_growth)
            noise_sd = pt.concatenate([noise_sd, growth[None]])
            slope = pm.Normal("noise_slope", 0.0, priors.noise_slope_sd, dims="noise_covariate")
        coefficient_sd = positive("coefficient_sd", priors.coefficient_sd, "block")
        if transfer:
            length = positive("scale_length", priors.scale_length)
            own = positive("cell_sd", priors.cell_sd)
            scale_length = pt.stack([length, own])
            field_sd = positive("level_sd", priors.level_sd)[None]
            if len(data.fields) > 1:
                slopes = positive("slope_sd", priors.slope_sd, "slope")
                field_sd = pt.concatenate([field_sd, slopes])
            if data.n_local:
                others.append(positive("local_sd", priors.local_sd)[None])
            if data.n_drift:
                others.append(positive("drift_sd", priors.drift_sd, "scale"))
        for name, _ in data.effect_parts:
            others.append(positive(name, getattr(priors, name), f"{name}_of"))
        if others:
            local_sd = pt.concatenate(others)[data.sd_entry]
        terms: Any = Evidence()(
            noise_sd,
            slope,
            coefficient_sd,
            scale_length,
            field_sd,
            local_sd,
            *(pm.Data(*pair) for pair in zip(DATA_NAMES, data.kernel_args(priors), strict=True)),
        )
        pm.Potential("evidence", terms[0])
    return model


def law_model(law: FittedLaw) -> pm.Model:
    """Both parts of a fitted law as one model.

    Parameters
    ----------
    law : FittedLaw
    """
    model = build_model(law.encoding.data, law.priors)
    if law.divergence_priors is not None:
        with model:
            add_divergence(law.encoding.divergence, law.divergence_priors)
    return model
