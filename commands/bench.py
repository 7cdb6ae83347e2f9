"""`expkit bench`: how fast is each part on this machine, and has anything become slower?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expkit.commands import output, session
from expkit.commands.options import Json
from expkit.commands.signals import finish_first
from expkit.errors import UsageError
from expkit.system.units import format_number, parse_share

if TYPE_CHECKING:
    from expkit.bench.baseline import Comparison
    from expkit.bench.lab import Lab
    from expkit.bench.results import Report, Result
    from expkit.bench.stage import Stage, SuiteName
    from expkit.bench.suite import Progress

EXAMPLES = (
    ("expkit bench --list", "what there is to measure, beside what, and what it is to reach"),
    ("expkit bench --stage serialize/mask", "one stage; a part such as serialize or ring works, too"),
    ("expkit bench --stage serialize/mask --save-baseline bench.json", "and keep the figures"),
    ("expkit bench --stage serialize/mask --baseline bench.json --fail-slower 80%", "exit 4 if five times as slow"),
)

# What plays `--source`; a call that names no stage measures these.
PLAYING = ("game/step", "record/live")


def bench(
    suite: Annotated[
        str, typer.Option("--suite", metavar="quick|full", help="Two minutes, or all stages and twice the runs.")
    ] = "quick",
    baseline: Annotated[
        Path | None, typer.Option("--baseline", metavar="FILE", help="Compare ratios with those kept in FILE.")
    ] = None,
    save_baseline: Annotated[
        Path | None, typer.Option("--save-baseline", metavar="FILE", help="Keep the report in FILE, replacing it.")
    ] = None,
    fail_slower: Annotated[
        str | None,
        typer.Option(
            "--fail-slower", metavar="SHARE", help="Exit 4 if a ratio is lower by more, as 40%, in the best of three."
        ),
    ] = None,
    stage: Annotated[
        list[str] | None, typer.Option("--stage", metavar="NAME", help="Only this stage or part; may be repeated.")
    ] = None,
    workload: Annotated[
        list[str] | None, typer.Option("--workload", metavar="NAME", help="Only these rows; may be repeated.")
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            "--source", metavar="MODULE:MAKE_GAME", help="Play and record your own make_game(num_envs, seed)."
        ),
    ] = "",
    peers: Annotated[bool, typer.Option("--peers", help="Other libraries too, those that are installed.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="OUT", help="Draw the ratios: a PNG, SVG or PDF.")] = (
        None
    ),
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables.")] = False,
    readme: Annotated[
        Path | None,
        typer.Option("--readme", metavar="FILE", help="Put these tables between FILE's <!-- bench --> lines."),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option("--scale", metavar="ROWS", help="Instead: do cost and memory stay flat up to so many rows?"),
    ] = None,
    memory_profile: Annotated[
        Path | None,
        typer.Option("--memory-profile", metavar="FILE", help="Instead: where one stage's memory goes, by memray."),
    ] = None,
    list_only: Annotated[bool, typer.Option("--list", help="Only list the stages.")] = False,
    folder: Annotated[
        Path, typer.Option("--folder", metavar="DIR", help="Where files go that are measured and removed.")
    ] = Path("."),
    json: Json = False,
) -> None:
    """How fast each part is here, beside the machine and other libraries."""
    from expkit.bench.choice import only_workloads
    from expkit.bench.lab import Lab
    from expkit.bench.results import read_report, save_report
    from expkit.bench.stage import choose, load_stages
    from expkit.bench.suite import run_suite
    from expkit.commands import bench_report

    if suite not in ("quick", "full"):
        raise UsageError(f"--suite '{suite}' is not understood; use quick or full")
    if json and markdown:
        raise UsageError("--json and --markdown are two formats; leave one out")
    if scale is not None:
        from expkit.commands.bench_scale import run_scale
        from expkit.system.units import parse_count

        others = {"--stage": stage, "--workload": workload, "--source": source, "--peers": peers,
                  "--baseline": baseline, "--fail-slower": fail_slower, "--list": list_only}  # fmt: skip
        clash = next((name for name, given in others.items() if given), None)
        if clash is not None:
            raise UsageError(f"--scale measures its own series; leave out {clash}")
        _check_outputs(folder, save_baseline, plot, readme, "scale")
        run_scale(parse_count(scale), folder=folder, save=save_baseline, plot=plot, readme=readme, markdown=markdown,
                  json=json, showing=_showing)  # fmt: skip
    if fail_slower is not None and baseline is None:
        raise UsageError(f"--fail-slower {fail_slower} needs --baseline FILE; --save-baseline FILE makes one")
    allowed = None if fail_slower is None else parse_share(fail_slower)
    everything = load_stages()
    wanted = stage or (list(PLAYING) if source else [])
    named: SuiteName = "full" if suite == "full" else "quick"
    chosen = everything if list_only and not wanted else choose(everything, wanted, named)
    chosen = only_workloads(chosen, workload or [])
    if list_only:
        bench_report.print_list(chosen, json)
        return
    if memory_profile is not None:
        from expkit.commands.bench_memory import run_memory_profile

        _check_outputs(folder, memory_profile, None, None, "bench")
        run_memory_profile(chosen, memory_profile, folder, source, json)
        return
    before = None if baseline is None else read_report(baseline)
    _check_outputs(folder, save_baseline, plot, readme, "bench")
    if peers:
        _say_missing()
    count = sum(len(one.workloads) for one in chosen)
    title = f"bench {named} · {format_number(count, 'measurement')} · files in {folder}"
    with finish_first() as request, Lab(folder, source) as lab, _showing(title) as show:
        report = run_suite(lab, chosen, named, show, stop=lambda: bool(request))
        if peers and not request:
            _measure_peers(lab, report, named, show)
        compared = None if before is None or request else _compare(lab, report, before, allowed, everything)
    if save_baseline is not None and not request:
        save_report(report, save_baseline)
    _write(report, plot, readme)
    code = 4 if compared is not None and not compared.ok else 1 if report.failures else 0
    if json:
        output.write_json(bench_report.as_json(report, compared))
    elif markdown:
        from expkit.bench.table import markdown as tables

        output.raw(tables(report, session.current().command))
    else:
        bench_report.print_report(report, compared, source)
        bench_report.print_end(report, compared, baseline, save_baseline, code)
    raise typer.Exit(request.exit_code if request else code)


def _check_outputs(folder: Path, save_baseline: Path | None, plot: Path | None, readme: Path | None, part: str) -> None:
    """Whatever can go wrong with them goes wrong before minutes of measuring."""
    for option, given in (("--folder", folder / "-"), ("--save-baseline", save_baseline), ("--plot", plot)):
        if given is not None and not given.parent.is_dir():
            raise UsageError(f"{option}: there is no folder {given.parent}; make it first")
        if given is not None and given.is_dir():
            raise UsageError(f"{option}: {given} is a folder; name a file")
    if plot is not None:
        from expkit.bench.plot import check_plot

        check_plot(plot)
    if readme is not None:
        from expkit.bench.table import part_of

        part_of(readme, part)


@contextmanager
def _showing(title: str) -> Iterator[Progress]:
    from expkit.commands.progress import Progress

    with Progress(title, "measurements") as progress:
        yield lambda key, done, total: progress.update(done, total, fields=[key])


def _say_missing() -> None:
    """Which libraries will not be in the table, before it takes minutes to make."""
    from expkit.bench.peers.registry import find_peers

    missing = find_peers()[1]
    if missing:
        output.note(f"not installed: {', '.join(missing)}; install with: pip install 'expkit[peers]'")


def _measure_peers(lab: Lab, report: Report, suite: SuiteName, show: Progress) -> None:
    """At those stages of the report that others can do, too; the results go into it."""
    from expkit.bench.peers.registry import COMPARED, run_peers
    from expkit.bench.suite import effort_of

    names = [name for name in COMPARED if any(one.stage == name for one in report.stages)]
    if names:
        report.peers = run_peers(lab, report, effort_of(suite), names, show)


def _compare(
    lab: Lab, report: Report, before: Report, allowed: float | None, everything: Sequence[Stage]
) -> Comparison:
    """With the stages that were measured; one that looks too slow is measured again."""
    from expkit.bench.baseline import compare, only_of
    from expkit.bench.suite import effort_of, run_stage

    stages = {f"{one.name} {workload}".strip(): (one, workload) for one in everything for workload in one.workloads}

    def again(key: str) -> Result:
        return run_stage(lab, *stages[key], effort_of("full" if report.suite == "full" else "quick"))

    measured = {one.key for one in report.stages}
    return compare(report, only_of(before, measured, stages.keys()), allowed, again)


def _write(report: Report, plot: Path | None, readme: Path | None) -> None:
    if plot is not None:
        from expkit.bench.plot import plot as draw

        draw(report, plot)
    if readme is not None:
        from expkit.bench.table import markdown, replace_part

        replace_part(readme, markdown(report, session.current().command))
