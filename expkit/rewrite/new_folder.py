"""An output folder that is there as a whole or not at all: it grows under a hidden name beside its place."""

from __future__ import annotations

from pathlib import Path

from expkit.errors import Busy, OutputExists
from expkit.runs.layout import is_run
from expkit.runs.locks import live_writers
from expkit.runs.write import check_output
from expkit.system.files import DiskErrors, disk, make_folder, remove_tree


class NewFolder:
    """A context manager; `path` is where to write, `publish` gives it the name `out`. Without that it is removed.

    What a killed call left is removed first. With `force` a run, or a folder that holds nothing but runs, is replaced.
    Raises OutputExists, Busy, NoSpace, WriteFailed.
    """

    def __init__(self, out: Path, *, force: bool = False):
        self.out = out
        self.path = out.with_name(f".{out.name}.unfinished")
        self._old = out.with_name(f".{out.name}.replaced")
        check_free(out, force=force)
        with DiskErrors(out, "make it"):
            for left in (self.path, self._old):
                if left.exists():
                    _refuse_live(left)
                    remove_tree(left)
            make_folder(out.parent)
            disk().mkdir(self.path)

    def __enter__(self) -> NewFolder:
        return self

    def __exit__(self, *_: object) -> None:
        if self.path.exists():
            with DiskErrors(self.path, "remove it"):
                remove_tree(self.path)

    def publish(self) -> None:
        """Rename, and remove what was there before."""
        with DiskErrors(self.out, "give it its name"):
            replaced = self.out.exists()
            if replaced:
                disk().rename(self.out, self._old)
            disk().rename(self.path, self.out)
            disk().sync_folder(self.out.parent)
            if replaced:
                remove_tree(self._old)


def check_free(out: Path, *, force: bool = False) -> None:
    """Whether `out` may be made: nothing there, an empty folder, or with `force` runs that nobody records. Raises
    OutputExists, Busy."""
    held = sorted(out.iterdir()) if out.is_dir() and not is_run(out) else []
    if held and all(map(is_run, held)):
        if not force:
            raise OutputExists(f"{out} exists already; use --force to replace it, or choose another -o")
        _refuse_live(out)
        return
    check_output(out, force=force)


def _refuse_live(folder: Path) -> None:
    """Raises Busy when somebody writes a run in `folder`, or the folder itself."""
    for run in [folder, *folder.iterdir()]:
        if run.is_dir() and live_writers(run):
            raise Busy(f"{run} is being written by another process; wait for it or stop it")
