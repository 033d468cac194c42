"""Search, beside the candidates of a ranking, for a setting that is expected to be better.

The search is that of `bayes_optlaws.suggest`, on fewer points and draws; what it finds is valued
anew on all draws, jointly with the candidates. (Own choice.)
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayes_optlaws._better_setting import BetterSetting
from bayes_optlaws._suggest_space import FAMILIES, Space, edge_of, run_beyond, space
from bayes_optlaws.divergence_price import divergence_price
from bayes_optlaws.fitted import FittedLaw
from bayes_optlaws.suggest import Judge, search
