"""Weights on the disk: where they come from, and whether they are here.

The light part (``Store``, ``Installed``) answers on the event loop within microseconds and imports nothing heavy; a
pull runs in a process of its own (``pull.py``, started by ``pulling.py``), so that it can be killed at any moment and
leaves nothing half-written visible. Knows nothing of models as running things, nor of torch.
"""

from __future__ import annotations

from mlzoo.store.layout import Estimate, Installed, Progress, Store, estimate_of, open_store
from mlzoo.store.sizing import token_bytes

__all__ = ["Estimate", "Installed", "Progress", "Store", "estimate_of", "open_store", "token_bytes"]
