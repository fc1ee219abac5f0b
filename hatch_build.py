"""What a wheel holds beside Python: the kernels of ``native.cpp``, for machines that have no C++ compiler.

Built where the kernels are for (Linux on x86-64) and there is a compiler that can; elsewhere, and in an editable
install, the wheel is of Python alone, and says so. They call nothing newer than glibc 2.14 and libstdc++ of GCC 5.
"""

from __future__ import annotations

import runpy
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

OPTIONS = "mlzoo/inference/native_options.py"


class Kernels(BuildHookInterface):  # type: ignore[misc]  # hatchling is no dependency of what is checked
    """Compiles the kernels into a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile them for each instruction set, and name the wheel by what it runs on."""
        if version == "editable":
            return
        options = runpy.run_path(str(Path(self.root) / OPTIONS))
        command = options["compiler"]()
        if not options["is_for_this_system"]() or command is None:
            self.app.display_warning("No kernels are in this wheel: they are for Linux on x86-64, and need a compiler.")
            return
        self._scratch = tempfile.TemporaryDirectory(prefix="mlzoo-kernels-")
        for name in options["INSTRUCTIONS"]:
            place = Path(self._scratch.name) / f"{name}.so"
            try:
                options["compile_for"](name, command, place, [options["WITHOUT_STEPS"], "-s"])
            except (subprocess.SubprocessError, OSError) as error:
                said = (getattr(error, "stderr", None) or b"").decode(errors="replace")
                self.app.display_warning(
                    f"No kernels are in this wheel: {command} does not compile them. {error}\n{said}"
                )
                return
        for name in options["INSTRUCTIONS"]:
            place = Path(self._scratch.name) / f"{name}.so"
            build_data["force_include"][str(place)] = f"mlzoo/inference/prebuilt/{name}.so"
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-linux_x86_64"

    def finalize(self, _version: str, _build_data: dict[str, Any], _artifact_path: str) -> None:
        """Remove what is in the wheel by now."""
        if hasattr(self, "_scratch"):
            self._scratch.cleanup()
