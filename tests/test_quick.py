"""
The quick tests.
"""

import os
import subprocess
import sys

import pytest
from twisted.internet import reactor
from twisted.internet.protocol import ProcessProtocol

TRUE = (sys.executable, ["python", "-c", ""])


@pytest.mark.parametrize(
    "start",
    [
        lambda: subprocess.run([TRUE[0], "-c", ""], check=True),
        lambda: os.posix_spawn(*TRUE, os.environ),
        lambda: os.system("true"),
        lambda: reactor.spawnProcess(ProcessProtocol(), *TRUE),
        os.fork,
    ],
)
def test_a_quick_test_cannot_start_a_process(start, request):
    """
    A test that is not marked as one of processes fails if it starts one, however
    it does that.
    """
    with pytest.raises(AssertionError, match="starts a process: mark it"):
        start()
    # We have been caught, as we wanted to be.
    assert request.config.pluginmanager.get_plugin("quick").started.pop() != ""
