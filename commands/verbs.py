"""The verbs of the command line: where each lives and the line that describes it. Imports nothing, so that
`expkit --help` costs little more than starting Python.

To add a verb: write `commands/NAME.py` with its function, whose docstring begins with the same line of help, and
an `EXAMPLES` tuple; then add one row here.
"""

from __future__ import annotations

from typing import NamedTuple


class Verb(NamedTuple):
    """One row of the table. `attribute` is a function, or a `typer.Typer` for a verb with verbs of its own."""

    name: str
    module: str
    attribute: str
    group: str
    help: str


VERBS: tuple[Verb, ...] = (
    Verb("record", "record", "record", "Record", "Play live games and record every player's experience into a run."),
    Verb("export", "export", "export", "Exchange", "Write rows for other tools: Parquet, NumPy, HDF5, Minari, CSV."),
    Verb("import", "import_", "import_", "Exchange", "Import recordings of other programs, and exports, into a run."),
    Verb("list", "list_", "list_", "Look", "The runs under a folder: state, episodes, rows, age, size."),
    Verb("inspect", "inspect_", "inspect_", "Look", "What is in runs, a shard, an episode or a row."),
    Verb("query", "query", "query", "Look", "Rows by a condition, or SQL over one or many runs."),
    Verb("replay", "replay", "replay", "Look", "Watch an episode again, or prove that it plays out the same."),
    Verb("diff", "diff", "diff", "Look", "Whether two runs hold the same, or where they differ first."),
    Verb("validate", "validate", "validate", "Keep", "Check bytes, structure and ledger, then what the rows say."),
    Verb(
        "recover", "recover", "recover", "Keep", "Make a damaged or unfinished run valid again, and say what was lost."
    ),
    Verb("rotate", "rotate", "rotate", "Keep", "Make a recording process close and publish its active shard."),
    Verb("compact", "compact", "compact", "Change", "Rewrite small shards into few, recompressed, with proof."),
    Verb("merge", "merge", "merge", "Change", "Join runs into a new one; every episode keeps its origin."),
    Verb(
        "rewrite", "rewrite", "rewrite", "Change", "Write runs anew with other rows, columns, boards, rewards, parts."
    ),
    Verb("prune", "prune", "prune", "Change", "Take the oldest episodes out: by size, age, number, free space."),
    Verb("bench", "bench", "bench", "Measure", "How fast each part is here, beside the machine and other libraries."),
    Verb("config", "config", "app", "Set up", "Show, write and check settings."),
    Verb("help", "help", "help_", "Read", "Pages about one subject each, and the help of every verb."),
)

# Groups in the order of the root help; a group without verbs is left out.
GROUPS = ("Record", "Look", "Keep", "Change", "Exchange", "Measure", "Set up", "Read")

# Options every verb takes, before or after its name: (option, line of help).
COMMON_OPTIONS = (
    ("-q, --quiet", "No progress and no notes, only results and errors."),
    ("-v, --verbose", "Say more on stderr; -vv says everything."),
    ("--log-format [text|json]", "How log lines look."),
    ("--trust-code", "Import code (module:callable) that a run names, not only what you name."),
    ("--debug", "Show the traceback of an error."),
)
ROOT_OPTIONS = (
    *COMMON_OPTIONS,
    ("--version", "Show the version and exit."),
    ("--install-completion", "Install completion for the current shell."),
    ("--show-completion", "Show the completion script, to copy it or adapt the installation."),
    ("-h, --help", "Show this page and exit."),
)

ABOUT = "The flight recorder of self-play: records experience, keeps it whole, shows and exports it."
EXIT_CODES = (
    (0, "done"),
    (1, "failed"),
    (2, "usage: a bad option, no input, a glob that matches nothing"),
    (3, "finished, but rows were lost"),
    (4, "the check that was asked for failed"),
    (5, "a named run, shard, episode or row is not there"),
    (6, "busy or locked"),
    (7, "no space"),
    (129, "stopped by SIGHUP after finishing cleanly"),
    (130, "stopped by SIGINT after finishing cleanly"),
    (143, "stopped by SIGTERM after finishing cleanly"),
)


def find_verb(name: str) -> Verb | None:
    """The row of `name`, or None."""
    return next((verb for verb in VERBS if verb.name == name), None)


def root_help(color: bool = False) -> str:
    """The page of `expkit --help`; fits 80 columns. `color` makes headings bold."""

    def heading(text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if color else text

    lines = [f"{heading('Usage:')} expkit VERB [ARGS]...", "", f"  {ABOUT}"]
    for group in GROUPS:
        members = [verb for verb in VERBS if verb.group == group]
        if members:
            lines += ["", heading(group)]
            lines += [f"  {verb.name:<10}{verb.help}" for verb in members]
    lines += ["", heading("Options")]
    lines += [f"  {option:<26}{text}" for option, text in ROOT_OPTIONS]
    lines += ["", "See 'expkit VERB --help' for what a verb does, its options, and examples to run,"]
    lines += ["and 'expkit help' for pages about recording, training, questions and more."]
    return "\n".join(lines)
