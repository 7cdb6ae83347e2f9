"""Recorded runs and what can be wrong with them: copies that are tampered with and written anew by the library."""

import os
import subprocess
import sys

import msgspec
import numpy as np
from patience import PATIENCE

from expkit import open_run
from expkit.formats.shard.encode import BlockEncoder
from expkit.rules.registry import choose_rules
from expkit.runs.layout import RunInfo
from expkit.runs.write import RunWriter, create_run
from expkit.validation.validate import validate_run


def record(path, *options):
    """A run of real self-play, by the program itself."""
    words = [sys.executable, "-m", "expkit.commands", "record", "-o", str(path), *map(str, options), "-q"]
    subprocess.run(words, check=True, capture_output=True, env={**os.environ, "EXPKIT_MIN_FREE": "0"}, timeout=PATIENCE)
    return path


def record_both(folder):
    """raw: two players, 30 games of 8x8; state: 12 games of three players with the true boards."""
    record(folder / "raw", "--size", "8x8", "--max-steps", 150, "--episodes", 30, "--num-envs", 8, "--seed", 5)
    record(
        folder / "state", "--size", "8x8", "--players", 3, "--max-steps", 150, "--episodes", 12, "--seed", 5, "--state",
    )  # fmt: skip
    return folder


def findings(path, rules="all", settings=None, totals=None):
    """What validation finds."""
    with open_run(path) as run:
        return list(validate_run(run, rules=choose_rules(rules, settings or {}), totals=totals))


def described_again(info):
    """The description of a run, to begin another with."""
    return RunInfo(
        id="y", source=info.source, schema=info.schema, players=info.players, policies=info.policies,
        metadata=info.metadata, seed=info.seed,
    )  # fmt: skip


class Copy:
    """All that a run holds, to be changed and written anew. `rows` by player: stored columns, sorted."""

    def __init__(self, path):
        with open_run(path) as run:
            self.info = run.info
            self.episodes = run.episodes()
            parts = {}
            for block in run.blocks():
                parts.setdefault(block.info.player, []).append(block.read())
        self.rows = {}
        for player, listed in sorted(parts.items()):
            joined = {name: np.concatenate([part[name] for part in listed]) for name in listed[0]}
            order = np.lexsort((joined["step"], joined["episode"]))
            self.rows[player] = {name: values[order] for name, values in joined.items()}
        self.starts = {one.number: one.start for one in self.episodes}
        self.ends = {one.number: one.end for one in self.episodes}

    def at(self, episode, player, step):
        rows = self.rows[player]
        (place,) = np.flatnonzero((rows["episode"] == episode) & (rows["step"] == step))
        return int(place)

    def drop(self, player, keep):
        """Only rows `keep` of a player; its end records count them, so that nothing but the rows tells."""
        self.rows[player] = {name: values[keep] for name, values in self.rows[player].items()}
        numbers, counts = np.unique(self.rows[player]["episode"], return_counts=True)
        have = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
        for number, end in self.ends.items():
            rows = {**end.rows, str(player): have.get(number, 0)}
            self.ends[number] = msgspec.structs.replace(end, rows=rows)

    def write(self, path, block_rows=97):
        """In blocks that cut episodes anywhere."""
        schema = self.info.schema
        create_run(path, described_again(self.info))
        writer = RunWriter(path, schema, len(self.info.players))
        encoder = BlockEncoder(schema)
        writer.append_episodes([start for start in self.starts.values() if start is not None], [])
        for player, rows in self.rows.items():
            count = len(rows["episode"])
            writer.ledger.produced[player] += count
            for at in range(0, count, block_rows):
                part = {name: np.ascontiguousarray(values[at : at + block_rows]) for name, values in rows.items()}
                writer.append(encoder.encode(player, part, len(part["episode"])))
        writer.append_episodes([], [end for end in self.ends.values() if end is not None])
        writer.close()
        return path


def bits(values, place, bit):
    values[place, bit >> 3] ^= 1 << (bit & 7)


def reward_off(copy):
    copy.rows[1]["reward"][copy.at(3, 1, 20)] = 0.5
    return 3, 1, 20


def paid_otherwise(copy):
    for number, end in copy.ends.items():
        sums = {p: float(rows["reward"][rows["episode"] == number].sum()) for p, rows in copy.rows.items()}
        sums[1] += number == 3
        told = {"paid": {str(p): value for p, value in sums.items()}}
        copy.ends[number] = msgspec.structs.replace(end, metadata=told)
    return 3, 1, None


def owner_gone(copy):
    """The loser's tiles vanish from the true board, long before it loses."""
    rows = copy.rows[0]
    board = rows["state/owner"][copy.at(2, 0, 11)]
    board[board == 0] = -1
    return 2, 0, 10


def gap(copy):
    at = copy.at(4, 0, 30)
    copy.drop(0, np.arange(len(copy.rows[0]["step"])) != at)
    return 4, 0, 31


def gap_at_a_seam(copy):
    """The row that begins a block of 97."""
    rows = copy.rows[0]
    episode, step = int(rows["episode"][97]), int(rows["step"][97])
    assert rows["episode"][96] == episode == rows["episode"][98]
    copy.drop(0, np.arange(len(rows["step"])) != 97)
    return episode, 0, step + 1


def acts_after_the_end(copy):
    copy.rows[0]["truncated"][copy.at(5, 0, 9)] = True
    return 5, 0, 10


def version_back(copy):
    mine = copy.rows[1]["episode"] == 6
    copy.rows[1]["policy_version"][mine] = 9
    copy.rows[1]["policy_version"][copy.at(6, 1, 12)] = 8
    return 6, 1, 12


def started_again(copy):
    """All games that began in the second half of the time have version 2, those before 5."""
    times = {number: start.time_ns for number, start in copy.starts.items()}
    middle = sorted(times.values())[len(times) // 2]
    for rows in copy.rows.values():
        for number, time in times.items():
            rows["policy_version"][rows["episode"] == number] = 5 if time < middle else 2
    mine = copy.rows[0]
    firsts = [(int(mine["time_ns"][copy.at(number, 0, 0)]), number) for number, time in times.items() if time >= middle]
    return min(firsts)[1], 0, None


def mask_bit(copy):
    rows = copy.rows[0]
    at = copy.at(7, 0, 15)
    # A move that the player did not make, so that its action stays legal.
    legal = np.flatnonzero(np.unpackbits(rows["action_mask"][at], bitorder="little"))
    bit = next(bit for bit in legal.tolist() if bit != rows["action"][at] % 256)
    bits(rows["action_mask"], at, bit)
    return 7, 0, 15


def mask_bit_too_many(copy):
    rows = copy.rows[1]
    at = copy.at(7, 1, 16)
    bits(rows["action_mask"], at, next(b for b in range(256) if not rows["action_mask"][at, b >> 3] >> (b & 7) & 1))
    return 7, 1, 16


def army_in_fog(copy):
    at = copy.at(8, 1, 10)
    rows = copy.rows[1]
    rows["observation/army"][at, int(np.flatnonzero(rows["observation/owner"][at] == -2)[0])] = 3
    return 8, 1, 10


def too_far_sighted(copy):
    at = copy.at(8, 0, 10)
    tile = int(np.flatnonzero(copy.rows[0]["observation/owner"][at] == -2)[0])
    bits(copy.rows[0]["observation/visible"], at, tile)
    return 8, 0, 10


def landless(copy):
    copy.rows[0]["observation/total_land"][copy.at(9, 0, 5), 0] = 0
    return 9, 0, 5


def swapped_outcome(copy):
    number = next(number for number, end in copy.ends.items() if end.ended == "terminated")
    end = copy.ends[number]
    copy.ends[number] = msgspec.structs.replace(end, outcome={p: -o for p, o in end.outcome.items()})
    winner = next(int(p) for p, o in end.outcome.items() if o == -1)
    return number, winner, end.length


def loser_goes_on(copy):
    number = next(number for number, end in copy.ends.items() if end.ended == "terminated")
    end = copy.ends[number]
    loser = next(int(p) for p, o in end.outcome.items() if o == -1)
    copy.rows[loser]["terminated"][copy.at(number, loser, end.length - 1)] = False
    return number, loser, end.length


def another_length(copy):
    copy.ends[10] = msgspec.structs.replace(copy.ends[10], length=copy.ends[10].length + 3)
    return 10, None, None


def frozen(copy):
    for name, values in copy.rows[0].items():
        if name.startswith(("observation/", "action_mask")):
            values[copy.at(11, 0, 3) : copy.at(11, 0, 3) + 97] = values[copy.at(11, 0, 3)]
    return 11, 0, None


def constant(copy):
    for rows in copy.rows.values():
        rows["observation/total_army"][:] = 7
    return None, None, None


def always_passes(copy):
    for rows in copy.rows.values():
        rows["action"][np.arange(len(rows["action"])) % 100 != 0] = 8 * 64
    return None, None, None


def twice(copy):
    """Episode 12 again, as episode 40."""
    for player, rows in copy.rows.items():
        mine = rows["episode"] == 12
        again = {name: values[mine].copy() for name, values in rows.items()}
        again["episode"][:] = 40
        again["time_ns"] += 1_000_000
        copy.rows[player] = {name: np.concatenate([rows[name], again[name]]) for name in rows}
    copy.starts[40] = msgspec.structs.replace(copy.starts[12], episode=40)
    copy.ends[40] = msgspec.structs.replace(copy.ends[12], episode=40)
    return 40, None, None


def one_short(copy):
    """Episode 13 is a single step, as its end record says."""
    for player in copy.rows:
        rows = copy.rows[player]
        last = int(np.flatnonzero((rows["episode"] == 13) & (rows["is_last"] != 0))[0])
        rows["step"][last] = 1
        copy.drop(player, (rows["episode"] != 13) | (rows["step"] == 0) | (rows["is_last"] != 0))
        copy.rows[player]["terminated"][copy.at(13, player, 0)] = True
    copy.ends[13] = msgspec.structs.replace(copy.ends[13], length=1)
    return 13, None, None


def not_a_number(copy):
    copy.rows[0]["reward"][copy.at(1, 0, 4)] = np.nan
    return 1, 0, 4


def illegal(copy):
    rows, at = copy.rows[1], copy.at(1, 1, 4)
    rows["action"][at] = next(b for b in range(256) if not rows["action_mask"][at, b >> 3] >> (b & 7) & 1)
    return 1, 1, 4


def out_of_bounds(copy):
    copy.rows[1]["observation/total_land"][copy.at(1, 1, 6), 0] = 999
    return 1, 1, 6


TAMPERED = [
    ("raw", reward_off, "reward/replayed"),
    ("state", reward_off, "reward/state"),
    ("raw", paid_otherwise, "reward/paid"),
    ("state", owner_gone, "reward/state"),
    ("raw", gap, "episode/contiguous"),
    ("raw", gap_at_a_seam, "episode/contiguous"),
    ("raw", acts_after_the_end, "episode/silent"),
    ("raw", version_back, "policy/version"),
    ("raw", started_again, "policy/order"),
    ("raw", mask_bit, "board/mask"),
    ("raw", mask_bit_too_many, "board/mask"),
    ("raw", army_in_fog, "board/fog"),
    ("raw", too_far_sighted, "board/fog"),
    ("raw", landless, "board/dead"),
    ("raw", swapped_outcome, "episode/outcome"),
    ("raw", loser_goes_on, "episode/outcome"),
    ("raw", another_length, "episode/outcome"),
    ("raw", frozen, "value/frozen"),
    ("raw", constant, "value/constant"),
    ("raw", always_passes, "value/balance"),
    ("raw", twice, "episode/duplicate"),
    ("raw", one_short, "episode/length"),
    ("raw", not_a_number, "value/reward"),
    ("raw", illegal, "value/legal"),
    ("raw", out_of_bounds, "value/bounds"),
]
