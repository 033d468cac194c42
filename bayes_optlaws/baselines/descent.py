"""Descent on the Huber loss of log residuals within bounds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Model = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def huber(fitted: np.ndarray, log_loss: np.ndarray, weight: np.ndarray, delta: float) -> float:
    """Weighted mean Huber loss of ``log fitted - log_loss``; inf where fitted is not positive."""
    if not np.all((fitted > 0) & np.isfinite(fitted)):
        return np.inf
    size = np.abs(np.log(fitted) - log_loss)
    part = np.minimum(size, delta)
    # part * (size - part / 2) is size^2 / 2 inside, delta * (size - delta / 2) outside.
    return float(weight @ (part * (size - 0.5 * part)) / weight.sum())


def descend(
    model: Model,
    theta: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    log_loss: np.ndarray,
    weight: np.ndarray,
    delta: float,
    *,
    max_steps: int = 1000,
    tol: float = 1e-8,
) -> tuple[np.ndarray, float]:
    """Return a local minimum of `huber` and its value.

    Levenberg-Marquardt steps on reweighted squares: with weights ``min(1, delta / |r|)`` the
    squares lie above the Huber loss and touch it, so a step that lowers them lowers it. Steps are
    projected on the bounds, with the parameters that a bound holds left out.

    Parameters
    ----------
    model : callable
        Parameters (p,) to fitted losses (n,) and their derivatives (n, p).
    theta : ndarray, shape (p,)
        Start; clipped to the bounds.
    low, high : ndarray, shape (p,)
        Bounds; equal ones fix a parameter.
    log_loss, weight : ndarray, shape (n,)
    delta : float
        Where the loss turns linear; may be inf.
    max_steps : int
        Largest number of accepted steps.
    tol : float
        Stop after three steps in a row that each lower the objective by less than this fraction.

    Returns
    -------
    theta : ndarray, shape (p,)
    value : float
    """
    theta = np.clip(theta, low, high)
    fitted, jacobian = model(theta)
    value = huber(fitted, log_loss, weight, delta)
    if not np.isfinite(value):
        return theta, value
    damping, small = 1e-3, 0
    for _ in range(max_steps):
        slope = jacobian / fitted[:, None]
        residual = np.log(fitted) - log_loss
        omega = weight * np.minimum(1.0, delta / np.maximum(np.abs(residual), 1e-300))
        gradient = slope.T @ (omega * residual)
        hessian = (slope * omega[:, None]).T @ slope
        held = ((theta <= low) & (gradient >= 0)) | ((theta >= high) & (gradient <= 0))
        free = np.flatnonzero(~held)
        if not free.size:
            break
        scale = np.diag(hessian)[free]
        scale = np.maximum(scale, 1e-12 * max(scale.max(), 1e-300))
        accepted = False
        for _ in range(25):
            matrix = hessian[np.ix_(free, free)] + damping * np.diag(scale)
            step = np.zeros(theta.size)
            # Scaled to unit diagonal: coefficients and exponents differ by orders of magnitude.
            root = np.sqrt(scale * (1.0 + damping))
            step[free] = (
                -np.linalg.solve(matrix / np.outer(root, root), gradient[free] / root) / root
            )
            trial = np.clip(theta + step, low, high)
            trial_fitted, trial_jacobian = model(trial)
            trial_value = huber(trial_fitted, log_loss, weight, delta)
            if trial_value < value:
                accepted = True
                break
            damping = max(4.0 * damping, 1e-10)
        if not accepted:
            break
        gain = (value - trial_value) / value if value > 0 else 0.0
        theta, fitted, jacobian, value = trial, trial_fitted, trial_jacobian, trial_value
        damping = max(damping / 5.0, 1e-14)
        small = small + 1 if gain < tol else 0
        if small >= 3 or value < 1e-30:
            break
    return theta, value
