"""Slow, obvious twins of reading: all rows of a run as Python sees them, one after the other."""

from __future__ import annotations

from itertools import groupby, pairwise

import numpy as np
from pipeline_runs import by_key, joined

from expkit.reading.run import Run

Rows = dict[str, np.ndarray]


def assert_same(left: Rows, right: Rows) -> None:
    assert left.keys() == right.keys()
    for name, values in left.items():
        np.testing.assert_array_equal(values, right[name], err_msg=name)
        assert values.dtype == right[name].dtype


def all_rows(run: Run, rows: str = "all") -> Rows:
    """Every row, by episode, player and step."""
    return by_key(joined(list(run.scan(rows=rows))))


def stretches(run: Run, rows: Rows) -> list[list[int]]:
    """The places in `rows` of those that follow each other without a gap: a gap is a jump of steps in an episode of
    which the end record says that there were more rows."""
    out = []
    keys = zip(rows["episode"].tolist(), rows["player"].tolist(), range(len(rows["step"])), strict=True)
    for (episode, player), group in groupby(keys, key=lambda key: key[:2]):
        places = [place for *_, place in group]
        known = run.find_episode(episode)
        lacks = known.end.rows.get(str(player), 0) != known.rows[player]
        parts = [[places[0]]]
        for before, place in pairwise(places):
            if lacks and rows["step"][place] - rows["step"][before] > 1:
                parts.append([])
            parts[-1].append(place)
        out += parts
    return out


def with_next(run: Run, rows: Rows) -> Rows:
    """All rows with the observation that follows."""
    out = dict(rows)
    after = np.full(len(rows["step"]), -1)
    for places in stretches(run, rows):
        after[places[:-1]] = places[1:]
    for field in run.schema.fields:
        if field.belongs != "observation":
            continue
        values, valid = np.zeros_like(rows[field.name]), after >= 0
        values[valid] = rows[field.name][after[valid]]
        out[f"next_{field.name}"], out[f"valid:next_{field.name}"] = values, valid
    return out
