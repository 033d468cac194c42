"""How heavy the tails of the noise are, from the residuals of the runs and a prior.

The likelihood has normal noise, whose sd a few odd runs widen; the 50 % intervals of the others are
then too wide, and no interval expects the next odd run.  So the noise of a new run is Student-t of
the same sd, with the degrees of freedom that are most probable given the residuals of the fit and
`PRIOR`: few runs do not tell, and get tails that are somewhat heavier than normal ones, as one run
at the edge of divergence costs more than slightly narrow intervals.  Only what is said of new runs
changes, not the fit.  (Own choice; `Priors.noise_df` states the tails instead, in the likelihood
too.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bayes_optlaws.model import student_t

PRIOR = {3.0: 0.1, 4.0: 0.15, 6.0: 0.2, 10.0: 0.25, 20.0: 0.15, np.inf: 0.15}
"""Prior probability of the degrees of freedom."""


@dataclass(frozen=True)
class Tails:
    """Degrees of freedom of the noise of new runs.

    Parameters
    ----------
    df : float
        Infinite: normal noise.
    gain : float
        Nats of the summed log density of the residuals, over normal noise.
    """

    df: float
    gain: float


def learn(z: np.ndarray) -> Tails:
    """Most probable degrees of freedom.

    Parameters
    ----------
    z : array, shape (n_draws, n)
        Posterior draws of the residuals of the runs over their sds.

    Examples
    --------
    >>> z = np.random.default_rng(0).standard_t(4, (1, 2000)) / np.sqrt(2)
    >>> learn(z).df, learn(z[:, :3]).df, learn(np.zeros((1, 0))).df
    (4.0, 10.0, 10.0)
    """
    normal = student_t.log_density(z, np.inf)
    gain = {df: float((student_t.log_density(z, df) - normal).mean(axis=0).sum()) for df in PRIOR}
    best = max(PRIOR, key=lambda df: gain[df] + np.log(PRIOR[df]))
    return Tails(best, gain[best])
