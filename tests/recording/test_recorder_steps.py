"""The Recorder's Gymnasium-shaped form, against what single environments and plain lists say.

The twins keep lists, one environment and one player at a time; nothing in them is vectorised.
"""

import tempfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from expkit import Field, Recorder, Schema, open_run
from expkit.errors import SchemaError, UsageError
from expkit.validation.validate import validate_run

MODES = ["next_step", "same_step", "disabled"]
SCHEMA = Schema(
    [
        Field("observation", "i4", (2,), "observation"),
        Field("action_mask", "bool", (5,), "observation", nullable=True),
        Field("action", "i2", belongs="action"),
        Field("log_prob", "f4", belongs="action", nullable=True),
    ]
)
BOARD = Schema(
    [
        Field("observation/board", "i1", (2, 3), "observation"),
        Field("observation/inner/clock", "f4", (1,), "observation"),
        Field("action_mask", "bool", (4,), "observation"),
        Field("action", "i8", belongs="action"),
    ]
)


def sound(path):
    with open_run(path) as run:
        errors = [finding for finding in validate_run(run, "full") if finding.severity == "error"]
    # The players here do not look at their masks.
    assert [error for error in errors if error.rule != "value/legal"] == []


def by_env(run):
    """Episodes of each environment, in the order in which they were played."""
    out = {}
    for episode in run.episodes():
        out.setdefault(episode.metadata["env_index"], []).append(episode)
    return out


class Board(gym.Env):
    """Ends by the rules, by a limit or by both, as its generator has it. A mask comes with every observation."""

    def __init__(self):
        self.observation_space = spaces.Dict(
            {"inner": spaces.Dict({"clock": spaces.Box(0, 99, (1,))}), "board": spaces.Box(-9, 9, (2, 3), np.int8)}
        )
        self.action_space = spaces.Discrete(4)

    def _seen(self):
        board = self.np_random.integers(-9, 9, (2, 3)).astype(np.int8)
        mask = self.np_random.random(4) < 0.5
        return {"inner": {"clock": np.array([self.clock], np.float32)}, "board": board}, {"action_mask": mask}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.clock = 0
        return self._seen()

    def step(self, action):
        self.clock += 1
        draw = self.np_random.random()
        observation, info = self._seen()
        return observation, float(action) + self.clock / 8, draw < 0.2, 0.15 < draw < 0.3, info


def played_alone(make, seed, actions, mode):
    """Episodes of a single environment as lists: observations, masks, and (action, reward, terminated, truncated)."""
    env = make()
    observation, info = env.reset(seed=seed)
    episodes, over = [([observation], [info.get("action_mask")], [])], False
    for action in actions:
        if over and mode == "next_step":
            over = False
            observation, info = env.reset()
            episodes.append(([observation], [info.get("action_mask")], []))
            continue
        observation, reward, terminated, truncated, info = env.step(action)
        seen, masks, steps = episodes[-1]
        seen.append(observation)
        masks.append(info.get("action_mask"))
        steps.append((action, reward, terminated, truncated))
        over = terminated or truncated
        if over and mode != "next_step":
            over = False
            observation, info = env.reset()
            episodes.append(([observation], [info.get("action_mask")], []))
    if not episodes[-1][2]:
        episodes.pop()  # an episode begins with its first action
    return episodes


def record_vector(path, env, schema, actions, seed, **options):
    mode = env.metadata["autoreset_mode"]
    with Recorder(path, schema, num_envs=env.num_envs, autoreset=mode, min_free=0, mode="w", **options) as rec:
        observation, info = env.reset(seed=seed)
        rec.reset(observation=observation, action_mask=info.get("action_mask"), seed=seed)
        for action in actions:
            observation, reward, terminated, truncated, info = env.step(action)
            final = info.get("final_obs")
            if final is not None and "final_info" in info and "action_mask" in info["final_info"]:
                final = {"observation": final, "action_mask": info["final_info"]["action_mask"]}
            rec.step(
                action=action, reward=reward, terminated=terminated, truncated=truncated, observation=observation,
                action_mask=info.get("action_mask"), final=final,
            )  # fmt: skip
            done = terminated | truncated
            if mode is AutoresetMode.DISABLED and done.any():
                observation, info = env.reset(options={"reset_mask": done})
                rec.reset(observation=observation, action_mask=info.get("action_mask"), mask=done)


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("copy", [True, False])
def test_a_vector_is_recorded_as_its_environments_play_alone(tmp_path, mode, copy):
    envs, seed = 3, 11
    actions = np.random.default_rng(5).integers(0, 4, (60, envs))
    env = SyncVectorEnv([Board] * envs, copy=copy, autoreset_mode=mode)
    record_vector(tmp_path / "run", env, BOARD, actions, seed)
    sound(tmp_path / "run")
    with open_run(tmp_path / "run") as run:
        recorded = by_env(run)
        for index in range(envs):
            alone = played_alone(Board, seed + index, actions[:, index], mode.name.lower())
            assert len(recorded[index]) == len(alone)
            assert recorded[index][0].start.seeds == {"env": seed + index}
            assert all(not episode.start.seeds for episode in recorded[index][1:])
            for episode, (seen, masks, steps) in zip(recorded[index], alone, strict=True):
                got = run.episode(episode.number, 0)
                np.testing.assert_array_equal(got["observation/board"], [one["board"] for one in seen])
                np.testing.assert_array_equal(got["observation/inner/clock"], [one["inner"]["clock"] for one in seen])
                np.testing.assert_array_equal(got["action_mask"], masks)
                np.testing.assert_array_equal(got["action"], [step[0] for step in steps])
                np.testing.assert_allclose(got["reward"], [step[1] for step in steps])
                assert got["terminated"].tolist() == [step[2] for step in steps]
                assert got["truncated"].tolist() == [step[3] for step in steps]
                last = steps[-1]
                assert episode.ended == ("terminated" if last[2] else "truncated" if last[3] else "interrupted")
                assert episode.length == len(steps)
        ends = [(end[2], end[3]) for i in range(envs) for *_, steps in played_alone(
            Board, seed + i, actions[:, i], mode.name.lower()) for end in steps[-1:]]  # fmt: skip
        assert {(True, True), (True, False), (False, True), (False, False)} == set(ends)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_cart_poles_with_a_time_limit(tmp_path, mode):
    envs, seed = 4, 3
    schema = Schema([Field("observation", "f4", (4,), "observation"), Field("action", "i8", belongs="action")])
    actions = np.random.default_rng(6).integers(0, 2, (120, envs))

    def make():
        return gym.make("CartPole-v1", max_episode_steps=12)

    record_vector(tmp_path / "run", SyncVectorEnv([make] * envs, autoreset_mode=mode), schema, actions, seed)
    sound(tmp_path / "run")
    with open_run(tmp_path / "run") as run:
        for index, episodes in by_env(run).items():
            alone = played_alone(make, seed + index, actions[:, index], mode.name.lower())
            assert len(episodes) == len(alone)
            for episode, (seen, _, steps) in zip(episodes, alone, strict=True):
                got = run.episode(episode.number, 0)
                np.testing.assert_array_equal(got["observation"], seen)
                assert got["truncated"].tolist() == [step[3] for step in steps]
        assert {episode.ended for episode in run.episodes()} == {"terminated", "truncated", "interrupted"}


def test_the_vectorised_cart_pole_has_rows_for_all_but_its_resets(tmp_path):
    env = gym.make_vec("CartPole-v1", 8, vectorization_mode="vector_entry_point")
    schema = Schema([Field("observation", "f4", (4,), "observation"), Field("action", "i8", belongs="action")])
    rng, resets, done = np.random.default_rng(7), 0, np.zeros(8, bool)
    with Recorder(tmp_path / "run", schema, num_envs=8, autoreset="NextStep", min_free=0) as rec:
        rec.reset(observation=env.reset(seed=1)[0])
        for _ in range(200):
            action = rng.integers(0, 2, 8)
            observation, reward, terminated, truncated, _ = env.step(action)
            resets += int(done.sum())
            done = terminated | truncated
            rec.step(action=action, reward=reward, terminated=terminated, truncated=truncated, observation=observation)
    sound(tmp_path / "run")
    assert open_run(tmp_path / "run").steps == 200 * 8 - resets


class OneEnvironment:
    """What should be recorded of one environment: its episodes, each a list of players with rows and a last row."""

    def __init__(self, players):
        self.players, self.episodes, self.over = players, [], True

    def begin(self, seen):
        if self.episodes and not self.over:
            self.cut()
        self.parts = [{"rows": [], "last": None, "how": None, "early": 0.0} for _ in range(self.players)]
        self.seen, self.turn, self.over = seen, 0, False
        self.episodes.append(self.parts)

    def step(self, players, seen, last_seen):
        """`players` has (active, action, reward, terminated, truncated) of each."""
        acted = False
        for part, before, (active, action, reward, terminated, truncated) in zip(
            self.parts, self.seen, players, strict=True
        ):
            if part["how"]:
                continue
            if active:
                acted = True
                part["rows"].append([before, action, reward, terminated, truncated, self.turn])
            elif part["rows"]:
                row = part["rows"][-1]
                row[2] += reward
                row[3] |= terminated
                row[4] |= truncated
            else:
                part["early"] += reward
            if terminated or truncated:
                part["how"] = "terminated" if terminated else "truncated"
        self.turn += acted
        self.over = all(part["how"] for part in self.parts)
        for part, now, last in zip(self.parts, seen, last_seen, strict=True):
            if part["how"] and part["last"] is None:
                part["last"] = ((last if self.over else now), self.turn)
        self.seen = seen

    def cut(self):
        for part, seen in zip(self.parts, self.seen, strict=True):
            if part["last"] is None:
                part["last"], part["how"] = (seen, self.turn), "interrupted"

    def recorded(self):
        """Those of its episodes in which anybody acted."""
        if not self.over:
            self.cut()
        return [parts for parts in self.episodes if any(part["rows"] for part in parts)]


def ended(parts):
    how = {part["how"] for part in parts if part["rows"]}
    return next(one for one in ("interrupted", "terminated", "truncated") if one in how)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    mode=st.sampled_from(MODES),
    envs=st.sampled_from([None, 1, 2, 5]),
    players=st.integers(1, 3),
    steps=st.integers(0, 25),
    ends=st.sampled_from([0.0, 0.1, 0.5]),
    turns=st.booleans(),
    cuts=st.booleans(),
    in_place=st.booleans(),
)
def test_any_pattern_of_ends_players_and_turns(seed, mode, envs, players, steps, ends, turns, cuts, in_place):
    rng = np.random.default_rng(seed)
    n = envs or 1
    lead = (() if envs is None else (n,)) + (() if players == 1 else (players,))
    counter = iter(range(1, 1 << 30))
    kept = np.zeros((n, players, 2), np.int32)  # one buffer for all observations, as of a vector with copy=False

    def observe():
        seen = np.array([[[next(counter), -env] for _ in range(players)] for env in range(n)], np.int32)
        kept[:] = seen
        return seen, (kept if in_place else seen)

    def given_as(values):
        return values.reshape(lead + values.shape[2:])

    alone = [OneEnvironment(players) for _ in range(n)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        with Recorder(path, SCHEMA, num_envs=envs, players=players, autoreset=mode, min_free=0, sync="none") as rec:
            seen, passed = observe()
            mask = rng.random((n, players, 5)) < 0.5
            rec.reset(observation=given_as(passed), action_mask=given_as(mask))
            for env in range(n):
                alone[env].begin([(seen[env, p], mask[env, p]) for p in range(players)])
            for _ in range(steps):
                if cuts and rng.random() < 0.1:  # the loop's own reset, in the middle
                    which = rng.random(n) < 0.5 if envs else np.ones(1, bool)
                    seen, passed = observe()
                    mask = rng.random((n, players, 5)) < 0.5
                    rec.reset(observation=given_as(passed), action_mask=given_as(mask), mask=which if envs else None)
                    for env in np.flatnonzero(which):
                        alone[env].begin([(seen[env, p], mask[env, p]) for p in range(players)])
                action = rng.integers(0, 9, (n, players))
                reward = rng.integers(-4, 5, (n, players)).astype(float)
                terminated, truncated = rng.random((2, n, players)) < ends
                active = rng.random((n, players)) < 0.6 if turns else np.ones((n, players), bool)
                final = rng.integers(-99, 0, (n, players, 2)).astype(np.int32)
                resetting = [one.over for one in alone]
                seen, passed = observe()
                mask = rng.random((n, players, 5)) < 0.5
                for env, one in enumerate(alone):
                    now = [(seen[env, p], mask[env, p]) for p in range(players)]
                    if resetting[env]:
                        if active[env].any():  # else it was left alone
                            one.begin(now)
                        continue
                    table = (active, action, reward, terminated, truncated)
                    last = [(final[env, p], None) for p in range(players)] if mode == "same_step" else now
                    one.step([[values[env, p] for values in table] for p in range(players)], now, last)
                over = np.array([one.over for one in alone])
                finals = None
                if mode == "same_step" and over.any():
                    finals = np.full(n, None, object)
                    for env in np.flatnonzero(over):
                        finals[env] = final[env] if players > 1 else final[env, 0]
                    if envs is None:
                        finals = finals[0]
                rec.step(
                    action=given_as(action),
                    reward=given_as(reward),
                    terminated=given_as(terminated),
                    truncated=given_as(truncated),
                    observation=given_as(passed),
                    action_mask=given_as(mask),
                    final=finals,
                    active=given_as(active) if turns else None,
                )
                for env in np.flatnonzero(over):
                    if mode == "same_step":
                        alone[env].begin([(seen[env, p], mask[env, p]) for p in range(players)])
                if mode == "disabled" and over.any():
                    seen, passed = observe()
                    mask = rng.random((n, players, 5)) < 0.5
                    rec.reset(observation=given_as(passed), action_mask=given_as(mask), mask=over if envs else None)
                    for env in np.flatnonzero(over):
                        alone[env].begin([(seen[env, p], mask[env, p]) for p in range(players)])
        sound(path)
        with open_run(path) as run:
            found = by_env(run) if envs else {0: run.episodes()}
            for env, one in enumerate(alone):
                expected = one.recorded()
                assert len(found.get(env, [])) == len(expected)
                for episode, parts in zip(found.get(env, []), expected, strict=True):
                    assert episode.ended == ended(parts)
                    assert set(episode.rows) == {p for p, part in enumerate(parts) if part["rows"]}
                    early = {str(p): part["early"] for p, part in enumerate(parts) if part["early"]}
                    assert episode.metadata.get("reward_before_action", {}) == early
                    for player in episode.rows:
                        check_part(run.rows(episode.number, player), parts[player])


def check_part(got, part):
    rows, (last, last_step) = part["rows"], part["last"]
    seen = [row[0] for row in rows] + [last]
    np.testing.assert_array_equal(got["observation"], [one[0] for one in seen])
    assert got["valid:action_mask"].tolist() == [one[1] is not None for one in seen]
    np.testing.assert_array_equal(
        got["action_mask"][got["valid:action_mask"]], [one[1] for one in seen if one[1] is not None]
    )
    assert got["step"].tolist() == [row[5] for row in rows] + [last_step]
    assert got["is_first"].tolist() == [True] + [False] * len(rows)
    assert got["is_last"].tolist() == [False] * len(rows) + [True]
    for place, name in enumerate(("action", "reward", "terminated", "truncated"), 1):
        assert got[name][:-1].tolist() == [row[place] for row in rows]


VECTOR = Schema([Field("observation", "f4", (2,), "observation"), Field("action", "i8", belongs="action")])


def zeros(*lead):
    return {"observation": np.zeros((*lead, 2), np.float32)}


def moved(*lead, **changes):
    flags = np.zeros(lead, bool)
    given = dict(action=np.zeros(lead, int), reward=np.zeros(lead), terminated=flags, truncated=flags, **zeros(*lead))
    return {**given, **changes}


@pytest.mark.parametrize("autoreset", [None, "guess", "next"])
def test_the_mode_of_a_vector_is_never_guessed(tmp_path, autoreset):
    with pytest.raises(UsageError, match="autoreset"):
        Recorder(tmp_path / "run", VECTOR, num_envs=2, autoreset=autoreset, min_free=0)
    assert not (tmp_path / "run").exists()


def test_misuse_is_refused_and_leaves_the_recording_as_it_was(tmp_path):
    over = np.array([False, True])
    with Recorder(tmp_path / "run", VECTOR, num_envs=2, autoreset="same_step", min_free=0) as rec:
        with pytest.raises(UsageError, match="step before reset"):
            rec.step(**moved(2))
        with pytest.raises(UsageError, match="the first one is of all"):
            rec.reset(**zeros(2), mask=over)
        rec.reset(**zeros(2))
        for wrong, match in [
            (dict(observation=np.zeros((2, 3))), r"observation: shape \(2, 3\) does not fit \(2, 2\), for 2 env"),
            (dict(reward=np.zeros(3)), r"reward: shape \(3,\) does not fit \(2,\)"),
            (dict(terminated=np.zeros((2, 1), bool)), r"terminated: shape \(2, 1\)"),
            (dict(action=np.array([0.5, 1])), "does not fit int64"),
            (dict(action=None), "action is missing"),
            (dict(reward=None), "reward is missing"),
            (dict(valeu=np.zeros(2)), "no field 'valeu'"),
            (dict(action_mask=np.zeros((2, 2))), "no field 'action_mask'"),
            (dict(terminated=over), "final is missing: the episode of environment 1 is over"),
            (dict(terminated=over, final=np.array([None, None])), "environment 1 is over, and final has no observ"),
            (dict(terminated=over, final=np.zeros((2, 5))), "observation: shape"),
            (dict(outcome=np.zeros(5)), "outcome: shape"),
        ]:
            with pytest.raises(SchemaError, match=match):
                rec.step(**moved(2, **wrong))
        with pytest.raises(SchemaError, match="seed: 3 entries for 2 environments"):
            rec.reset(**zeros(2), seed=[1, 2, 3])
        with pytest.raises(SchemaError, match="metadata has to be JSON"):
            rec.reset(**zeros(2), metadata={"env": object()})
        rec.step(**moved(2, reward=np.ones(2)))
    run = open_run(tmp_path / "run")
    sound(tmp_path / "run")
    assert (len(run), run.steps) == (4, 2)


@pytest.mark.parametrize("envs", [None, 2])
def test_an_episode_that_is_over_has_to_be_reset_where_nobody_else_does(tmp_path, envs):
    lead = () if envs is None else (2,)
    over = np.array(True) if envs is None else np.array([False, True])
    with Recorder(tmp_path / "run", VECTOR, num_envs=envs, autoreset="disabled", min_free=0) as rec:
        rec.reset(**zeros(*lead))
        with pytest.raises(UsageError, match="last observation is in observation="):
            rec.step(**moved(*lead, terminated=over, final=np.zeros((*lead, 2))))
        rec.step(**moved(*lead, terminated=over))
        with pytest.raises(UsageError, match="is over; reset it"):
            rec.step(**moved(*lead))
        rec.reset(**zeros(*lead), **({} if envs is None else {"mask": over}))
        rec.step(**moved(*lead))
    assert [episode.ended for episode in open_run(tmp_path / "run").episodes()] == (
        ["terminated", "interrupted"] if envs is None else ["interrupted", "terminated", "interrupted"]
    )


def test_final_may_be_whole_arrays_and_bring_its_mask(tmp_path):
    mask = np.array([[0, 1, 0, 1, 1], [1, 1, 1, 1, 1]], bool)
    values = dict(action=[0, 0], reward=[1.0, 2.0], observation=np.full((2, 2), 7), action_mask=~mask)
    with Recorder(tmp_path / "run", SCHEMA, num_envs=2, autoreset=AutoresetMode.SAME_STEP, min_free=0) as rec:
        rec.reset(observation=np.zeros((2, 2), int), action_mask=~mask)
        rec.step(**values, truncated=[True, False], final={"observation": np.full((2, 2), 5), "action_mask": mask})
        rec.step(**values, truncated=[True, False], final=[np.array([6, 6]), None])
    run = open_run(tmp_path / "run")
    first, _, second = (run.rows(episode.number, 0) for episode in run.episodes())
    assert first["observation"].tolist() == [[0, 0], [5, 5]]
    assert first["action_mask"][1].tolist() == mask[0].tolist()
    assert second["observation"].tolist() == [[7, 7], [6, 6]]
    assert second["valid:action_mask"].tolist() == [True, False]


def test_a_mask_that_is_not_nullable_allows_nothing_after_the_end(tmp_path):
    schema = Schema([*VECTOR.fields, Field("action_mask", "bool", (3,), "observation")])
    with Recorder(tmp_path / "run", schema, num_envs=1, autoreset="same_step", min_free=0) as rec:
        rec.reset(**zeros(1), action_mask=np.ones((1, 3)))
        rec.step(**moved(1, terminated=[True]), action_mask=np.ones((1, 3)), final=np.ones((1, 2)))
    run = open_run(tmp_path / "run")
    assert run.rows(0, 0)["action_mask"].tolist() == [[True] * 3, [False] * 3]
    sound(tmp_path / "run")


def test_a_mask_declared_with_the_step_is_moved_to_its_action_too(tmp_path):
    schema = Schema([*VECTOR.fields, Field("action_mask", "bool", (2,))])
    with Recorder(tmp_path / "run", schema, min_free=0) as rec:
        rec.reset(**zeros(), action_mask=[True, False])
        rec.step(**moved(), action_mask=[False, True])
        rec.step(**moved(terminated=True), action_mask=[True, True])
    assert open_run(tmp_path / "run").episode(0, 0)["action_mask"].tolist() == [[True, False], [False, True]]


def test_tuples_and_nested_dicts_go_by_their_places(tmp_path):
    schema = Schema(
        [
            Field("observation/0", "f4", (2,), "observation"),
            Field("observation/1/far", "i4", (), "observation"),
            Field("action/move", "i4", belongs="action"),
            Field("action/say/0", "i4", belongs="action"),
        ]
    )
    with Recorder(tmp_path / "run", schema, num_envs=2, autoreset="same_step", min_free=0) as rec:
        rec.reset(observation=(np.zeros((2, 2)), {"far": [1, 2]}))
        finals = np.array([None, None])
        finals[1] = (np.full(2, 9.0), {"far": 8})
        rec.step(
            observation=(np.ones((2, 2)), {"far": [3, 4]}),
            action={"say": (np.array([5, 6]),), "move": [7, 8]},
            reward=[0, 0],
            terminated=[False, True],
            final=finals,
        )
    run = open_run(tmp_path / "run")
    assert run.rows(0, 0)["observation/1/far"].tolist() == [1, 3]
    assert run.rows(1, 0)["observation/1/far"].tolist() == [2, 8]
    assert run.rows(1, 0)["observation/0"].tolist() == [[0, 0], [9, 9]]
    assert run.rows(1, 0)["action/say/0"].tolist() == [6, 0]


def test_policies_and_versions_may_differ_by_environment(tmp_path):
    with Recorder(tmp_path / "run", VECTOR, num_envs=2, players=2, autoreset="next_step", min_free=0) as rec:
        rec.set_policy(0, "ppo", version=3)
        rec.set_policy(1, ["old", "older"], version=np.array([2, 1]))
        rec.reset(**zeros(2, 2))
        rec.step(**moved(2, 2))
        rec.set_policy(0, "ppo", version=4)
        rec.step(**moved(2, 2, terminated=[True, True]))  # shared by the players
        with pytest.raises(SchemaError, match="version: 3 entries for 2"):
            rec.set_policy(0, "ppo", version=[1, 2, 3])
    run = open_run(tmp_path / "run")
    names = [policy.name for policy in run.policies]
    assert names == ["ppo", "old", "older"]
    for number in (0, 1):
        assert run.rows(number, 0)["policy_version"].tolist() == [3, 4, 4]
        theirs = run.rows(number, 1)
        assert {names[index] for index in theirs["policy"].tolist()} == {names[1 + number]}
        assert set(theirs["policy_version"].tolist()) == {2 - number}


def test_outcomes_and_numbers_of_episodes(tmp_path):
    with Recorder(tmp_path / "run", VECTOR, num_envs=2, players=2, autoreset="next_step", min_free=0) as rec:
        rec.reset(**zeros(2, 2), metadata=[{"map": "a"}, {"map": "b"}], seeds={"policy": 5, "action_space": [6, None]})
        numbers = rec.step(**moved(2, 2, terminated=[True, False]), outcome=[[1, -1], [0, 0]])
        assert numbers.tolist() == [0, 1]
        assert rec.step(**moved(2, 2)).tolist() == [0, 1]  # the first one resets itself
        assert rec.step(**moved(2, 2)).tolist() == [2, 1]
        with pytest.raises(SchemaError, match="episode 1 is recorded by reset and step"):
            rec.add(episode=1, step=9, observation=[0, 0], action=0, reward=0)
        rec.add(episode=7, step=0, observation=[0, 0], action=0, reward=0)
        rec.annotate(int(numbers[0]), note="seen")
    zero, one, two, seven = open_run(tmp_path / "run").episodes()
    assert zero.outcome == {0: 1.0, 1: -1.0}
    assert one.outcome == {0: None, 1: None}
    assert zero.start.seeds == {"policy": 5, "action_space": 6}
    assert one.start.seeds == {"policy": 5}
    assert zero.metadata == {"env_index": 0, "map": "a", "note": "seen"}
    assert two.metadata == {"env_index": 0}
    assert (zero.ended, one.ended, two.ended, seven.ended) == ("terminated", *["interrupted"] * 3)
    assert (one.end.cut, seven.end.cut) == (False, True)


def test_a_reward_that_comes_late_needs_to_be_expected(tmp_path):
    active = np.array([[True, False]])
    with Recorder(tmp_path / "run", VECTOR, num_envs=1, players=2, autoreset="next_step", min_free=0) as rec:
        rec.reset(**zeros(1, 2))
        rec.step(**moved(1, 2))
        with pytest.raises(UsageError, match="after a step without active="):
            rec.step(**moved(1, 2, reward=np.ones((1, 2))), active=active)
        rec.step(**moved(1, 2), active=active)


def test_a_batch_of_environments_larger_than_a_block_is_planned_for(tmp_path):
    with Recorder(tmp_path / "run", VECTOR, num_envs=5000, autoreset="next_step", min_free=0) as rec:
        rec.reset(**zeros(5000))
        for step in range(4):
            rec.step(**moved(5000, truncated=np.arange(5000) % 4 == step))
    sound(tmp_path / "run")
    assert open_run(tmp_path / "run").steps == 5000 * 4 - 3 * 1250


@pytest.mark.parametrize("mode", ["disabled", "next_step"])
def test_environments_that_are_left_alone_have_no_rows(tmp_path, mode):
    one, other = np.array([True, False]), np.array([False, True])
    with Recorder(tmp_path / "run", VECTOR, num_envs=2, autoreset=mode, min_free=0) as rec:
        rec.reset(**zeros(2))
        rec.step(**moved(2, reward=np.array([1.0, 0.0]), terminated=one), active=one)
        for reward in (2.0, 3.0):  # the first one is over and waits
            rec.step(**moved(2, reward=np.array([0.0, reward])), active=other)
        if mode == "disabled":
            rec.reset(**zeros(2), mask=one)
        else:
            rec.step(**moved(2), active=one)
        rec.step(**moved(2, reward=np.array([4.0, 5.0])), active=one | other)
    sound(tmp_path / "run")
    run = open_run(tmp_path / "run")
    rewards = {e.number: run.episode(e.number, 0)["reward"].tolist() for e in run.episodes()}
    assert rewards == {0: [1.0], 1: [2.0, 3.0, 5.0], 2: [4.0]}
