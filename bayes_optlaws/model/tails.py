"""How heavy the tails of the noise are, learned from the residuals of the runs.

The likelihood has normal noise, whose sd a few odd runs widen; the 50 % intervals of the others are
then too wide, and no interval expects the next odd run.  So the shape of the noise of a new run is
taken from the residuals of the fit: Student-t of the same sd, with the degrees of freedom under
which they are most probable, where that is clearly better than normal.  Only what is said of new
runs changes, not the fit.  (Own choice; `Priors.noise_df` states the tails instead, in the
likelihood too.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bayes_optlaws.model import gain, student_t

DEGREES = (3.0, 4.0, 6.0, 10.0, 20.0)
"""Degrees of freedom tried."""


@dataclass(frozen=True)
class Tails:
    """Degrees of freedom of the noise, and the gain that they bring over normal noise.

    Parameters
    ----------
    df : float
    gain, standard_error : float
        Nats of the summed log density of the residuals.
    """

    df: float
    gain: float
    standard_error: float

    @property
    def clear(self) -> bool:
        """Whether the gain is large enough to be used."""
        return gain.is_clear(self.gain, self.standard_error)


def learn(z: np.ndarray) -> Tails:
    """Degrees of freedom under which residuals are most probable.

    Parameters
    ----------
    z : array, shape (n_draws, n)
        Posterior draws of the residuals over their sds.

    Examples
    --------
    >>> z = np.random.default_rng(0).standard_t(4, (1, 2000)) / np.sqrt(2)
    >>> learn(z).df, learn(z).clear
    (4.0, True)
    """
    normal = student_t.log_density(z, np.inf)
    tried = [Tails(df, *gain.summed(student_t.log_density(z, df) - normal)) for df in DEGREES]
    return max(tried, key=lambda x: x.gain)
