"""Rules about recorded experience: what each asks of the data, and the small function that looks.
Imports formats and all that stands below; none of the packages beside it.

`rule` turns a function into one, `load_rules` knows all of them, `choose_rules` takes those that are wanted with their
settings; `expkit.validation.validate` applies them to a run.
"""

from __future__ import annotations

from expkit.rules.rows import EpisodeRows, Rows, RunFacts
from expkit.rules.rule import Rule, Severity, Violation, rule

__all__ = ["EpisodeRows", "Rows", "Rule", "RunFacts", "Severity", "Violation", "rule"]
