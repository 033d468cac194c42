"""The hyper-parameters as one unconstrained vector: prior, evidence, mode, and curvature.

The same density that `bayes_optlaws.inference.pymc_model` gives to PyMC (a test holds the two
equal).
It finds the mode, from which NUTS starts, and screens exponent combinations there.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from bayes_optlaws.kernels.hyper import log_densities, log_density
from bayes_optlaws.kernels.threads import in_threads
from bayes_optlaws.model.data import ModelData
from bayes_optlaws.model.features import BLOCKS
from bayes_optlaws.model.priors import Priors


class HyperSpace:
    """Unconstrained vector of hyper-parameters: logs of the positive ones, then slopes as is.

    Parameters
    ----------
    data : ModelData
    priors : Priors

    Attributes
    ----------
    names : list of str
        One label for each entry, in the order of the PyMC model's free variables.
    """

    def __init__(self, data: ModelData, priors: Priors) -> None:
        self.data, self.priors = data, priors
        self._args = data.kernel_args(priors)
        p = priors
        parts: list[tuple[str, int, float, float, bool]] = [
            ("noise_sd", 1, np.log(p.noise_sd.median), p.noise_sd.log_sd, True)
        ]
        if data.noise_names:
            g = p.noise_growth
            parts.append(("noise_growth", 1, np.log(g.median), g.log_sd, True))
            parts.append(("noise_slope", len(data.noise_names), 0.0, p.noise_slope_sd, False))
        positive = [("coefficient_sd", len(BLOCKS), p.coefficient_sd)]
        if data.fields:
            positive += [
                ("scale_length", 1, p.scale_length),
                ("cell_sd", 1, p.cell_sd),
                ("level_sd", 1, p.level_sd),
            ]
            if len(data.fields) > 1:
                positive.append(("slope_sd", len(data.fields) - 1, p.slope_sd))
            if data.n_local:
                positive.append(("local_sd", 1, p.local_sd))
            if data.n_drift:
                positive.append(("drift_sd", len(data.n_drift), p.drift_sd))
        positive += [(name, len(labels), getattr(p, name)) for name, labels in data.effect_parts]
        parts += [(n, size, np.log(q.median), q.log_sd, True) for n, size, q in positive]
        self.parts = parts
        self.mean = np.concatenate([np.full(s, m) for _, s, m, _, _ in parts])
        self.sd = np.concatenate([np.full(s, d) for _, s, _, d, _ in parts])
        self.is_log = np.concatenate([np.full(s, flag) for _, s, _, _, flag in parts])
        self.names = [n if s == 1 else f"{n}[{i}]" for n, s, *_ in parts for i in range(s)]

        inputs = self.kernel_inputs(self.split(self.mean))
        self._sizes = np.array([x.size for x in inputs], dtype=np.int64)
        position = np.where(
            self.is_log, np.log(np.arange(self.size) + 1.0), np.arange(self.size) + 1.0
        )
        found = np.concatenate(self.kernel_inputs(self.split(position)))
        self._entry = found.round().astype(np.int64) - 1

    @property
    def size(self) -> int:
        """Number of dimensions."""
        return self.mean.size

    def split(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Constrained values by name; x of shape (..., size)."""
        value = np.where(self.is_log, np.exp(x), x)
        out, start = {}, 0
        for name, size, *_ in self.parts:
            out[name] = value[..., start : start + size]
            start += size
        return out

    def kernel_inputs(self, values: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """The six hyper-parameter arrays of the kernels; missing parts are empty."""
        empty = np.zeros(np.shape(values["noise_sd"])[:-1] + (0,))
        get = lambda k: values.get(k, empty)  # noqa: E731
        noise = np.concatenate([get("noise_sd"), get("noise_growth")], axis=-1)
        fields = np.concatenate([get("level_sd"), get("slope_sd")], axis=-1)
        others = ["local_sd", "drift_sd", *(name for name, _ in self.data.effect_parts)]
        return (
            noise,
            get("noise_slope"),
            get("coefficient_sd"),
            np.concatenate([get("scale_length"), get("cell_sd")], axis=-1),
            fields,
            np.concatenate([get(k) for k in others], axis=-1)[..., self.data.sd_entry],
        )

    def log_density(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Log posterior density of the unconstrained vector, up to a constant, and gradient.

        The Jacobian of the logs is included: with log-normal priors the unconstrained prior is
        Gaussian.
        """
        layout = (self.mean, self.sd, self.is_log, self._entry, self._sizes, self._args)
        try:
            value, gradient = log_density(np.ascontiguousarray(x), *layout)
        except np.linalg.LinAlgError:  # two inducing points so alike that rounding decides
            value = np.nan
        if np.isnan(value):
            return -np.inf, np.zeros_like(self.mean)
        return value, gradient

    def log_densities(self, x: np.ndarray) -> np.ndarray:
        """Log posterior density at each row of x, shape (n,); no gradient, both cores.

        A row at which the density cannot be computed gets minus infinity.
        """
        layout = (self.mean, self.sd, self.is_log, self._entry, self._sizes, self._args)

        def work(rows: np.ndarray) -> np.ndarray:
            rows = np.ascontiguousarray(rows)
            try:
                return log_densities(rows, *layout)
            except np.linalg.LinAlgError:  # one of them; the others are good
                if len(rows) == 1:
                    return np.array([-np.inf])
                return np.concatenate([work(half) for half in np.array_split(rows, 2)])

        return in_threads(work, x)

    def mode(self, start: np.ndarray | None = None) -> np.ndarray:
        """Posterior mode of the unconstrained vector."""
        bound = list(zip(self.mean - 6 * self.sd, self.mean + 6 * self.sd, strict=True))

        def negative(x: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = self.log_density(x)
            if not np.isfinite(value):
                return 1e10, np.zeros_like(x)
            return -value, -gradient

        x0 = self.mean if start is None else start
        result = minimize(
            negative, x0, jac=True, method="L-BFGS-B", bounds=bound, options={"maxiter": 200}
        )
        return result.x

    def curvature_factor(self, x: np.ndarray) -> np.ndarray:
        """Factor of the covariance of a Gaussian fitted at x, no wider than the prior."""
        h = 1e-3
        hessian = np.zeros((x.size, x.size))
        for i in range(x.size):
            e = np.zeros(x.size)
            e[i] = h
            before, after = self.log_density(x - e), self.log_density(x + e)
            if np.isfinite([before[0], after[0]]).all():  # else zero: the prior's width
                hessian[i] = (before[1] - after[1]) / (2 * h)
        hessian = 0.5 * (hessian + hessian.T)
        value, vector = np.linalg.eigh(hessian * np.outer(self.sd, self.sd))
        scaled = vector / np.sqrt(np.maximum(value, 1.0))
        return self.sd[:, None] * scaled
