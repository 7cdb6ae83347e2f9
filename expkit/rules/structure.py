"""Rules that are part of reading a run: bytes, folder, ledger, and which rows an episode has. What checks them stands
with what reads: `expkit.formats.shard.check`, and in `expkit.runs` folder_rules, episode_rules, file_checks, validate.
"""

from __future__ import annotations

from expkit.rules.rule import Rule, Severity

_TEXTS: dict[str, tuple[Severity, str]] = {
    "file/open": ("error", """A shard file is one, and can be opened.
        It does not begin as a shard file does, or its header and its copies are beyond reading. `expkit recover` takes
        out of it what can be found."""),
    "file/version": ("error", """A shard file has a format that this version reads.
        It was written by a later version of expkit, which its message names. Nothing is wrong with it: update."""),
    "file/header": ("error", """The header passes its checksum.
        What it says is also in the footer and in other shards, so that rows can be read all the same."""),
    "file/schema": ("error", """All shards of a run have the run's schema.
        A file of another run was put into its folder. Its rows are not judged; `expkit merge` joins runs."""),
    "file/trailer": ("error", """A closed file ends with its trailer.
        It was cut short, or its last bytes are damaged. `expkit recover` closes it again."""),
    "file/footer": ("error", """A published file has a footer.
        It was cut short or damaged at its end after it had been closed. `expkit recover` closes it again."""),
    "file/record": ("error", """Every record passes its checksum.
        Bytes of the file have changed since they were written. `expkit recover` keeps every other record."""),
    "file/tail": ("error", """Nothing unfinished stands at the end of a file.
        In a file that was published it was cut short. In the active file of a killed recorder, a warning, it is the
        block that was being written; of one that is alive, a note."""),
    "file/sequence": ("error", """Records are numbered without a gap.
        A record was taken out, or repeated."""),
    "file/block": ("error", """The head of every block can be read.
        Its rows cannot be read without it. `expkit recover` moves the block to quarantine/ and counts its rows."""),
    "file/checksum": ("error", """Every column of every block passes its checksum.
        Bytes have changed on the disk or on the way. The values are lost, the other columns are not."""),
    "file/column": ("error", """Every column can be decoded.
        Its bytes pass their checksum and do not give the values that the head promises."""),
    "file/index": ("error", """The index in the footer lists what is in the file.
        `expkit recover` writes it anew from the records."""),
    "file/order": ("error", """Rows of a block stand in the order that its head says.
        Whoever looks up an episode by the head would read the wrong rows."""),
    "file/statistics": ("error", """Smallest and largest values are those that the head says.
        Readers that skip blocks by them would leave out rows."""),
    "file/digest": ("error", """The digest of the rows is the one that was stored.
        Rows differ from those that were recorded although every checksum holds."""),
    "file/lost-values": ("warn", """No values were lost to earlier damage.
        A recovery could not read them and has kept the other columns of the rows."""),
    "file/stranger": ("error", """A shard belongs to the run that it lies in, under its own name.
        It was copied in from another run, or is a double of another shard; `expkit recover` sets it aside."""),
    "file/unknown-kind": ("info", """Every record is of a kind that this version knows.
        A later version has added to the file something that readers may skip."""),
    "file/unreadable": ("error", """The operating system lets us read the file.
        See the message for what it says."""),
    "run/description": ("error", """run.yaml is there, and passes its checksum.
        The shards' headers have a copy of what it says; `expkit recover` writes it anew."""),
    "run/unreadable": ("error", """A folder that is called a run can be opened as one.
        Neither run.yaml nor any header can be read."""),
    "run/manifest": ("warn", """manifest.json is what the files are.
        It is a cache of what they say, and is made again by the next that writes to the run."""),
    "run/shard-missing": ("error", """Every shard that the manifest lists is there.
        It was deleted or moved by hand; rewriting and pruning take it off the list."""),
    "run/unclosed": ("warn", """The recorder has closed the run.
        It was killed, or the machine stopped. `expkit recover` closes the run and says what was lost."""),
    "run/no-file": ("error", """Every file of the run is a file, and lies in it.
        A folder, a FIFO, a socket, a device or a link that leads out of the run is not opened, for it may wait forever,
        have no end, or show what was not given away. Move it away; `expkit recover` makes what is missing anew."""),
    "run/unknown-folder": ("warn", """Every folder of shards belongs to a writer or a generation.
        Nobody reads what lies in others."""),
    "run/unfinished": ("info", """No rewrite was left half done.
        Its files count for nothing, and go with the next one."""),
    "run/temporary": ("info", """No temporary files of a killed process are left.
        They can be deleted."""),
    "run/superseded": ("info", """No rows that no longer count take room on the disk.
        `expkit compact` frees it."""),
    "ledger/missing": ("warn", """The ledger is there.
        Without the file `counters` losses cannot be told."""),
    "ledger/damaged": ("error", """The ledger passes its checksum.
        `expkit recover` makes it anew from the files; what was dropped without a trace in them stays unknown."""),
    "ledger/durable": ("error", """Every row that was durable is in the files.
        A file that had been written is gone, or shorter than it was."""),
    "ledger/balance": ("error", """Of each player, produced = written + dropped + rejected + lost.
        In a closed run every row is accounted for. Rows that are not were lost silently; rows that are too many came
        from elsewhere."""),
    "ledger/lost": ("warn", """No row was lost when a recorder died.
        They were produced and not yet durable, as the ledger counts. When a recovery has told of them, a note."""),
    "episode/order": ("error", """Rows of a block are sorted by episode.
        Whoever reads an episode would miss some of its rows."""),
    "episode/steps": ("error", """The step rises within each episode and player.
        One that does not was recorded twice or is of another episode under the same number."""),
    "episode/first": ("error", """An episode has one first row for each player, and begins with it.
        `is_first` inside an episode is a reset that was not noticed: two episodes are glued together. Where rows were
        dropped, the beginning may be missing."""),
    "episode/last": ("error", """An episode that has ended has one last row for each player, and ends with it.
        It holds the final observation. Rows behind it are of another episode."""),
    "episode/policy": ("error", """Every row's policy is in the run's table.
        Without it nobody knows what played."""),
    "episode/start": ("error", """Every episode has a start record.
        It holds the seeds, without which the episode cannot be played again."""),
    "episode/rows": ("error", """An episode has as many rows as its end record says.
        Rows of it are missing, or are there twice, and the ledger does not say why."""),
    "episode/ended": ("error", """The last action does not say more of how it ended than the end record.
        A row that says truncated stands in an episode that is recorded as interrupted."""),
    "episode/open": ("warn", """Every episode has an end record.
        The others count as interrupted: of a killed run that is a note, in one that was closed a warning."""),
}  # fmt: skip

FAMILIES = {
    "file": "bytes of every shard",
    "run": "folder and manifest",
    "ledger": "the ledger against the files",
    "episode": "structure of episodes",
    "policy": "who played",
    "value": "meaning of values",
    "board": "what a player sees and may do",
    "reward": "rewards against the truth",
}


def _made(id: str, severity: Severity, text: str) -> Rule:
    return Rule(id, severity, "file", "\n".join(line.strip() for line in text.splitlines()))


STRUCTURE = tuple(_made(id, severity, text) for id, (severity, text) in _TEXTS.items())
