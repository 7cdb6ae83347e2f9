"""What is of one process alone, and what a child that it forks must not do with it.

A fork copies memory and file descriptors, not threads: a copy of a recorder would write into its parent's files, a
copied lock would outlive its holder, and a copied clean-up would delete what the parent still needs.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any, Protocol


class Owned(Protocol):
    def forked(self) -> None:
        """Called in a forked child, before anything else runs there."""


_owned: weakref.WeakSet[Any] = weakref.WeakSet()


def own(thing: Owned) -> None:
    """From now on a child that is forked calls `thing.forked()`."""
    _owned.add(thing)


def clean_up(thing: object, work: Callable[..., Any], *args: Any, **options: Any) -> None:
    """`weakref.finalize`, in this process only: its children leave what it cleans up alone."""
    weakref.finalize(thing, _in_process, os.getpid(), work, *args, **options)


def _in_process(pid: int, work: Callable[..., Any], *args: Any, **options: Any) -> None:
    if os.getpid() == pid:
        work(*args, **options)


def _after_fork() -> None:
    for thing in list(_owned):
        thing.forked()


os.register_at_fork(after_in_child=_after_fork)
