"""How wrong usage is told: with the usage of the command that was meant, an example of it, and what was wrong.

Knows no command. Imported with argparse, which is only where there is something to explain.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Argparse's, which takes no abbreviations and whose refusals show the example that ``epilog`` holds."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "allow_abbrev": False})
        self.set_defaults(parser=self)  # The innermost command's is the one that stays: it is set last.

    def error(self, message: str) -> NoReturn:
        """Say what was wrong, and leave with status 2."""
        self.print_usage(sys.stderr)
        if self.epilog:
            print(self.epilog, file=sys.stderr)
        self.exit(2, f"{self.prog}: error: {message}\n")
