"""
The journal: what happens, who hears of it, and what the log makes of it.
"""

import json
import os
import signal
from dataclasses import FrozenInstanceError, fields

import pytest
from processes import APPS, DEADLINE, TWISTD, until
from twisted.logger import LogLevel, eventAsText, globalLogPublisher

from txtableflip import _journal
from txtableflip._journal import Event, Failed, Journal, ProcessLogger, Requested, Serving
from txtableflip.testing._service import freePort


def kinds(of=Event):
    """
    Return all kinds of events.
    """
    return [kind for each in of.__subclasses__() for kind in (each, *kinds(each))]


@pytest.fixture
def lines():
    """
    What is logged, as events of Twisted's.
    """
    found = []
    globalLogPublisher.addObserver(found.append)
    yield found
    globalLogPublisher.removeObserver(found.append)


@pytest.fixture
def heard(monkeypatch):
    """
    What the journal tells, after the log has heard it.
    """
    found = []
    monkeypatch.setattr(Journal, "listeners", [*Journal.listeners, found.append])
    return found


def some(kind):
    """
    Return values for the fields that are a kind's own.
    """
    common = {field.name for field in fields(Event)}
    return {field.name: 7 for field in fields(kind) if field.name not in common}


@pytest.mark.parametrize("kind", kinds())
def test_an_event_says_who_and_when_and_stays_as_it_was(kind, heard):
    """
    Each event has the process, its generation and the time, and cannot be changed
    by a listener for the next one.
    """
    Journal().tell(kind, **some(kind))
    [event] = heard
    assert type(event) is kind
    assert (event.pid, event.generation) == (os.getpid(), ProcessLogger.generation)
    for field in fields(kind):
        with pytest.raises(FrozenInstanceError):
            setattr(event, field.name, 8)


def test_the_log_hears_first(heard, lines):
    """
    When another listener hears of something, the log has it already.
    """
    seen = []
    Journal.listeners.append(lambda event: seen.append(len(lines)))
    Journal().tell(Serving)
    assert seen == [1]
    assert eventAsText(lines[0]).endswith(f"generation {ProcessLogger.generation} serves")


def test_a_listener_that_raises_keeps_nobody_from_hearing(heard, lines):
    """
    Its error is in the log, and the others hear of the event.
    """
    Journal.listeners.insert(1, lambda event: 1 / 0)
    Journal().tell(Serving)
    assert [type(event) for event in heard] == [Serving]
    assert [line["log_level"] for line in lines] == [LogLevel.info, LogLevel.critical]
    assert "ZeroDivisionError" in eventAsText(lines[1])


def test_a_request_is_a_line_only_if_it_has_to_wait(heard, lines):
    """
    The start that follows at once says enough.
    """
    Journal().tell(Requested, isDeferred=False)
    assert lines == []
    Journal().tell(Requested, isDeferred=True)
    assert "upgrade requested; deferred" in eventAsText(lines[0])


def test_a_line_names_its_process(lines, monkeypatch):
    """
    Two processes write to one log: each line says which one it is of, whatever
    level it has, and whatever the reason that it tells has in it.
    """
    monkeypatch.setattr(ProcessLogger, "generation", 12)
    Journal().tell(Failed, reason="{pid} {nothing} {0}", outcome="failed")
    ProcessLogger().warn("something {what}", what="else")
    for line in lines:
        assert f"generation 12 pid {os.getpid()}" in eventAsText(line)
        assert (line["pid"], line["generation"]) == (os.getpid(), 12)
    assert "upgrade failed: {pid} {nothing} {0}" in eventAsText(lines[0])


@pytest.mark.parametrize("kind", _journal._LINES)
def test_each_line_has_what_its_event_has(kind, lines):
    """
    No line of the log names a field that its event has not.
    """
    Journal().tell(kind, **some(kind))
    assert "Unable to format" not in eventAsText(lines[0])


OBSERVER = """
from twisted.logger import jsonFileLogObserver


def observer():
    return jsonFileLogObserver(open("log.json", "a"), recordSeparator="")
"""


@pytest.mark.process
def test_a_log_of_json_has_every_field(service):
    """
    With Twisted's observer for JSON, whatever an upgrade, a failed one and the end
    have to say is there: who says it, and no field that could not be written.
    """
    (service.directory / "jsonlog.py").write_text(OBSERVER)
    service.environment["PYTHONPATH"] = str(service.directory)
    service.environment["ENDPOINTS"] = f"tableflip:tcp:{freePort()}:interface=127.0.0.1"
    log = service.directory / "log.json"

    def said(text, count=1):
        until(lambda: log.exists() and log.read_text().count(text) >= count, text)

    command = ["--nodaemon", "--logger=jsonlog.observer", "-y", str(APPS / "answering.py")]
    first = service.start(TWISTD, *command)
    said(" serves")
    os.kill(first.pid, signal.SIGHUP)
    first.wait(DEADLINE)
    service.release("raise ValueError('a bad release')")
    os.kill(service.pid, signal.SIGHUP)
    said("a bad release")
    os.kill(service.pid, signal.SIGTERM)
    until(lambda: not service.pidFile.exists(), "the end")
    ours = [
        event
        for event in map(json.loads, log.read_text().splitlines())
        if event["log_namespace"].startswith("txtableflip")
    ]
    assert {event["generation"] for event in ours} == {1, 2}
    assert len({event["pid"] for event in ours}) == 2
    for event in ours:
        own = {name: value for name, value in event.items() if not name.startswith("log_")}
        assert "unpersistable" not in json.dumps(own), event
