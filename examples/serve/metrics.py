"""What Prometheus reads: requests of this process, and where the roll-out stands."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import longstride as ls
from examples.serve.service import Picture, Service
from longstride.adaptation import Counters

__all__ = ["Metrics"]

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class _Standing(Collector):
    """Stage, shares and bounds of the roll-out, read from the store when they are asked for."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        trouble = GaugeMetricFamily("longstride_store_trouble", "1 while this process cannot use the store")
        measured = GaugeMetricFamily("longstride_reference", "Requests chosen for a live reference", labels=["fate"])
        tally = self._service.reference.tally
        for fate in ("chosen", "measured", "dropped", "failed"):
            measured.add_metric([fate], getattr(tally, fate))
        yield measured
        yield from self._adaptation()
        try:
            standing = self._service.rollout.status()
        except ls.StoreError:
            trouble.add_metric([], 1)
            yield trouble
            return
        trouble.add_metric([], float(standing.trouble is not None))
        yield trouble
        stage = GaugeMetricFamily("longstride_rollout_stage", "Stage of the roll-out, from 1")
        stage.add_metric([], standing.stage + 1)
        yield stage
        status = GaugeMetricFamily("longstride_rollout_status", "1 for the status that holds", labels=["status"])
        for name in ("running", "complete", "rolled back"):
            status.add_metric([name], float(standing.status == name))
        yield status
        share = GaugeMetricFamily("longstride_rollout_share", "Share of the requests", labels=["arm"])
        for name, part in standing.shares.items():
            share.add_metric([name], part)
        yield share
        bounds = GaugeMetricFamily(
            "longstride_rollout_comparison", "The new arm against the one before", labels=["name", "bound"]
        )
        for name, found in standing.comparisons.items():
            for bound in ("value", "lower", "upper", "tolerance"):
                if found.pairs and (value := getattr(found, bound)) is not None:
                    bounds.add_metric([name, bound], value)
        yield bounds
        error = GaugeMetricFamily(
            "longstride_mean_error", "Error of live requests to the converged solution", labels=["arm", "bound"]
        )
        for name, found in standing.mean_errors.items():
            for bound in ("value", "lower", "upper"):
                if (value := getattr(found, bound)) is not None:
                    error.add_metric([name, bound], value)
        yield error

    def _adaptation(self) -> Iterator[Metric]:
        adaptation = self._service.adaptation
        try:
            counters = Counters() if adaptation is None else adaptation.status().counters
        except ls.StoreError:
            return
        offered = GaugeMetricFamily("longstride_adaptation", "Samples that the adaptation was offered", labels=["fate"])
        for fate in ("samples", "used", "over"):
            offered.add_metric([fate], getattr(counters, fate))
        yield offered
        refused = GaugeMetricFamily("longstride_adaptation_refused", "Samples that were refused", labels=["reason"])
        for reason, count in counters.refused.items():
            refused.add_metric([reason], count)
        yield refused
        ended = GaugeMetricFamily("longstride_adaptation_candidates", "What became of candidates", labels=["fate"])
        for fate in ("candidates", "lost", "proposed", "adopted", "rejected"):
            ended.add_metric([fate], getattr(counters, fate))
        yield ended


class Metrics:
    """Counters of one service; a registry of its own, so that several can live in one process."""

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        options = {"registry": self.registry}
        self.requests = Counter("longstride_requests", "Pictures that were served", ["arm"], **options)
        self.refused = Counter(
            "longstride_refused", "Requests that were told to come back: the queue was full", **options
        )
        self.non_finite = Counter(
            "longstride_non_finite", "Samples with NaN or infinity; served by the base", **options
        )
        self.flagged = Counter("longstride_flagged", "Samples that the guard flagged", ["arm"], **options)
        self.drift = Counter("longstride_drift", "Pictures with an alarm of the card's monitor", ["arm"], **options)
        self.seconds = Histogram("longstride_seconds", "Time of a picture", ["arm"], buckets=_SECONDS, **options)
        self.inside = Gauge("longstride_inside", "Requests that are worked on or wait", **options)
        self.registry.register(_Standing(service))

    def served(self, picture: Picture) -> None:
        """Count a picture."""
        self.requests.labels(picture.arm).inc()
        self.seconds.labels(picture.arm).observe(picture.seconds)
        self.non_finite.inc(picture.non_finite)
        self.flagged.labels(picture.arm).inc(bool(picture.flagged))
        self.drift.labels(picture.arm).inc(bool(picture.drift))
