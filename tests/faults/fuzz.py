"""Coverage-guided fuzzing of one target: `python tests/faults/fuzz.py shard -max_total_time=60`.

Takes the options of libFuzzer. Works in a folder of its own; a crash is left there as crash-…, to be put into corpus/.
Needs the package atheris.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import warnings
from pathlib import Path
from random import Random

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from places import HELPERS, ROOT  # noqa: E402

sys.path[:0] = HELPERS
# Above what the process has when it begins: the format allows records of 16 MiB of JSON and blocks of 16 MiB here.
SPARE = 512 << 20


def address_space() -> int:
    """Bytes of address space in use."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main() -> None:
    import atheris

    # Not the kernels: Numba compiles their bytecode.
    kernels = [f"expkit.kernels.{path.stem}" for path in (ROOT / "expkit" / "kernels").glob("*.py")]
    with atheris.instrument_imports(include=["expkit"], exclude=[*kernels, "expkit.kernels"]):
        from fuzz_targets import CORPUS, TARGETS

    warnings.simplefilter("error")
    name, *options = sys.argv[1:]
    target = TARGETS[name]
    corpus = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-", dir="."))
    tempfile.tempdir = tempfile.mkdtemp(dir=".")
    seeds = [*target.seeds(), *(path.read_bytes() for path in sorted(CORPUS.glob(f"{name}-*")))]
    for number, seed in enumerate(seeds):
        target.run(seed)
        (corpus / f"seed-{number}").write_bytes(target.reseal(seed))

    def mutate(data: bytes, limit: int, seed: int) -> bytes:
        rng = Random(seed)
        if rng.random() < 0.2:
            data = target.reseal(atheris.Mutate(data, limit))
        for _ in range(rng.choice((1, 1, 2, 4))):
            data = target.mutate(data, rng)
        return data[:limit]

    limit = address_space() + SPARE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    arguments = [sys.argv[0], *options, "-timeout=60", "-rss_limit_mb=0", "-max_len=1000000", "-print_final_stats=1"]
    atheris.Setup([*arguments, str(corpus)], target.run, custom_mutator=mutate)
    atheris.Fuzz()  # does not return


if __name__ == "__main__":
    main()
