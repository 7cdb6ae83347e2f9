"""Threads of which one runs at a time, and a seed says which: what hangs on their order happens again by its seed.

`Scheduler.patched(modules)` puts locks, conditions, events, threads and clocks in the place of those of `threading` and
`time` in these modules. At each of them, and wherever `switch` is called, the thread that runs may have to give way to
another one. Time does not pass: a wait with a limit ends when the scheduler says so, and then the clock is moved on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any

_STEPS = 200_000  # of a schedule; one of them takes some hundreds
_CHANCE_OF_TIMEOUT = 0.05  # that a wait ends by its limit although others could run


class Hang(AssertionError):
    """Nobody can run any more, or they run for ever."""


class Abandoned(BaseException):
    """The schedule is over; whoever still waits is sent home."""


class _Task:
    def __init__(self, name: str):
        self.name = name
        self.baton = threading.Semaphore(0)
        self.ready: Callable[[], bool] | None = None  # None: it can run
        self.deadline: float | None = None
        self.over = False


class Scheduler:
    """One schedule. The thread that makes it is its first task."""

    def __init__(self, seed: int):
        self.rng = Random(seed)
        self.now = 1000.0
        self.steps = 0
        self.trace: list[str] = []
        self._stay = self.rng.choice((0.0, 0.3, 0.6, 0.9))
        self._tasks = [_Task("main")]
        self.current = self._tasks[0]
        self.hang: Hang | None = None

    def switch(self) -> None:
        """Here another thread may go on instead."""
        if self.hang is None and self.rng.random() >= self._stay:
            self._give_way()

    def wait(self, ready: Callable[[], bool], timeout: float | None = None) -> bool:
        """Until `ready()`, or the end of `timeout` seconds that pass when the scheduler likes."""
        if self.hang is not None:
            raise Abandoned
        task = self.current
        task.ready = ready
        task.deadline = None if timeout is None else self.now + max(timeout, 0.0)
        self._give_way()
        task.ready = task.deadline = None
        return ready()

    def _give_way(self) -> None:
        task = self.current
        try:
            chosen = self._choose()
        except Hang as hang:
            self._abandon(hang)
            raise
        if chosen is not task:
            self.current = chosen
            chosen.baton.release()
            if not task.over:
                task.baton.acquire()
        if self.hang is not None and not task.over:
            raise Abandoned if task is not self._tasks[0] else self.hang

    def _choose(self) -> _Task:
        self.steps += 1
        if self.steps > _STEPS:
            raise Hang(f"{_STEPS:,} steps and no end; waiting or running: {self._who()}")
        alive = [task for task in self._tasks if not task.over]
        able = [task for task in alive if task.ready is None or task.ready()]
        timed = [task for task in alive if task.deadline is not None and task not in able]
        if timed and (not able or self.rng.random() < _CHANCE_OF_TIMEOUT):
            # The clock goes on by itself when nobody has anything to do, in order; else some wait is over early.
            chosen = min(timed, key=lambda task: task.deadline or 0.0) if not able else self.rng.choice(timed)
            self.now = max(self.now, chosen.deadline or 0.0)
            return chosen
        if not able:
            raise Hang(f"everybody waits: {self._who()}")
        return self.rng.choice(able)

    def _who(self) -> str:
        return ", ".join(task.name for task in self._tasks if not task.over)

    def _abandon(self, hang: Hang) -> None:
        self.hang = hang
        for task in self._tasks:
            if task is not self.current and not task.over:
                task.baton.release()

    def start(self, name: str, work: Callable[[], None]) -> Task:
        task = _Task(name)

        def run() -> None:
            task.baton.acquire()
            try:
                if self.hang is None:
                    work()
            except Abandoned:
                pass
            finally:
                task.over = True
                if self.hang is None:
                    with suppress(Hang):  # which the first task raises
                        self._give_way()

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._tasks.append(task)
        thread.start()
        self.switch()
        return Task(self, task, thread)

    @contextmanager
    def patched(self, modules: Iterable[ModuleType]) -> Iterator[Scheduler]:
        """`threading` and `time` of the modules are those of this schedule within."""
        mine = {"threading": _threading(self), "time": _time(self)}
        before = [(module, name, getattr(module, name)) for module in modules for name in mine if hasattr(module, name)]
        for module, name, _ in before:
            setattr(module, name, mine[name])
        try:
            yield self
        finally:
            for module, name, value in before:
                setattr(module, name, value)


class Task:
    """A thread of a schedule, as `threading.Thread` has it."""

    def __init__(self, scheduler: Scheduler, task: _Task, thread: threading.Thread):
        self._scheduler, self._task, self._thread = scheduler, task, thread

    def join(self, timeout: float | None = None) -> None:
        self._scheduler.wait(lambda: self._task.over, timeout)

    def is_alive(self) -> bool:
        self._scheduler.switch()
        return not self._task.over


def _time(scheduler: Scheduler) -> Any:
    def sleep(seconds: float) -> None:
        scheduler.wait(lambda: False, seconds)

    return SimpleNamespace(
        monotonic=lambda: scheduler.now, sleep=sleep, time_ns=time.time_ns, time=time.time,
        perf_counter=lambda: scheduler.now,
    )  # fmt: skip


def _threading(scheduler: Scheduler) -> Any:
    class RLock:
        _again = True

        def __init__(self) -> None:
            self.owner: Any = None
            self.count = 0

        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            scheduler.switch()
            me = scheduler.current
            if scheduler.hang is None and not (self._again and self.owner is me):
                if self.owner is not None and (
                    not blocking or not scheduler.wait(lambda: self.owner is None, None if timeout < 0 else timeout)
                ):
                    return False
                self.owner = me
            self.count += 1
            return True

        def release(self) -> None:
            if scheduler.hang is None:
                assert self.count, "released and not held"
            self.count -= 1
            if self.count <= 0:
                self.owner, self.count = None, 0
            scheduler.switch()

        def locked(self) -> bool:
            return self.owner is not None

        def __enter__(self) -> bool:
            return self.acquire()

        def __exit__(self, *_: object) -> None:
            self.release()

    class Lock(RLock):
        _again = False

    class Condition:
        def __init__(self, lock: Any = None):
            self.lock = lock or RLock()
            self._waiting: list[SimpleNamespace] = []

        def wait(self, timeout: float | None = None) -> bool:
            mine, count, owner = SimpleNamespace(told=False), self.lock.count, self.lock.owner
            self._waiting.append(mine)
            self.lock.owner, self.lock.count = None, 0
            try:
                return scheduler.wait(lambda: mine.told, timeout)
            finally:
                self._waiting = [one for one in self._waiting if one is not mine]
                if scheduler.hang is None:
                    if self.lock.owner is not None:
                        scheduler.wait(lambda: self.lock.owner is None)
                    self.lock.owner, self.lock.count = owner, count

        def notify(self, n: int = 1) -> None:
            for one in self._waiting[:n]:
                one.told = True
            del self._waiting[:n]

        def notify_all(self) -> None:
            self.notify(len(self._waiting))

        def __enter__(self) -> Any:
            return self.lock.acquire()

        def __exit__(self, *_: object) -> None:
            self.lock.release()

    class Event:
        def __init__(self) -> None:
            self._set = False

        def is_set(self) -> bool:
            scheduler.switch()
            return self._set

        def set(self) -> None:
            self._set = True
            scheduler.switch()

        def clear(self) -> None:
            self._set = False

        def wait(self, timeout: float | None = None) -> bool:
            return scheduler.wait(lambda: self._set, timeout)

    class Thread:
        def __init__(self, target: Callable[..., None], args: tuple[Any, ...] = (), name: str = "", **_: Any):
            self._work, self.name = (lambda: target(*args)), name
            self._task: Task | None = None

        def start(self) -> None:
            self._task = scheduler.start(self.name, self._work)

        def join(self, timeout: float | None = None) -> None:
            assert self._task is not None
            self._task.join(timeout)

        def is_alive(self) -> bool:
            return self._task is not None and self._task.is_alive()

    return SimpleNamespace(
        Lock=Lock, RLock=RLock, Condition=Condition, Event=Event, Thread=Thread, get_ident=threading.get_ident,
        current_thread=threading.current_thread,
    )  # fmt: skip
