"""The interactive replay on a terminal of its own, boards as text, playback, and re-simulation."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import numpy as np
import pytest
from patience import PATIENCE
from written_runs import BOARD_SCHEMA, HEIGHT, TILES, WIDTH, action_at, board, write_boards, write_vectors

from expkit import open_run
from expkit.games.generals import draw
from expkit.games.generals.schema import DIRECTIONS, TERRAIN_CODES
from expkit.resimulation.playback import Moment, Playback


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replay")
    write_boards(folder / "boards", episodes=3, steps=6)
    write_vectors(folder / "vectors")
    return folder


class Terminal:
    """A process on a pseudo terminal; `screen` is what a person would see, from cursor addressing on."""

    def __init__(self, arguments, cwd, columns=80, lines=24):
        self.leader, self.follower = pty.openpty()
        fcntl.ioctl(self.follower, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.before = termios.tcgetattr(self.follower)
        environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "expkit.commands", *arguments], cwd=cwd, env={**environment, "TERM": "xterm"},
            stdin=self.follower, stdout=self.follower, stderr=self.follower, start_new_session=True,
        )  # fmt: skip
        self.shown = b""
        self.looked_at = 0

    def press(self, keys):
        os.write(self.leader, keys.encode())

    def wait_for(self, words, timeout=PATIENCE):
        """The last frame drawn once it holds `words`."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            ready, _, _ = select.select([self.leader], [], [], 0.2)
            if ready:
                try:
                    self.shown += os.read(self.leader, 65536)
                except OSError:
                    break
            for frame in self.frames[self.looked_at : self.whole]:
                if words in frame:
                    return frame
                self.looked_at += 1
            if self.process.poll() is not None and not ready:
                break
        raise AssertionError(f"{words!r} was never shown; the last frame is:\n{self.frame}")

    @property
    def frames(self):
        """All frames so far, without their styles; the last one may not be whole yet."""
        text = self.shown.decode(errors="replace")
        return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame) for frame in text.split("\x1b[H")]

    @property
    def whole(self):
        """How many frames have come to their end, which clears what is below; one may come in several reads."""
        frames = self.shown.split(b"\x1b[H")
        return len(frames) if b"\x1b[J" in frames[-1] else len(frames) - 1

    @property
    def frame(self):
        return self.frames[-1]

    def finish(self, timeout=PATIENCE):
        """Wait for the end; (exit code, everything shown after the last frame began)."""
        code = None
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            ready, _, _ = select.select([self.leader], [], [], 0.1)
            if ready:
                self.shown += os.read(self.leader, 65536)
            code = self.process.poll()
            if code is not None and not ready:
                break
        return code, self.shown.decode(errors="replace")

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.follower)
        os.close(self.leader)


@pytest.fixture
def terminal(runs):
    opened = []

    def open_terminal(*arguments, **size):
        opened.append(Terminal(arguments, runs, **size))
        return opened[-1]

    yield open_terminal
    for one in opened:
        one.close()


def is_restored(one, shown):
    """Cursor visible, the usual screen, and the keyboard as it was."""
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert shown.rindex("\x1b[?1049l") > shown.rindex("\x1b[?1049h")
    assert termios.tcgetattr(one.follower)[:4] == one.before[:4]


def test_keys_step_pause_and_change_eyes(terminal):
    one = terminal("replay", "boards", "--step", "2")
    frame = one.wait_for("step 2 of 6 · paused · seen by all players")
    assert "episode 0 (1 of 3) · won by player 0" in frame
    assert "A1  a1 a12" in frame
    assert "B1  b1 b12" in frame
    one.press("\x1b[C")
    one.wait_for("step 3 of 6")
    one.press("\x1b[D\x1b[D\x1b[D")
    one.wait_for("step 0 of 6")
    one.press("\x1b[D")
    one.press("p")
    frame = one.wait_for("seen by player 0")
    assert "A10" in frame
    assert "B10" not in frame
    one.press("pp")
    one.wait_for("seen by all players")
    one.press("j")
    one.wait_for("step 5 of 6 · paused · seen by all players · terminated")
    one.press("n")
    one.wait_for("episode 1 (2 of 3)")
    one.press("N\x1b[A")
    one.wait_for("episode 0 (1 of 3)")
    one.press(" ")
    one.wait_for("· 2x ·")
    one.press("q")
    code, shown = one.finish()
    assert code == 0
    is_restored(one, shown)


def test_it_plays_by_itself_into_the_next_episode(terminal):
    one = terminal("replay", "boards", "--rate", "16x")
    one.wait_for("episode 2 (3 of 3)")
    one.wait_for("step 6 of 6 · paused")
    one.press("q")
    assert one.finish()[0] == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_gives_the_terminal_back(terminal, number, code):
    one = terminal("replay", "boards", "--step", "0")
    one.wait_for("paused")
    one.process.send_signal(number)
    ended, shown = one.finish()
    assert ended == code
    is_restored(one, shown)
    assert f"expkit replay: stopped by {signal.Signals(number).name}" in shown


@pytest.mark.parametrize(("columns", "lines"), [(40, 12), (80, 24), (200, 50)])
def test_a_frame_fits_the_terminal(terminal, columns, lines):
    one = terminal("replay", "boards", "--step", "3", columns=columns, lines=lines)
    frame = one.wait_for("quit" if columns > 40 else "space pause")
    shown = frame.replace("\r", "").split("\n")
    assert len(shown) <= lines
    assert max(map(len, shown)) <= columns
    one.press("q")
    assert one.finish()[0] == 0


def test_a_game_without_boards_can_be_watched(terminal):
    one = terminal("replay", "vectors", "--episode", "2", "--step", "1")
    assert "observation  [2.  1.  0.5]" in one.wait_for("step 1 of 6")
    one.press("q")
    assert one.finish()[0] == 0


def test_codes_are_those_of_the_schema():
    assert TERRAIN_CODES == ("plain", "city", "general", "mountain", "fog", "obstacle")
    assert tuple(range(6)) == (draw.PLAIN, draw.CITY, draw.GENERAL, draw.MOUNTAIN, draw.FOG, draw.OBSTACLE)
    assert draw.DIRECTIONS == DIRECTIONS


def test_actions_are_decoded():
    assert str(draw.decode_action(action_at(0, 2), HEIGHT, WIDTH)) == "(2,1) right, full"
    assert str(draw.decode_action(4 * TILES + 4 * 9, HEIGHT, WIDTH)) == "(2,1) up, half"
    assert str(draw.decode_action(8 * TILES, HEIGHT, WIDTH)) == "pass"
    assert draw.decode_action(8 * TILES + 1, HEIGHT, WIDTH).kind == "illegal"
    for action in range(0, 8 * TILES, 7):
        move = draw.decode_action(action, HEIGHT, WIDTH)
        half = 4 * TILES if move.half else 0
        assert half + (move.y * WIDTH + move.x) * 4 + move.direction == action


def test_a_board_is_drawn_as_it_is():
    view = draw.view_of(board(0, 2))
    lines = ["".join(text for text, _ in line) for line in draw.draw(view, draw.decode_action(action_at(0, 2), 6, 7))]
    assert lines == [
        "    x0  x1  x2  x3  x4  x5  x6",
        "y0   ^   .   .   .   ?   ?   ?",
        "y1  A1  a1 a12>  .   ?   ?   ?",
        "y2 +44   .   .   .   ?   ?   ?",
        "y3   ?   ?   ?   ?   ?   ?   ?",
        "y4   ?   ?   ?   ?   ?   ?   ?",
        "y5   ?   ?   ?   ?   ?   ?   #",
    ]


@pytest.mark.parametrize("columns", range(8, 40))
def test_a_drawn_board_stays_within_its_columns(columns):
    view = draw.view_of(board(1, 5))
    for action in (None, draw.decode_action(action_at(1, 5), HEIGHT, WIDTH), draw.decode_action(27, HEIGHT, WIDTH)):
        for line in draw.draw(view, action, columns=columns, rows=4):
            assert len("".join(text for text, _ in line)) <= columns


def test_joined_views_show_what_either_sees():
    joined = draw.join_views([draw.view_of(board(0, 3)), draw.view_of(board(1, 3))])
    assert joined.owner[1, 0] == 0
    assert joined.owner[4, 0] == 1
    assert draw.standing(joined) == [(0, 4, 16), (1, 4, 16)]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (999, "999"), (1234, "1.2k"), (15_400, "15k"), (2_100_000, "2.1M")]
)
def test_armies_take_four_characters_at_most(count, text):
    assert draw.armies(count) == text
    assert all(len(draw.armies(int(n))) <= 4 for n in np.geomspace(1, 9.9e8, 500))


def test_matches_are_shown_one_after_another(runs):
    where = "step in (2, 4) and player == 1 and episode != 1"
    shown = expkit("replay", "boards", "--where", where, cwd=runs)
    assert re.findall(r"^episode (\d+) step (\d+) of 6 · (.*)$", shown.stdout, re.MULTILINE) == [
        ("0", "2", "player 1 matches"),
        ("0", "4", "player 1 matches"),
    ]
    told = json.loads(expkit("replay", "boards", "--where", where, "--episode", "2", "--json", cwd=runs).stdout)
    assert [frame["step"] for frame in told["frames"]] == [2, 4]
    assert told["moments"] == [{"step": step, "what": "player 1 matches"} for step in (2, 4)]


def test_keys_jump_from_match_to_match(terminal):
    one = terminal("replay", "boards", "--where", "step == 3 and player == 0 and episode != 1")
    one.wait_for("step 3 of 6 · paused")
    one.press("j")
    one.wait_for("episode 2 (2 of 2)")
    one.press("J")
    one.wait_for("episode 0 (1 of 2)")
    one.press("q")
    assert one.finish()[0] == 0


def test_playback_gives_each_step_with_all_players(runs):
    with open_run(runs / "boards") as run:
        playback = Playback(run, 1)
        assert len(playback) == 7
        assert playback.steps == list(range(7))
        for step in range(7):
            frame = playback.frame(playback.index_of(step))
            assert set(frame.rows) == {0, 1}
            for player, row in frame.rows.items():
                np.testing.assert_array_equal(row["observation/army"], board(player, step)["observation/army"])
        assert playback.index_of(99) is None
        assert Moment(5, "terminated") in playback.moments
        assert run.schema == BOARD_SCHEMA


def expkit(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "expkit.commands", *map(str, arguments)], cwd=cwd, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip


def test_a_recorded_game_plays_out_the_same_and_a_changed_one_does_not(tmp_path):
    done = expkit("record", "--episodes", "3", "--max-steps", "60", "--size", "8x8", "--seed", "5", "--min-free", "0",
                  "-o", "run", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    same = json.loads(expkit("replay", "run", "--verify", "--json", cwd=tmp_path).stdout)
    assert same["equal"] is True
    assert same["episodes"] == 3
    assert same["rows"] == len(open_run(tmp_path / "run"))
    description = tmp_path / "run/run.yaml"
    text = description.read_text().rpartition("# crc32")[0]
    assert "general_army: 1" in text
    description.write_text(text.replace("general_army: 1", "general_army: 3"))
    other = expkit("replay", "run", "--verify", "--json", cwd=tmp_path)
    assert other.returncode == 4
    body = json.loads(other.stdout)
    assert body["equal"] is False
    assert body["episodes_differing"] == 3
    first = body["first_difference"]
    assert (first["episode"], first["player"], first["step"]) == ("0", 0, 0)
    assert first["field"] == "observation/army"
    plain = expkit("replay", "run", "--verify", "--episode", "1", "-q", cwd=tmp_path)
    assert plain.returncode == 4
    assert "differs first at episode 1 player 0 step 0 observation/army: recorded 1 at" in plain.stdout
