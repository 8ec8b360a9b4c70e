"""The baselines, one file each: a module of this package is the baseline of its name and defines `BASELINE`.

Nothing else has to be told of it: see `sat_peft.evaluation.registry`.
"""
