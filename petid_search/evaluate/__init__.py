"""How well a model tells the individuals of a folder apart: closed-set and open-set figures, a report and its plots."""

from petid_search.evaluate.evaluation import Evaluation, Result, evaluate
from petid_search.evaluate.figures import Figure
from petid_search.evaluate.report import write_report

__all__ = ["Evaluation", "Figure", "Result", "evaluate", "write_report"]
