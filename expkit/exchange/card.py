"""The dataset card: what stands in README.md beside an export, for people and for the Hugging Face hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from expkit.formats.protocol import FolderFormat
from expkit.row.schema import Field
from expkit.system.units import format_size

if TYPE_CHECKING:
    from expkit.exchange.exported import Exported
    from expkit.exchange.plan import ExportPlan

_MOST_FILES = 100


def dataset_card(plan: ExportPlan, done: Exported, licence: str | None = None) -> str:
    """Markdown under a front matter in YAML: counts, schema, how episodes ended, origin, digests of all files."""
    head = plan.parts[0].head
    name = done.out.name.partition(".")[0] or done.out.name
    lines = ["---", yaml.safe_dump(_front_matter(plan, done, licence), sort_keys=False).rstrip(), "---", ""]
    lines += [f"# {name}", "", f"Self-play experience of {_plain(head.run['source'])}, exported by expkit.", ""]
    lines += ["| part | rows | steps | episodes |", "| --- | --: | --: | --: |"]
    for part in done.parts:
        steps = part.rows - part.last_rows
        lines.append(f"| {part.name or 'all'} | {part.rows:,} | {steps:,} | {part.episodes:,} |")
    size = sum(file.bytes for file in done.files)
    lines += [
        "",
        f"{len(done.files):,} files, {format_size(size)}. {_endings(plan)}",
        "",
        "## Columns",
        "",
        "| name | dtype | shape | belongs to | meaning |",
    ]
    lines += ["| --- | --- | --- | --- | --- |", *(_field_row(one) for one in head.schema.fields), ""]
    lines += [
        "Every row has its keys besides: `episode`, `player`, `step`, `policy`, `policy_version`, `time_ns`, "
        "`is_first`, `is_last`. Rows with `is_last` hold the final observation of an episode and nothing else.",
        "",
    ]
    lines += ["## Players and policies", ""]
    lines += [f"- player {at}: {_plain(one)}" for at, one in enumerate(head.players)]
    lines += [f"- policy {at}: {_plain(one['name'])}" for at, one in enumerate(head.run["policies"])]
    lines += ["", "## Origin", ""]
    for run in plan.sources.runs:
        lines.append(
            f"- run `{run.id}` of {_plain(run.info.source)}, {len(run):,} rows, seed {run.info.seed}, "
            f"configuration {run.info.config_digest or 'none'}"
        )
    for what in (plan.asked.where and f"rows for which `{plan.asked.where}`",):
        lines += [f"- {what}"] if what else []
    if done.losses:
        lines += ["", "## Not in it", "", *(f"- {one}" for one in done.losses)]
    lines += ["", "## Digests", "", "| file | bytes | SHA-256 |", "| --- | --: | --- |"]
    files = done.files
    base = done.out.parent if len(files) == 1 and files[0].path == done.out else done.out
    for file in files[:_MOST_FILES]:
        lines.append(f"| {file.path.relative_to(base)} | {file.bytes:,} | `{file.sha256}` |")
    if len(files) > _MOST_FILES:
        lines.append(f"| and {len(files) - _MOST_FILES:,} more | | |")
    return "\n".join(lines) + "\n"


def _front_matter(plan: ExportPlan, done: Exported, licence: str | None) -> dict[str, Any]:
    out: dict[str, Any] = {"pretty_name": done.out.name.partition(".")[0] or done.out.name}
    if licence is not None:
        out["license"] = licence
    out |= {"task_categories": ["reinforcement-learning"], "tags": ["reinforcement-learning", "self-play", "expkit"]}
    if isinstance(plan.format, FolderFormat) and plan.format.card is not None:
        out |= plan.format.card
    return out


def _endings(plan: ExportPlan) -> str:
    counts = {"terminated": 0, "truncated": 0, "interrupted": 0}
    for part in plan.parts:
        for record in part.head.episodes:
            counts[record.end.ended if record.end is not None else "interrupted"] += 1
    return "Episodes: " + ", ".join(f"{count:,} {how}" for how, count in counts.items()) + "."


def _field_row(one: Field) -> str:
    shape = "x".join(map(str, one.logical_shape)) or "scalar"
    unit = f" ({_plain(one.unit)})" if one.unit else ""
    meaning = _plain(one.meaning) + unit + (" (null where not given)" if one.nullable else "")
    return f"| `{one.name}` | {one.dtype} | {shape} | {one.belongs} | {meaning.strip()} |"


def _plain(text: str) -> str:
    """Text from data, so that it is no markup and stays in its cell."""
    shown = "".join(character if character.isprintable() else "�" for character in str(text))
    for mark in "\\`*_[]<>|#":
        shown = shown.replace(mark, f"\\{mark}")
    return shown
