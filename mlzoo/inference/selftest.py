"""What a model's self-test found on this machine, kept beside everything that it depends on.

Trying out a model takes as long as reading it, and finds the same as long as neither the model nor the machine nor
the program has changed: all that goes in is the key, so that a change of any part asks anew. What cannot be read or
written costs time and nothing else. Knows files and versions; nothing of what is asked.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llguidance
import orjson
import tokenizers
import torch
import transformers

from mlzoo import __version__
from mlzoo.inference import gpu_int4

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlzoo.frames import Load

    Answer = float | bool | str | None

# Variables that choose kernels, or say how their threads run.
# fmt: off
KERNEL_VARIABLES = (
    "ATEN_", "BLIS_", "CUBLAS_", "CUDNN_", "DNNL_", "GOMP_", "KMP_", "MKL_", "NVIDIA_", "OMP_", "ONEDNN_", "OPENBLAS_",
    "PYTORCH_", "TORCH_", "VECLIB_",
)
# fmt: on


class Findings:
    """The answers about one subject, those of earlier loads among them.

    Args:
        directory: Where they are kept; None: nowhere.
        subject: All that they depend on, as JSON has it.
    """

    def __init__(self, directory: Path | None, subject: Mapping[str, Any]) -> None:
        self._subject = subject
        name = hashlib.sha256(orjson.dumps(subject, option=orjson.OPT_SORT_KEYS)).hexdigest()
        self._place = None if directory is None else directory / f"selftest-{name[:32]}.json"
        self._answers = self._read()
        self.asked_anew = False

    def ask(self, question: str, find: Callable[[], Any]) -> Any:
        """Return what was found earlier, else find it now.

        Args:
            question: What is asked, with all in it that the subject does not hold.
            find: Returns a number, a truth value or None.
        """
        if question not in self._answers:
            self._answers[question] = find()
            self.asked_anew = True
        return self._answers[question]

    def knows(self, question: str) -> bool:
        """Whether this was asked before."""
        return question in self._answers

    def keep(self) -> bool:
        """Write what is new, whole or not at all; where that cannot be done, the next load asks again.

        Returns:
            Whether these are the answers that count. False where another process has answered otherwise meanwhile, as
            a clock makes likely: who loads again takes its answers, so that all compute the same.
        """
        if self._place is None or not self.asked_anew:
            return True
        others = self._read()
        if any(others.get(question, answer) != answer for question, answer in self._answers.items()):
            return False
        whole = orjson.dumps({"subject": self._subject, "answers": others | self._answers})
        beside = self._place.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):
            self._place.parent.mkdir(parents=True, exist_ok=True)
            try:
                beside.write_bytes(whole)
                beside.replace(self._place)
            finally:
                beside.unlink(missing_ok=True)
        return True

    def _read(self) -> dict[str, Answer]:
        if self._place is None:
            return {}
        try:
            kept = orjson.loads(self._place.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return {}
        if not isinstance(kept, dict) or kept.get("subject") != orjson.loads(orjson.dumps(self._subject)):
            return {}
        answers = kept.get("answers")
        if not isinstance(answers, dict):
            return {}
        known = (int, float, str, type(None))
        return {question: answer for question, answer in answers.items() if isinstance(answer, known)}


def subject(load: Load, device: torch.device, dtype: torch.dtype, *, own_kernels: bool = False) -> dict[str, Any]:
    """Return all that a self-test's result depends on: the model, the machine, the program."""
    return {
        "model": load.digest,
        "dtype": str(dtype),
        "quantization": load.quantization,
        "remote code": load.trust_remote_code,
        "mlzoo": __version__,
        "source": _source(),
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,  # What a prompt is cut into is computed anew where it goes on.
        "llguidance": llguidance.get_version(),  # And so is what a form allows.
        "torch": torch.__version__,
        "kernels": [torch.__config__.show(), torch.__config__.parallel_info()],
        "kernels of our own": own_kernels,
        "choices": {
            "float32 products": torch.get_float32_matmul_precision(),
            "oneDNN": torch.backends.mkldnn.enabled,
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        },
        "variables": {key: value for key, value in sorted(os.environ.items()) if key.startswith(KERNEL_VARIABLES)},
        "threads": torch.get_num_threads(),
        "machine": _machine(device),
    }


def fingerprint(subject: Mapping[str, Any], rows: Mapping[str, Any]) -> str:
    """Return what stands for all that the bits of an answer depend on: two equal ones compute the same.

    Args:
        subject: What the self-tests depend on.
        rows: How rows are cut, padded and computed; which slot a row gets changes no bit.
    """
    whole = {"subject": subject, "rows": rows}
    return hashlib.sha256(orjson.dumps(whole, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _machine(device: torch.device) -> list[str]:
    found = [platform.platform(), platform.processor(), torch.backends.cpu.get_cpu_capability(), str(device)]
    with contextlib.suppress(OSError):  # Linux alone has it.
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n", 1)[0]
        # What the first processor is; its clock rate changes all the time, and BogoMIPS are measured at each boot.
        varies = ("cpu mhz", "bogomips")
        found += [line for line in described.splitlines() if not line.lower().startswith(varies)]
    if device.type == "cuda":
        found.append(repr(torch.cuda.get_device_properties(device)))
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]  # torch has no types for it
        found.append(f"CUDA {torch.version.cuda}, cuDNN {cudnn}, torchao {gpu_int4.library()}")
    return found


@functools.cache
def _source() -> str:
    """Return the digest of this package: a development version changes what it computes, and keeps its number."""
    digest = hashlib.sha256()
    for path in sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in (".py", ".cpp", ".h")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
