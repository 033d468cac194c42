from . import describe as describe
from . import fitted as fitted
from . import loo as loo
from . import nuts as nuts
from . import odd_runs as odd_runs
from . import predictor as predictor
from . import pymc_model as pymc_model
from . import stages as stages
