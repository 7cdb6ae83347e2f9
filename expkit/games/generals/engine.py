"""Many games of generals side by side, played by one thread, each writing its own rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from expkit.errors import UsageError
from expkit.games.generals.arrays import GeneralsArrays
from expkit.games.generals.config import GeneralsConfig
from expkit.games.generals.policies import checked_actions, resolve
from expkit.games.generals.schema import generals_schema
from expkit.games.generals.tick_rewards import TickRewards
from expkit.kernels import generals_rows as k
from expkit.kernels import generals_state as r
from expkit.kernels.generals_play import APPLY, BOTH, FINISH, OBSERVE, play
from expkit.rewards import RewardColumns
from expkit.row.episodes import WRITER_BITS, EpisodeEnd, EpisodeStart
from expkit.row.layout import RowSink

# in the order of C_EPISODE and following
_STAMPED = (
    "episode",
    "step",
    "policy",
    "policy_version",
    "time_ns",
    "is_first",
    "is_last",
    "action",
    "reward",
    "terminated",
    "truncated",
)
_ENDED: dict[int, Any] = {k.TERMINATED: "terminated", k.TRUNCATED: "truncated", k.INTERRUPTED: "interrupted"}


class EpisodeCounter:
    """Gives out episode numbers, each once, to any number of game threads.

    `words` int64 (3,): next counter, limit (-1 for none), writer << 48; claimed by an atomic add in the kernel.
    `limit` is the counter to stop before: `EpisodeCounter(0, first=100, limit=150)` gives 100 to 149.
    """

    def __init__(self, writer: int = 0, first: int = 0, limit: int = -1):
        prefix = np.uint64(writer << WRITER_BITS).view(np.int64)
        self.words = np.array([first, limit, prefix], np.int64)

    @property
    def next(self) -> int:
        """The counter that the next episode gets."""
        number, limit = int(self.words[0]), int(self.words[1])
        return min(number, limit) if limit >= 0 else number


class Generals:
    """`num_envs` games of generals in lockstep. Not for use by two threads at once.

    policies  one for all players or one for each: `hunter`, `expander`, `random`, `module:callable`, or a callable
              (see `expkit.games.protocol.Policy`), which is called once a tick for all its players together
    counter   where episode numbers come from; shared by the threads of a run
    rewards   columns of rewards to write besides, or in place of the game's own; the sink has to have them

    An episode is a function of (seed, its whole number, config, policies), whatever num_envs, thread or slot.
    Raises UsageError, ConfigError.
    """

    def __init__(
        self,
        config: GeneralsConfig,
        *,
        num_envs: int,
        seed: int,
        policies: Sequence[str | Callable[..., Any]] = ("hunter",),
        counter: EpisodeCounter,
        rewards: RewardColumns | None = None,
    ):
        if num_envs < 1:
            raise UsageError(f"num_envs is {num_envs}; at least one game has to be played")
        self.config = config
        self.schema = generals_schema(config)
        self.players = config.players
        self.num_envs = num_envs
        self.seed = seed
        self.counter = counter
        self._kinds, self._callables, self.policy_names = resolve(policies, config.players)
        self._arrays = GeneralsArrays(config, num_envs, seed)
        self._rewards = TickRewards(rewards, self._arrays) if rewards else None
        self._actions = np.zeros((num_envs, config.players), np.int64)
        self._control = np.zeros(k.CONTROL, np.int64)
        self._log = np.zeros((max(512, 4 * num_envs), k.LOG + 2 * config.players), np.int64)
        self._events: list[np.ndarray] = []
        self._tables: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]] = {}
        self.config_digest = config_digest(config)

    @property
    def idle(self) -> bool:
        """No game is open and the counter has no more episodes."""
        return bool(self._control[k.EXHAUSTED]) and self._control[k.OPEN_GAMES] == 0

    @property
    def illegal_actions(self) -> int:
        """Actions of user policies that the mask did not allow; they are recorded as given, and played as a pass."""
        return int(self._control[k.ILLEGAL])

    @property
    def committed_rows(self) -> int:
        """Rows of all players written so far, and the last rows that open games still need."""
        return int(self._control[k.WRITTEN] + self._control[k.PENDING])

    @property
    def nbytes(self) -> int:
        """Memory of the games, without the sink's."""
        return self._arrays.nbytes + self._log.nbytes

    def play(self, sink: RowSink, max_ticks: int, row_budget: int = -1) -> int:
        """Advance all games by up to `max_ticks` ticks; returns the ticks played.

        Stops early when a player's block has no room for two rows of each game, when no game is left to play, and
        when `committed_rows` has reached `row_budget`, a total over the life of this object (-1: no limit).
        With built-in policies and the game's own rewards it is one call of a kernel that holds no GIL. Raises
        UsageError when a block could never hold a tick, or a policy or a reward of a user returns nonsense.
        """
        self._require_room(sink)
        self._control[k.BUDGET] = row_budget
        played = 0
        if self._rewards is None and all(user is None for user in self._callables):
            while played < max_ticks:
                ticks = self._run(sink, BOTH, max_ticks - played)
                played += ticks
                if not self._drain_log() or ticks == 0:
                    break
            return played
        while played < max_ticks:
            before = sink.position.copy()
            if self._run(sink, OBSERVE, 1) == 0:  # for want of room too: then what is marked active is of the last tick
                break
            try:
                self._ask_users()
                if self._rewards is not None:
                    self._rewards.look()
            except BaseException:
                self._take_back(sink, before)
                raise
            state = None if self._rewards is None else (self._arrays.games.copy(), self._control.copy())
            self._run(sink, APPLY, 1)
            if self._rewards is not None and state is not None:
                try:
                    self._rewards.write(sink)
                except BaseException:
                    self._arrays.games[:], self._control[:] = state
                    self._take_back(sink, before)  # rows of which nobody knows what they were worth
                    raise
            self._drain_log()
            played += 1
        return played

    def _take_back(self, sink: RowSink, before: np.ndarray) -> None:
        """Undo the half of a tick that was observed when the other half is not played, or is undone: its rows have no
        action. Games that began with it never did; the others stand where they stood."""
        a, control = self._arrays, self._control
        waiting = (a.one[:, r.ACTIVE, None] == 1) & (a.players[:, :, r.ROW] >= 0)
        a.players[:, :, r.ROWS] -= waiting
        control[k.WRITTEN] -= int((sink.position - before).sum())
        sink.position[:] = before
        logged = self._log[: int(control[k.LOGGED])]
        begun = logged[logged[:, k.LOG_KIND] == k.STARTED, k.LOG_EPISODE]
        fresh = (a.one[:, r.OPEN] == 1) & np.isin(a.one[:, r.EPISODE], begun)
        a.one[fresh, r.OPEN] = 0
        control[k.OPEN_GAMES] -= int(fresh.sum())
        control[k.PENDING] -= int(fresh.sum()) * self.players
        control[k.LOGGED] = 0

    def finish(self, sink: RowSink) -> bool:
        """End all open games as interrupted: write their last rows.

        Returns False when a block lacked room for a row of each game; call again with other blocks.
        """
        if self._control[k.OPEN_GAMES] == 0:
            return True
        self._run(sink, FINISH, 1)
        self._drain_log()
        return bool(self._control[k.OPEN_GAMES] == 0)

    def take_events(self) -> tuple[list[EpisodeStart], list[EpisodeEnd]]:
        """Starts and ends of episodes since the last call, each in order."""
        starts: list[EpisodeStart] = []
        ends: list[EpisodeEnd] = []
        players = list(range(self.players))
        seeds = {"env": self.seed}
        for block in self._events:
            for entry in block.tolist():
                kind, episode, now, length = entry[: k.LOG]
                episode &= (1 << 64) - 1
                if kind == k.STARTED:
                    starts.append(EpisodeStart(episode, now, players, "generals", self.config_digest, seeds))
                    continue
                outcomes, rows = entry[k.LOG : k.LOG + self.players], entry[k.LOG + self.players :]
                ends.append(
                    EpisodeEnd(
                        episode,
                        now,
                        _ENDED[kind],
                        length,
                        {str(p): None if o == k.NO_OUTCOME else float(o) for p, o in enumerate(outcomes)},
                        {str(p): count for p, count in enumerate(rows)},
                    )
                )
        self._events.clear()
        return starts, ends

    def _require_room(self, sink: RowSink) -> None:
        if int(sink.capacity.min()) < 2 * self.num_envs:
            raise UsageError(
                f"a block of {int(sink.capacity.min())} rows cannot hold a tick of {self.num_envs} games, "
                f"which may take {2 * self.num_envs}; use larger blocks or fewer games"
            )

    def _tables_of(self, sink: RowSink) -> tuple[np.ndarray, np.ndarray]:
        """`columns` and `copies` for the kernel. Columns that the game does not know are cleared."""
        names = tuple(column.name for column in sink.columns)
        found = self._tables.get(names)
        if found is None:
            missing = [name for name in _STAMPED if name not in names]
            if missing:
                raise UsageError(f"the sink has no column {missing[0]!r}; make it from a schema of the game's fields")
            sources = self._arrays.sources()
            copies = [
                (index, column.row_bytes, *sources.get(column.name, (k.CLEARED, 0))[:2])
                for index, column in enumerate(sink.columns)
                if column.name not in _STAMPED
            ]
            columns = np.array([names.index(name) for name in _STAMPED], np.int64)
            found = self._tables[names] = columns, np.array(copies, np.int64).reshape(-1, 4)
        return found

    def _run(self, sink: RowSink, phase: int, ticks: int) -> int:
        self._control[k.PHASE], self._control[k.MAX_TICKS] = phase, ticks
        a, (columns, copies) = self._arrays, self._tables_of(sink)
        play(
            a.rules, a.games, a.scratch, self._kinds, self._actions, self.counter.words, self._control, self._log,
            sink.memory, sink.base, sink.position, sink.capacity, sink.policy, columns, copies,
        )  # fmt: skip
        return int(self._control[k.TICKS])

    def _drain_log(self) -> int:
        logged = int(self._control[k.LOGGED])
        if logged:
            self._events.append(self._log[:logged].copy())
            self._control[k.LOGGED] = 0
        return logged

    def _ask_users(self) -> None:
        """Call every user policy once, for all its players in all games of this tick."""
        a = self._arrays
        active = a.one[:, r.ACTIVE] == 1
        asked: list[Callable[..., Any]] = []
        for policy in self._callables:
            if policy is None or any(policy is other for other in asked):
                continue
            asked.append(policy)
            mine = [player for player in range(self.players) if self._callables[player] is policy]
            slots = [np.flatnonzero(active & (a.players[:, player, r.ALIVE] == 1)) for player in mine]
            seen = [a.observation(s, player) for s, player in zip(slots, mine, strict=True)]
            batch = {name: np.concatenate([part[name] for part in seen]) for name in seen[0]}
            where = np.concatenate(slots)
            who = np.concatenate([np.full(len(s), player, np.uint16) for s, player in zip(slots, mine, strict=True)])
            if len(where) == 0:
                continue
            mask = batch.pop("action_mask")
            returned = policy(
                {name.removeprefix("observation/"): values for name, values in batch.items()},
                mask,
                a.one[where, r.EPISODE].view(np.uint64),
                a.one[where, r.TURN].astype(np.uint32),
                who,
            )
            name = self.policy_names[mine[0]]
            self._actions[where, who] = checked_actions(returned, len(where), self.config.actions, name)


def config_digest(config: GeneralsConfig) -> str:
    """16 hex digits that tell configurations apart."""
    import hashlib

    return hashlib.blake2b(msgspec.json.encode(config), digest_size=8).hexdigest()
