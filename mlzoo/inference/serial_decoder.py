"""A decoder of one row, for architectures that slots do not fit: it runs on the model's own cache.

Knows models; nothing of requests, sampling or text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from mlzoo.inference.decoder import NO_IMAGES, with_adapters
from mlzoo.inference.rows import StepsLost

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlzoo.inference.adapters import Adapters
    from mlzoo.inference.rows import Part


class SerialDecoder:
    """One row on the model's own cache, through the model's own way of preparing a step of ``generate``."""

    slots = 1
    grain = 1
    takes_any_rows = False
    steps_digest = ""

    def __init__(self, module: Any, context: int, *, chunk: int | None = None) -> None:
        self.module, self.context, self.chunk = module, context, chunk
        self.adapters: Adapters | None = None
        self._device = module.device
        self._ids = torch.zeros(1, 0, dtype=torch.long, device=self._device)
        self._state: dict[str, Any] = {}

    @torch.inference_mode()
    def prefill(
        self,
        slot: int,
        tokens: Sequence[int],
        start: int,
        images: Mapping[str, Any] = NO_IMAGES,
        *,
        adapter: str = "",
    ) -> torch.Tensor:
        """Read tokens from position start on; return the logits after the last one, ``[vocabulary]``."""
        assert slot == 0
        if start == 0:
            self._ids, self._state = self._ids[:, :0], {"use_cache": True}
            self._state |= {name: self._placed(value) for name, value in images.items()}
        with with_adapters(self.adapters, (adapter,) if adapter else ()):
            return self._forward(tokens, first=start == 0)

    def read(self, parts: Sequence[Part]) -> torch.Tensor:
        """It takes no rows of others."""
        raise StepsLost(f"one row at a time is read, and not {len(parts)}")

    def decode(
        self,
        slots: Sequence[int],
        tokens: Sequence[int],
        positions: Sequence[int],
        *,
        exact: bool = False,  # noqa: ARG002 - one row alone is as exact as it gets
        adapters: Sequence[str] = (),
    ) -> torch.Tensor:
        """Read one token; return the logits after it, ``[1, vocabulary]``."""
        assert list(slots) == [0]
        assert positions[0] == self._ids.shape[1]
        return self.prefill(0, tokens, positions[0], adapter="".join(adapters))[None]

    def reads_ahead(self, sequences: int, *, exact: bool, adapted: bool = False) -> bool:  # noqa: ARG002 - the interface's
        """Whether the slot may have several rows in a step: a cache that is a model's own takes nothing back."""
        return False

    def forget(self, slot: int, start: int, stop: int) -> None:
        """Nothing is read ahead, so that nothing but the whole row is ever broken."""

    def release(self, slot: int, tokens: int, *, dirty: bool) -> None:  # noqa: ARG002 - the interface's
        """Drop the row's cache."""
        assert slot == 0
        self._ids, self._state = self._ids[:, :0], {}

    def free(self) -> None:
        """Drop the row's cache; all else goes with the model."""
        self._state = {}

    def _placed(self, value: Any) -> Any:
        """Return what a processor made where the model is, and as precise as that."""
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(self._device, self.module.dtype if value.is_floating_point() else value.dtype)

    def _forward(self, tokens: Sequence[int], *, first: bool) -> torch.Tensor:
        new = torch.tensor([tokens], device=self._device)
        self._ids = torch.cat([self._ids, new], dim=1)
        self._state["attention_mask"] = torch.ones_like(self._ids)
        inputs = self.module.prepare_inputs_for_generation(
            self._ids,
            next_sequence_length=None if first else new.shape[1],
            is_first_iteration=first,
            **self._state,
        )
        outputs = self.module(**inputs, return_dict=True)
        self._state = self.module._update_model_kwargs_for_generation(outputs, self._state)  # noqa: SLF001 - generate's own loop has no other way
        logits: torch.Tensor = outputs.logits[0, -1]
        return logits
