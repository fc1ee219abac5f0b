"""Steps recorded once and replayed without Python: the calls of a computation, on the memory that they had.

Knows CUDA graphs; nothing of what is computed. Written for a machine with a GPU; whoever uses a ``Recorder`` is tested
with another one on the processor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

Computation = Callable[[], torch.Tensor]

WARM_UPS = 2  # Libraries choose kernels and take their workspaces in the first runs, which cannot be recorded.
CAPTURE_ERRORS = range(900, 910)  # cudaErrorStreamCapture...: a recording was broken off, and the device is well


class CannotRecord(RuntimeError):
    """The computation's fault: it waits for the device, or does what else a recording cannot hold."""


class Recorder(Protocol):
    """What records on some kind of device."""

    def record(self, compute: Computation) -> Computation:
        """Compute something some times, then record it.

        Args:
            compute: A function of what its tensors hold.

        Returns:
            What computes it again, from what the tensors hold then. It always returns the same tensor.

        Raises:
            CannotRecord: It cannot be recorded.
        """

    def wait(self) -> None:
        """Wait until the device has done all that it was given."""


def breaks_off(error: torch.AcceleratorError) -> bool:
    """Return whether an error ends a recording and nothing else; after any other the device is in an unknown state."""
    code = getattr(error, "error_code", None)
    # Torch before 2.9 gives no code; CUDA's words for all of these name the capture.
    return code in CAPTURE_ERRORS if code is not None else "captur" in str(error)


class CudaRecorder:
    """Records CUDA graphs, which share the memory of what they compute on the way: one is replayed at a time.

    Source: CUDA C++ programming guide, "CUDA Graphs", stream capture.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch has no types for it
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, compute: Computation) -> Computation:
        """Compute something some times, then record it; see ``Recorder``."""
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        try:
            # A recording that fails leaves its own stream in force, so the one from before is restored here.
            with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
                for _ in range(WARM_UPS):
                    compute()
                with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                    out = compute()
        except torch.AcceleratorError as error:
            if breaks_off(error):
                raise CannotRecord(str(error)) from error
            raise
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

        def replay() -> torch.Tensor:
            graph.replay()
            return out

        return replay

    def wait(self) -> None:
        """Wait until the device has done all that it was given."""
        torch.cuda.synchronize(self._device)
