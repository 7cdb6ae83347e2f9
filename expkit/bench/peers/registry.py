"""Which libraries there are, which of them are installed, and how each does beside expkit."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING

from expkit.bench.lab import Lab
from expkit.bench.measure import FULL, Effort
from expkit.bench.peers.adapter import DiskPeer, Peer
from expkit.bench.peers.array_record import GroupsOf1, GroupsOf256
from expkit.bench.peers.beside import DISK_STAGES, ENVIRONMENT_STAGES, MEMORY_STAGES, measure_beside, pass_of, stages_of
from expkit.bench.peers.cpprb import CpprbBuffer
from expkit.bench.peers.h5py import HdfFile
from expkit.bench.peers.lmdb import LmdbFile
from expkit.bench.peers.mcap import McapFile
from expkit.bench.peers.minari import MinariCollector, MinariDataset
from expkit.bench.peers.pyarrow import ArrowFile, ParquetFile
from expkit.bench.peers.stable_baselines3 import Sb3Buffer
from expkit.bench.peers.torchrl import TorchrlMemmap, TorchrlTensor
from expkit.bench.results import PeerResult, Report
from expkit.bench.stage import STAGES, Trial, choose, load_stages
from expkit.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from expkit.bench.suite import Progress

PEERS: tuple[type[Peer], ...] = (
    CpprbBuffer, TorchrlTensor, TorchrlMemmap, Sb3Buffer,
    ParquetFile, ArrowFile, GroupsOf256, GroupsOf1, McapFile, LmdbFile, HdfFile, MinariDataset, MinariCollector,
)  # fmt: skip
COMPARED = (*MEMORY_STAGES, *DISK_STAGES, *ENVIRONMENT_STAGES)
INSTALL = "install it with: pip install 'expkit[peers]'"


def find_peers() -> tuple[dict[type[Peer], str], list[str]]:
    """(those installed, with the version of the library; the libraries that are not installed)."""
    found: dict[type[Peer], str] = {}
    missing: list[str] = []
    for peer in PEERS:
        try:
            found[peer] = metadata.version(peer.distribution)
        except metadata.PackageNotFoundError:
            if peer.distribution not in missing:
                missing.append(peer.distribution)
    return found, missing


def note_of(peer: type[Peer]) -> str:
    """What one has to know to read the figures of a library."""
    if issubclass(peer, DiskPeer) and peer.verifies:
        return f"{peer.note}; checksums verified"
    return peer.note


def run_peers(
    lab: Lab,
    report: Report,
    effort: Effort,
    wanted: Sequence[str] = (),
    progress: Progress = lambda key, done, total: None,
) -> list[PeerResult]:
    """Measure every installed library at what it can do, expkit's stage in turn with it; the results go into the
    report, too, one by one, so that a bench that is interrupted keeps those it has.

    wanted     names of libraries (`torchrl`), of one way to use them (`torchrl-memmap`), of stages or the beginnings
               of these (`ring`); all when empty
    progress   told before each library: stage, workload and name, how many are done, how many there are

    Raises UsageError for a name that is none, MissingExtra for a library that is not installed. One that fails at a
    stage gets a result with the error as its note.
    """
    found, stages = _chosen(wanted)
    cells = _cells(found, stages, effort)
    out: list[PeerResult] = []
    ours: Trial | None = None
    place = ("", "")
    try:
        for done, (workload, stage, peer) in enumerate(cells):
            progress(f"{stage} {workload} {peer.name}", done, len(cells))
            if place != (workload, stage):
                if ours is not None:
                    ours.close()
                    ours = None
                if place[0] not in ("", workload):
                    lab.forget()
                ours, place = STAGES[stage].make(lab, workload), (workload, stage)
                # Where expkit itself fails, that is no fault of the library beside it.
                ours.run()
            assert ours is not None
            result = _measured(peer, found[peer], lab, stage, workload, ours, effort)
            out.append(result)
            report.peers.append(result)
    finally:
        if ours is not None:
            ours.close()
    return out


def _measured(
    peer: type[Peer], version: str, lab: Lab, stage: str, workload: str, ours: Trial, effort: Effort
) -> PeerResult:
    try:
        with pass_of(peer, lab, stage, workload) as theirs:
            timing = measure_beside(ours, theirs, effort)
            size = theirs.bytes_per_row()
    except Exception as error:
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        return PeerResult(peer.name, version, stage, workload, None, None, note=told)
    return PeerResult(
        peer.name, version, stage, workload, timing.limit_rows_per_second, timing.ratio, size, note_of(peer)
    )


def _cells(found: dict[type[Peer], str], stages: Sequence[str], effort: Effort) -> list[tuple[str, str, type[Peer]]]:
    """(workload, stage, library), so sorted that rows are made once and a trial of expkit's serves all libraries."""
    out: list[tuple[str, str, type[Peer]]] = []
    for workload in ("W", "R", "noise", "tiny", ""):
        if workload == "noise" and effort.rounds < FULL.rounds:
            continue
        for stage in stages:
            out += [(workload, stage, peer) for peer in found if workload in stages_of(peer).get(stage, ())]
    return out


def _chosen(wanted: Sequence[str]) -> tuple[dict[type[Peer], str], list[str]]:
    """(libraries with versions, names of stages) that were asked for."""
    found, missing = find_peers()
    peers: set[type[Peer]] = set()
    others: list[str] = []
    for name in wanted:
        named = {peer for peer in PEERS if name in (peer.name, peer.distribution)}
        for peer in named:
            if peer.distribution in missing:
                raise MissingExtra(f"{peer.distribution} is not installed; {INSTALL}")
        peers |= named
        if not named:
            others.append(name)
    stages = load_stages()
    known = {one.name.split("/")[0] for one in stages} | {one.name for one in stages}
    for name in others:
        near = difflib.get_close_matches(name, [peer.name for peer in PEERS], 1)
        if near and name.rstrip("/") not in known:
            raise UsageError(f"no library is called {name!r}; did you mean {near[0]}?")
    chosen = {one.name for one in choose(stages, others, "full")} if others else set(COMPARED)
    return {peer: found[peer] for peer in found if not peers or peer in peers}, [n for n in COMPARED if n in chosen]
