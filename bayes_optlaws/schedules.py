"""Learning-rate schedules and the four integrals that the Opt-Laws features are made of.

Template (Opt-Laws, arXiv 2409.04777, Fig. 4): warm-up ``[0, a1]`` from 0 to the peak, decay
``[a1, a2]`` to a plateau, plateau ``[a2, a3]``, cooldown ``[a3, S]`` to ``min_lr``. With ``t`` in
optimizer steps,

    C_w = int_0^a1 lr dt,  C_c = int_a2^S lr dt,
    E_w = int_0^a2 (dlr/dt)^2 dt,  E_c = int_a2^S (dlr/dt)^2 dt.

The split at ``a1`` and ``a2`` is inferred from the paper's text. Own choices, for one
optimizer step is the least time in which a learning rate can change: a warm-up of less than one
step (0: the first step is already at the peak) counts as one step, a decay or cooldown of less
than one step counts as one step in E, and so does the first step of the ``wsd-sqrt`` cooldown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from bayes_optlaws.text.figures import shown_once

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INTEGRAL_COLUMNS = ("conv_warmup", "conv_cooldown", "escape_warmup", "escape_cooldown")
SCHEDULES = ("linear", "cosine", "wsd", "wsd-sqrt", "polygon", "constant", "array")


@dataclass(frozen=True)
class ScheduleIntegrals[T: (float, np.ndarray)]:
    """The four schedule integrals, in learning rate x steps and learning rate^2 / steps.

    Attributes
    ----------
    conv_warmup, conv_cooldown : float, or ndarray of float, shape (n,)
        C_w and C_c, learning rate x steps.
    escape_warmup, escape_cooldown : float, or ndarray of float, shape (n,)
        E_w and E_c, learning rate^2 / steps.
    """

    conv_warmup: T
    conv_cooldown: T
    escape_warmup: T
    escape_cooldown: T


def integrals(table: pd.DataFrame) -> ScheduleIntegrals[np.ndarray]:
    """Return the four integrals of every row of a validated run or candidate table.

    Closed form for every schedule of the template; rows with schedule ``"array"`` carry theirs in
    the columns ``conv_warmup``, ``conv_cooldown``, ``escape_warmup``, ``escape_cooldown``.

    Parameters
    ----------
    table : DataFrame
        As returned by `bayes_optlaws.read_runs` or `bayes_optlaws.read_candidates`: columns
        ``schedule``, ``peak_lr``, ``min_lr``, ``steps``, ``warmup_steps``, ``decay_end_step``,
        ``plateau_lr``, ``cooldown_start_step``, all filled.

    Returns
    -------
    ScheduleIntegrals
        Four arrays of shape (n,).

    Raises
    ------
    ValueError
        When a column is missing or a schedule is unknown: the table was not validated.

    Notes
    -----
    Source: closed forms from the template of arXiv 2409.04777, Fig. 4, with ``min_lr`` added (own
    choice; 0 in the paper). ``wsd-sqrt`` cools down as ``1 - sqrt(u)``, whose squared slope
    diverges at ``u = 0``; own choice: its first step counts as one discrete step, which gives
    ``E_c = delta^2 / T * (1 + log(T) / 4)`` with ``T = S - a3``, ``delta = plateau - min_lr``.

    Examples
    --------
    >>> import pandas as pd
    >>> row = Schedule.linear(peak_lr=1e-3, steps=1000, warmup_steps=100).to_row()
    >>> i = integrals(pd.DataFrame([row]))
    >>> round(float(i.conv_warmup[0]), 6), round(float(i.conv_cooldown[0]), 6)
    (0.05, 0.45)
    """
    needed = ("schedule", *_TEMPLATE)
    absent = [c for c in needed if c not in table.columns]
    if absent:
        raise ValueError(
            f"columns {', '.join(absent)} are missing: integrals need a validated table; "
            "pass it through read_runs or read_candidates first"
        )
    kind = table["schedule"].to_numpy(dtype=object)
    unknown = sorted({str(k) for k in pd.unique(kind)} - set(SCHEDULES))
    if unknown:
        raise ValueError(
            f"schedule {unknown[0]!r} is unknown: choose from {', '.join(SCHEDULES)}; "
            "pass the table through read_runs or read_candidates first"
        )
    result = np.vstack(_closed_form(kind, *(table[c].to_numpy(dtype=float) for c in _TEMPLATE)))
    given = kind == "array"
    if given.any():
        absent = [c for c in INTEGRAL_COLUMNS if c not in table.columns]
        if absent:
            raise ValueError(
                f"columns {', '.join(absent)} are missing: rows with schedule 'array' carry their "
                "integrals; make them with Schedule.from_array(...).to_row()"
            )
        for i, column in enumerate(INTEGRAL_COLUMNS):
            result[i, given] = table[column].to_numpy(dtype=float, na_value=np.nan)[given]
    return ScheduleIntegrals(*result)


_TEMPLATE = (
    "peak_lr",
    "min_lr",
    "steps",
    "warmup_steps",
    "decay_end_step",
    "plateau_lr",
    "cooldown_start_step",
)


def _phases(
    warmup: np.ndarray, decay_end: np.ndarray, cooldown_start: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Phase points with a warm-up of less than one step counted as one step."""
    a1 = np.maximum(warmup, 1.0)
    a2 = np.maximum(decay_end, a1)
    return a1, a2, np.maximum(cooldown_start, a2)


def _closed_form(
    kind: np.ndarray,
    peak: np.ndarray,
    low: np.ndarray,
    steps: np.ndarray,
    warmup: np.ndarray,
    decay_end: np.ndarray,
    plateau: np.ndarray,
    cooldown_start: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """C_w, C_c, E_w, E_c of the template, each of shape (n,)."""
    a1, a2, a3 = _phases(warmup, decay_end, cooldown_start)
    duration = steps - a3
    cooling = (kind != "constant") & (duration > 0)
    safe = np.where(cooling, duration, 1.0)
    delta = plateau - low
    is_sqrt = kind == "wsd-sqrt"

    conv_warmup = 0.5 * peak * a1
    mean_lr = low + delta * np.where(is_sqrt, 1.0 / 3.0, 0.5)
    conv_cooldown = np.where(cooling, plateau * (a3 - a2) + mean_lr * safe, plateau * (steps - a2))

    drop = peak - plateau
    escape_warmup = peak**2 / a1 + drop**2 / np.maximum(a2 - a1, 1.0)
    shape = np.ones_like(safe)
    shape[kind == "cosine"] = np.pi**2 / 8.0
    shape[is_sqrt] = 1.0 + np.log(np.maximum(safe[is_sqrt], 1.0)) / 4.0
    escape_cooldown = np.where(cooling, shape * delta**2 / np.maximum(safe, 1.0), 0.0)
    return conv_warmup, conv_cooldown, escape_warmup, escape_cooldown


def _require(ok: bool, name: str, value: object, rule: str, remedy: str) -> None:
    if not ok:
        raise ValueError(f"{name} = {value}: {rule}; {remedy}")


@dataclass(frozen=True, eq=False, repr=False)
class Schedule:
    """One learning-rate schedule: its curve, its four integrals, its columns of the run table.

    Make one with `linear`, `cosine`, `wsd`, `polygon`, `constant` or `from_array`.

    Attributes
    ----------
    kind : str
        One of ``linear, cosine, wsd, wsd-sqrt, polygon, constant, array``.
    peak_lr, min_lr, plateau_lr : float
        Learning rates at the end of the warm-up, at the last step, on the plateau.
    steps, warmup_steps, decay_end_step, cooldown_start_step : float
        Length S of the run and the phase points a1, a2, a3, in optimizer steps.
    values : ndarray of float, shape (steps + 1,), or None
        Learning rate at steps 0, 1, ..., S for ``array``; None for the others.

    Raises
    ------
    ValueError
        Naming the argument, its value, the rule and the remedy.

    Examples
    --------
    >>> s = Schedule.wsd(peak_lr=1e-3, steps=1000, warmup_steps=100, cooldown_start_step=800)
    >>> s
    Schedule.wsd(peak_lr=0.001, steps=1000, warmup_steps=100, min_lr=0, cooldown_start_step=800)
    >>> s.lr([0, 50, 500, 900]).tolist()
    [0.0, 0.0005, 0.001, 0.0005]
    """

    kind: str
    peak_lr: float
    steps: float
    warmup_steps: float
    min_lr: float
    decay_end_step: float
    plateau_lr: float
    cooldown_start_step: float
    values: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Check every argument against its rule."""
        _require(
            self.kind in SCHEDULES,
            "kind",
            repr(self.kind),
            f"the schedule is one of {', '.join(SCHEDULES)}",
            "use one of the class methods",
        )
        for name in _TEMPLATE:
            value = getattr(self, name)
            try:
                number = float(value)
            except (TypeError, ValueError):
                number = np.nan
            _require(
                bool(np.isfinite(number)), name, repr(value), "must be a finite number", "give one"
            )
            object.__setattr__(self, name, number)
        s, a1, a2, a3 = self.steps, self.warmup_steps, self.decay_end_step, self.cooldown_start_step
        rate = "give the learning rate of one optimizer step, such as 3e-4"
        _require(self.peak_lr > 0, "peak_lr", self.peak_lr, "must be positive", rate)
        _require(
            0 < self.plateau_lr <= self.peak_lr,
            "plateau_lr",
            self.plateau_lr,
            f"must be positive and at most peak_lr = {self.peak_lr}",
            rate,
        )
        top = self.plateau_lr if self.kind != "array" else self.peak_lr
        flat_allowed = self.kind in ("constant", "array")
        _require(
            0 <= self.min_lr < top or (flat_allowed and self.min_lr == top),
            "min_lr",
            self.min_lr,
            f"must be at least 0 and below the learning rate {top} that the cooldown starts from",
            "lower min_lr, or use Schedule.constant for a run that never cools down",
        )
        _require(a1 >= 0, "warmup_steps", a1, "must not be negative", "use 0 for no warm-up")
        _require(
            max(a1, 1.0) < s,
            "warmup_steps",
            a1,
            f"the warm-up (at least one step) must end before the run of {s:g} steps does",
            "shorten the warm-up or lengthen the run",
        )
        _require(
            a1 <= a2 < s,
            "decay_end_step",
            a2,
            f"must lie between warmup_steps = {a1:g} and the last step {s:g}",
            "order the phase points warm-up, decay, plateau, cooldown",
        )
        _require(
            a2 <= a3 < s or (self.kind == "constant" and a3 == s),
            "cooldown_start_step",
            a3,
            f"must lie between {a2:g}, where the plateau starts, and the last step {s:g}",
            "order the phase points, or use Schedule.constant for a run that never cools down",
        )

    @classmethod
    def linear(
        cls, *, peak_lr: float, steps: float, warmup_steps: float, min_lr: float = 0.0
    ) -> Schedule:
        """Linear warm-up, then linear cooldown to `min_lr` over the rest of the run.

        Examples
        --------
        >>> Schedule.linear(peak_lr=1.0, steps=100, warmup_steps=20).lr(60)
        0.5
        """
        a = warmup_steps
        return cls("linear", peak_lr, steps, a, min_lr, a, peak_lr, a)

    @classmethod
    def cosine(
        cls, *, peak_lr: float, steps: float, warmup_steps: float, min_lr: float = 0.0
    ) -> Schedule:
        """Linear warm-up, then half a cosine down to `min_lr` (Opt-Laws eqn 2).

        Examples
        --------
        >>> s = Schedule.cosine(peak_lr=1.0, steps=100, warmup_steps=20, min_lr=0.1)
        >>> round(s.lr(60), 12), round(s.lr(100), 12)
        (0.55, 0.1)
        """
        a = warmup_steps
        return cls("cosine", peak_lr, steps, a, min_lr, a, peak_lr, a)

    @classmethod
    def wsd(
        cls,
        *,
        peak_lr: float,
        steps: float,
        warmup_steps: float,
        cooldown_start_step: float,
        min_lr: float = 0.0,
        shape: Literal["linear", "sqrt"] = "linear",
    ) -> Schedule:
        """Warm-up, stable at the peak, then cooldown (Opt-Laws eqn 3 for ``shape="linear"``).

        ``shape="sqrt"`` cools down as ``min_lr + (peak_lr - min_lr) * (1 - sqrt(u))`` with ``u``
        the fraction of the cooldown done.

        Examples
        --------
        >>> Schedule.wsd(peak_lr=1.0, steps=100, warmup_steps=20, cooldown_start_step=60,
        ...              shape="sqrt").lr(70)
        0.5
        """
        kinds = {"linear": "wsd", "sqrt": "wsd-sqrt"}
        _require(shape in kinds, "shape", repr(shape), "must be 'linear' or 'sqrt'", "choose one")
        a = warmup_steps
        return cls(kinds[shape], peak_lr, steps, a, min_lr, a, peak_lr, cooldown_start_step)

    @classmethod
    def polygon(
        cls,
        *,
        peak_lr: float,
        steps: float,
        warmup_steps: float,
        decay_end_step: float,
        plateau_lr: float,
        cooldown_start_step: float,
        min_lr: float = 0.0,
    ) -> Schedule:
        """Warm-up, linear decay to a plateau, plateau, linear cooldown (Opt-Laws Fig. 4).

        Examples
        --------
        >>> Schedule.polygon(peak_lr=1.0, steps=100, warmup_steps=20, decay_end_step=40,
        ...                  plateau_lr=0.5, cooldown_start_step=80).lr([30, 60, 90]).tolist()
        [0.75, 0.5, 0.25]
        """
        return cls(
            "polygon",
            peak_lr,
            steps,
            warmup_steps,
            min_lr,
            decay_end_step,
            plateau_lr,
            cooldown_start_step,
        )

    @classmethod
    def constant(cls, *, peak_lr: float, steps: float, warmup_steps: float) -> Schedule:
        """Warm-up, then the peak until the end: no cooldown, ``E_c = 0``.

        Examples
        --------
        >>> Schedule.constant(peak_lr=1.0, steps=100, warmup_steps=20).integrals().conv_cooldown
        80.0
        """
        a = warmup_steps
        return cls("constant", peak_lr, steps, a, peak_lr, a, peak_lr, steps)

    @classmethod
    def from_array(
        cls,
        lr_values: Sequence[float] | np.ndarray,
        *,
        decay_end_step: float | None = None,
        warmup_steps: float | None = None,
    ) -> Schedule:
        """Any schedule, given by its learning rate at steps 0, 1, ..., S.

        The curve is piecewise linear through the values, so C is the trapezoid rule and E the sum
        of squared differences. Own choice: an array that starts at its maximum has no warm-up; a
        0 is put before it, so that the warm-up lasts one step, as for ``warmup_steps=0``.

        Parameters
        ----------
        lr_values : array_like of float, shape (S + 1,)
            Learning rate per step: finite, not negative, not all 0.
        decay_end_step : float, optional
            a2, where the two halves of the schedule are split. Default: the end of the warm-up.
        warmup_steps : float, optional
            a1. Default: the step of the first maximum.

        Returns
        -------
        Schedule
            Of kind ``array``.

        Examples
        --------
        >>> s = Schedule.linear(peak_lr=1e-3, steps=1000, warmup_steps=100)
        >>> import numpy as np
        >>> a = Schedule.from_array(s.lr(np.arange(1001)))
        >>> a.warmup_steps, bool(np.isclose(a.integrals().escape_cooldown,
        ...                                 s.integrals().escape_cooldown))
        (100.0, True)
        """
        try:
            v = np.array(lr_values, dtype=float)
        except (TypeError, ValueError):
            v = np.array(np.nan)
        good = v.ndim == 1 and v.size >= 3 and bool(np.all(np.isfinite(v)) and np.all(v >= 0))
        _require(
            good and bool(v.max() > 0),
            "lr_values",
            np.array2string(v, threshold=6),
            "must be at least 3 finite learning rates, none negative, not all 0",
            "give the learning rate of each step in order",
        )
        peak = float(v.max())
        # Plateaus computed in floating point wobble; the first value that is the maximum up to
        # rounding ends the warm-up.
        first = int(np.argmax(v >= peak * (1 - 1e-9)))
        if first == 0:
            v, first = np.concatenate([[0.0], v]), 1
        a1 = first if warmup_steps is None else warmup_steps
        a2 = a1 if decay_end_step is None else decay_end_step
        v.setflags(write=False)
        inside = isinstance(a2, Real) and 0 <= a2 < v.size - 1
        at_split = np.interp(float(a2), np.arange(v.size), v) if inside else peak
        made = cls("array", peak, v.size - 1, a1, float(v[-1]), a2, float(at_split), a2, v)
        _require(
            bool(made.integrals().conv_cooldown > 0 and made.integrals().conv_warmup > 0),
            "lr_values",
            np.array2string(v, threshold=6),
            "the learning rate must not be 0 throughout the warm-up or throughout the rest",
            "give warmup_steps and decay_end_step inside the part that trains",
        )
        return made

    def lr(self, step: float | Sequence[float] | np.ndarray) -> Any:
        """Learning rate at `step`.

        Parameters
        ----------
        step : float or array_like of float
            Between 0 and ``steps``.

        Returns
        -------
        float or ndarray of float
            Of the shape of `step`. A warm-up of less than one step counts as one step.

        Raises
        ------
        ValueError
            When a step lies outside the run.
        """
        t = np.asarray(step, dtype=float)
        outside = ~((t >= 0) & (t <= self.steps))
        if outside.any():
            raise ValueError(
                f"step = {t[outside].flat[0]:g}: a step lies between 0 and the run's last step "
                f"{self.steps:g}; ask for steps inside the run"
            )
        if self.values is not None:
            out = np.interp(t, np.arange(self.values.size), self.values)
            return float(out) if out.ndim == 0 else out
        a1, a2, a3 = (
            float(a)
            for a in _phases(
                np.asarray(self.warmup_steps, dtype=float),
                np.asarray(self.decay_end_step, dtype=float),
                np.asarray(self.cooldown_start_step, dtype=float),
            )
        )
        u = np.clip((t - a3) / max(self.steps - a3, 1e-300), 0.0, 1.0)
        if self.kind == "constant":
            fall = np.zeros_like(u)
        elif self.kind == "cosine":
            fall = 0.5 * (1.0 - np.cos(np.pi * u))
        elif self.kind == "wsd-sqrt":
            fall = np.sqrt(u)
        else:
            fall = u
        cool = self.plateau_lr - (self.plateau_lr - self.min_lr) * fall
        drop = np.clip((t - a1) / max(a2 - a1, 1e-300), 0.0, 1.0)
        decay = self.peak_lr + (self.plateau_lr - self.peak_lr) * drop
        out = np.where(t <= a1, self.peak_lr * t / a1, np.where(t < a2, decay, cool))
        return float(out) if out.ndim == 0 else out

    def integrals(self) -> ScheduleIntegrals[float]:
        """Return C_w, C_c, E_w, E_c as four floats (see `integrals` for units and choices)."""
        if self.values is None:
            columns = (np.array([getattr(self, name)]) for name in _TEMPLATE)
            found = _closed_form(np.array([self.kind], dtype=object), *columns)
            return ScheduleIntegrals(*(float(x[0]) for x in found))
        v, last = self.values, self.values.size - 1
        area = np.concatenate([[0.0], np.cumsum(0.5 * (v[1:] + v[:-1]))])
        squares = np.concatenate([[0.0], np.cumsum(np.diff(v) ** 2)])

        def area_to(step: float) -> float:
            k = min(int(step), last - 1)
            part = step - k
            return float(area[k] + part * v[k] + 0.5 * part**2 * (v[k + 1] - v[k]))

        def squares_to(step: float) -> float:
            return float(np.interp(step, np.arange(last + 1), squares))

        a1, a2 = self.warmup_steps, self.decay_end_step
        return ScheduleIntegrals(
            area_to(a1),
            float(area[-1]) - area_to(a2),
            squares_to(a2),
            float(squares[-1]) - squares_to(a2),
        )

    def to_row(self) -> dict[str, Any]:
        """Return the schedule columns of the run table, to be joined with the run's own columns.

        Examples
        --------
        >>> row = Schedule.linear(peak_lr=1e-3, steps=1000, warmup_steps=100).to_row()
        >>> row["schedule"], row["cooldown_start_step"]
        ('linear', 100.0)
        """
        row: dict[str, Any] = {"schedule": self.kind}
        row.update((name, getattr(self, name)) for name in _TEMPLATE)
        if self.values is not None:
            found = self.integrals()
            row.update((name, getattr(found, name)) for name in INTEGRAL_COLUMNS)
        return row

    @shown_once
    def plot(self, *, ax: Axes | None = None) -> Figure:
        """Plot the learning rate against the step and return the figure.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes to draw on; a new figure is made when absent.
        """
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(figsize=(6, 3), layout="constrained")
        corners = [self.warmup_steps, self.decay_end_step, self.cooldown_start_step]
        t = np.unique(np.concatenate([np.linspace(0, self.steps, 501), corners]))
        ax.plot(t, self.lr(t), label=self.kind)
        ax.set(xlabel="step", ylabel="learning rate")
        return ax.figure.get_figure(root=True)

    def __repr__(self) -> str:
        """Return the call that makes this schedule."""
        names = ["peak_lr", "steps", "warmup_steps"]
        if self.kind != "constant":
            names.append("min_lr")
        if self.kind in ("polygon", "array"):
            names += ["decay_end_step", "plateau_lr"]
        if self.kind in ("polygon", "wsd", "wsd-sqrt"):
            names.append("cooldown_start_step")
        parts = [f"{name}={getattr(self, name):.12g}" for name in names]
        if self.kind == "array":
            return f"<Schedule from array: {', '.join(parts)}>"
        if self.kind == "wsd-sqrt":
            parts.append("shape='sqrt'")
        return f"Schedule.{self.kind.removesuffix('-sqrt')}({', '.join(parts)})"
