"""Rows by their addresses (episode, player, step), many at once: what one at a time gives."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_games import record_games
from test_compact import expkit

from expkit import open_run
from expkit.errors import NotThere, SchemaError
from expkit.reading.run import Run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory):
    """Whole games of three players, and the same of which rows in the middle were left out."""
    folder = tmp_path_factory.mktemp("addresses")
    record_games(folder / "whole", players=3, size="8x9", shard_rows=150)
    done = expkit("rewrite", folder / "whole", "--where", "step % 7 != 3 and step % 5 != 1", "-o", folder / "some")
    assert done.returncode == 0, done.stderr
    with open_run(folder / "whole") as whole, open_run(folder / "some") as some:
        yield {"whole": whole, "some": some}
    shutil.rmtree(folder)


def addresses(run: Run) -> list[tuple[int, int, int]]:
    found: list[tuple[int, int, int]] = []
    for batch in run.scan(["step"], rows="all"):
        found += zip(*(batch[name].tolist() for name in ("episode", "player", "step")), strict=True)
    return found


@pytest.mark.parametrize("name", ["whole", "some"])
def test_every_row_is_found_where_it_is(runs, name):
    run = runs[name]
    known = addresses(run)
    order = np.random.default_rng(1).permutation(len(known))
    wanted = np.array(known, np.int64)[order]
    batch = run.row_batch(*wanted.T)
    for column, at in (("episode", 0), ("player", 1), ("step", 2)):
        assert np.array_equal(batch[column], wanted[:, at])
    for at in range(0, len(wanted), 37):
        for column, value in run.row(*wanted[at].tolist()).items():
            assert np.array_equal(batch[column][at], value), column


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["whole", "some"]), st.data())
def test_any_addresses_are_found_or_the_first_that_is_missing_is_named(runs, name, data):
    run = runs[name]
    known = set(addresses(run))
    number = st.one_of(st.integers(0, 70), st.integers(0, 4), st.just(1 << 63))
    one = st.tuples(number.filter(lambda n: n < 1 << 63), st.integers(-1, 4), number)
    asked = data.draw(st.lists(st.one_of(st.sampled_from(sorted(known)), one), min_size=1, max_size=12))
    found = run.addresses.numbers(*(np.array(part, np.int64 if at else np.uint64) for at, part in enumerate(
        zip(*((e, p, min(s, (1 << 62))) for e, p, s in asked), strict=True)
    )))  # fmt: skip
    assert [number >= 0 for number in found.tolist()] == [address in known for address in asked]
    missing = [address for address in asked if address not in known]
    if not missing:
        batch = run.row_batch(*zip(*asked, strict=True), columns=["action"])
        assert list(zip(*(batch[key].tolist() for key in ("episode", "player", "step")), strict=True)) == asked


def test_one_number_holds_for_all_and_what_is_no_address_is_refused(runs):
    run = runs["whole"]
    batch = run.row_batch(1, 0, np.arange(5), columns=["observation/army"])
    assert np.array_equal(batch["observation/army"], run.rows(1, 0)["observation/army"][:5])
    assert "reward" not in batch
    with pytest.raises(NotThere, match="episode 1 player 0 has no step 900"):
        run.row_batch(1, 0, [3, 900, 901])
    with pytest.raises(SchemaError, match="three whole numbers"):
        run.row_batch(1, 0, [0.5])
    shard, block = run.locate(2, 1, 4)
    stored = run.reader(shard).read_block(block, ["episode", "step"])
    assert ((stored["episode"] == 2) & (stored["step"] == 4)).any()
    with pytest.raises(NotThere, match="no row at"):
        runs["some"].locate(1, 0, 3)
