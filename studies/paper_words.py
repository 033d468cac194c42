"""What the page of the paper's tables says in words: what is compared, and why figures differ."""

from __future__ import annotations

NAMES = {
    "Constant (block mean)": "constant",
    "Chinchilla": "chinchilla",
    "Linear regression": "linear",
    "Tissue": "tissue",
    "Tissue cross-scale": "tissue",
    "Simplified + Chin. scale": "simplified",
    "Generalized Opt-Law": "generalized",
}
"""The paper's methods and ours."""

TITLES = {
    "pocket-5fold": "pocket",
    "steplaw-5fold": "Step Law",
    "pocket-n": "pocket, largest N",
    "pocket-d": "pocket, largest D",
    "steplaw-n": "Step Law, N > 0.45B",
    "steplaw-d": "Step Law, D >= 30B",
    "pocket": "pocket",
    "steplaw": "Step Law",
    "marin": "Marin",
}
"""Studies and tables in words."""

INTRO = """# The paper's tables, beside ours

Written by `python -m studies.paper_tables FOLDER`; do not edit. The figures behind
it are in `studies/results/paper-table-*.csv`.

**The paper's own data are not public**: its 260 losses, all its peak learning rates and its fitted
coefficients (Table 8) are lost or were never published. So its figures cannot be made again; its
protocol can, on other runs. *pocket* is its grid in miniature: 260 runs of 10 to 250 thousand
parameters in the same blocks, with five peak LRs that span a factor of 50 (the paper: 15). *Step
Law* is 1,911 public runs of 0.21B to 1.07B parameters that vary peak LR and batch size in 17
blocks, with one cosine schedule. No figure of ours is on the paper's data, and none of the paper's
is on ours: rows are to be compared within one source, and between sources only in their order.

**opt-law** is the Bayesian law of this package, **generalized** the paper's law by least squares
with its two-level exponent search; the others are its rivals. All see the same folds."""

HEADINGS = {
    "1": "Table 1: methods on held-out runs of the grid",
    "2": "Table 2: larger and longer runs, actual and predicted",
    "3": "Table 3: extrapolation",
    "4-5": "Tables 4 and 5: continual training and fine-tuning",
    "9": "Table 9: feature blocks",
    "10": "Table 10: decay phase in the convergence integral",
    "11": "Table 11: exponents",
    "12": "Table 12: divergence",
    "13": "Table 13: schedule families",
}

WHY = {
    "1": """
5 folds within blocks. The last three columns are not in the paper: the share of runs inside 95 %
intervals, the mean log predictive density of log loss (higher is better), and the calibration
error of the probability that one run of a pair ends lower. Rivals without a posterior have
intervals from a Bayesian bootstrap. ± is one bootstrap standard error over contests (block and
fold).

Why it differs from the paper: our peak LRs reach closer to divergence, where single runs end high.
Without the highest one (0.15) the block mean has an error of 4.0 % and the least-squares law 2.5 %;
up to 0.02, 2.0 % and 1.6 %. The rest has a floor that the paper's runs may not have: the
loss of a pocket run has a seed noise of 0.01 to 0.03 nats, 0.7 to 2 %, while the paper's law has an
error of 0.5 % in all. On Step Law the least-squares law has four more columns, for batch size; the
annealing laws and the simplified law know no batch size but through the number of steps, and rank
little there. A law that cannot tell runs apart has Spearman 0 here and chooses by lot.""",
    "2": """
The laws of the grid on longer and larger runs; truth is the mean over 2 or 3 seeds. The paper goes
from 1.9B parameters and 30B tokens to 4.05B and 300B; here it is from 246 thousand parameters and
3,600 steps to 623 thousand and 36,000. Sizes and phase points are the paper's in proportion, peak
LRs are our own choice.""",
    "3": """
Mean relative error in percent, on the runs of Table 2. The paper prints 0.2 % for the least-squares
law; fitted to our grid it falls far below the measured losses. The cause is the sign of its
exponents of N and steps, which the paper's text implies to be positive: the same least squares with
the saturating candidates of this package (row *generalized, saturating*) has a small fraction of
the error. The paper's runs may lie where the positive form still holds; which of its values were
selected is lost.""",
    "4-5": """
Six sets of continual training (two shifts of the data, three model sizes) and nine of fine-tuning;
means over sets. The paper has two sets and three, of one model size; ours mix two peak LRs in each
set and are means over four or five seeds. The paper's history-aware scores, by the law, rank
fine-tuning and do not rank our continual training; what a change of stage does, learned from the
sets left, ranks both; the least-squares scores rank neither. More in
`notebooks/06-continual-training.ipynb`.""",
    "9": """
Least squares, blocks added one at a time, the folds of Table 1. The error falls with every block
(in the paper, with all but the second); the choice of a run inside a block does not get better with
every block on our tables. On Step Law the first block has the four batch columns, too.""",
    "10": """
Convergence integral of the second half from a2 (default) or from a1 (with the decay). The grid has
no decay phase, so both definitions are one fit, and predictions of polygons alone change. The level
of the least-squares law is off for the reason given under Table 3, so for it the column says less
than in the paper.""",
    "11": """
One exponent group changed from what level 1 selects on the whole table, held fixed over the folds.
Values that the paper selected are lost.""",
    "12": """
Divergent or not. In the paper R is judged by 5 folds and logistic regression by leave-one-out; here
all have the same repeated folds (the largest N of Step Law once), and all are given the same
columns. Step Law has one rule for the warm-up, Marin few values, so R is judged beyond its design.
The rule by peak LR finds every divergent run of pocket, because the grid's highest LR is far above
what is stable.""",
    "13": """
Three families at equal size, budget, peak LR and warm-up; all laws are fitted to linear schedules
alone. Laws that know nothing of schedules choose by lot, and so does a Gaussian process that has
not seen its schedule inputs vary. The paper's row counts five groups at one peak LR each, ours five
groups at three. In the paper constant + linear is best in every group; here in most.""",
}
"""What is shown, and why our figures differ from the paper's."""
