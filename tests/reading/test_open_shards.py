"""How many shards of a run are open at once: bounded by their number and by their blocks, whatever is read."""

from damaged_runs import small_run

from expkit.reading.opening import open_run


def test_shards_are_closed_again_by_the_blocks_they_have(tmp_path):
    path = small_run(tmp_path / "run", episodes=12, rotate=True)
    with open_run(path) as run:
        expected = [row for batch in run.scan(["action"]) for row in batch["step"].tolist()]
        shards = len(run.shard_paths)
        assert shards > 8
        run.close_readers()
        run.most_blocks = 4 * len(run.reader(0).blocks)
        for _ in range(2):
            for shard in range(shards):
                run.reader(shard)
                assert sum(len(reader.blocks) for reader in run._readers.values()) <= run.most_blocks
        assert len(run._readers) == 4
        assert [row for batch in run.scan(["action"]) for row in batch["step"].tolist()] == expected
