"""The command line ``bayes-optlaws``."""
