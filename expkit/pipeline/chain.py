"""A chain of processors, bound to the schema of the rows it is to work on."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import numpy as np

from expkit.errors import SchemaError
from expkit.pipeline.kinds import Given, find_processor
from expkit.pipeline.processor import ColumnBatch, Options, Outcome, Processor
from expkit.row.schema import STANDARD_FIELDS, Field, Schema
from expkit.row.stretches import without


@dataclass(slots=True)
class Counts:
    """Rows that a chain has left out or repaired so far, over all threads.

    rejected, quarantined  by cause, like `nan in reward`: a row counts once; the two are apart
    repaired               by cause: a row counts under each
    filtered               left out for no fault
    """

    rejected: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    filtered: int = 0

    def add(self, other: Counts) -> None:
        self.rejected.update(other.rejected)
        self.quarantined.update(other.quarantined)
        self.repaired.update(other.repaired)
        self.filtered += other.filtered

    def as_dict(self) -> dict[str, dict[str, int] | int]:
        """As JSON values."""
        causes = {name: dict(sorted(getattr(self, name).items())) for name in ("rejected", "quarantined", "repaired")}
        return {**causes, "filtered": self.filtered}


class Processed(NamedTuple):
    """What came of a batch.

    batch        the rows that go on
    rows         int64 (rows that go on,): which of the rows given they are
    counts       what was left out or repaired of this batch
    quarantined  int64: which of the rows given are to be kept elsewhere
    """

    batch: ColumnBatch
    rows: np.ndarray
    counts: Counts
    quarantined: np.ndarray


@dataclass(frozen=True, slots=True)
class _Link:
    """A processor and what it does to its schema."""

    name: str
    processor: Processor
    reads: frozenset[str]
    gives: tuple[Field, ...]
    removes: frozenset[str]
    schema: Schema  # of what comes out


class Chain:
    """Processors one after another. Safe to share between threads; what it keeps are its `counts`.

    processors  each a kind (`"sanitize"`), a mapping of a kind and its options, or a processor
    schema      of the rows that it is given

    Raises ConfigError, UsageError for a link that is not understood, SchemaError where the rows lack what one needs.
    """

    def __init__(self, processors: Iterable[Given], schema: Schema):
        self.from_schema = schema
        self._links: list[_Link] = []
        for place, given in enumerate(processors, 1):
            self._links.append(_bind(*find_processor(given, f"pipeline, link {place}"), self.schema))
        self.counts = Counts()
        self._lock = threading.Lock()

    @property
    def schema(self) -> Schema:
        """Of the rows that come out."""
        return self._links[-1].schema if self._links else self.from_schema

    @property
    def names(self) -> list[str]:
        return [link.name for link in self._links]

    @property
    def whole_episodes(self) -> list[str]:
        """Names of the links that have to be given whole episodes."""
        return [link.name for link in self._links if link.processor.whole_episodes]

    def describe(self) -> list[str | dict[str, Any]]:
        """The links as a settings file would have them; of other people's processors no more than the name."""
        return [
            {"kind": link.name, **msgspec.to_builtins(link.processor)}
            if isinstance(link.processor, Options)
            else link.name
            for link in self._links
        ]

    @property
    def leaves_out(self) -> bool:
        """Whether rows may be left out."""
        return any(link.processor.leaves_out for link in self._links)

    def needs(self, wanted: Sequence[str] | None = None) -> list[str]:
        """Fields of `from_schema` that are needed for the `wanted` fields or groups of what comes out, all when left
        out; for none of them those that any link looks at or changes. Raises SchemaError for a name that is nothing."""
        names = {f.name for f in self.schema.fields} if wanted is None else set(self.schema.expand_names(wanted))
        for link in reversed(self._links):
            names -= {made.name for made in link.gives}
            names |= link.reads
        return [f.name for f in self.from_schema.fields if f.name in names]

    def altered(self) -> set[str]:
        """Fields of `schema` that are not as they were: made or changed by any link."""
        return {made.name for link in self._links for made in link.gives}

    def apply(self, batch: ColumnBatch) -> Processed:
        """Rows through all links; `batch` has at least the fields that are needed for what is wanted. Raises
        SchemaError for a processor that does not keep to what it declared, and what a processor raises."""
        rows, counts, put_aside = np.arange(len(batch)), Counts(), list[np.ndarray]()
        for link in self._links:
            outcome = link.processor.process(batch)
            if isinstance(outcome, Mapping):
                outcome = Outcome(outcome)
            _count(link, len(batch), outcome, counts)
            if outcome.aside is not None:
                put_aside.append(rows[outcome.aside])
            if outcome.keep is not None:
                rows = rows[outcome.keep]
            batch = _after(link, batch, outcome)
        with self._lock:
            self.counts.add(counts)
        return Processed(batch, rows, counts, np.concatenate(put_aside) if put_aside else rows[:0])


# What a caller may give where a pipeline is asked for.
Pipeline = Chain | Given | Iterable[Given]


def as_chain(pipeline: Pipeline, schema: Schema) -> Chain:
    """A chain for rows of `schema` from what a caller may give. Raises as `Chain`, SchemaError for a chain that was
    made for other rows."""
    if isinstance(pipeline, Chain):
        if pipeline.from_schema != schema:
            raise SchemaError("the pipeline was made for rows of another schema; make it with this run's schema")
        return pipeline
    if isinstance(pipeline, str | Mapping | Processor):
        pipeline = [pipeline]
    return Chain(pipeline, schema)


def _bind(name: str, processor: Processor, schema: Schema) -> _Link:
    declared = processor.declare(schema)
    reads = set(schema.expand_names(declared.reads))
    gives = [*declared.makes, *declared.changes]
    fields = {known.name: known for known in schema.fields}
    for made in declared.makes:
        if made.name in fields:
            raise SchemaError(f"{name}: there is a field {made.name} already; give what it makes another name")
    for changed in declared.changes:
        if changed.name not in fields:
            raise SchemaError(f"{name}: there is no field {changed.name} to change")
        if fields[changed.name].nullable != changed.nullable or fields[changed.name].belongs != changed.belongs:
            raise SchemaError(f"{name}: {changed.name} has to stay nullable or not, and belong to what it belonged to")
    reads |= {changed.name for changed in declared.changes}
    removed = set(declared.removes)
    if kept := removed & {standard.name for standard in STANDARD_FIELDS}:
        raise SchemaError(f"{name}: every row has {min(kept)}; it cannot be removed")
    # What is stored of a bool vector that stands for a longer one could not hold any vector of that length.
    gives = [msgspec.structs.replace(one, expand=None, shape=one.logical_shape) if one.expand else one for one in gives]
    fields |= {one.name: one for one in gives}
    after = Schema([one for one in fields.values() if one.name not in removed])
    return _Link(name, processor, frozenset(reads), tuple(gives), frozenset(removed), after)


def _count(link: _Link, rows: int, outcome: Outcome, counts: Counts) -> None:
    """Rows left out of a batch of `rows`: by cause where they have one, else filtered. Raises SchemaError for an
    outcome that contradicts itself: the ledger would not add up."""
    keep, aside = outcome.keep, outcome.aside
    for name, mask in (("keep", keep), ("aside", aside)):
        if mask is not None and (mask.dtype != bool or mask.shape != (rows,)):
            raise SchemaError(f"{link.name}: {name} is {mask.dtype} {mask.shape}; it has to be bool {(rows,)}")
    if keep is not None and not link.processor.leaves_out:
        raise SchemaError(f"{link.name}: leaves out rows, which it does not declare; it needs leaves_out")
    gone = 0 if keep is None else rows - int(np.count_nonzero(keep))
    quarantined = sum(outcome.quarantined.values())
    filtered = gone - sum(outcome.rejected.values()) - quarantined
    put_aside = 0 if aside is None else int(np.count_nonzero(aside if keep is None else aside & ~keep))
    if filtered < 0 or put_aside != quarantined or (aside is not None and np.count_nonzero(aside) != put_aside):
        raise SchemaError(
            f"{link.name}: counts {gone - filtered} rows as left out for a cause, but leaves out {gone} and puts aside "
            f"{put_aside}; rejected and quarantined count each row once, and aside marks the quarantined ones"
        )
    counts.rejected.update(outcome.rejected)
    counts.quarantined.update(outcome.quarantined)
    counts.repaired.update(outcome.repaired)
    counts.filtered += filtered


def _after(link: _Link, batch: ColumnBatch, outcome: Outcome) -> ColumnBatch:
    """The batch with the columns made and changed, without those removed and the rows left out. Raises SchemaError."""
    columns = {n: v for n, v in batch.columns.items() if n.removeprefix("valid:") not in link.removes}
    given = {name for name in outcome.columns if not name.startswith("valid:")}
    declared = {made.name for made in link.gives}
    if given != declared:
        odd = min(given ^ declared)
        what = "was not declared" if odd in given else "was declared and is not given"
        raise SchemaError(f"{link.name}: the column {odd} {what}")
    for made in link.gives:
        columns |= _checked(link, made, batch, outcome.columns)
    keep, stretch = outcome.keep, batch.stretch
    if keep is not None and not keep.all():
        if stretch is not None:
            stretch = without(stretch, batch["episode"], batch["player"], batch["step"], keep)
        columns = {name: values[keep] for name, values in columns.items()}
    return ColumnBatch(link.schema, columns, stretch)


def _checked(link: _Link, made: Field, batch: ColumnBatch, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A column that a processor gave, of the dtype and shape declared, and zero where there is no value."""
    values, shape = np.asarray(columns[made.name]), (len(batch), *made.shape)
    if values.shape != shape:
        raise SchemaError(f"{link.name}: {made.name} has shape {values.shape}; declared is {shape}")
    if values.dtype != made.numpy_dtype:
        values = link.schema.unpack(made.name, link.schema.pack(made.name, values, len(batch)))
    there = np.ones(len(batch), bool) if made.belongs == "observation" else ~batch["is_last"]
    out = {}
    if made.nullable:
        valid = columns.get(f"valid:{made.name}")
        there = there if valid is None else there & valid
        out[f"valid:{made.name}"] = there
    if not there.all() and values[~there].any():
        values = values.copy()
        values[~there] = 0
    return {made.name: values, **out}
