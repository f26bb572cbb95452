"""
C{tableflip run}, and what it may have to deal with: real processes, below it programs
that say and do what a test wants.
"""

import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from keepers import KEEPER, SERVE, Kept, above, addressOf, kept
from managers import told
from processes import APPS, DEADLINE, asOrdinaryUser, until

from txtableflip import command, keeper
from txtableflip.testing._service import isAlive, processesWith, zombiesOf

__all__ = ["above", "kept", "told"]

pytestmark = pytest.mark.process

TABLEFLIP = shutil.which("tableflip", path=os.path.dirname(sys.executable))


def childrenOf(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def end(pid):
    """
    Kill a process, and wait until it has ended: until then it may accept.
    """
    os.kill(pid, signal.SIGKILL)
    until(lambda: not isAlive(pid), f"the end of {pid}")


def pause(pid):
    """
    Stop a process, and wait until it is.
    """
    os.kill(pid, signal.SIGSTOP)
    until(
        lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", pid
    )


# -- a service that cannot be started


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("sys.exit(1)", 1, "exited with status 1"),
        ("sys.exit(0)", 0, "exited with status 0"),
        ("os.kill(os.getpid(), 9)", 137, "was killed by SIGKILL"),
        ("import nothing_of_that_name", 1, "No module named"),
    ],
)
def test_what_ends_before_it_is_ready_ends_the_keeper(kept, code, status, words):
    """
    With its status, at once: who has started it must know.
    """
    assert kept.start(code, "--restart", "always").wait() == status
    assert words in kept.log
    assert kept.log.count("started process") == 1


def test_a_command_or_a_directory_that_is_not_there(kept):
    """
    As a shell has it; a directory is looked for before anything is started.
    """
    assert kept.start(command=["/no/such/command"]).wait() == 127
    assert "cannot start /no/such/command" in kept.log
    assert kept.start(command=["/etc/passwd"]).wait() == 126
    assert kept.start(SERVE, "--directory", "/no/such").wait() == 2
    assert "/no/such is not a directory" in kept.log


def test_a_stop_before_anything_serves(kept):
    """
    Is passed on, and no failure.
    """
    kept.start("Path('there').touch(); signal.pause()")
    until((kept.service.directory / "there").exists, "its start")
    assert kept.stop() == 0


def test_what_never_notifies_runs(kept):
    """
    Its end is the keeper's, with its status; a HUP that it might die of is not passed on.
    """
    kept.start("Path('there').touch(); signal.pause()")
    until((kept.service.directory / "there").exists, "its start")
    kept.process.send_signal(signal.SIGHUP)
    kept.waitFor("SIGHUP from process")
    (child,) = childrenOf(kept.pid)
    os.kill(int(child), signal.SIGKILL)
    assert kept.wait() == 137


# -- crashes


def test_a_crash_refuses_nobody(kept):
    """
    The process id is the same, clients wait in the queue, and nothing is left behind.
    """
    kept.serving()
    main, before = kept.main(), None
    for count in range(1, 4):
        pause(main)
        with socket.create_connection(("127.0.0.1", kept.port), DEADLINE) as sock:
            # It waits in the queue of a socket which no process but the keeper has.
            sock.sendall(b"[os.getpid(), os.getppid(), sorted(stored())]\n")
            end(main)
            answer = sock.makefile().read()
        new, parent, names = eval(answer)
        assert (new != main, parent) == (True, kept.pid)
        assert names == [f"txtableflip-list-{main}", "txtableflip-listener"]
        main = new
        until(lambda: kept.status()["keeper"]["stored"] == 2, "the old list's end")
        assert kept.status()["keeper"]["restarts"] == count
        now = kept.descriptors()
        assert before in (None, now)
        before = now
    assert "was killed by SIGKILL: starting it again" in kept.log
    assert zombiesOf([kept.pid]) == []
    assert kept.stop() == 0


def test_one_that_ends_well_ends_the_keeper_and_one_that_does_not_is_for_the_policy(kept):
    """
    on-failure, always, no.
    """
    kept.serving()
    main = kept.main()
    with suppress(ValueError):
        kept.do("os._exit(3)")
    until(lambda: kept.main() != main, "the next")
    with suppress(ValueError):
        kept.do("os._exit(0)")
    assert kept.wait() == 0
    always = kept.serving(SERVE, "--restart", "always")
    with suppress(ValueError):
        always.do("os._exit(0)")
    always.waitFor("exited with status 0: starting it again")
    assert always.main()
    assert always.stop() == 0
    never = Kept(kept.service).serving(SERVE, "--restart", "no")
    with suppress(ValueError):
        never.do("os._exit(3)")
    assert never.wait() == 3


def test_it_gives_up_in_the_end(kept):
    """
    Later and later, five times, and then its status is the last one's.
    """
    kept.serving()
    kept.program.write_text("sys.exit(9)")
    kept.kill()
    assert kept.wait() == 9
    assert kept.log.count("started process") == 6
    assert kept.log.count("starting it again in 0.") == 4
    assert "exited with status 9: giving up" in kept.log


def test_one_that_hangs_in_a_restart_is_ended_and_counted(kept):
    """
    SIGTERM is no help; and whoever asks meanwhile waits, and hears for what.
    """
    # Long enough for a start that is well, on a machine twenty times overloaded.
    kept.serving(SERVE, "--start-timeout", "3")
    kept.program.write_text(
        "signal.signal(signal.SIGTERM, hear)\n"
        f"Path(sys.argv[1]).write_text({SERVE!r})\n"
        "while True: time.sleep(1)\n".replace("time", "__import__('time')")
    )
    kept.kill()
    kept.waitFor("nothing serves after 3 s")
    told = kept.ask({"command": "upgrade"})
    assert told["event"]["name"] == "Waiting"
    assert "nothing serves after 3 s" in told["event"]["reason"]
    assert kept.main()
    assert kept.status()["keeper"]["restarts"] == 2
    assert kept.stop() == 0


def test_it_does_not_need_what_it_was_installed_from(kept, tmp_path):
    """
    Its own file is gone, and a crash and a stop are as ever.
    """
    copy = tmp_path / "copy.py"
    shutil.copy(keeper.__file__, copy)
    original = (sys.executable, str(APPS / "kept.py"), str(kept.program))
    kept.program.write_text(SERVE)
    with (tmp_path / "keeper.log").open("ab") as log:
        words = (*KEEPER[:-1], str(copy), "--", *original)
        kept.process = kept.service.start(*words, stderr=log)
    kept.waitFor(" serves\n")
    copy.unlink()
    kept.kill()
    assert kept.main()
    assert kept.stop() == 0


# -- the store

INCOMPLETE = {
    "nothing but sockets": "deposit = lambda sock: say('FDSTORE=1', f'FDNAME={LISTENER}', "
    "fds=[sock.fileno()])",
    "one is missing": "listed = listing(LISTENER, 'not-there')\n"
    "deposit = lambda sock: [say('FDSTORE=1', f'FDNAME={name}', fds=[fd]) for name, fd in "
    "((LISTENER, sock.fileno()), (LIST.format(1), listed))]",
    "the list is a socket": "deposit = lambda sock: [say('FDSTORE=1', f'FDNAME={name}', "
    "fds=[sock.fileno()]) for name in (LISTENER, LIST.format(1))]",
    "the list is a pipe": "deposit = lambda sock: say('FDSTORE=1', f'FDNAME={LIST.format(1)}', "
    "fds=[os.pipe()[0]])",
    "the list is not text": "listing = lambda *names: (fd := os.memfd_create('x'), "
    "os.write(fd, b'\\xff\\xfe\\n'))[0]",
}


@pytest.mark.parametrize("kind", INCOMPLETE)
def test_what_is_stored_and_not_complete_is_let_go_as_a_whole(kept, kind):
    """
    Half of it would keep addresses from the next one, which starts afresh.
    """
    code = INCOMPLETE[kind]
    kept.serving(f"{code}\n{SERVE}")
    kept.kill()
    kept.waitFor(" serves\n", 2)
    assert kept.do("sorted(stored())") == []
    assert "the stored list is incomplete: closing" in kept.log
    assert kept.stop() == 0


def test_more_than_an_environment_holds_is_not_kept(kept):
    """
    Names and all: what cannot be started again would be worse.  The log says it.
    """
    kept.serving()
    kept.do(
        "[say('FDSTORE=1', f'FDNAME=txtableflip-{i}-' + 200 * 'x', fds=[0]) and None "
        "for i in range(1000)] and wait()"
    )
    kept.waitFor("there is no room for more than")
    stored = kept.status()["keeper"]["stored"]
    assert 300 < stored < 1000
    kept.kill()
    assert len(kept.do("sorted(stored())")) == stored
    assert kept.stop() == 0


def test_clients_learn_of_a_stop_at_once(kept):
    """
    What stops has its socket closed here, too, although it takes its time.
    """
    kept.serving(
        "signal.signal(signal.SIGTERM, lambda *more: (sock.close(), say('STOPPING=1'), "
        "signal.pause()))\nsock = listener()\nserve(sock)"
    )
    kept.process.send_signal(signal.SIGTERM)

    def isRefused():
        try:
            socket.create_connection(("127.0.0.1", kept.port), DEADLINE).close()
        except ConnectionRefusedError:
            return True

    until(isRefused, "a refusal")
    assert kept.process.poll() is None
    # The second one is for whoever does not end by the first.
    kept.process.send_signal(signal.SIGINT)
    assert kept.wait() in (0, 1, 130)


# -- upgrades

CHILD = """
import time
say(*{first})
if {delay}: time.sleep({delay})
answer(sock)
"""
UPGRADE = (
    "sock = listener()\nserve(sock)",
    "say('RELOADING=1', 'MONOTONIC_USEC=1') or say(f'X_TABLEFLIP_SUCCESSOR={child}')",
)


def begin(kept, code="while True: __import__('time').sleep(1)"):
    """
    Have main begin an upgrade, and return both process ids.
    """
    main = kept.main()
    announced = kept.service.directory / f"announced-{time.monotonic()}"
    waiting = (
        f"import time\nwhile not Path({str(announced)!r}).exists(): time.sleep(0.01)\n{code}"
    )
    child = kept.do(f"fork({waiting!r})")
    kept.do(f"say('RELOADING=1', 'MONOTONIC_USEC=1', 'X_TABLEFLIP_SUCCESSOR={child}')")
    kept.do("wait()")
    announced.touch()
    return main, child


GLOBAL = "sock = listener()\nserve(sock)"


def test_main_says_who_is_main_behind_it(kept):
    """
    What the next one says early counts then; the older one ends whenever it likes, and a
    signal is for who is main.
    """
    kept.serving(GLOBAL)
    main, child = begin(
        kept,
        "signal.signal(signal.SIGHUP, hear); say('READY=1', 'STATUS=new'); "
        "say('FDSTORE=1', 'FDNAME=txtableflip-new', fds=[0]); "
        "os.read(3, 0) if 0 else None; "
        "Path('said').touch(); __import__('time').sleep(600)",
    )
    until((kept.service.directory / "said").exists, "what it says")
    status = kept.status()["keeper"]
    assert (status["main"], status["successor"], status["stored"]) == (main, child, 2)
    kept.do(f"say('MAINPID={child}') or wait()")
    until(lambda: kept.status()["keeper"]["main"] == child, lambda: kept.log)
    status = kept.status()["keeper"]
    assert (status["state"], status["older"], status["stored"]) == ("Serving", [main], 3)
    # Whoever rolls back says so, whom main has been handed over by.
    kept.do(f"say('MAINPID={main}', 'READY=1', 'X_TABLEFLIP_FAILED=no') or wait()")
    assert kept.status()["keeper"]["main"] == main
    end(child)
    until(lambda: kept.status()["keeper"]["older"] == [], "its end")
    assert kept.main() == main
    assert kept.stop() == 0


@pytest.mark.parametrize("last", ["taken back", "final", "exited"])
def test_one_that_stops_on_probation_ends_the_service_when_the_one_before_does(
    kept, told, last
):
    """
    Until then that may take back, with all that is stored.
    """
    kept.service.environment["NOTIFY_SOCKET"] = told.address
    kept.serving(GLOBAL)
    main, child = begin(
        kept, "say('READY=1'); say('STOPPING=1'); Path('said').touch(); signal.pause()"
    )
    until((kept.service.directory / "said").exists, "what it says")
    kept.do(f"say('MAINPID={child}') or wait()")
    until(lambda: kept.status()["keeper"]["main"] == child, lambda: kept.log)
    assert (told.heard("STOPPING"), kept.status()["keeper"]["stored"]) == ([], 2)
    if last == "taken back":
        end(child)
        kept.waitFor(f"waiting for process {main} to serve")
        kept.do(f"say('MAINPID={main}', 'READY=1', 'X_TABLEFLIP_FAILED=x') or wait()")
        assert (told.heard("STOPPING"), kept.status()["keeper"]["stored"]) == ([], 2)
        assert kept.kill() == main
    else:
        if last == "final":
            kept.do("say('X_TABLEFLIP_FINAL=1')")
        else:
            end(main)
        until(lambda: told.heard("STOPPING"), lambda: kept.log)
        assert kept.status()["keeper"]["stored"] == 0
        if last == "final":
            end(main)
        end(child)
        kept.waitFor(" serves\n", 3)
    assert kept.main() != main
    assert kept.stop() == 0


def test_a_successor_that_ends_before_it_is_main_has_said_nothing(kept):
    """
    What it has deposited is closed.
    """
    kept.serving(GLOBAL)
    before = kept.descriptors()
    main, _child = begin(
        kept,
        "say('STOPPING=1'); [say('FDSTORE=1', f'FDNAME=txtableflip-{i}', fds=[0]) for i in "
        "range(9)]; wait(); os._exit(1)",
    )
    until(lambda: kept.status()["keeper"]["successor"] is None, "its end")
    assert kept.status()["keeper"]["stored"] == 2
    kept.do("say('READY=1', 'X_TABLEFLIP_FAILED=no') or wait()")
    assert kept.descriptors() == before
    assert kept.main() == main
    assert kept.stop() == 0


HEIR = (
    "import time\nwhile os.getppid() == {0}: time.sleep(0.01)\n"
    "say('MAINPID=' + str(os.getpid()), 'READY=1')\nanswer(sock)"
)


@pytest.mark.parametrize("isAnnounced", [True, False])
def test_one_whose_parent_is_killed_takes_over(kept, isAnnounced):
    """
    It is waited for, and nothing is started beside it; also if the one before could not
    announce it any more.
    """
    kept.serving(GLOBAL)
    main = kept.main()
    code = HEIR.format(main)
    if isAnnounced:
        _, child = begin(kept, code)
    else:
        program = (
            "import subprocess; subprocess.Popen([sys.executable, *sys.argv[:1], 'heir.py'], "
            "env={**os.environ, 'TXTABLEFLIP_CHANNEL': '3'}, pass_fds=[sock.fileno()]).pid"
        )
        heir = f"sock = socket.socket(fileno={kept.do('sock.fileno()')})\n{code}"
        (kept.service.directory / "heir.py").write_text(heir)
        kept.do("say('RELOADING=1')")
        child = kept.do(
            f"exec({program.rpartition('; ')[0]!r}, globals()) or {program.rpartition('; ')[2]}"
        )
    kept.kill()
    assert kept.main() == child
    assert kept.log.count("started process") == 1
    assert kept.stop() == 0


def test_both_are_killed(kept):
    """
    Then the command is started again.
    """
    kept.serving(GLOBAL)
    main, child = begin(kept)
    pause(main)
    end(child)
    end(main)
    assert kept.main() not in (main, child)
    assert kept.stop() == 0


def test_one_on_probation_is_killed_and_the_one_before_takes_back(kept):
    """
    And once that may not any more, the command is started again at once, though it lives.
    """
    kept.serving(GLOBAL)
    main, child = begin(kept, "say('READY=1'); __import__('time').sleep(600)")
    kept.do(f"say('MAINPID={child}') or wait()")
    until(lambda: kept.status()["keeper"]["main"] == child, "the next")
    end(child)
    kept.waitFor(f"waiting for process {main} to serve")
    kept.do(f"say('MAINPID={main}', 'READY=1', 'X_TABLEFLIP_FAILED=dead') or wait()")
    assert kept.status()["keeper"]["main"] == main
    main, child = begin(
        kept,
        "say('READY=1'); wait(); "
        "[os.getppid() and __import__('time').sleep(0.2)]; "
        "say('X_TABLEFLIP_FINAL=1'); __import__('time').sleep(600)",
    )
    kept.do(f"say('MAINPID={child}') or wait()")
    until(lambda: kept.status()["keeper"]["before"] is None, lambda: kept.log)
    assert kept.status()["keeper"]["older"] == [main]
    end(child)
    kept.waitFor("started process", 2)
    end(main)
    assert kept.main() not in (main, child)
    assert kept.stop() == 0


def test_main_hands_over_to_one_that_has_ended_meanwhile(kept):
    """
    Whoever has handed over may roll back, and is waited for until it says that it will not.
    """
    kept.serving(GLOBAL)
    main, child = begin(kept, "signal.pause()")
    kept.do(f"os.kill({child}, 9) or os.waitpid({child}, 0)")
    kept.do(f"say('MAINPID={child}') or wait()")
    kept.waitFor(f"waiting for process {main} to serve")
    kept.do("say('X_TABLEFLIP_FINAL=1')")
    kept.waitFor("started process", 2)
    end(main)
    assert kept.main() not in (main, child)
    assert kept.stop() == 0


# -- daemons

DAEMON = """
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
{}
"""


def test_a_daemon_says_that_it_is_main(kept):
    """
    When its launcher has ended, or before; and it is started again as any other.
    """
    kept.serving(DAEMON.format(SERVE))
    main = kept.main()
    assert kept.status()["keeper"]["main"] == main
    end(main)
    until(lambda: kept.main() != main, "the next")
    assert kept.stop() == 0
    assert not processesWith(kept.service.mark)


def test_a_daemon_that_never_says_so_is_ended(kept):
    """
    Nobody could know what becomes of it.
    """
    kept.start(DAEMON.format("signal.pause()"), "--start-timeout", "1")
    assert kept.wait() == 1
    assert "waiting for a daemon to serve" in kept.log
    assert "nothing serves after 1 s: terminating what should" in kept.log
    until(lambda: not processesWith(kept.service.mark), "its end")


# -- who may say anything


def test_nobody_else_is_heard(kept):
    """
    Not a helper of the application, nor a stranger of the same user, nor another user:
    each is told of once.
    """
    kept.serving(GLOBAL)
    main, address = kept.main(), kept.do("os.environ['NOTIFY_SOCKET']")
    forged = [
        *("READY=1", "STOPPING=1", "RELOADING=1", "WATCHDOG=trigger"),
        "FDSTOREREMOVE=1\nFDNAME=txtableflip-listener",
    ]
    helper = kept.service.directory / "helper.py"
    helper.write_text(
        f"for each in [*{forged}, f'MAINPID={{os.getpid()}}'] * 3: say(each)\n"
        "Path('said').touch()\nsignal.pause()"
    )
    code = f"exec(open({str(helper)!r}).read())"
    kept.do(f"fork({code!r})")
    until((kept.service.directory / "said").exists, "what it says")
    stranger = (
        "import os, socket, sys\ns = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "s.connect(chr(0) + sys.argv[1][1:])\n"
        "for each in [*eval(sys.argv[2]), f'MAINPID={os.getpid()}']: s.send(each.encode())\n"
    )
    for prefix in ((), asOrdinaryUser()):
        subprocess.run(
            [*prefix, sys.executable, "-c", stranger, address, str(forged)], check=True
        )
    kept.do("wait()")
    status = kept.status()["keeper"]
    assert (status["main"], status["state"], status["stored"]) == (main, "Serving", 2)
    until(lambda: kept.log.count("ignoring process") == 3, lambda: kept.log)
    assert kept.stop() == 0


GARBAGE = [
    "b'\\0' * 8000",
    "b'\\xff' * 4000",
    "b'A' * 20000",
    "b'='",
    "b'MAINPID='",
    "b'MAINPID=-1'",
    "b'MAINPID=0'",
    "b'MAINPID=1'",
    "b'MAINPID=' + b'9' * 5000",
    "b'MAINPID=99999999999'",
    "b'X_TABLEFLIP_SUCCESSOR=x'",
    "b'X_TABLEFLIP_SUCCESSOR=1'",
    "b'FDSTORE=1\\nFDNAME='",
    "b'FDSTOREREMOVE=1'",
    "b'EXTEND_TIMEOUT_USEC=never'",
    "b'EXTEND_TIMEOUT_USEC=' + b'9' * 999",
    "b'RELOADING=1\\nMONOTONIC_USEC=x'",
    "b'WATCHDOG=perhaps'",
    "b'BARRIER=1'",
    "b'ERRNO=x'",
    "b'READY=1\\nREADY=0\\n\\n=\\n'",
]


def test_nonsense_is_survived(kept):
    """
    Whatever main says; and descriptors that come with it are closed.
    """
    kept.serving()
    before = kept.descriptors()
    for each in GARBAGE:
        kept.do(f"say({each})")
        kept.do(f"say({each}, fds=[0, 1, 2])")
        kept.do("say('FDSTORE=1', 'FDNAME=a:b\\tc', fds=[0, 1])")
    kept.do("wait()")
    assert kept.descriptors() == before
    main = kept.kill()
    assert kept.main() != main
    assert kept.stop() == 0


def test_a_flood_keeps_nobody_waiting(kept):
    """
    Of whoever: a crash is followed by the next start, and a stop is a stop.
    """
    kept.serving()
    address = kept.do("os.environ['NOTIFY_SOCKET']")
    flood = (
        "import socket, sys\ns = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "s.connect(chr(0) + sys.argv[1][1:])\n"
        "while True: s.send(b'STATUS=x')\n"
    )
    flooding = kept.service.start(
        sys.executable, "-c", flood, address, stderr=subprocess.DEVNULL
    )
    main = kept.kill()
    assert kept.main() != main
    assert kept.stop() == 0
    flooding.wait(DEADLINE)


# -- signals

COUNTING = (
    "signal.signal(signal.SIGTERM, lambda *more: (hear(*more), say('STOPPING=1'), "
    "Path('heard').write_text(' '.join(heard)), signal.alarm(1)))\n"
    "signal.signal(signal.SIGALRM, lambda *more: os._exit(0))\nserve()"
)


def test_one_SIGTERM_for_all_is_one_for_each(kept):
    """
    As systemd sends it to a control group: the second one would cut the connections.
    """
    kept.serving(COUNTING)
    main = kept.main()
    os.kill(main, signal.SIGTERM)
    assert kept.stop() == 0
    assert (kept.service.directory / "heard").read_text() == "SIGTERM"


def test_one_SIGTERM_is_passed_on(kept):
    """
    To who has not got it; and the log says who sent it.
    """
    kept.serving(COUNTING)
    assert kept.stop() == 0
    assert (kept.service.directory / "heard").read_text() == "SIGTERM"
    assert f"SIGTERM from process {os.getpid()} of user {os.getuid()}" in kept.log


def test_two_of_them_are_two(kept):
    """
    Who does not end by the first one gets the second.
    """
    kept.serving(COUNTING.replace("signal.alarm(1)", "len(heard) > 1 and os._exit(0)"))
    kept.process.send_signal(signal.SIGTERM)
    until((kept.service.directory / "heard").exists, "the first")
    kept.process.send_signal(signal.SIGTERM)
    assert kept.wait() == 0
    assert (kept.service.directory / "heard").read_text() == "SIGTERM SIGTERM"


def test_SIGINT_for_a_group_is_one(kept):
    """
    As a terminal sends it: those below are not in the group.
    """
    kept.serving(
        "signal.signal(signal.SIGINT, lambda *more: (hear(*more), "
        "Path('heard').write_text(' '.join(heard)), signal.alarm(1)))\n"
        "signal.signal(signal.SIGALRM, lambda *more: os._exit(0))\nserve()",
        process_group=0,
    ) if sys.version_info >= (3, 11) else pytest.skip("needs Python 3.11")
    os.killpg(kept.pid, signal.SIGINT)
    assert kept.wait() == 0
    assert (kept.service.directory / "heard").read_text() == "SIGINT"


def test_a_terminal_that_is_closed_is_a_stop(kept):
    """
    And not an upgrade, though SIGHUP says both.
    """
    ours, theirs = pty.openpty()
    kept.serving(
        "signal.signal(signal.SIGHUP, lambda *more: os._exit(5))\n" + COUNTING,
        before=["setsid", "--ctty", "--wait"],
        stdin=theirs,
    )
    os.close(theirs)
    os.close(ours)
    assert kept.wait() == 0
    assert "SIGHUP from the terminal" in kept.log
    assert (kept.service.directory / "heard").read_text() == "SIGTERM"


def test_other_signals_are_for_who_serves(kept):
    """
    What comes before anybody serves waits, once.
    """
    kept.start(
        "import time\nPath('there').touch()\nwhile not Path('go').exists(): time.sleep(0.01)\n"
        "for each in (signal.SIGHUP, signal.SIGUSR1): signal.signal(each, hear)\nserve()"
    )
    until((kept.service.directory / "there").exists, "its start")
    for _ in range(2):
        kept.process.send_signal(signal.SIGHUP)
        kept.waitFor("SIGHUP from process")
    (kept.service.directory / "go").touch()
    kept.waitFor(" serves\n")
    until(lambda: kept.do("heard") == ["SIGHUP"], "one SIGHUP")
    kept.process.send_signal(signal.SIGUSR1)
    until(lambda: kept.do("heard") == ["SIGHUP", "SIGUSR1"], "SIGUSR1")
    assert kept.stop() == 0


def test_a_keeper_that_is_stopped_and_goes_on(kept):
    """
    Nobody waits for it; what has happened meanwhile is done then.
    """
    kept.serving()
    kept.process.send_signal(signal.SIGSTOP)
    main = kept.kill()
    kept.process.send_signal(signal.SIGCONT)
    assert kept.main() != main
    assert kept.stop() == 0


def test_who_is_left_by_a_keeper_learns_it(kept):
    """
    By the end of a pipe, which its successors can be given.
    """
    kept.serving()
    assert kept.do("isKeeperThere()") is True
    kept.process.kill()
    kept.process.wait()
    until(lambda: kept.do("isKeeperThere()") is False, "the end of the pipe")
    kept.do("fork('')")


def test_orphans_are_reaped(kept):
    """
    Whoever has been left by its parent.
    """
    kept.serving()
    kept.do(
        "[os.waitpid(fork('os._exit(0) if os.fork() else os._exit(7)'), 0) and 0 "
        "for _ in range(20)]"
    )
    until(lambda: len(childrenOf(kept.pid)) == 1, "the end of all orphans")
    assert kept.stop() == 0


# -- the service manager above


def test_the_manager_above_is_told_everything_in_order(kept, above):
    """
    Although its queue takes ten, and it reads nothing for a while; and a barrier from below
    is one above.
    """
    kept.service.environment |= {"NOTIFY_SOCKET": above.path, "FDSTORE": "100"}
    kept.serving()
    lines = above.until("READY=1")
    assert "FDNAME=txtableflip-listener" in lines
    assert not any(line.startswith("MAINPID") for line in lines)
    kept.do("[say(f'STATUS={i}') for i in range(100)] and None")
    kept.do("fork('wait(); Path(\"heard\").touch()')")
    main, _ = kept.main(), kept.do("fork('Path(\"apart\").touch()')")
    # The barrier of another process is answered at once; that of main is not.
    until((kept.service.directory / "heard").exists, "an answer to a stranger")
    told = kept.service.start(
        sys.executable,
        "-c",
        "import socket, sys\n"
        f"s = socket.create_connection(('127.0.0.1', {kept.port}))\n"
        "s.sendall(b'wait()\\n'); s.makefile().read()",
    )
    lines = above.until("STATUS=98")
    assert told.poll() is None
    lines += above.until("BARRIER=1")
    assert [line for line in lines if line.startswith("STATUS=")][-100:] == [
        f"STATUS={i}" for i in range(100)
    ]
    assert told.wait(DEADLINE) == 0
    kept.process.send_signal(signal.SIGTERM)
    assert "STOPPING=1" in above.until("STOPPING=1")
    assert kept.wait() == 0
    assert main


def test_a_manager_that_is_gone_is_no_harm(kept, above):
    """
    It is said once.
    """
    kept.service.environment |= {"NOTIFY_SOCKET": above.path + "-not"}
    kept.serving()
    kept.kill()
    assert kept.main()
    assert kept.log.count("cannot notify the service manager") == 1
    assert kept.stop() == 0


def test_one_that_hangs_is_ended_before_the_manager_would(kept, above):
    """
    Who is above hears all the time that all is well.
    """
    kept.service.environment |= {"NOTIFY_SOCKET": above.path, "WATCHDOG_USEC": "3000000"}
    kept.serving()
    assert kept.do("[os.environ.get(each) for each in ('WATCHDOG_USEC', 'WATCHDOG_PID')]") == [
        "1500000",
        None,
    ]
    main = kept.main()
    kept.do("say('WATCHDOG=1')")
    kept.waitFor(f"process {main} hangs: killing it")
    kept.waitFor("was killed by SIGABRT: starting it again")
    assert kept.main() != main
    assert above.until("WATCHDOG=1")
    assert kept.stop() == 0


def test_what_systemd_has_opened_comes_first_each_time(kept, tmp_path):
    """
    And what it has kept for the keeper is given back.
    """
    code = (
        "import os, socket, sys\ns = socket.create_server(('127.0.0.1', 0))\n"
        "t = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))\n"
        "m = os.memfd_create('list'); os.write(m, b'txtableflip-listener\\n')\n"
        "fds = [os.dup(each) for each in (s.fileno(), t.fileno(), m)]\n"
        "for number, fd in enumerate(fds, 3): os.dup2(fd, number + 20)\n"
        "for number in range(3): os.dup2(number + 23, number + 3, inheritable=True)\n"
        "os.environ |= {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '3', "
        "'LISTEN_FDNAMES': 'web:txtableflip-listener:txtableflip-list-1'}\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    kept.serving(before=[sys.executable, "-c", code])
    for _ in range(2):
        assert list(kept.do("stored()"))[:2] == ["web", "txtableflip-listener"]
        kept.kill()
    assert kept.main()
    assert kept.stop() == 0


# -- where it starts, and which release


def test_the_directory_is_looked_up_by_name_each_time(kept, tmp_path):
    """
    A link that has been moved is followed, and PWD is the link.
    """
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    link = tmp_path / "current"
    link.symlink_to("one")
    kept.serving(SERVE, "--directory", str(link))
    where = "[os.getcwd(), os.environ['PWD']]"
    assert kept.do(where) == [str(tmp_path / "one"), str(link)]
    link.unlink()
    link.symlink_to("two")
    kept.kill()
    assert kept.do(where) == [str(tmp_path / "two"), str(link)]
    assert kept.stop() == 0


@pytest.mark.parametrize("options", [(), ("--on-crash", "previous")])
def test_a_bad_release_is_followed_by_the_one_before_if_that_is_wanted(kept, tmp_path, options):
    """
    It is loud, and holds until the next upgrade.
    """
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    link = tmp_path / "current"
    link.symlink_to("one")
    kept.serving(GLOBAL, "--directory", str(link), *options)
    main, child = begin(kept, "os.chdir('../two'); say('READY=1'); signal.pause()")
    link.unlink()
    link.symlink_to("two")
    kept.do(f"say('MAINPID={child}') or wait()")
    kept.waitFor(f"process {child} serves")
    end(main)
    until(lambda: kept.status()["keeper"]["older"] == [], "its end")
    end(child)
    assert kept.do("os.getcwd()") == str(tmp_path / ("one" if options else "two"))
    assert kept.log.count("GOING BACK to the release before") == len(options) // 2
    assert kept.stop() == 0


# -- who asks


def test_it_is_asked_where_a_generation_would_be(kept, monkeypatch):
    """
    The name is computed twice, by code that may not know of the other.
    """
    assert keeper.addressOf() == addressOf(os.getpid())


def test_it_tells_its_own_status_and_stops(kept, capsys):
    """
    By the command, which waits for its end.
    """
    kept.serving()
    main = kept.main()
    done = kept.service.run(TABLEFLIP, "status", str(kept.pid))
    assert done.stdout.splitlines()[1].split()[:3] == ["keeper", str(kept.pid), "keeps"], done
    assert f"process {main}" in done.stdout
    done = kept.service.run(TABLEFLIP, "stop", str(kept.pid))
    assert (done.returncode, done.stdout) == (0, f"process {kept.pid} has exited\n")
    assert kept.wait() == 0
    assert not isAlive(main)


def test_who_asks_what_it_does_not_know_is_sent_on(kept):
    """
    To who serves, or told that nobody does.
    """
    kept.serving()
    told = kept.ask({"command": "whatever", "more": [1]})
    assert told == {"result": {"outcome": "moved", "pid": kept.main()}}
    for nonsense in ([], None, {}, {"command": 1}, "x"):
        assert kept.ask(nonsense)["result"]["outcome"] == "refused"
    assert kept.stop() == 0


def test_those_who_ask_and_say_nothing_are_not_for_ever(kept):
    """
    The hundred and first one is heard, and who sends too much is not.
    """
    kept.serving()
    idle = []
    for _ in range(150):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(DEADLINE)
        sock.connect(addressOf(kept.pid))
        idle.append(sock)
    assert kept.status()["child"] == kept.main()
    with suppress(OSError):
        for _ in range(100):
            idle[-1].sendall(b"x" * 4096)
            time.sleep(0.01)
    until(kept.status, "an answer")
    for sock in idle:
        sock.close()
    assert kept.stop() == 0


def test_another_user_may_not_ask(kept):
    """
    Only the same one, and root.
    """
    kept.serving()
    ask = (
        "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(eval(sys.argv[1]))\n"
        "print(s.recv(9999).decode())"
    )
    other = asOrdinaryUser()
    if other:
        words = [*other, sys.executable, "-c", ask, repr(addressOf(kept.pid))]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert '"refused"' in done.stdout
    assert kept.main()
    assert kept.stop() == 0


def test_run_needs_nothing_of_the_package(kept):
    """
    The command hands over to a Python of its own, which has read nothing else.
    """
    kept.program.write_text(SERVE)
    words = ("run", "--", sys.executable, str(APPS / "kept.py"), str(kept.program))
    with (kept.service.directory / "keeper.log").open("ab") as log:
        kept.process = kept.service.start(TABLEFLIP, *words, stderr=log)
    kept.waitFor(" serves\n")
    words = Path(f"/proc/{kept.pid}/cmdline").read_bytes().split(b"\0")
    assert words[1:4] == [b"-I", b"-S", b"-c"]
    maps = Path(f"/proc/{kept.pid}/maps").read_text()
    assert "site-packages" not in maps
    assert kept.stop() == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "say what to run, after --"),
        (["--"], "say what to run, after --"),
        (["twistd"], "write -- before the command"),
        (["--restart", "perhaps", "--", "x"], "invalid choice"),
        (["--start-timeout", "0", "--", "x"], "invalid _seconds value"),
    ],
)
def test_wrong_usage_is_told(words, told, capsys):
    """
    With status 2.
    """
    with pytest.raises(SystemExit) as raised:
        keeper.parse(words)
    assert raised.value.code == 2
    assert told in capsys.readouterr().err


def test_run_is_in_the_help(capsys):
    """
    Beside the commands that ask.
    """
    with pytest.raises(SystemExit):
        command.main(["--help"])
    assert "run" in capsys.readouterr().out
