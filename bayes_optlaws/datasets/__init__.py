"""Tables of training runs: shipped ones, and public ones that are found or downloaded."""

from bayes_optlaws.datasets.catalog import available, describe, load, load_curves
from bayes_optlaws.datasets.records import Dataset

__all__ = ["Dataset", "available", "describe", "load", "load_curves"]
