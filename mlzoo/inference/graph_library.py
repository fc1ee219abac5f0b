"""A library that torch has compiled ahead of time, called without Python's lock.

Knows the C interface of such libraries and tensors; nothing of what one computes. torch's own way to call one (2.13)
holds the lock all the while: a step would keep every other thread of the process from beginning what could be done
meanwhile, as the masks of answers that must have a form.

Source of the interface: torch/csrc/inductor/aoti_runtime/interface.h of the torch that is installed.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch._C import _aoti

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.restype, _capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


_PREFIX = "AOTInductorModelContainer"
_NEEDED = (
    *("CreateWithDevice", "Delete", "Run", "UpdateUserManagedConstantBufferPairs"),
    *("GetNumConstants", "GetConstantName", "GetConstantOriginalFQN", "ExtractConstantsMapEntries"),
)


class _Constant(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("handle", ctypes.c_void_p))


@attrs.define(eq=False)
class _Container:
    """What a library keeps while it is used."""

    code: ctypes.CDLL
    container: ctypes.c_void_p
    given: torch.Tensor | None = None  # one of those that it reads, once it has been given all that it reads

    def call(self, what: str, *arguments: Any) -> None:
        """Call it.

        Raises:
            RuntimeError: It could not.
        """
        _check(self.code, what, getattr(self.code, _PREFIX + what)(self.container, *arguments))

    def end(self) -> None:
        """Delete it. Where it leaves its handles of what it reads, as in torch 2.13, those are taken."""
        if self.given is None:
            self.call("Delete")
            return
        entries, count = ctypes.POINTER(_Constant)(), ctypes.c_size_t()
        self.call("ExtractConstantsMapEntries", ctypes.byref(entries), ctypes.byref(count), ctypes.c_bool(False))
        handles = [entries[place].handle for place in range(count.value)]
        held = _holders(self.given)
        self.call("Delete")
        if _holders(self.given) == held:
            _tensors(handles)


@attrs.frozen(eq=False, weakref_slot=True)
class CompiledLibrary:
    """One that is loaded. It reads tensors where they lie."""

    keeps_what_it_reads = False

    _container: _Container

    def constants(self) -> dict[str, str]:
        """Return the names by which it knows what it reads, and those that its maker gave."""
        return {self._name("Name", place): self._name("OriginalFQN", place) for place in range(self._count())}

    def read(self, constants: Mapping[str, torch.Tensor]) -> None:
        """Have it read some tensors, by its own names, of which none may be missing; their memory must outlive it.

        Raises:
            RuntimeError: They are not what it was compiled for.
        """
        handles = _handles(constants.values())  # The library takes handles of its own.
        entries = [_Constant(name.encode(), handle) for name, handle in zip(constants, handles, strict=True)]
        pairs = (_Constant * len(entries))(*entries)
        use_inactive, validate_full_update = ctypes.c_bool(False), ctypes.c_bool(True)
        size = ctypes.c_size_t(len(pairs))
        try:
            self._container.call(
                "UpdateUserManagedConstantBufferPairs", pairs, size, use_inactive, validate_full_update
            )
            if len(entries) == self._count():  # Else some would be the library's own, which it gives back itself.
                self._container.given = next(iter(constants.values()), None)
        finally:
            _tensors(handles)

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Compute its one output; other threads run meanwhile.

        Raises:
            RuntimeError: It could not.
        """
        given = (ctypes.c_void_p * len(inputs))(*_handles(inputs))  # Whoever is called owns them.
        out = (ctypes.c_void_p * 1)()
        self._container.call("Run", given, ctypes.c_size_t(len(given)), out, ctypes.c_size_t(1), None, None)
        return _tensors(out)[0]

    def _count(self) -> int:
        count = ctypes.c_size_t()
        self._container.call("GetNumConstants", ctypes.byref(count))
        return count.value

    def _name(self, kind: str, place: int) -> str:
        name = ctypes.c_char_p()
        self._container.call(f"GetConstant{kind}", ctypes.c_size_t(place), ctypes.byref(name))
        return (name.value or b"").decode()


class Interpreted:
    """One that calls operators by their names, for which torch stands by; it holds the lock."""

    keeps_what_it_reads = True  # for the life of the process: torch (2.13) leaves its handles, and shows them to nobody

    def __init__(self, path: Path) -> None:
        self._runner = _aoti.AOTIModelContainerRunnerCpu(str(path), 1)

    def constants(self) -> dict[str, str]:
        """As ``CompiledLibrary``."""
        return self._runner.get_constant_names_to_original_fqns()

    def read(self, constants: Mapping[str, torch.Tensor]) -> None:
        """As ``CompiledLibrary``; the tensors must outlive it."""
        self._runner.update_constant_buffer(
            dict(constants), use_inactive=False, validate_full_updates=True, user_managed=True
        )

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """As ``CompiledLibrary``, but other threads wait meanwhile."""
        return self._runner.run(list(inputs))[0]


def load(path: Path) -> CompiledLibrary | Interpreted:
    """Return the library at a path; a file beside it says where it calls operators by their names.

    Raises:
        OSError: It cannot be loaded.
        RuntimeError: It is none, or of another version of torch, or cannot be made ready.
    """
    if path.with_suffix(".json").exists():
        return Interpreted(path)
    code, container = ctypes.CDLL(str(path)), ctypes.c_void_p()
    missing = [
        name for name in (*(_PREFIX + what for what in _NEEDED), "AOTInductorGetLastError") if not hasattr(code, name)
    ]
    if missing:
        raise RuntimeError(f"it lacks {missing[0]}")
    device = ctypes.c_char_p(b"cpu")
    status = code.AOTInductorModelContainerCreateWithDevice(ctypes.byref(container), ctypes.c_size_t(1), device, None)
    _check(code, "CreateWithDevice", status)
    kept = _Container(code, container)
    library = CompiledLibrary(kept)
    weakref.finalize(library, kept.end)
    return library


def _check(code: ctypes.CDLL, what: str, status: int) -> None:
    if status:
        why = ctypes.c_char_p()
        code.AOTInductorGetLastError(ctypes.byref(why))
        raise RuntimeError((why.value or what.encode()).decode(errors="replace"))


def _holders(tensor: torch.Tensor) -> int:
    count: int = tensor._use_count()  # type: ignore[attr-defined]  # noqa: SLF001 - nothing else says it
    return count


def _handles(tensors: Iterable[torch.Tensor]) -> list[int]:
    """Return a handle of each tensor, which somebody has to take."""
    return [_pointer(capsule, None) for capsule in _aoti.unsafe_alloc_void_ptrs_from_tensors(list(tensors))]


def _tensors(handles: Iterable[int | None]) -> list[torch.Tensor]:
    """Take handles; return their tensors. torch's way to take a single one (2.13) leaves the handle, and its memory."""
    return _aoti.alloc_tensors_by_stealing_from_void_ptrs([_capsule(handle, None, None) for handle in handles])
