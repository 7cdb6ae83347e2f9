"""What a process is to clean up its children leave alone."""

import subprocess
import sys

SCRIPT = """
import os
from expkit.system.forks import clean_up

class Thing: pass

thing = Thing()
clean_up(thing, print, "cleaned", flush=True)
pid = os.fork()
if pid:
    os.waitpid(pid, 0)
    print("parent", flush=True)
"""


def test_a_child_cleans_up_nothing_of_its_parents():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["parent", "cleaned"]
