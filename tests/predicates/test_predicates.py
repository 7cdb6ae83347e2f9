"""Conditions on rows: parsing, printing, evaluation against a slow twin, and which blocks may be skipped."""

import os
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from predicate_twin import truth
from shard_rows import BOARD

from expkit.errors import ExpkitError, UsageError
from expkit.formats.shard import BlockEncoder, ShardReader, ShardWriter
from expkit.formats.shard.blocks import Statistics
from expkit.predicates import EpisodeTable, parse
from expkit.predicates.predicate import Predicate
from expkit.predicates.tree import (
    Absolute,
    All,
    Any,
    Arithmetic,
    Between,
    Compare,
    Is,
    Name,
    Negate,
    Not,
    Number,
    Text,
    Truth,
    Within,
)
from expkit.row.episodes import Episode, EpisodeEnd, PolicyInfo
from expkit.row.schema import Field, Schema

FIRST = 1 << 48
SCHEMA = Schema(
    [
        Field("state/turn", "u8", (), "observation"),
        Field("i", "i8", (), "observation"),
        Field("tiny", "i1", (), "step"),
        Field("half", "f2", (), "action"),
        Field("wide", "f8", (), "observation"),
        Field("maybe", "f4", (), "action", nullable=True),
        Field("maybe-int", "i2", (), "observation", nullable=True),
        Field("board", "i4", (2, 3), "observation"),
        Field("real", "f4", (2,), "step"),
        Field("mask", "bool", (9,), "observation", expand=(2, 1)),
        Field("seen", "bool", (), "observation"),
    ]
)
POLICIES = [PolicyInfo("hunter"), PolicyInfo("random"), PolicyInfo("hunter", "second")]
NARROW = {"reward": "<f", "maybe": "<f", "real": "<f", "half": "<e"}
PLAIN = ["episode", "player", "step", "policy", "policy_version", "time_ns", "reward", "state/turn", "i", "tiny",
         "half", "wide", "maybe", "maybe-int", "length", "outcome"]  # fmt: skip
FLAGS = ["is_first", "is_last", "terminated", "truncated", "seen", "won"]
EPISODES = EpisodeTable(
    [
        Episode(FIRST, None, EpisodeEnd(FIRST, 1, "terminated", 7, {"0": 1.0, "1": -1.0})),
        Episode(FIRST + 1, None, EpisodeEnd(FIRST + 1, 1, "terminated", 5, {"0": 0.5, "1": 0.5})),
        Episode(FIRST + 2, None, EpisodeEnd(FIRST + 2, 1, "truncated", 9, {"0": 1.0, "1": None})),
        Episode(FIRST + 3, None, None, {0: 4, 1: 3}),
    ]
)
# Written out by hand, by (episode, player); FIRST + 4 is an episode that the table does not know.
OF_EPISODE = {
    (0, 0): (7, "terminated", 1.0, True), (0, 1): (7, "terminated", -1.0, False),
    (1, 0): (5, "terminated", 0.5, False), (1, 1): (5, "terminated", 0.5, False),
    (2, 0): (9, "truncated", 1.0, False), (2, 1): (9, "truncated", None, None),
    (3, 0): (4, "interrupted", None, None), (3, 1): (4, "interrupted", None, None),
    (4, 0): (None,) * 4, (4, 1): (None,) * 4,
}  # fmt: skip

ints = st.one_of(
    st.integers(-3, 12),
    st.sampled_from([FIRST, FIRST + 2, 1 << 53, (1 << 53) + 1, (1 << 63) - 1, 1 << 63]),
    st.sampled_from([(1 << 64) - 1, 1 << 64, -(1 << 63)]),
    st.integers(-(1 << 70), 1 << 70),
)  # fmt: skip
floats = st.one_of(
    st.sampled_from([0.0, 0.1, 0.5, -1.5, 2.0**53, 2.0**63, 2.0**64, 1e30, 65504.0, 65519.9, 65520.0, np.inf, -np.inf]),
    st.floats(allow_nan=False),
)
numbers = st.builds(Number, ints | floats)
plain = st.sampled_from([Name(name) for name in PLAIN])
elements = st.one_of(
    st.builds(lambda a, b: Name("board", (a, b)), st.integers(-2, 1), st.integers(-3, 2)),
    st.builds(lambda a: Name("real", (a,)), st.integers(-2, 1)),
)
flags = st.sampled_from([Name(name) for name in FLAGS]) | st.builds(lambda a: Name("mask", (a,)), st.integers(-19, 18))
values = st.recursive(
    plain | plain | numbers | elements,
    lambda inner: st.one_of(
        st.builds(Negate, inner),
        st.builds(Absolute, inner),
        st.builds(Arithmetic, st.sampled_from("+-*/%"), inner, inner),
    ),
    max_leaves=4,
)  # fmt: skip
ops = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
several = st.lists(st.one_of(numbers, st.builds(Truth, st.booleans())), min_size=1, max_size=4).map(tuple)
policy_texts = st.sampled_from([Text("hunter"), Text("random")])
ended_texts = st.sampled_from([Text(word) for word in ("terminated", "truncated", "interrupted")])
same = st.sampled_from(["==", "!="])


def texts_of(name, texts):
    return st.one_of(
        st.builds(lambda op, text: Compare(Name(name), ((op, text),)), same, texts),
        st.builds(lambda op, text: Compare(text, ((op, Name(name)),)), same, texts),
        st.builds(lambda items, no: Within(Name(name), tuple(items), no), st.lists(texts, min_size=1), st.booleans()),
    )


def compared(operands):
    chain = st.lists(st.tuples(ops, operands), min_size=1, max_size=3).map(tuple)
    return st.one_of(
        st.builds(Compare, operands, chain),
        st.builds(Within, operands, several, st.booleans()),
        st.builds(Between, operands, operands, operands, st.booleans()),
        st.builds(Is, operands, st.sampled_from(["null", "nan"]), st.booleans()),
    )


leaves = st.one_of(
    compared(values),
    st.builds(lambda left, op, right: Compare(left, ((op, right),)), plain, ops, numbers),
    flags,
    st.builds(Truth, st.booleans()),
    texts_of("policy", policy_texts),
    texts_of("ended", ended_texts),
)
conditions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(All, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Any, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        compared(inner),
    ),
    max_leaves=5,
)

POOLS = {
    "f": [0.0, -0.0, 0.1, 0.5, 1.0, -1.5, 7.0, 2.0**53, 1e30, np.inf, -np.inf, np.nan, np.nan],
    "u": [0, 1, 2, 7, (1 << 53) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1],
    "i": [0, 1, -1, 7, (1 << 53) + 1, (1 << 63) - 1, -(1 << 63)],
    "b": [False, True],
}


def rows_for(seed, count):
    """Stored columns of `count` rows; each column draws from few of its extreme values, so that some blocks can be
    skipped. Values are cut to the column's dtype; what is absent is not always zero."""
    rng = np.random.default_rng(seed)
    out = {}
    for column in SCHEMA.columns:
        pool = np.array(POOLS[column.dtype.kind], None if column.dtype.kind != "u" else np.uint64)
        pool = rng.choice(pool, rng.integers(1, 4))
        with np.errstate(over="ignore", invalid="ignore"):
            out[column.name] = rng.choice(pool, column.shape(count)).astype(column.dtype)
        if column.packed:
            out[column.name] = rng.integers(0, 256, column.shape(count)).astype(np.uint8)
    span = np.sort(rng.integers(0, 5, 2))
    out["episode"] = (FIRST + rng.integers(span[0], span[1] + 1, count)).astype(np.uint64)
    out["policy"] = rng.integers(0, 3, count).astype(np.uint16)
    return out


def as_dicts(stored, player):
    """Each row as the twin wants it, read off the logical arrays."""
    logical = {name: SCHEMA.unpack(name, array) for name, array in stored.items()}
    rows = []
    for at in range(len(stored["episode"])):
        row = {"narrow": NARROW, "policies": [policy.name for policy in POLICIES], ("player", ()): player}
        for name, array in logical.items():
            field = next((field for field in SCHEMA.fields if field.name == name), None)
            null = field is not None and (
                (field.nullable and not stored[f"valid:{name}"][at])
                or (field.belongs != "observation" and stored["is_last"][at])
            )
            for index in np.ndindex(array.shape[1:]):
                found = None if null else array[(at, *index)].item()
                for turned in np.ndindex((2,) * len(index)):
                    place = tuple(
                        i - side * t for i, side, t in zip(index, array.shape[1:], turned, strict=True)
                    )  # counted from the end, too
                    row[name, place] = found
        known = OF_EPISODE[int(stored["episode"][at]) - FIRST, player]
        row |= {(name, ()): found for name, found in zip(("length", "ended", "outcome", "won"), known, strict=True)}
        rows.append(row)
    return rows


@settings(max_examples=400, deadline=None)
@given(conditions, st.integers(0, 1 << 32), st.integers(0, 12), st.integers(0, 1))
@example(Compare(Name("state/turn"), ((">", Name("i")),)), 3, 12, 0)
@example(Compare(Name("reward"), (("==", Number(0.1)),)), 3, 12, 0)
def test_vectors_agree_with_a_slow_twin(tree, seed, count, player):
    stored = rows_for(seed, count)
    bound = Predicate(tree).bind(SCHEMA, POLICIES)
    wanted = [truth(tree, row) is True for row in as_dicts(stored, player)]
    needed = {name: stored[name] for name in bound.columns}
    found = bound.evaluate(needed, player, EPISODES)
    assert found.dtype == bool
    assert found.tolist() == wanted
    logical = {name: SCHEMA.unpack(name, array) for name, array in needed.items()}
    assert bound.evaluate(logical, player, EPISODES).tolist() == wanted


def test_integers_are_compared_and_counted_exactly():
    big = np.array([(1 << 53) + 1, (1 << 64) - 1, 1 << 63], np.uint64)
    less = np.array([1 << 53, -1, (1 << 63) - 1], np.int64)
    columns = {"state/turn": big, "i": less}

    def select(text):
        return parse(text).bind(SCHEMA).evaluate(columns, 0).tolist()

    assert select("state/turn == 9007199254740992") == [False, False, False]
    assert select("state/turn == 9007199254740993") == [True, False, False]
    assert select("state/turn > i") == [True, True, True]
    assert select("state/turn - i == 1") == [True, False, True]
    assert select("state/turn + 1 == 18446744073709551616") == [False, True, False]
    assert select("state/turn * state/turn > 1e38") == [False, True, False]
    assert select("state/turn == 9007199254740992.0") == [False, False, False]
    assert select("state/turn < 18446744073709551616.0") == [True, True, True]
    assert select("i * 1.0 in (9007199254740993, -1)") == [False, True, False]  # no f64 equals the first
    assert select("i % 10 == 9") == [False, True, False]  # -1 % 10, as in Python
    assert select("state/turn in (18446744073709551615, 9223372036854775808.0, -1)") == [False, True, True]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("reward == 0.1", [True, False, False]),
        ("0.1 < reward", [False, True, True]),
        ("reward in (0.1, 7)", [True, False, False]),
        ("reward between 0.1 and 0.2", [True, True, False]),
        ("reward * 1 == 0.1", [False, False, False]),  # only a bare field is compared in its own precision
        ("half == 1e6", [False, False, False]),  # and no constant becomes infinite by it
        ("half == inf", [False, False, True]),
        ("half == 2049", [False, False, False]),  # f2 rounds 2049 to 2048, but a whole number is meant exactly
    ],
)
def test_fractions_are_compared_as_they_are_stored(text, wanted):
    columns = {
        "is_last": np.zeros(3, bool),
        "reward": np.array([0.1, 0.2, 0.3], np.float32),
        "half": np.array([2048, 1, np.inf], np.float16),
    }
    assert parse(text).bind(SCHEMA).evaluate(columns, 0).tolist() == wanted


@settings(max_examples=500, deadline=None)
@given(conditions)
def test_normal_form_parses_to_the_same(tree):
    text = str(tree)
    again = parse(text)
    assert again == Predicate(tree)
    assert str(again) == text


names = st.text(min_size=1, max_size=8) | st.sampled_from(["and", "NaN", "true", "abs", "a b", "`", "a/2", "log-prob"])


@given(names, st.lists(st.integers(-9, 9), max_size=3), st.text(max_size=8), ops)
def test_odd_names_and_texts_survive_printing(name, index, text, op):
    tree = All((Compare(Name(name, tuple(index)), ((op, Text(text)),)), Not(Not(Name(name)))))
    assert parse(str(tree)).tree == tree


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("PLAYER = 1 AND reward<>.5", "PLAYER == 1 and reward != 0.5"),
        ("a or b and not c < d", "a or b and not c < d"),
        ("(a or b) and (not (c)) < d", "(a or b) and (not c) < d"),
        ("((a - b)) - (c - d)", "a - b - (c - d)"),
        ("a - b * c % d / e", "a - b * c % d / e"),
        ("- x + - 3 - -(3) ", "-x + -3 - -(3)"),
        ("0<reward<=1", "0 < reward <= 1"),
        ("x Not In [0x1F,0o17,010,1e3,-inf,.INF,'it''s',\"a\"\"b\",TRUE]",
         "x not in (31, 15, 10, 1000.0, -inf, inf, 'it''s', 'a\"b', true)"),
        ("x between 1+1 and 2 and y", "x between 1 + 1 and 2 and y"),
        ("x IS NOT NULL or y is nan", "x is not null or y is nan"),
        ("a/2 > state/turn[ 0,-1 ]", "a / 2 > state/turn[0, -1]"),
        ("a-b.c > 1", "a - b.c > 1"),
        ("`a-b` > abs(abs)", "`a-b` > abs(abs)"),
        ("`plain` and `or`", "plain and `or`"),
    ],
)  # fmt: skip
def test_forms(text, normal):
    assert str(parse(text)) == normal
    assert str(parse(normal)) == normal


NAMED = "policy_name is a text; compare it with the name of a policy, or policy with its number"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing to select by; write a condition such as reward > 0"),
        ("player == 1 and reward >", "expected a value after '>' at character 25: player == 1 and reward >"),
        ("rewrad > 1", "unknown name 'rewrad'; did you mean 'reward'?"),
        ("(reward > 1", "expected ')' after '1' at character 12: (reward > 1"),
        (") > 1", "expected a value, not ')', at character 1: ) > 1"),
        ("reward 1", "expected 'and', 'or', an operator or the end after 'reward' at character 8: reward 1"),
        ("reward > 0 && won", "'&' has no meaning here, write 'and' at character 12: reward > 0 && won"),
        ("policy == 'hunter", "the ' is never closed at character 11: policy == 'hunter"),
        ("reward > 1_000", "'1_' is no number at character 10: reward > 1_000"),
        ("sum(reward) > 2", "there is no function 'sum', only abs(), at character 1: sum(reward) > 2"),
        ("reward == nan", "nothing equals nan, write 'is nan' or 'is not nan', at character 11: reward == nan"),
        ("maybe = NULL", "nothing equals null, write 'is null' or 'is not null', at character 9: maybe = NULL"),
        ("step in ()", "expected a number, a text in quotes, true or false after '(' at character 10: step in ()"),
        ("won is true", "expected 'null' or 'nan' after 'is' at character 8: won is true"),
        ("step\n> #", "'#' has no meaning here at character 8: step > #"),
        ("i > " + "1" * 50, "a number of 50 characters; at most 40 are read, at character 5: i > " + "1" * 50),
        ("reward and won", "reward is a number, not true or false; compare it, as in reward > 0"),
        ("won + 1 > 2", "won is true or false, and + needs a number"),
        ("reward/length > 2", "unknown name 'reward/length'; to divide, put spaces around the /"),
        ("board > 3", "board is an array of 2x3; write board[0, 0]"),
        ("board[2, 0] > 3", "board[2, 0] is outside: that side of board has 2 elements"),
        ("reward[0] > 3", "reward is one value, not an array; write reward"),
        ("step[0] > 3", "step is one value, not an array; leave out [0]"),
        ("ended == 'termnated'", "no way to end 'termnated'; did you mean 'terminated'?"),
        ("ended == 3", "ended is a text; compare it with 'terminated', 'truncated' or 'interrupted'"),
        ("ended in ('truncated', 3)", "ended is a text; compare it with 'terminated', 'truncated' or 'interrupted'"),
        ("policy == 'zzz'", "no policy 'zzz'; there are hunter, random, hunter"),
        ("policy_name != 'random' and policy_name in ('zzz')", "no policy 'zzz'; there are hunter, random, hunter"),
        ("policy_name in (1, 2)", NAMED),
        ("policy_name + 1 > 2", NAMED),
        ("policy < 'hunter'", "the text 'hunter' has no order; compare it by == or !="),
        ("reward == 'x'", "reward is a number, which cannot be compared with the text 'x'"),
        ("'a' == 'b'", "the text 'b' can only be compared with policy_name or ended, by == or !="),
        ("(" * 101 + "won" + ")" * 101, "more than 100 levels deep; use fewer brackets at character 101: …"),
        ("+".join("1" * 200) + " > 1", "more than 100 levels deep; use fewer brackets, or shorter sums"),
        ("x" * 70_000, "70,000 characters; at most 65,536 are read"),
    ],
)
def test_errors_say_what_and_where(text, message):
    with pytest.raises(UsageError) as caught:
        parse(text).bind(SCHEMA, POLICIES)
    said = str(caught.value)
    assert said == f"--where: {message}" or (message.endswith("…") and said.startswith(f"--where: {message[:-1]}"))
    assert "\n" not in said
    assert len(said) < 250


pieces = st.sampled_from(
    ["(", ")", "[", "]", ",", "-", "+", "/", "%", "<", "<=", "=", "!", "'", '"', "`", "``", ".", "..", "0x", "1e",
     "1e9", "9" * 30, "and", "or", "not", "in", "between", "is", "null", "nan", "inf", "true", "abs", "abs(", "reward",
     "i", "won", "ended", "policy", "'hunter'", "board[0,0]", "state/turn", " ", "\n", "\x00", "é", "²", "１", "&&"]
)  # fmt: skip


@settings(max_examples=600, deadline=None)
@example("'\x80' 1")
@example("1 > 2 \x80")
@example("`\u2028` > 2")
@example("reward == '\u2028'")
@given(st.text(max_size=40) | st.lists(pieces, max_size=25).map(" ".join) | st.lists(pieces, max_size=25).map("".join))
def test_garbage_raises_only_usage_errors(text):
    columns = rows_for(1, 5)
    said = ""
    try:
        parse(text).bind(SCHEMA, POLICIES).evaluate(columns, 0, EPISODES)
    except UsageError as error:
        said = str(error)
    assert said.isprintable()


@pytest.mark.parametrize(
    "text",
    ["(", "[", "-", "not ", "abs(", "a and ", "a<", "'", "''", "'' ", '"', "`", "1", "1,", ".", "a.", "a/", "won/",
     "i in (1) or ", "a+", "a between ", "a is ", "a[", "i*", "\n", "1e", "i/2 >1 and "],
)  # fmt: skip
def test_long_garbage_is_refused_before_long(text):
    text *= 65_000 // len(text)
    start = time.process_time()
    said = ""
    for whole in (text, text + "won", f"i in ({text}1)"):
        try:
            parse(whole).bind(SCHEMA, POLICIES)
        except UsageError as error:
            said = str(error)
        assert len(said) < 400
    assert time.process_time() - start < 60  # some 0.1 s; the square of the length would take minutes


def test_the_deepest_predicate_works_throughout():
    text = "(" * 98 + "i" + " + 1)" * 98 + " == 98"
    bound = parse(str(parse(text))).bind(SCHEMA)
    assert bound.evaluate({"i": np.array([0, 1])}, 0).tolist() == [True, False]


def test_long_lists_and_alternatives_are_fine():
    text = " or ".join(f"episode == {FIRST + n}" for n in range(2000))
    bound = parse(text).bind(SCHEMA)
    assert bound.evaluate({"episode": np.array([FIRST + 1999, FIRST + 2000], np.uint64)}, 0).tolist() == [True, False]
    bound = parse(f"step in ({', '.join(map(str, range(0, 20_000, 2)))})").bind(SCHEMA)
    assert bound.evaluate({"step": np.array([4, 5, 19_998], np.uint32)}, 0).tolist() == [True, False, True]


def test_what_is_needed():
    def bound(text):
        return parse(text).bind(SCHEMA, POLICIES)

    assert bound("reward > 0 and episode == 3").columns == ("episode", "is_last", "reward")
    assert bound("`maybe-int` > 0 and maybe < 1").columns == (
        "is_last", "maybe", "valid:maybe", "maybe-int", "valid:maybe-int"
    )  # fmt: skip
    assert bound("won and ended != 'truncated' and length > 3").columns == ("episode",)
    assert bound("won and ended != 'truncated' and length > 3").episode_names == ("length", "ended", "won")
    assert bound("player == 1").columns == ("is_last",)
    with pytest.raises(UsageError, match=r"asks for length of the episode; pass EpisodeTable\(run.episodes\(\)\)"):
        bound("length > 3").evaluate(rows_for(0, 3), 0)


def test_a_field_goes_before_a_name_of_the_episode():
    schema = Schema([Field("length", "i4", (), "observation"), Field("ended", "bool", (), "observation")])
    bound = parse("length > 3 and ended").bind(schema)
    assert bound.episode_names == ()
    columns = {"length": np.array([3, 4, 5], np.int32), "ended": np.array([True, True, False])}
    assert bound.evaluate(columns, 0).tolist() == [False, True, False]


def test_a_player_alone_wins_above_zero():
    ends = [EpisodeEnd(n, 1, "terminated", 3, {"0": outcome}) for n, outcome in enumerate([1.0, 0.0, None])]
    table = EpisodeTable([Episode(end.episode, None, end) for end in ends])
    won, known = table.values("won", 0)
    assert won.tolist() == [True, False, False]
    assert known.tolist() == [True, True, False]


def write_block(stored, player, path):
    rows = len(stored["episode"])
    writer = ShardWriter(path, SCHEMA, {})
    try:
        writer.append_block(BlockEncoder(SCHEMA).encode(player, stored, rows))
    finally:
        writer.abandon()
    return ShardReader(path)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(conditions, st.integers(0, 1 << 32), st.integers(1, 9), st.integers(0, 1), st.integers(0, 1 << 20))
def test_no_block_with_a_matching_row_is_skipped(tmp_path, tree, seed, count, player, forget):
    path = tmp_path / "a.exp"
    try:
        with write_block(rows_for(seed, count), player, path) as reader:
            (info,) = reader.blocks
            statistics = reader.statistics(0)
            stored = reader.read_block(0)
    finally:
        os.unlink(path)
    # as a column whose values were lost: its bounds are unknown
    lost = {name: Statistics(None, None, False, 0) if forget >> n & 1 else found
            for n, (name, found) in enumerate(statistics.items())}  # fmt: skip
    less = {name: found for n, (name, found) in enumerate(statistics.items()) if not forget >> n & 1}
    # `not` asks whether a false answer was ruled out wrongly, `is null` an unknown one
    for asked in (tree, Not(tree), Is(tree, "null"), Is(tree, "null", True)):
        bound = Predicate(asked).bind(SCHEMA, POLICIES)
        matching = bound.evaluate(stored, player, EPISODES)
        for known in (statistics, {}, lost, less):
            for episodes in (EPISODES, None):
                assert bound.may_match(known, info, episodes) or not matching.any()
        for episode in np.unique(stored["episode"]):
            there = matching[stored["episode"] == episode]
            assert not bound.by_episode or there.all() or not there.any()


@pytest.fixture(scope="module")
def block(tmp_path_factory):
    """Statistics and info of one block: player 1, rewards 0 to 0.5, steps 10 to 19, episodes FIRST and FIRST + 1."""
    stored = {column.name: np.zeros(column.shape(10), column.dtype) for column in SCHEMA.columns}
    stored["step"][:] = np.arange(10, 20)
    stored["episode"][:] = FIRST + np.arange(10) % 2
    stored["policy"][:] = 1
    stored["reward"][:] = np.linspace(0, 0.5, 10)
    stored["wide"][3] = np.nan
    stored["i"][:] = np.arange(-4, 6)
    stored["state/turn"][:] = (1 << 64) - 1 - np.arange(10, dtype=np.uint64)
    with write_block(stored, 1, tmp_path_factory.mktemp("block") / "a.exp") as reader:
        return reader.statistics(0), reader.blocks[0]


@pytest.mark.parametrize(
    "text",
    [
        "player == 0", "episode == 3", "episode in (1, 2)", "step < 10", "step > 19", "step not between 0 and 20",
        "reward > 0.5", "0.6 < reward", "reward > 0.2 and step == 5", "reward > 1 or step > 30", "abs(i) > 5",
        "i * i > 25", "i + step < 6", "-i > 4", "step / 10 > 2", "i % 3 > 2", "state/turn < 18446744073709551606",
        "is_last", "seen", "not not is_last", "maybe > 0", "maybe is not null", "policy == 'hunter'",
        "policy_name == 'hunter'",
        "policy != 'random'", "reward is null", "reward is nan", "wide > 0", "wide < 0", "length > 7",
        "ended == 'truncated'",
        "outcome > 0.5", "won", "reward * 2 > 1", "reward - 1 > 0", "not (reward <= 0.5)", "false",
    ],
)  # fmt: skip
def test_blocks_that_cannot_match_are_skipped(block, text):
    assert not parse(text).bind(SCHEMA, POLICIES).may_match(*block, EPISODES)


@pytest.mark.parametrize(
    "text",
    [
        "policy_name != 'hunter'",
        "player == 1", "step == 15", "reward >= 0.5", "i < 0 and reward > 0.4", "wide is nan", "wide != 0",
        "not wide > 0", "maybe is null", "policy == 'random'", "step % 5 == 4", "board[0, 0] > 5", "mask[3]",
        "real[0] is nan", "length == 6", "not won", "step / i > 100", "1 / i is null",
        "state/turn == 18446744073709551615",
    ],
)  # fmt: skip
def test_blocks_that_may_match_are_read(block, text):
    assert parse(text).bind(SCHEMA, POLICIES).may_match(*block, EPISODES)


@pytest.mark.parametrize("text", ["wide - wide is nan", "wide * 0 is nan", "wide % 2 is nan", "wide * 1e300 > 1e308"])
def test_infinities_make_nan(tmp_path, text):
    stored = {column.name: np.zeros(column.shape(3), column.dtype) for column in SCHEMA.columns}
    stored["wide"][:] = [1e9, np.inf, -np.inf]
    bound = parse(text).bind(SCHEMA)
    assert bound.evaluate(stored, 0).any()
    with write_block(stored, 0, tmp_path / "a.exp") as reader:
        assert bound.may_match(reader.statistics(0), reader.blocks[0])


def test_the_index_alone_skips_by_key(block):
    info = block[1]
    for text in ("episode == 3", "step > 19", "player == 0", "policy_version > 0", "time_ns > 0"):
        assert not parse(text).bind(SCHEMA).may_match({}, info), text
    assert parse("reward > 9").bind(SCHEMA).may_match({}, info)


def test_conditions_from_the_schema_of_the_golden_files():
    bound = parse("big > 10 and action_mask[42] and observation/board[-1, 0] < 3").bind(BOARD)
    assert bound.columns == ("is_last", "observation/board", "action_mask", "big")
    assert issubclass(UsageError, ExpkitError)
