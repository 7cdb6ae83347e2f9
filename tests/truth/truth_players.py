"""Players that note what they are shown and told at that moment, and scribble over it afterwards."""

from __future__ import annotations

from typing import Any

import numpy as np
from truth_games import Paying, Refused, spoil
from truth_told import Episode, Part, copied


def play_alone(env: Any, steps: int, seed: int, edits: bool) -> list[Episode]:
    """Episodes of a Gymnasium environment; where it raises, the player goes on with the next step."""
    draw, episodes = np.random.default_rng(seed), []
    part, now, known = Part(), None, False

    def begin(seen: Any) -> tuple[Part, Any]:
        part = Part(last=copied(seen))
        episodes.append({0: part})
        return part, part.last

    seen, _ = env.reset(seed=seed)
    part, now = begin(seen)
    known = True
    for _ in range(steps):
        if edits:
            spoil(seen)
        action = np.array(draw.integers(0, 9, 2))
        did = copied(action)
        try:
            seen, reward, terminated, truncated, _ = env.step(action)
        except Refused:
            known = False
            continue
        after = copied(seen)
        if known:
            part.seen.append(now)
            part.actions.append(did)
            part.rewards.append(float(reward))
            part.last, part.ends = after, (terminated, truncated)
            now = after
        else:
            part, now = begin(seen)
            if not (terminated or truncated):
                part.early = float(reward)
            known = True
        if terminated or truncated or draw.random() < 0.02:
            seen, _ = env.reset(options={"hard": True})
            part, now = begin(seen)
    return episodes


def play_turns(env: Any, inner: Any, games: int, most: int, seed: int, edits: bool, apart: bool) -> list[Episode]:
    """Games of an AEC environment. `apart`: it asks by `last(observe=False)` and `observe`; and now and then it
    looks at what another agent sees."""
    draw, episodes = np.random.default_rng(seed), []
    agents = inner.possible_agents
    for game in range(games):
        env.reset(seed=seed + game)
        parts: dict[int, Part] = {player: Part() for player in range(len(agents))}
        left: set[int] = set()
        for turn, agent in enumerate(env.agent_iter()):
            player = agents.index(agent)
            if apart:
                _, _, terminated, truncated, _ = env.last(observe=False)
                seen = env.observe(agent)
            else:
                seen, _, terminated, truncated, _ = env.last()
            now, mask = copied(seen["observation"]), np.array(seen["action_mask"]) != 0
            action = None if terminated or truncated else int(draw.choice(np.flatnonzero(mask)))
            if edits:
                spoil(seen)
            if draw.random() < 0.2:
                other = agents[int(draw.integers(len(agents)))]
                if other != agent and other in env.agents:
                    env.observe(other)
            if action is None:
                parts[player].last = now
                left.add(player)
            else:
                parts[player].seen.append(now)
                parts[player].masks.append(mask)
                parts[player].actions.append(copied(action))
            env.step(action)
            if turn >= most:
                break
        episodes.append(told(parts, inner.truth, left))
    return episodes


def told(parts: dict[int, Part], truth: Paying, left: set[int]) -> Episode:
    """With what the environment says that it paid."""
    for player, part in parts.items():
        part.rewards, part.early = truth.rewards(player), truth.early(player)
        part.late, part.ends = truth.late[player], truth.out[player]
        part.last_counts = player in left
    return parts


def play_at_once(env: Any, inner: Any, games: int, most: int, seed: int, edits: bool) -> list[Episode]:
    """Games of a Parallel environment, now and then without an action of an agent that is alive."""
    draw, episodes = np.random.default_rng(seed), []
    agents = inner.possible_agents
    for game in range(games):
        seen, _ = env.reset(seed=seed + game)
        parts: dict[int, Part] = {player: Part() for player in range(len(agents))}
        now = {agent: copied(one) for agent, one in seen.items()}
        for agent, one in now.items():
            parts[agents.index(agent)].last = one
        for _ in range(most):
            if edits:
                spoil(seen)
            acting = [agent for agent in env.agents if draw.random() < 0.8]
            actions = {agent: np.array(draw.integers(0, 9, 2)) for agent in acting}
            for agent in acting:
                parts[agents.index(agent)].seen.append(now[agent])
                parts[agents.index(agent)].actions.append(copied(actions[agent]))
            seen, *_ = env.step(actions)
            for agent, one in seen.items():
                now[agent] = parts[agents.index(agent)].last = copied(one)
            if not env.agents:
                break
        episodes.append(told(parts, inner.truth, set(range(len(agents)))))
    return episodes
