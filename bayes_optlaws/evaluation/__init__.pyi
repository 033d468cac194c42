from .metrics import summarize as summarize
from .nulls import Judge as Judge
from .nulls import cell_scores as cell_scores
from .protocols import evaluate as evaluate
from .protocols import held_out as held_out
from .protocols import held_out_by as held_out_by
from .protocols import tabulate as tabulate
from .splits import make_splits as make_splits
