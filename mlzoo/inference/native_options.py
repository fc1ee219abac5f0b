"""How our own kernels (``native.cpp``) are compiled, and for which processors.

Read by whoever makes them: ``native`` on the machine that computes, and the build of a wheel, which has neither torch
nor the rest of the package. So this knows nothing but the standard library.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

SOURCE = Path(__file__).with_name("native.cpp")
PREBUILT = Path(__file__).with_name("prebuilt")  # where an installed wheel has them: a library for each instruction set
TIMEOUT_S = 120.0  # for the compiler, beside whatever else the machine does
OPTIONS = ("-std=c++17", "-O3", "-ffp-contract=off", "-fno-fast-math", "-fPIC", "-shared", "-fopenmp", "-w")
WITHOUT_STEPS = "-DMLZOO_WITHOUT_STEPS"  # leaves out what compiled steps call, which needs torch's own library
INSTRUCTIONS = {  # that they are written for, the best ones first, as the system calls them and as the compiler does
    "avx512": (
        ("avx512_vnni", "avx512bw", "avx512dq", "avx512f", "avx512vl", "f16c", "fma"),
        ("-mavx512vnni", "-mavx512bw", "-mavx512dq", "-mavx512f", "-mavx512vl", "-mf16c", "-mfma"),
    ),
    "avx2": (("avx2", "f16c", "fma"), ("-mavx2", "-mf16c", "-mfma")),
}


def is_for_this_system() -> bool:
    """Whether the kernels are written for this operating system and kind of processor."""
    return (platform.system(), platform.machine()) == ("Linux", "x86_64")


def best_for(able: Collection[str]) -> str | None:
    """Return the name of the best instruction set that a processor has, given what it has; None: it lacks all."""
    return next((name for name, (needed, _) in INSTRUCTIONS.items() if set(able).issuperset(needed)), None)


def compiler() -> str | None:
    """Return the C++ compiler that torch would use; None: there is none."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    return shutil.which(os.environ.get("CXX", usual))


def compile_for(name: str, command: str, place: Path, more: Iterable[str]) -> None:
    """Compile the kernels for an instruction set into a place.

    Raises:
        subprocess.CalledProcessError: The compiler failed; its words are in ``stderr``.
        subprocess.TimeoutExpired: It took longer than ``TIMEOUT_S``.
    """
    _, told = INSTRUCTIONS[name]
    subprocess.run(
        [command, *OPTIONS, *told, "-o", str(place), str(SOURCE), *more],
        check=True,
        timeout=TIMEOUT_S,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
