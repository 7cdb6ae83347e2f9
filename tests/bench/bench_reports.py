"""Reports of a bench as they could have been measured, for tests of what is made of them."""

from expkit.bench.machine import Machine
from expkit.bench.measure import Spread
from expkit.bench.results import SCHEMA, GoalResult, PeerResult, Report, Result


def around(median, part=0.05):
    """A spread of plus and minus `part`."""
    return Spread(median, median * (1 - part), median * (1 + part))


def result(stage="ring/add-1", workload="W", ratio=1.0, part=0.05, **changes):
    """A Result whose ratio is `around(ratio, part)`, None for none."""
    fields = dict(
        stage=stage, workload=workload, title="add one row", limit="NumPy columns", rows=256, bytes=256 * 16022,
        steady=True, clock="thread", rows_per_second=around(250e3), mb_per_second=4005.5,
        limit_rows_per_second=around(250e3), ratio=None if ratio is None else around(ratio, part),
        cpu_ns_per_row=4000.0, cpu_ratio=1.0, first_seconds=0.01, compile_seconds=0.0, peak_bytes=300 << 20,
        allocated_per_row=0.5, extra={}, goals=[],
    )  # fmt: skip
    return Result(**{**fields, **changes})


def goal(measure="ratio", value=1.0, least=None, most=None):
    met = (least is None or value >= least) and (most is None or value <= most)
    return GoalResult(measure, value, least, most, met)


def peer(name="cpprb", ratio=10.0, stage="ring/add-1", workload="W", **changes):
    speed = None if ratio is None else around(250e3 / ratio)
    fields = dict(
        peer=name, version="1.2", stage=stage, workload=workload, rows_per_second=speed,
        ratio=None if ratio is None else around(ratio),
    )  # fmt: skip
    return PeerResult(**{**fields, **changes})


def report(*stages, peers=(), cores=2, **changes):
    machine = Machine(
        processor="Some Processor", cores=cores, memory=8 << 30, system="Linux x86_64", versions={"expkit": "0.1.0"},
        memcpy=16e9, zstd=1e9, crc32=3e9, disk=450e6,
    )  # fmt: skip
    fields = dict(schema=SCHEMA, suite="quick", created="2026-01-02T03:04:05Z", seconds=12.5)
    return Report(machine=machine, stages=list(stages), peers=list(peers), **{**fields, **changes})
