"""The typer application: verbs are imported when they are used, usage errors name the nearest right thing, and every
verb takes the common options before or after its name."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
import typer.core
import typer.main

from expkit.commands import session
from expkit.commands.verbs import VERBS, Verb, find_verb, root_help
from expkit.errors import UsageError
from expkit.system import trust
from expkit.system.units import parse_count
from expkit.system.version import __version__

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_COMMON = "Common options"
_DIGITS = re.compile(r"[+-]?[0-9]{1,400}")
_TAKES_STREAMS = {("query", "out")}


def _set_quiet(value: bool) -> bool:
    session.current().quiet |= value
    return value


def _set_verbosity(value: int) -> int:
    session.current().verbosity += value
    return value


def _set_log_format(value: str) -> str:
    if value not in ("text", "json"):
        raise typer.BadParameter(f"'{value}' is neither text nor json")
    if value != "text":
        session.current().log_format = value
    return value


def _set_debug(value: bool) -> bool:
    session.current().debug |= value
    return value


def _show_version(value: bool) -> None:
    if value:
        print(f"expkit {__version__}")
        raise typer.Exit


Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", callback=_set_quiet, help="No progress and no notes.", rich_help_panel=_COMMON)
]
Verbose = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        callback=_set_verbosity,
        help="Say more; -vv says all.",
        rich_help_panel=_COMMON,
        show_default=False,
    ),
]
LogFormat = Annotated[
    str,
    typer.Option(
        "--log-format", metavar="text|json", callback=_set_log_format, help="Log lines.", rich_help_panel=_COMMON
    ),
]
TrustCode = Annotated[bool, typer.Option(trust.OPTION, help="Import code that a run names.", rich_help_panel=_COMMON)]
Debug = Annotated[
    bool, typer.Option("--debug", callback=_set_debug, help="Traceback of an error.", rich_help_panel=_COMMON)
]


def _common(
    quiet: Quiet = False,
    verbose: Verbose = 0,
    log_format: LogFormat = "text",
    debug: Debug = False,
    trust_code: TrustCode = False,
) -> None:
    """Carries the options that are added to every verb."""


def _common_parameters() -> list[Any]:
    carrier = typer.Typer(add_completion=False)
    carrier.command()(_common)
    parameters = list(typer.main.get_command(carrier).params)
    for parameter in parameters:
        parameter.expose_value = False
    return parameters


def _take_counts(verb: Callable[..., Any]) -> None:
    """Let the options of a verb that take a whole number take `1e6` and `1M`, too, and say what is no such number."""
    hints = get_type_hints(verb, include_extras=True)
    for hint in hints.values():
        kind, *told = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        for option in told:
            if int in (kind, *get_args(kind)) and option.parser is None:
                option.parser = _count(option.min, option.max)
                option.min = option.max = None
    verb.__annotations__ = hints  # which would be made anew of their text


def _count(least: float | None, most: float | None) -> Callable[[Any], int]:
    def parse(given: Any) -> int:
        try:
            number = int(given) if _DIGITS.fullmatch(str(given)) else parse_count(given)
        except UsageError as error:
            raise typer.BadParameter(str(error)) from None
        if (least is not None and number < least) or (most is not None and number > most):
            bounds = f"at least {least}" if most is None else f"from {least} to {most}"
            raise typer.BadParameter(f"{number} is not {bounds}")
        return number

    return parse


def _refuse_streams(context: Any) -> None:
    """`-` is a stream to whoever gives it, and would be a file of that name. Raises UsageError."""
    for parameter in context.command.params:
        taken = (context.command.name, parameter.name) in _TAKES_STREAMS
        if context.params.get(parameter.name) == Path("-") and not taken:
            option = parameter.opts[-1] if parameter.param_type_name == "option" else parameter.metavar
            where = "files and folders alone; one that is called - needs its whole path"
            raise UsageError(f"{option} -: {context.command_path} takes no stream here, but {where}")


class VerbCommand(typer.core.TyperCommand):
    """A verb. Its help ends with the examples of its module."""

    examples: tuple[tuple[str, str], ...] = ()

    def invoke(self, ctx: Any) -> Any:
        from expkit.system import logs

        now = session.current()
        logs.set_up(now.verbosity, now.log_format, now.quiet)
        _refuse_streams(ctx)
        return super().invoke(ctx)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """As typer gives them, but `RUN` and `PATH...` where it has `{RUN}` and `{PATH}...`: braces are what a reader
        of other manuals takes for a choice."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        parts: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": [], _COMMON: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                common = getattr(parameter, "rich_help_panel", None) == _COMMON or "--help" in parameter.opts
                part = "Arguments" if parameter.param_type_name == "argument" else _COMMON if common else "Options"
                parts[part].append(record)
        for part, records in parts.items():
            if records:
                with formatter.section(part):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        if not self.examples:
            return
        with formatter.section("Examples"):
            for line, meaning in self.examples:
                formatter.write(f"{'':{formatter.current_indent}}# {meaning}\n")
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")


class VerbGroup(typer.core.TyperGroup):
    """A verb with verbs of its own, such as config. Alone it shows its help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and self.name and not ctx.resilient_parsing:
            print(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        command = self.get_command(ctx, args[0]) if args and not args[0].startswith("-") else True
        if command is None:
            known = self.list_commands(ctx)
            near = difflib.get_close_matches(args[0], known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}? " if near else ""
            ctx.fail(f"there is no {ctx.command_path} {args[0]}; {hint}it has {', '.join(known)}")
        return super().resolve_command(ctx, args)


class LazyRoot(VerbGroup):
    """The root: knows its verbs from the table and imports the one that is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [verb.name for verb in VERBS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        verb = find_verb(cmd_name)
        return None if verb is None else load(verb)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(root_help() + "\n")

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Verbs by the table alone: completion imports none of them."""
        item = getattr(importlib.import_module(f"{_click_package()}.shell_completion"), "CompletionItem")  # noqa: B009
        verbs = [item(verb.name, help=verb.help) for verb in VERBS if verb.name.startswith(incomplete)]
        return verbs or super(typer.core.TyperGroup, self).shell_complete(ctx, incomplete)


def _click_package() -> str:
    """`typer._click`, or `click` for a typer that does not carry its own."""
    return typer.BadParameter.__module__.rsplit(".", 1)[0]


def load(verb: Verb) -> Any:
    """The click command of a verb, imported now."""
    module = importlib.import_module(f"expkit.commands.{verb.module}")
    target = getattr(module, verb.attribute)
    if isinstance(target, typer.Typer):
        target.info.cls = VerbGroup
        for registered in target.registered_commands:
            registered.cls = VerbCommand
            if registered.callback is not None:
                _take_counts(registered.callback)
        group: Any = typer.main.get_group(target)
        group.name, group.rich_markup_mode = verb.name, None
        group.context_settings = dict(CONTEXT)
        group.help = group.help or verb.help
        for name, member in group.commands.items():
            _finish(member, [line for line in _examples(module) if line[0].startswith(f"expkit {verb.name} {name}")])
        return group
    carrier = typer.Typer(add_completion=False, rich_markup_mode=None)
    _take_counts(target)
    carrier.command(verb.name, cls=VerbCommand, context_settings=CONTEXT)(target)
    command = typer.main.get_command(carrier)
    return _finish(command, _examples(module))


def _examples(module: ModuleType) -> list[tuple[str, str]]:
    return list(getattr(module, "EXAMPLES", ()))


def _finish(command: Any, examples: list[tuple[str, str]]) -> Any:
    command.examples = tuple(examples)
    command.rich_markup_mode = None
    command.context_settings = dict(CONTEXT)
    command.params.extend(_common_parameters())
    return command


def build() -> Any:
    """The root command."""
    app = typer.Typer(cls=LazyRoot, add_completion=True, rich_markup_mode=None, context_settings=CONTEXT)

    @app.callback(invoke_without_command=True)
    def root(
        context: typer.Context,
        quiet: Quiet = False,
        verbose: Verbose = 0,
        log_format: LogFormat = "text",
        debug: Debug = False,
        trust_code: TrustCode = False,
        version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_show_version)] = False,
    ) -> None:
        if context.invoked_subcommand is None:
            print(root_help())

    return typer.main.get_command(app)
