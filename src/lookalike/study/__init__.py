"""The studies: the project's central experiments, each a module that says what is run and what is told.

A study has `ABOUT` (its question), `arms(plan)` (what is trained, and how it is looked at) and
`sections(results, plan)` (what the report says).
"""

from lookalike.study.conducting import STUDIES, Plan, study

__all__ = ["STUDIES", "Plan", "study"]
