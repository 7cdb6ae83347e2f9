"""Rows of one episode that stand in different blocks: the pairs that no block holds whole, and whole episodes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial

import numpy as np

from expkit.errors import ExpkitError
from expkit.reading.run import Run
from expkit.resimulation.recorded_games import RecordedGames
from expkit.row.episodes import Episode
from expkit.rules.rows import EpisodeRows, Rows
from expkit.runs.origins import as_recorded
from expkit.validation.finding import Finding
from expkit.validation.row_rules import RowRules, Verdict, finding_of


class Seams:
    """Feed it the verdict of every block in order: it judges the last row of an episode in one block together with the
    first row in the next. Holds the edges of blocks in which an episode is open.

    incomplete  players of whom rows are known to be missing; may grow meanwhile
    """

    def __init__(self, rules: RowRules, incomplete: Collection[int]):
        self._rules = rules
        self._incomplete = incomplete
        # By (episode, player): the verdict that has its latest row, and the place of that among the edges.
        self._open: dict[tuple[int, int], tuple[Verdict, int]] = {}

    def skip(self, player: int) -> None:
        """A block of that player cannot be read, so that nothing is known of what is next to it."""
        self._open = {key: entry for key, entry in self._open.items() if key[1] != player}

    def extend(self, verdict: Verdict) -> Iterator[Finding]:
        """Findings of rules over `steps`."""
        segments = verdict.segments
        if segments is None or not verdict.edges:
            return
        before: list[tuple[Verdict, int]] = []
        here: list[int] = []
        for place, number in enumerate(segments.episode):
            key = number, segments.player
            known = self._open.pop(key, None)
            if known is not None:
                before.append(known)
                here.append(2 * place)
            if not segments.ends[place]:
                self._open[key] = verdict, 2 * place + 1
        if before:
            yield from self._judge(before, verdict, np.array(here))

    def _judge(self, before: list[tuple[Verdict, int]], verdict: Verdict, here: np.ndarray) -> Iterator[Finding]:
        names = [name for name in verdict.edges if all(name in known.edges for known, _ in before)]
        stored = {}
        for name in names:
            # Rows that came before mostly stand in one block: one gather for each of them.
            first = np.empty((len(before), *verdict.edges[name].shape[1:]), verdict.edges[name].dtype)
            for known in {id(known): known for known, _ in before}.values():
                mine = [at for at, (one, _) in enumerate(before) if one is known]
                first[mine] = known.edges[name][[before[at][1] for at in mine]]
            pair = np.stack([first, verdict.edges[name][here]], axis=1)
            stored[name] = pair.reshape(2 * len(before), *pair.shape[2:])
        assert verdict.segments is not None
        player = verdict.segments.player
        rows = Rows(self._rules.schema, player, stored, complete=player not in self._incomplete)
        places = []
        for known, _ in before:
            for segments in (known.segments, verdict.segments):
                assert segments is not None
                places.append((segments.shard, segments.block))
        yield from self._rules.judge_seam(rows, places)


class WholeEpisodes:
    """Feed it the verdict of every block in order: it judges an episode as soon as all its rows are there, and holds
    what rules over episodes read of those that are open. `judged`: episodes looked at, by rule."""

    def __init__(self, run: Run, rules: RowRules):
        self._rules = rules
        self._games = RecordedGames(run)
        self._wanted: dict[int, Episode] = {}
        if rules.episode_columns:
            for episode in run.episodes():
                if episode.start is not None and episode.end is not None and episode.end.rows and not episode.end.cut:
                    self._wanted[episode.number] = episode
        self._parts: dict[int, dict[int, list[dict[str, np.ndarray]]]] = {}
        self._missing: dict[int, int] = {}
        self.judged: dict[str, int] = {}

    def extend(self, verdict: Verdict) -> Iterator[Finding]:
        """Findings of rules over episodes."""
        segments = verdict.segments
        if segments is None or verdict.whole is None:
            return  # an episode that has rows here is never complete
        for number, first, rows in zip(segments.episode, segments.first_row, segments.rows, strict=True):
            episode = self._wanted.get(number)
            if episode is None or episode.end is None:
                continue
            part = {name: values[first : first + rows].copy() for name, values in verdict.whole.items()}
            self._parts.setdefault(number, {}).setdefault(segments.player, []).append(part)
            left = self._missing.get(number, sum(episode.end.rows.values())) - rows
            self._missing[number] = left
            if left == 0:
                yield from self._judge(episode, self._parts.pop(number))

    def _judge(self, episode: Episode, parts: Mapping[int, list[dict[str, np.ndarray]]]) -> Iterator[Finding]:
        assert episode.start is not None
        assert episode.end is not None
        players = {
            player: Rows(
                self._rules.schema,
                player,
                {name: np.concatenate([part[name] for part in listed]) for name in listed[0]},
            )
            for player, listed in sorted(parts.items())
        }
        if any(len(players.get(int(player), ())) != rows for player, rows in episode.end.rows.items()):
            return
        whole = EpisodeRows(
            episode.number, episode.start, episode.end, players, partial(self._replay, episode, players)
        )
        for id, active in self._rules.applied.items():
            if active.rule.over != "episode":
                continue
            self.judged[id] = self.judged.get(id, 0) + 1
            for violation in active.rule(whole, **active.options):
                yield finding_of(active, violation, episode=episode.number)

    def _replay(self, episode: Episode, players: Mapping[int, Rows]) -> dict[int, np.ndarray] | None:
        """See `EpisodeRows.replay`."""
        acting = {player: rows.acts for player, rows in players.items()}
        steps = {player: rows.stored["step"][acting[player]].astype(np.int64) for player, rows in players.items()}
        turns = max((len(listed) for listed in steps.values()), default=0)
        # Every row from the first step on has to be there, or the game would be another one.
        if (
            any(not np.array_equal(listed, np.arange(len(listed))) for listed in steps.values())
            or episode.start is None
        ):
            return None
        try:
            source, config, seed = self._games.of(episode)
            start = as_recorded(episode.start)
            actions = np.full((turns, max(players, default=-1) + 1), -1, np.int64)
            for player, rows in players.items():
                actions[: len(steps[player]), player] = rows.stored["action"][acting[player]].astype(np.int64)
            rewards = source.replay_rewards(config, start, start.seeds.get("env", seed), actions)
        except ExpkitError:
            return None
        return {player: rewards[: len(listed), player] for player, listed in steps.items()}
