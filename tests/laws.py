"""Laws without sampling: an encoded table, and a fitted law with the draws that a test gives."""

from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.inference.nuts import Sample
from bayes_optlaws.inference.predictor import Draws
from bayes_optlaws.law import OptLaw
from bayes_optlaws.model.encoding import RunEncoding
from bayes_optlaws.model.priors import Priors


@dataclass(frozen=True)
class Encoded:
    """A run table as a law of given options sees it."""

    encoding: RunEncoding
    priors: Priors = field(default_factory=Priors)


def encoded(runs, **options) -> Encoded:
    """Encode a run table by a law of the given options."""
    law = OptLaw(**options)
    return Encoded(law.encode(runs), law.priors or Priors())


def everything(law: Encoded):
    """Rows, responses and noise classes of the runs, and of the slopes, which are data too."""
    e = law.encoding
    slope = e.prior_response
    label = np.concatenate([e.noise.label, np.full(slope.size, len(e.noise.covariates))])
    return np.vstack([e.rows(), e.prior_rows]), np.concatenate([e.response, slope]), label


def with_draws(law: Encoded, draws: Draws, *, chains: int = 1) -> FittedLaw:
    """A fitted law with given posterior draws; without divergence, and not past the gate."""
    sample = Sample(draws, chains, xr.Dataset(), 1.0, np.nan)
    return FittedLaw(law.encoding, law.priors, sample, 0)
