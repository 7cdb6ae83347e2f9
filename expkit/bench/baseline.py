"""A report beside one kept from before: which stages have become slower, and how sure that is.

Only ratios are compared, a stage's rows per second by its limit's in the same run: a machine shared with others is
half as fast at one hour as at another, and both sides of a ratio with it. What does not hold still even so is left
out and listed; what looks too slow is measured again before it counts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from expkit.bench.measure import Spread
from expkit.bench.results import Report, Result

# Half of the 95% interval, as a part of the median: beyond it two medians say nothing about each other.
WIDE = 0.2
# Measurements of a stage that looks too slow: what a neighbour on the machine did to one of them it hardly does to all.
TRIES = 3


class Change(msgspec.Struct):
    """A stage now and then.

    slower        1 - ratio now / ratio then: 0.4 is 40% slower, below 0 is faster
    slower_least  in the best case that both intervals allow, `slower_most` in the worst
    tries         measurements now, of which the best counts
    failed        slower than is allowed
    sure          best and worst case are on the same side of what is allowed: of no change where nothing is asked
    """

    key: str
    ratio: Spread
    baseline: Spread
    slower: float
    slower_least: float
    slower_most: float
    tries: int
    failed: bool
    sure: bool

    @property
    def moved(self) -> bool:
        """Slower or faster than then, whatever the intervals allow."""
        return self.slower_least > 0 or self.slower_most < 0


class LeftOut(msgspec.Struct):
    """A stage that is not judged, and why."""

    key: str
    reason: str


class Comparison(msgspec.Struct):
    """What came of a comparison.

    ok           no stage failed
    fail_slower  the part by which a stage may be slower, null where nothing fails
    left_out     in both reports, not judged
    new, gone    in one report only: keys
    warnings     in words
    """

    ok: bool
    baseline_created: str
    baseline_suite: str
    fail_slower: float | None
    changes: list[Change] = []
    left_out: list[LeftOut] = []
    new: list[str] = []
    gone: list[str] = []
    warnings: list[str] = []

    @property
    def failed(self) -> list[Change]:
        return [one for one in self.changes if one.failed]


def compare(
    report: Report, baseline: Report, fail_slower: float | None, remeasure: Callable[[str], Result]
) -> Comparison:
    """Judge the ratios of `report` by those of `baseline`.

    fail_slower  0..1: a stage fails that is slower by more; None lets none fail
    remeasure    measures the stage of a key once more; called for those that look too slow
    """
    out = Comparison(True, baseline.created, baseline.suite, fail_slower)
    for now in report.stages:
        then = baseline.find(now.key)
        if then is None:
            out.new.append(now.key)
        elif reason := _why_not(now, then, fail_slower or 0.0):
            out.left_out.append(LeftOut(now.key, reason))
        else:
            out.changes.append(_judge(now, then, fail_slower, remeasure))
    out.gone = [then.key for then in baseline.stages if report.find(then.key) is None]
    out.ok = not out.failed
    mine, other = report.machine.fingerprint, baseline.machine.fingerprint
    if mine != other:
        out.warnings.append(f"the baseline is of another machine, {other}: part of a change may be due to that")
    return out


def only_of(baseline: Report, measured: Collection[str], registered: Collection[str]) -> Report:
    """The baseline without stages that still exist and merely were not asked for this time, so that they do not count
    as gone. All three speak of keys."""
    kept = [one for one in baseline.stages if one.key in measured or one.key not in registered]
    return msgspec.structs.replace(baseline, stages=kept)


def _why_not(now: Result, then: Result, allowed: float) -> str:
    """Why a stage cannot be judged, "" where it can."""
    if now.ratio is None or then.ratio is None or then.ratio.low <= 0:
        return "nothing stands beside it"
    if now.limit != then.limit:
        return f"beside {now.limit} now, beside {then.limit} then"
    if now.clock != then.clock:
        return f"by {now.clock} time now, by {then.clock} time then"
    if not (now.steady and then.steady):
        return "threads or the disk decide"
    # Slow beyond all doubt is judged, however much it varies.
    if _slower_least(now.ratio, then.ratio) > allowed:
        return ""
    if now.ratio.width > WIDE:
        return f"not steady here (±{now.ratio.width:.0%})"
    if then.ratio.width > WIDE:
        return f"not steady then (±{then.ratio.width:.0%})"
    return ""


def _judge(now: Result, then: Result, allowed: float | None, remeasure: Callable[[str], Result]) -> Change:
    assert now.ratio is not None
    assert then.ratio is not None
    best, was, tries = now.ratio, then.ratio, 1
    while allowed is not None and 1 - best.median / was.median > allowed and tries < TRIES:
        again = remeasure(now.key).ratio
        tries += 1
        if again is not None and again.median > best.median:
            best = again
    slower, least, most = 1 - best.median / was.median, _slower_least(best, was), 1 - best.low / was.high
    asked = allowed or 0.0
    return Change(
        key=now.key,
        ratio=best,
        baseline=was,
        slower=slower,
        slower_least=least,
        slower_most=most,
        tries=tries,
        failed=allowed is not None and slower > allowed,
        sure=(least > asked) == (most > asked),
    )


def _slower_least(now: Spread, then: Spread) -> float:
    return 1 - now.high / then.low
