"""4-bit weights on a GPU: torchao packs them, and torch's kernel for such weights multiplies.

Knows the library and what it asks of a device; nothing of models, or of which layers come in 4 bits (``linears`` does).
The library is optional: who asks for 4 bits without it is told what to install.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mlzoo.errors import ModelLoadFailed

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST_CAPABILITY = (8, 0)  # of the kernel: it computes with tensor cores in bfloat16


def expect(model: str, device: torch.device, dtype: torch.dtype) -> None:
    """Say whether 4 bits can be had on a device.

    Raises:
        ModelLoadFailed: They cannot, and what to do.
    """
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    why = objection(capability, dtype, library())
    if why is not None:
        message = f"4-bit weights cannot be had on {device}: {why}, or set quantization to none"
        raise ModelLoadFailed(message, model=model, reason="load")


def objection(capability: tuple[int, int] | None, dtype: torch.dtype, library: str | None) -> str | None:
    """Return why there are no 4 bits and what to do, beside doing without; None: there are.

    Args:
        capability: Of the device, as CUDA numbers it; None: it is none of CUDA's.
        dtype: That the model computes in.
        library: Version of torchao; None: it is not installed.
    """
    if capability is None:
        return "they are for processors and for CUDA; use such a device"
    if capability < LEAST_CAPABILITY:
        least, has = (".".join(map(str, numbers)) for numbers in (LEAST_CAPABILITY, capability))
        return f"they need compute capability {least}, and it has {has}; use a newer one"
    if dtype != torch.bfloat16:
        return f"they are multiplied in bfloat16, not in {str(dtype).removeprefix('torch.')}; set dtype to bfloat16"
    if library is None:
        return "torchao is not installed; install mlzoo with the extra cuda: pip install 'mlzoo[cuda]'"
    return None


def library() -> str | None:
    """Return the version of torchao; None where it is not installed."""
    try:
        return metadata.version("torchao")
    except metadata.PackageNotFoundError:
        return None


def product(weight: torch.Tensor, group: int, config: Any = None) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the product of rows with weights ``[outputs, inputs]`` in 4 bits.

    Args:
        weight: To be packed, on the device.
        group: Weights that share a step and a least value.
        config: What of torchao's to do; None: 4 bits in the order of torch's kernel.
    """
    from torchao.quantization import Int4WeightOnlyConfig, quantize_  # noqa: PLC0415 - optional, and slow to import

    if config is None:
        config = Int4WeightOnlyConfig(
            group_size=group, int4_packing_format="tile_packed_to_4d", set_inductor_config=False
        )
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    quantize_(layer, config)
    return layer
