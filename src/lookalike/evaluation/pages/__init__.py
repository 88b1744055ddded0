"""Pages and tables drawn from finished runs."""

from lookalike.evaluation.pages.compare import Comparison, compare, write_comparison
from lookalike.evaluation.pages.report import write_report, write_tables

__all__ = ["Comparison", "compare", "write_comparison", "write_report", "write_tables"]
