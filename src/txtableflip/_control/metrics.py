"""
The metrics of a service, for Prometheus: used by C{tableflip metrics}, and by the collector
of L{txtableflip.prometheus}.

Of the standard library only, as L{address <txtableflip._control.address>}.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Status = Mapping[str, Any]

Sample = tuple[tuple[str, ...], float]
"""
The values of the labels, and what was measured.
"""

_BY_OUTCOME = {
    "tableflip_upgrades_total": (
        "Upgrades, by their outcome.",
        ("done", "failed", "rolledBack", "stopped"),
    ),
    "tableflip_migrations_total": (
        "Connections that were to migrate, by what became of them.",
        ("migrated", "returned", "stayed"),
    ),
}
_PROCESS = ("generation", "pid")


@dataclass
class Family:
    """
    The samples of one name.

    @ivar kind: C{counter} or C{gauge}.
    @ivar labels: the names of the labels.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    samples: list[Sample] = field(default_factory=list)


def families(generations: Sequence[Status]) -> list[Family]:
    """
    @param generations: the status that each process has reported.
    @return: what is measured; without processes, families without samples.
    """
    answered = [each for each in generations if "error" not in each]
    return [*_counters(answered), *_gauges(answered)]


def _counters(generations: Sequence[Status]) -> Iterator[Family]:
    # Each process knows the totals; the last one that was asked may know more.
    totals: dict[str, int] = {}
    for each in generations:
        for name, count in each.get("counters", {}).items():
            totals[name] = max(count, totals.get(name, 0))
    for family, (words, outcomes) in _BY_OUTCOME.items():
        counted: list[Sample] = [((name,), totals[name]) for name in outcomes if name in totals]
        yield Family(family, "counter", words, ("outcome",), counted)
    for name, words in {
        "accepted": "Connections that were accepted.",
        "drained": "Connections that closed by themselves while their process drained.",
        "aborted": "Connections that were aborted at the drain deadline.",
    }.items():
        samples: list[Sample] = [((), totals[name])] if name in totals else []
        yield Family(f"tableflip_connections_{name}_total", "counter", words, (), samples)


def _gauges(generations: Sequence[Status]) -> Iterator[Family]:
    info, state, since, opened, left = (
        Family(f"tableflip_{name}", "gauge", words, (*_PROCESS, *labels))
        for name, words, *labels in (
            ("generation_info", "Which processes there are.", "directory", "release"),
            ("generation_state", "The state that each process is in.", "state"),
            ("generation_state_timestamp_seconds", "Since when it is in that state."),
            ("connections_open", "Open connections, by listener.", "listener"),
            ("drain_remaining_seconds", "How long its connections have to finish."),
        )
    )
    for each in generations:
        process = (str(each["generation"]), str(each["pid"]))
        runs = (str(each["directory"]), str(each.get("release") or ""))
        info.samples.append(((*process, *runs), 1))
        state.samples.append(((*process, each["state"]), 1))
        since.samples.append((process, each["since"]))
        for listener in each["listeners"]:
            opened.samples.append(((*process, listener["name"]), listener["connections"]))
        if each["drain"] is not None:
            left.samples.append((process, each["drain"]["left"]))
    yield from (info, state, since, opened, left)


def exposition(generations: Sequence[Status]) -> Iterator[str]:
    """
    @return: the lines of Prometheus' text format, version 0.0.4.
    """
    for family in families(generations):
        yield f"# HELP {family.name} {family.help}"
        yield f"# TYPE {family.name} {family.kind}"
        for values, measured in family.samples:
            yield f"{family.name}{_labels(family.labels, values)} {measured}"


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    pairs = zip(names, map(_escape, values), strict=True)
    inside = ",".join(f'{name}="{value}"' for name, value in pairs)
    return f"{{{inside}}}" if inside else ""


def _escape(value: str) -> str:
    # A path may not be UTF-8.
    text = value.encode(errors="replace").decode()
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
