"""``python -m mlzoo``: the same as the command ``mlzoo``."""

from __future__ import annotations

import sys

from mlzoo.cli import main

sys.exit(main())
