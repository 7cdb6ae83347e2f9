"""What is of one process alone, and what a child that it forks must not do with it.

A fork copies memory and file descriptors, not threads: a copy of a recorder would write into its parent's files, a
copied lock would outlive its holder, and a copied clean-up would delete what the parent still needs.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

_owned: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()


def own(thing: Any, let_go: Callable[[Any], None]) -> None:
    """From now on a child that is forked calls `let_go(thing)`, before anything else runs there."""
    _owned[thing] = let_go


def clean_up(thing: object, work: Callable[..., Any], *args: Any, **options: Any) -> None:
    """`weakref.finalize`, in this process only: its children leave what it cleans up alone."""
    weakref.finalize(thing, _in_process, os.getpid(), work, *args, **options)


def _in_process(pid: int, work: Callable[..., Any], *args: Any, **options: Any) -> None:
    if os.getpid() == pid:
        work(*args, **options)


def _after_fork() -> None:
    for thing, let_go in list(_owned.items()):
        let_go(thing)


os.register_at_fork(after_in_child=_after_fork)
