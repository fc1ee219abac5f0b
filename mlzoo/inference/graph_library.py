"""A library that torch has compiled ahead of time, called without Python's lock.

Knows the C interface of such libraries and tensors; nothing of what one computes. torch's own way to call one holds the
lock all the while: a step would keep every other thread of the process from beginning what could be done meanwhile, as
the masks of answers that must have a form.

Source of the interface: torch/csrc/inductor/aoti_runtime/interface.h of the torch that is installed.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import TYPE_CHECKING, Any

import attrs
from torch._C import _aoti

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import torch

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.restype, _capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class _Constant(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("handle", ctypes.c_void_p))


@attrs.frozen(eq=False, weakref_slot=True)
class CompiledLibrary:
    """One that is loaded. It reads constants where they lie."""

    _code: ctypes.CDLL
    _container: ctypes.c_void_p

    def constants(self) -> dict[str, str]:
        """Return the names by which it knows what it reads, and by which whoever was compiled did."""
        count = ctypes.c_size_t()
        self._call("GetNumConstants", ctypes.byref(count))
        return {self._name("Name", place): self._name("OriginalFQN", place) for place in range(count.value)}

    def read(self, constants: Mapping[str, torch.Tensor]) -> None:
        """Have it read some tensors, by its own names, of which none may be missing; they must outlive it.

        Raises:
            RuntimeError: They are not what it was compiled for.
        """
        handles = _handles(constants.values())
        weakref.finalize(self, _drop, handles)
        entries = [_Constant(name.encode(), handle) for name, handle in zip(constants, handles, strict=True)]
        pairs = (_Constant * len(entries))(*entries)
        self._call(
            "UpdateUserManagedConstantBufferPairs",
            pairs,
            ctypes.c_size_t(len(pairs)),
            ctypes.c_bool(False),  # use_inactive
            ctypes.c_bool(True),  # validate_full_update
        )

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Compute its one output; other threads run meanwhile.

        Raises:
            RuntimeError: It could not; why is on stderr.
        """
        given = (ctypes.c_void_p * len(inputs))(*_handles(inputs))  # Whoever is called owns them.
        out = (ctypes.c_void_p * 1)()
        self._call("Run", given, ctypes.c_size_t(len(given)), out, ctypes.c_size_t(1), None, None)
        return _tensor(out[0])

    def _name(self, kind: str, place: int) -> str:
        name = ctypes.c_char_p()
        self._call(f"GetConstant{kind}", ctypes.c_size_t(place), ctypes.byref(name))
        return (name.value or b"").decode()

    def _call(self, what: str, *arguments: Any) -> None:
        _check(what, getattr(self._code, f"AOTInductorModelContainer{what}")(self._container, *arguments))


def load(path: Path) -> CompiledLibrary:
    """Return the library at a path.

    Raises:
        OSError: It cannot be loaded.
        RuntimeError: It is none, or cannot be made ready.
    """
    code, container = ctypes.CDLL(str(path)), ctypes.c_void_p()
    try:
        create = code.AOTInductorModelContainerCreateWithDevice
    except AttributeError as error:
        raise RuntimeError("it is no compiled step") from error
    _check("CreateWithDevice", create(ctypes.byref(container), ctypes.c_size_t(1), ctypes.c_char_p(b"cpu"), None))
    library = CompiledLibrary(code, container)
    weakref.finalize(library, code.AOTInductorModelContainerDelete, container)
    return library


def _check(what: str, status: int) -> None:
    if status:
        raise RuntimeError(f"{what} of a compiled library failed ({status})")


def _handles(tensors: Iterable[torch.Tensor]) -> list[int]:
    """Return a handle of each tensor, which somebody has to take or to drop."""
    return [_pointer(capsule, None) for capsule in _aoti.unsafe_alloc_void_ptrs_from_tensors(list(tensors))]


def _tensor(handle: int | None) -> torch.Tensor:
    """Take a handle; return its tensor."""
    return _aoti.alloc_tensor_by_stealing_from_void_ptr(_capsule(handle, None, None))


def _drop(handles: Iterable[int]) -> None:
    for handle in handles:
        _tensor(handle)
