"""
What clients saw of a service under torture: as a table, as JSON, as a picture.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any

from txtableflip.testing._clients import Sample
from txtableflip.testing._service import Event

SERVES = "serves"
SHOWN = 20
"""
How many different errors the table shows.
"""


@dataclass(frozen=True)
class Deployment:
    """
    A start, an upgrade, or an upgrade that was to fail.

    @ivar what: C{start}, C{upgrade}, or the name of a mishap.
    @ivar outcome: what the service said in the end.
    @ivar begun: when the signal was sent, in seconds since the epoch.
    @ivar alive: how many processes of the service lived when it was over.
    @ivar lost: from when to when connections were made whose requests were lost with
        a process that had accepted them, and died as planned.
    """

    what: str
    outcome: Event
    begun: float = 0.0
    alive: int = 0
    lost: tuple[float, float] | None = None

    @property
    def succeeded(self) -> bool:
        """
        Whether a new process serves.
        """
        return self.outcome.what == SERVES

    @property
    def isAsPlanned(self) -> bool:
        """
        Whether that was to be.
        """
        return self.succeeded == (self.what in ("start", "upgrade"))

    def __str__(self) -> str:
        event = self.outcome
        if self.succeeded:
            text = f"generation {event.generation}, process {event.pid}, serves"
        else:
            why = event.why.partition(" Its last output:")[0]
            text = f"process {event.pid} keeps serving: {why}"
        took = f" after {event.time - self.begun:.2f} s" if self.begun else ""
        return f"{self.what}: {text}{took}" + ("" if self.isAsPlanned else " (UNEXPECTED)")


@dataclass(frozen=True)
class Report:
    """
    What came of it.

    @ivar samples: everything that clients saw.
    @ivar deployments: everything that was done to the service, in order.
    @ivar trouble: why that ended before its time, if so.
    """

    samples: tuple[Sample, ...]
    deployments: tuple[Deployment, ...]
    trouble: str = ""

    @property
    def failures(self) -> list[str]:
        """
        What should not have been: answers that did not come, upgrades that
        failed, and mishaps that did not keep a new process from serving.
        """
        failed = [
            f"{sample.kind}, asked {sample.begun - self._start:.2f} s after the start: "
            f"{sample.error}"
            for sample in self.samples
            if self.isFailure(sample)
        ]
        failed += [str(one) for one in self.deployments if not one.isAsPlanned]
        return failed + ([self.trouble] if self.trouble else [])

    def isFailure(self, sample: Sample) -> bool:
        """
        @return: whether there was no answer, and should have been: not from a process
            that had accepted the connection, and died as planned.
        """
        return bool(sample.error) and not self._isLost(sample)

    def _isLost(self, sample: Sample) -> bool:
        # A connection that was refused has not been accepted by any process.
        return (
            bool(sample.error)
            and not sample.error.startswith(ConnectionRefusedError.__name__)
            and any(
                one.lost and one.lost[0] <= sample.connected <= one.lost[1]
                for one in self.deployments
            )
        )

    @property
    def lost(self) -> int:
        """
        How many requests were lost with a process that had accepted them, and died
        as planned.
        """
        return sum(map(self._isLost, self.samples))

    @property
    def upgrades(self) -> int:
        """
        How many upgrades there were that succeeded.
        """
        return sum(one.succeeded for one in self.deployments[1:])

    @property
    def _start(self) -> float:
        return self.deployments[0].outcome.time

    def perGeneration(self) -> list[dict[str, Any]]:
        """
        @return: for each generation its number, process, how it came to serve,
            and what was seen by the clients that connected while it accepted.
        """
        served = [one for one in self.deployments if one.succeeded]
        times = [one.outcome.time for one in served]
        groups: list[list[Sample]] = [[] for _ in served]
        for sample in self.samples:
            groups[max(0, bisect_right(times, sample.connected) - 1)].append(sample)
        return [
            {
                "generation": one.outcome.generation,
                "process": one.outcome.pid,
                "upgrade": round(one.outcome.time - one.begun, 3) if one.begun else None,
                "alive": one.alive,
                **self._summary(group),
            }
            for one, group in zip(served, groups, strict=True)
        ]

    def perKind(self) -> list[dict[str, Any]]:
        """
        @return: the same for each kind of clients.
        """
        kinds = sorted({sample.kind for sample in self.samples})
        return [
            {"kind": kind, **self._summary([one for one in self.samples if one.kind == kind])}
            for kind in kinds
        ]

    def table(self) -> str:
        """
        @return: the report for people.
        """
        mishaps = [str(one) for one in self.deployments if not one.succeeded]
        errors = Counter(one.error for one in self.samples if self.isFailure(one))
        parts = [
            _table(self.perGeneration()),
            _table(self.perKind()),
            *([("\n".join(mishaps))] if mishaps else []),
            *(
                [_table({"failed": n, "why": why} for why, n in errors.most_common(SHOWN))]
                if errors
                else []
            ),
            *([self.trouble] if self.trouble else []),
            self.summary(),
        ]
        return "\n\n".join(parts)

    def summary(self) -> str:
        """
        @return: all in one line.
        """
        failed = len(self.deployments) - 1 - self.upgrades
        lost = f"{self.lost} lost with a process that died, " if self.lost else ""
        return (
            f"{self.upgrades} upgrades, {failed} that failed, {len(self.samples):,} requests, "
            f"{lost}{len(self.failures)} failures"
        )

    def json(self) -> str:
        """
        @return: the report for programs.
        """
        return json.dumps(
            {
                "upgrades": self.upgrades,
                "requests": len(self.samples),
                "failures": self.failures,
                "perGeneration": self.perGeneration(),
                "perKind": self.perKind(),
                "deployments": [asdict(one) for one in self.deployments],
                "samples": [list(asdict(one).values()) for one in self.samples],
            },
            indent=1,
        )

    def picture(self, path: str) -> None:
        """
        Draw latency and failures over time, with the upgrades marked.

        @param path: where to; its ending says in which format, such as C{.png}
            or C{.svg}.
        @raise ImportError: without matplotlib (C{pip install
            'txtableflip[testing]'}).
        """
        from matplotlib.figure import Figure  # noqa: PLC0415 - it is big, and optional

        figure = Figure(figsize=(12, 5), layout="constrained")
        axes = figure.subplots()
        for kind in sorted({sample.kind for sample in self.samples}):
            good = [one for one in self.samples if one.kind == kind and not one.error]
            axes.plot(*self._points(good), ".", markersize=2, label=kind, rasterized=True)
        bad = [one for one in self.samples if self.isFailure(one)]
        axes.plot(*self._points(bad), "rx", markersize=4, label=f"failures: {len(bad)}")
        for one in self.deployments[1:]:
            style = ("tab:green", "-") if one.succeeded else ("tab:red", ":")
            axes.axvline(
                one.outcome.time - self._start,
                color=style[0],
                linestyle=style[1],
                linewidth=0.7,
            )
        axes.set_yscale("log")
        axes.set_xlabel("seconds; green: an upgrade, red and dotted: one that was to fail")
        axes.set_ylabel("milliseconds until the answer")
        axes.set_title(self.summary())
        axes.legend(loc="upper right", markerscale=2)
        figure.savefig(path, dpi=110)

    def _points(self, samples: list[Sample]) -> tuple[list[float], list[float]]:
        return (
            [sample.begun - self._start for sample in samples],
            [sample.took * 1000 for sample in samples],
        )

    def _summary(self, samples: list[Sample]) -> dict[str, Any]:
        """
        Count, and sort: times are in milliseconds.
        """
        taken = [sample.took * 1000 for sample in samples if not sample.error]
        percentiles = quantiles(taken, n=100, method="inclusive") if len(taken) > 1 else taken
        return {
            "answers": len(taken),
            "lost": sum(map(self._isLost, samples)),
            "failures": sum(map(self.isFailure, samples)),
            "median": round(median(taken), 1) if taken else None,
            "99 %": round(percentiles[-1], 1) if taken else None,
            "slowest": round(max(taken), 1) if taken else None,
        }


def _table(rows: Iterable[dict[str, Any]]) -> str:
    """
    @return: rows, below the names of their columns; the last one may be words.
    """
    rows = list(rows)
    lines = [list(rows[0]), *(["-" if v is None else str(v) for v in r.values()] for r in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    isText = isinstance([*rows[0].values()][-1], str)
    return "\n".join(
        "  ".join(
            [cell.rjust(width) for cell, width in zip(line[:-1], widths, strict=False)]
            + [line[-1] if isText else line[-1].rjust(widths[-1])]
        )
        for line in lines
    )
