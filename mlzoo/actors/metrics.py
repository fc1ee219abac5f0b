"""Counters and histograms since the start, counted from what is recorded. Knows nothing of who asks for them."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from mlzoo.events import types as ev

if TYPE_CHECKING:
    from mlzoo.events.commands import JsonObject
    from mlzoo.events.records import Group

EDGES_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000)


class Histogram:
    """Counts by upper edges, as Prometheus has them."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0
        self._counts = [0] * (len(EDGES_MS) + 1)

    def add(self, value: float) -> None:
        """Count one measurement."""
        self.count += 1
        self.sum += value
        self._counts[bisect_left(EDGES_MS, value)] += 1

    def shown(self) -> JsonObject:
        """Return it as the protocol has it: each bucket counts what is at most its edge."""
        buckets, below = [], 0
        for edge, count in zip(EDGES_MS, self._counts, strict=False):
            below += count
            buckets.append({"le": float(edge), "count": below})
        return {"count": self.count, "sum": self.sum, "buckets": buckets}


class Metrics:
    """The figures of one sidecar."""

    def __init__(self) -> None:
        self._events: dict[type, int] = {}
        self._tokens = {"prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0}
        self._queue_ms = Histogram()
        self._ttft_ms = Histogram()
        self._total_ms = Histogram()

    def observe(self, groups: list[Group]) -> None:
        """Count what has just been written."""
        events = self._events
        for group in groups:
            for event in group.events:
                events[type(event)] = events.get(type(event), 0) + 1
                if isinstance(event, ev.RequestCompleted):
                    self._completed(event)

    def _completed(self, event: ev.RequestCompleted) -> None:
        self._tokens["prompt_tokens"] += event.prompt_tokens
        self._tokens["completion_tokens"] += event.completion_tokens
        self._tokens["cached_tokens"] += event.cached_tokens
        self._queue_ms.add(event.timing.queue_ms)
        self._ttft_ms.add(event.timing.ttft_ms)
        self._total_ms.add(event.timing.total_ms)

    def shown(self, log_bytes: int, last_seq: int) -> JsonObject:
        """Return the figures as the protocol has them."""
        counters: dict[str, float] = {f"events.{kind.__name__}": count for kind, count in self._events.items()}
        counters |= self._tokens
        counters |= {"log_bytes": log_bytes, "log_last_seq": last_seq}
        histograms = {"queue_ms": self._queue_ms, "ttft_ms": self._ttft_ms, "total_ms": self._total_ms}
        return {"counters": counters, "histograms": {name: h.shown() for name, h in histograms.items()}}
