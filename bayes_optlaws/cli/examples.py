"""What every help says: columns of a run table, exit codes, and one example of each command."""

COLUMNS = """\
columns of a run table, one row a finished run:
  run_id                 name, unique (made from the row's position when absent)
  n_params               parameters of the model
  tokens, batch_tokens   trained tokens, tokens per optimizer step (or give steps)
  peak_lr                highest learning rate
  warmup_steps           optimizer steps of linear warm-up, 0 for none
  schedule               linear, cosine, wsd, wsd-sqrt, polygon, constant
  cooldown_start_step    for wsd, wsd-sqrt and polygon: where the cooldown starts
  min_lr                 learning rate at the end, 0 when absent
  final_loss             nats per token
  diverged               true or false; final_loss may be empty where true
A candidate table is the same without final_loss and diverged. Other columns are kept.
"""


EXIT_CODES = """\
exit codes: 0 done, 1 input that cannot be used or leaves a question open (it is named with its
answer), 2 wrong call, 3 not converged"""

# How each command is called, and one example.
CALLS = {
    "demo": ("[-o DIR] [--report]", "--report"),
    "init": ("[DIR] [--force]", "my-sweep"),
    "check": (
        "RUNS.csv [-o CLEAN.csv] [options]",
        "wandb-export.csv --status crashed=diverged --cooldown 0.2 -o runs.csv",
    ),
    "candidates": (
        "[--base RUNS.csv] [--peak-lr LR ...] [options]",
        "--n-params 1.5B --tokens 30B --batch-tokens 1M --peak-lr 5e-4 1e-3 2e-3 "
        "--warmup 0.02 --schedule cosine wsd -o candidates.csv",
    ),
    "fit": ("RUNS.csv -o LAW.nc [options]", "runs.csv -o law.nc --seed 1"),
    "predict": ("LAW.nc CANDIDATES.csv [options]", "law.nc candidates.csv -o losses.csv"),
    "rank": ("LAW.nc CANDIDATES.csv [options]", "law.nc candidates.csv --figure ranking.png"),
    "design": (
        "LAW.nc --decide CANDIDATES.csv [options]",
        "law.nc --decide candidates.csv --n-runs 3 -o plan.csv",
    ),
    "report": (
        "LAW.nc [--candidates CANDIDATES.csv] [options]",
        "law.nc --candidates candidates.csv -o report.html",
    ),
    "allocate": (
        "LAW.nc --flops C [options]",
        "law.nc --flops 1e21 --figure isoflop.png",
    ),
    "watch": (
        "LAW.nc CURVE.csv --candidate RUN.csv [options]",
        "law.nc curve.csv --candidate plan.csv --run big-1 --others plan.csv",
    ),
    "explore": ("LAW.nc [--candidate RUN.csv] [options]", "law.nc -o explore.html"),
    "evaluate": ("RUNS.csv [options]", "runs.csv --protocol hold-out-largest-n -o metrics.csv"),
    "datasets": ("[NAME] [-o FILE.csv]", "pocket -o runs.csv"),
}
