"""What is known of an adapter: measured by a worker, recorded, and shown. A value; this module knows nothing else."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class AdapterFacts:
    """An adapter that a loaded model has."""

    name: str
    digest: str
    rank: int  # of the layer that has the greatest
    targets: tuple[str, ...]  # the kinds of layers that it changes
    size_bytes: int  # of memory
    fingerprint: str = ""  # as of a model, with this adapter
