"""Run tables: reading, rules, faults, stages, and pools of runs that could be made."""

from bayes_optlaws.runs.faults import RunTableError, RunTableWarning
from bayes_optlaws.runs.readers import read_candidates, read_runs

__all__ = ["RunTableError", "RunTableWarning", "read_candidates", "read_runs"]
