"""Makes sample_data/: `python tests/make_sample_data.py`. Recorded by the program itself; the twin is damaged here.

Needed again only when the engine, the format or the defaults change what a recording holds.
"""

import os
import shutil
import subprocess
import sys

from places import ROOT

from expkit.formats.shard.layout import ENVELOPE
from expkit.formats.shard.read import ShardReader

DATA = ROOT / "sample_data"
RECORD = "record --episodes 4 --num-envs 4 --players 3 --size 12x16 --seed 7 --shard-rows 700 --flush-interval 20ms"


def main() -> None:
    """Record the run, then a twin with one flipped bit in its first shard and a cut last shard."""
    run, twin = DATA / "run", DATA / "damaged"
    # The name of the machine is in every shard; it is nobody's business in a sample.
    words = [sys.executable, "-m", "expkit.commands", *RECORD.split(), "-o", "sample_data/run", "--force"]
    shell = ["unshare", "--uts", "sh", "-c", 'hostname sample && exec "$@"', "sh", *words]
    subprocess.run(shell, cwd=ROOT, check=True, env={**os.environ, "EXPKIT_MIN_FREE": "0"})
    shutil.rmtree(run / "locks")
    (run / "locks").mkdir()
    (run / "locks" / "w0").touch()
    shutil.rmtree(twin, ignore_errors=True)
    shutil.copytree(run, twin)
    first, *_, last = sorted((twin / "shards" / "w0").glob("*.exp"))
    with ShardReader(first) as reader:
        block = reader.blocks[0]
    data = bytearray(first.read_bytes())
    data[block.offset + ENVELOPE.size + block.head_bytes + block.body_bytes // 3] ^= 0x10
    first.write_bytes(data)
    last.write_bytes(last.read_bytes()[: last.stat().st_size * 2 // 3])


if __name__ == "__main__":
    main()
