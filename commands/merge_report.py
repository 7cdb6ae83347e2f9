"""What `merge` and `rewrite` share: open the inputs, do it with progress, say what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from expkit.commands import output
from expkit.commands.options import input_runs
from expkit.system.units import format_number, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from expkit.rewrite.change import Change
    from expkit.rewrite.merge import Choice, Merged, MergePlan
    from expkit.rewrite.revalue import ColumnChange
    from expkit.rewrite.sources import Sources
    from expkit.row.episodes import Episode


def merge_runs(
    verb: str,
    given: list[str],
    out: Path,
    choice: Choice,
    change: Change | None = None,
    *,
    partial: bool,
    dry_run: bool,
    force: bool,
    json: bool,
) -> None:
    """Do it, print the result, exit."""
    from expkit.commands.whole_output import whole_output
    from expkit.rewrite.merge import merge, plan_merge
    from expkit.rewrite.new_folder import check_free
    from expkit.rewrite.sources import Sources, describe_changes

    paths = input_runs(given, out)
    check_free(out, force=force)
    with Sources(paths, change, partial=partial) as sources:
        schema = choice.schema(sources.schema)
        plan = plan_merge(sources, choice)
        if dry_run:
            rewards = _reward_changes(sources, plan, choice)
            _tell_plan(verb, out, plan, describe_changes(sources, schema), rewards, json)
            return
        with whole_output(verb, f"writing {out}", plan.rows) as asking:
            result = merge(sources, plan, out, choice, force=force, on_rows=asking.on_rows, stop=asking.stop)
    if json:
        output.write_json(_as_json(verb, result))
    else:
        _tell(result)


def _reward_changes(sources: Sources, plan: MergePlan, choice: Choice) -> list[ColumnChange]:
    """What the rewards that are asked for would change, in all episodes that would be taken."""
    from expkit.commands.progress import Progress
    from expkit.rewrite.revalue import Revaluation, changes, unknown_note

    if not choice.rewards:
        return []
    revaluation = Revaluation(sources, choice.rewards)
    taken = [episode for part in plan.parts for episode in part.taken]
    how = "playing episodes again" if revaluation.plays_again else "computing rewards"
    with Progress(how, unit="episodes") as progress:

        def one_by_one() -> Iterator[tuple[int, Episode]]:
            for done, episode in enumerate(taken, 1):
                yield episode
                progress.update(done, len(taken))

        found = changes(revaluation, sources, one_by_one())
    if revaluation.unknown:
        plan.notes.append(unknown_note(revaluation.unknown))
    return found


def _tell_plan(
    verb: str, out: Path, plan: MergePlan, changes: list[dict[str, Any]], rewards: list[ColumnChange], json: bool
) -> None:
    from expkit.rewrite.merge import describe_plan

    if json:
        told = {**describe_plan(plan), "changes": changes}
        if rewards:
            from expkit.commands.reward_report import changes_as_json

            told["rewards"] = changes_as_json(rewards)
        output.write_json({"schema": f"expkit.{verb}/1", "output": out, "dry_run": True, **told})
        return
    filtered = sum(sum(part.filtered.values()) for part in plan.parts)
    output.line(
        (str(out), "bold"),
        f": would write at most {plan.rows:,} rows of {plan.episodes:,} episodes, {format_size(plan.bytes)}, "
        "all of it new on the disk",
        *([f"; {filtered:,} rows are left out without a look"] if filtered else []),
    )
    _tell_more(plan.duplicates, plan.notes)
    for part in plan.parts:
        if part.name:
            output.line(f"{part.name}: {part.rows:,} rows of {len(part.taken):,} episodes", indent=2)
    for change in changes:
        sizes = change["row_bytes"]
        output.line(
            (change["run"], "bold"), f": a row of {sizes['from']:,} B becomes {sizes['to']:,} B before compression"
        )
        for field in change["fields"]:
            output.line(f"{field['name']}: {field['from'] or 'new'} -> {field['to'] or 'gone'}", indent=2)
    if rewards:
        from expkit.commands.reward_report import show_changes

        show_changes(rewards)


def _tell(done: Merged) -> None:
    for part in done.parts:
        left_out = f", {part.filtered:,} rows filtered" if part.filtered else ""
        left_out += f", {part.emptied:,} episodes without any left" if part.emptied else ""
        output.line(
            (str(part.path), "bold"),
            f": {part.rows:,} rows of {part.episodes:,} episodes{left_out} · {format_size(part.bytes)} in "
            f"{format_number(part.shards, 'shard')}, validated",
        )
    _tell_more(done.duplicates, done.notes)
    if done.odd_values:
        output.note(f"{done.odd_values:,} findings about values, as in the inputs; see expkit validate", "yellow")
    output.hint(f"expkit inspect {output.quoted(done.parts[0].path)}")


def _tell_more(duplicates: int, notes: list[str]) -> None:
    if duplicates:
        output.line(f"{duplicates:,} episodes were there already")
    for note in notes:
        output.note(note, "yellow")


def _as_json(verb: str, done: Merged) -> dict[str, Any]:
    return {
        "schema": f"expkit.{verb}/1",
        "output": done.out,
        "dry_run": False,
        "episodes": done.episodes,
        "rows": done.rows,
        "duplicates": done.duplicates,
        "rows_filtered": sum(part.filtered for part in done.parts),
        "bytes": sum(part.bytes for part in done.parts),
        "findings_about_values": done.odd_values,
        "parts": [
            {
                "name": part.name,
                "path": part.path,
                "rows": part.rows,
                "episodes": part.episodes,
                "rows_filtered": part.filtered,
                "episodes_emptied": part.emptied,
                "shards": part.shards,
                "bytes": part.bytes,
            }
            for part in done.parts
        ],
        "notes": done.notes,
    }
