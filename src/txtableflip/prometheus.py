"""
For services that have a C{/metrics} of their own, by C{prometheus_client} (the extra
C{prometheus}).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from txtableflip._control.metrics import families
from txtableflip.upgrader import currentUpgrader

__all__ = ["UpgradesCollector"]


class UpgradesCollector(Collector):
    """
    What C{tableflip metrics} prints of this process, and the counters of the whole
    service: C{REGISTRY.register(UpgradesCollector())}.  It may be collected in any
    thread, and has no samples where there is no L{Upgrader <txtableflip.Upgrader>}.
    """

    def describe(self) -> Iterable[Metric]:
        """
        See C{prometheus_client.registry.Collector}.
        """
        return _metrics([])

    def collect(self) -> Iterable[Metric]:
        """
        See C{prometheus_client.registry.Collector}.
        """
        upgrader = currentUpgrader()
        return _metrics([] if upgrader is None else [upgrader.status()])


def _metrics(generations: Sequence[dict[str, Any]]) -> Iterator[Metric]:
    for family in families(generations):
        cls = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
        metric = cls(family.name, family.help, labels=family.labels)
        for values, measured in family.samples:
            metric.add_metric(values, measured)
        yield metric
