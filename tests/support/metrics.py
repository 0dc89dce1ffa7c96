"""The metrics that the gateway really has. As a module, prints them as /metrics would."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from prometheus_client.metrics import MetricWrapperBase

from gateway.metrics import Metrics


def touched() -> Metrics:
    """Metrics of which each has a series; Prometheus shows none before its first event."""
    metrics = Metrics()
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase) and (labels := metric._labelnames):
            metric.labels(**dict.fromkeys(labels, "x"))
    return metrics


def series(metrics: Metrics) -> Mapping[str, frozenset[str]]:
    """Names as Prometheus stores them, with their labels."""
    return {
        sample.name: frozenset(sample.labels)
        for family in metrics.registry.collect()
        for sample in family.samples
    }


if __name__ == "__main__":
    sys.stdout.write(touched().render().decode())
