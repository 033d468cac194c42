from . import covariates as covariates
from . import divergence as divergence
from . import encoding as encoding
from . import features as features
from . import priors as priors
