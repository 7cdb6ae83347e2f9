"""Signals of the command line: none is swallowed, and a second one says what it leaves undone."""

import signal
import subprocess
import sys
import textwrap

import pytest
from patience import PATIENCE

from expkit.commands.contract import describe
from expkit.commands.signals import Stopped, StopRequest

CALLED_BACK = """
    import ctypes, os, signal, sys, time
    from expkit.commands.signals import Stopped, finish_first, stop_at_once

    space = {"__name__": "llvmlite.binding.executionengine", "os": os, "signal": signal}
    exec("def hook(number):\\n    os.kill(os.getpid(), number)\\n    for _ in range(1000): pass\\n    return 1", space)
    called = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(space["hook"])
    stop_at_once()
    try:
        assert called(signal.SIGINT) == 1
        time.sleep(600)
    except Stopped as stopped:
        print("stopped", stopped.exit_code)
    with finish_first() as request:
        request.left = lambda: "seven rows"
        assert called(signal.SIGTERM) == 1 and request.number == signal.SIGTERM
        try:
            assert called(signal.SIGTERM) == 1
            time.sleep(600)
        except Stopped as stopped:
            print("stopped", stopped.exit_code, stopped.left)
"""


def test_a_signal_in_a_callback_of_the_compiler_stops_the_verb_after_it():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CALLED_BACK)], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped 130\nstopped 143 seven rows\n", "")


def test_a_second_signal_says_what_it_leaves_undone():
    request = StopRequest()
    request.left = lambda: "up to 12 rows are in no file; expkit recover runs/a closes the run and counts them"
    request.on_stop(signal.SIGINT, None)
    with pytest.raises(Stopped) as stopped:
        request.on_stop(signal.SIGINT, None)
    assert describe(stopped.value).message == f"stopped by SIGINT; {request.left()}"
