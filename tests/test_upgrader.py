"""
L{txtableflip.Upgrader} by hand, without twistd: each process of a chain is told
what to do, and says how it went.
"""

import math
import os
import signal
import socket
import sys

import pytest
from chains import Chain
from processes import APPS

from txtableflip import Upgrader
from txtableflip.testing._service import freePort, isAlive, stateOf


@pytest.fixture
def chain(service):
    """
    A chain of processes that has not been started.
    """
    return Chain(service)


def refusal(process, expression="upgrader.upgrade()"):
    """
    Return the name of the error that an expression ends in.
    """
    return process.ask(expression)["error"]


def test_there_is_one_upgrader_to_a_process(chain):
    """
    A second L{Upgrader} in the same process is refused.
    """
    _, first = chain.start()
    assert refusal(first, "Upgrader(reactor)") == "UpgraderExists"


@pytest.mark.parametrize("seconds", [0, -1.0, math.nan, math.inf])
def test_a_timeout_is_a_positive_number_of_seconds(seconds):
    """
    An upgrade timeout that never or at once would be over is a ValueError.
    """
    with pytest.raises(ValueError, match="upgradeTimeout must be a positive number"):
        Upgrader(None, upgradeTimeout=seconds)


@pytest.mark.parametrize("command", [[], "python app.py", ["python", 3], [b"python"]])
def test_a_command_that_cannot_be_started_is_refused(command):
    """
    What is no program and its arguments is a ValueError, before anything runs.
    """
    with pytest.raises(ValueError, match="command must be a list of strings"):
        Upgrader(None, command=command)


def test_each_moment_that_is_wrong_for_an_upgrade_has_an_error_of_its_own(chain):
    """
    C{upgrade()} is refused, with the reason as the class of the error, before
    ready, while another runs, on probation, and after success; and it is possible
    beside a parent that drains.
    """
    _, first = chain.start()
    assert refusal(first) == "NotReady"
    first.ask("upgrader.ready()")
    upgrading = first.begin("upgrader.upgrade()")
    second = chain.generation(2)
    assert refusal(first) == "UpgradeInProgress"
    assert refusal(second) == "NotReady"
    assert upgrading.isPending()
    assert second.ask("upgrader.ready()") == {"result": None}
    assert upgrading.outcome() == {"result": None}
    assert refusal(first) == "AlreadyUpgraded"
    assert second.ask("upgrader.whenFinal()") == {"result": None}
    third = chain.upgrade(second)
    assert third.pid not in (first.pid, second.pid)
    assert isAlive(first.pid)


def test_who_waits_for_exiting_is_told_at_the_switch(chain):
    """
    C{whenExiting} fires in the old process when the new one serves, and not in
    the new one; C{hasParent} and C{generation} tell the two apart.
    """
    _, first = chain.startReady()
    exiting = first.begin("upgrader.whenExiting()")
    assert first.ask("[upgrader.hasParent, upgrader.generation]") == {"result": [False, 1]}
    assert exiting.isPending()
    second = chain.upgrade(first)
    assert exiting.outcome() == {"result": None}
    assert first.ask("upgrader.whenExiting()") == {"result": None}
    assert second.ask("[upgrader.hasParent, upgrader.generation]") == {"result": [True, 2]}
    waiting = second.begin("upgrader.whenExiting()")
    assert waiting.isPending()
    waiting.forget()


def test_who_waits_for_the_parent_may_stop_waiting(chain):
    """
    C{whenParentExits} fires when the parent's process has ended; a waiter that
    is cancelled does not disturb the others; and without a parent there is
    nothing to wait for.
    """
    _, first = chain.startReady()
    assert first.ask("upgrader.whenParentExits()") == {"result": None}
    second = chain.upgrade(first)
    waiting = second.begin("upgrader.whenParentExits()")
    cancelled = "[waiter := upgrader.whenParentExits(), waiter.cancel()][0]"
    assert refusal(second, cancelled) == "CancelledError"
    assert waiting.isPending()
    first.leave()
    assert waiting.outcome() == {"result": None}


def test_after_stop_there_are_no_upgrades(chain):
    """
    C{stop()} ends the waiting for C{whenExiting}, and refuses every upgrade
    from then on, as well as to become ready.
    """
    _, first = chain.startReady()
    exiting = first.begin("upgrader.whenExiting()")
    assert first.ask("upgrader.stop()") == {"result": None}
    assert exiting.outcome() == {"result": None}
    assert refusal(first) == "Stopping"


def test_to_stop_before_ready_is_not_to_be_ready(chain):
    """
    A process that was stopped before it was ready does not become so.
    """
    _, first = chain.start()
    first.ask("upgrader.stop()")
    assert refusal(first, "upgrader.ready()") == "Stopping"


def test_to_stop_during_an_upgrade_ends_the_child(chain):
    """
    C{stop()} fires when the child that had not taken over has ended, and the
    upgrade has failed with L{Stopping}.
    """
    _, first = chain.startReady()
    upgrading = first.begin("upgrader.upgrade()")
    second = chain.generation(2)
    assert first.ask("upgrader.stop()") == {"result": None}
    assert upgrading.outcome()["error"] == "Stopping"
    assert not isAlive(second.pid)
    assert stateOf(second.pid)[0] == "X"


def test_to_stop_a_child_that_is_not_ready_fails_the_upgrade(chain):
    """
    When the child itself is stopped before it is ready, its parent learns so
    without waiting for the deadline, and keeps serving.
    """
    _, first = chain.startReady()
    upgrading = first.begin("upgrader.upgrade()")
    chain.generation(2).begin("upgrader.stop()").forget()
    outcome = upgrading.outcome()
    assert outcome["error"] == "ChildRefused"
    assert "it was told to stop" in outcome["message"]
    chain.upgrade(first)


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        pytest.param(
            "raise RuntimeError('no database')",
            {"error": "ChildExited", "exitStatus": 1, "signal": None, "phase": "start"},
            id="raises",
        ),
        pytest.param(
            "print('no database', file=sys.stderr)\nsys.exit(7)",
            {"error": "ChildExited", "exitStatus": 7, "signal": None, "phase": "start"},
            id="exits",
        ),
        pytest.param(
            "print('no database', file=sys.stderr, flush=True)\nos.kill(os.getpid(), 9)",
            {"error": "ChildExited", "exitStatus": None, "signal": 9, "phase": "start"},
            id="is_killed",
        ),
        pytest.param(
            "print('no database', file=sys.stderr, flush=True)\nimport time\ntime.sleep(60)",
            {"error": "ChildTimedOut", "exitStatus": None, "signal": 15, "phase": "start"},
            id="hangs",
        ),
        pytest.param(
            "print('no database', file=sys.stderr, flush=True)",
            {"error": "ChildTimedOut", "exitStatus": 0, "signal": None, "phase": "initialise"},
            id="is_never_ready",
        ),
        pytest.param(
            "print('no database', file=sys.stderr, flush=True)\n"
            "reactor.callWhenRunning(lambda: upgrader.refuse(ValueError('not today')))",
            {"error": "ChildRefused", "exitStatus": 0, "signal": None, "phase": "initialise"},
            id="refuses",
        ),
        pytest.param(
            "print('no database', file=sys.stderr, flush=True)\nos.write(3, b'garbage!')\n"
            "import time\ntime.sleep(60)",
            {"error": "ChildProtocolError", "exitStatus": None, "signal": 15, "phase": "start"},
            id="sends_garbage",
        ),
    ],
)
@pytest.mark.parametrize("signalHandlers", ["yes", "no"])
def test_a_failure_says_how_far_the_child_came_and_how_it_ended(
    chain, release, expected, signalHandlers
):
    """
    The error of a failed upgrade has the phase, the child's process id, its
    exit status or signal, and its last words; also where the reactor handles no
    signals, and so does not notice the end of processes.
    """
    if signalHandlers == "no" and expected["exitStatus"] == 0:
        # To end a child that has no handler either is to kill it.
        expected = {**expected, "exitStatus": None, "signal": 15}
    # Long enough for a child to come as far as it should on a busy machine.
    options = {"upgradeTimeout": 12.0} if expected["error"] == "ChildTimedOut" else {}
    _, first = chain.startReady(options, SIGNAL_HANDLERS=signalHandlers)
    chain.service.release(release)
    outcome = first.ask("upgrader.upgrade()")
    assert {name: outcome[name] for name in expected} == expected
    assert "no database" in outcome["stderr"]
    assert f"process {outcome['pid']} " in outcome["message"]
    assert stateOf(outcome["pid"])[0] == "X"
    if "not today" in release:
        assert "not today" in outcome["message"]
    assert first.ask("upgrader.generation") == {"result": 1}
    if not options:
        chain.service.release("")
        chain.upgrade(first)


def test_an_interpreter_that_cannot_be_executed_is_a_failed_upgrade(chain, tmp_path):
    """
    When the child cannot even be started, the error says so, and the process
    keeps serving and can be upgraded when the reason is gone.
    """
    missing = tmp_path / "no such"
    _, first = chain.startReady({"command": [str(missing), str(APPS / "remote.py")]})
    outcome = first.ask("upgrader.upgrade()")
    assert outcome["error"] == "ChildNotStarted"
    assert outcome["phase"] == "start"
    assert outcome["pid"] is None
    assert "no such" in outcome["message"]
    missing.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    missing.chmod(0o755)
    chain.upgrade(first)


def test_the_pid_file_names_the_process_that_serves(chain):
    """
    The pid file that the Upgrader was given names a process from the moment it
    serves, is left alone by one that fails, and is removed by the last.
    """
    path = chain.service.directory / "service.pid"
    options = {"pidFile": str(path)}
    _, first = chain.start(options)
    assert not path.exists()
    first.ask("upgrader.ready()")
    assert path.read_text() == str(first.pid)
    upgrading = first.begin("upgrader.upgrade()")
    chain.generation(2).begin("upgrader.refuse(ValueError())").forget()
    assert upgrading.outcome()["error"] == "ChildRefused"
    assert path.read_text() == str(first.pid)
    second = chain.upgrade(first)
    assert path.read_text() == str(second.pid)
    first.leave()
    assert path.read_text() == str(second.pid)
    second.leave()
    assert not path.exists()


def test_a_pid_file_that_cannot_be_written_is_said_before_it_is_needed(chain):
    """
    C{ready()} fails with L{PidFileError} when the pid file cannot be written.
    """
    _, first = chain.start({"pidFile": "/no/such/directory/service.pid"})
    outcome = first.ask("upgrader.ready()")
    assert outcome["error"] == "PidFileError"
    assert "/no/such/directory/service.pid" in outcome["message"]


def test_a_child_that_cannot_write_the_pid_file_does_not_take_over(chain):
    """
    When the pid file's directory is gone by the time of an upgrade, the upgrade
    fails with that reason, and the old process keeps serving.
    """
    directory = chain.service.directory / "run"
    directory.mkdir()
    _, first = chain.startReady({"pidFile": str(directory / "service.pid")})
    (directory / "service.pid").unlink()
    directory.rmdir()
    upgrading = first.begin("upgrader.upgrade()")
    chain.generation(2).begin("upgrader.ready()").forget()
    outcome = upgrading.outcome()
    assert outcome["error"] == "ChildRefused"
    assert str(directory / "service.pid") in outcome["message"]
    assert refusal(first, "1 / 0") == "ZeroDivisionError"


LOOK = (
    "subprocess.run(['sh', '-c', 'env; ls -l /proc/self/fd'], close_fds=False, "
    "capture_output=True, text=True).stdout"
)


def test_a_program_that_the_application_starts_gets_nothing_of_ours(chain):
    """
    A grandchild sees neither the channel's environment variable nor any of our
    sockets, even if its starter closes no descriptors: before there is an
    Upgrader, before the switch, and after it.
    """
    listen = f"upgrader.endpoint('tcp:{freePort()}:interface=127.0.0.1').listen(factory)"
    listenUNIX = "upgrader.endpoint('unix:leaking.sock').listen(factory)"
    _, first = chain.startReady()
    for expression in (listen, listenUNIX):
        assert first.ask(expression) == {"result": None}
    chain.service.release(f"early = {LOOK}")
    upgrading = first.begin("upgrader.upgrade()")
    second = chain.generation(2)
    seen = [first.ask(LOOK), second.ask("early"), second.ask(LOOK)]
    for expression in (listen, listenUNIX, "upgrader.ready()"):
        assert second.ask(expression) == {"result": None}
    assert upgrading.outcome() == {"result": None}
    seen += [first.ask(LOOK), second.ask(LOOK)]
    for outcome in seen:
        assert "RELEASE_FILE=" in outcome["result"]
        assert "TXTABLEFLIP_CHANNEL" not in outcome["result"]
        assert "socket:" not in outcome["result"]
    assert second.ask("'TXTABLEFLIP_CHANNEL' in os.environ") == {"result": False}


def test_what_a_child_does_not_claim_is_closed_at_the_switch(chain):
    """
    A listening socket that the new release does not ask for refuses connections
    once the old process is gone, and its path is removed; until the switch, it
    is as it was.
    """
    address = ("127.0.0.1", freePort())
    path = chain.service.directory / "unwanted.sock"
    _, first = chain.start()
    first.ask(f"upgrader.endpoint('tcp:{address[1]}:interface=127.0.0.1').listen(factory)")
    first.ask(f"upgrader.endpoint('unix:{path}').listen(factory)")
    first.ask("upgrader.ready()")
    upgrading = first.begin("upgrader.upgrade()")
    second = chain.generation(2)
    socket.create_connection(address).close()
    assert path.exists()
    second.ask("upgrader.ready()")
    assert upgrading.outcome() == {"result": None}
    first.leave()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    assert not os.path.lexists(path)
    assert not os.path.lexists(f"{path}.lock")


def test_ports_that_the_kernel_chose_stay_the_same(chain):
    """
    Two listeners on port 0 have the same two ports, in the same order, in the
    next generation.
    """
    listen = (
        "upgrader.endpoint('tcp:0:interface=127.0.0.1').listen(factory)"
        ".addCallback(lambda port: port.getHost().port)"
    )
    _, first = chain.startReady()
    ports = [first.ask(listen), first.ask(listen)]
    upgrading = first.begin("upgrader.upgrade()")
    second = chain.generation(2)
    assert [second.ask(listen), second.ask(listen)] == ports
    assert ports[0] != ports[1]
    second.ask("upgrader.ready()")
    assert upgrading.outcome() == {"result": None}


def test_a_signal_redeploys_where_the_reactor_handles_none(chain):
    """
    C{redeployOn} works with C{installSignalHandlers=False}, before ready as
    well: the order waits.
    """
    _, first = chain.start(SIGNAL_HANDLERS="no")
    first.ask("upgrader.redeployOn('USR2')")
    os.kill(first.pid, signal.SIGUSR2)
    assert first.ask("upgrader.ready()") == {"result": None}
    second = chain.generation(2)
    assert second.ask("upgrader.ready()") == {"result": None}
    assert first.ask("upgrader.whenExiting()") == {"result": None}


def test_a_child_writes_to_the_first_standard_error_when_its_parent_is_gone(chain):
    """
    What a process that has taken over writes to its standard error goes where
    generation 1's went, and not into the pipe of a parent that has left.
    """
    _, first = chain.startReady()
    second = chain.upgrade(first)
    first.leave()
    third = chain.upgrade(second)
    second.leave()
    third.ask("print('heard to the end', file=sys.stderr, flush=True)")
    assert "heard to the end\n" in chain.heard.read_text()
