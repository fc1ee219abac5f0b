"""The manual's own example runs as it is printed."""

import re
from pathlib import Path

import pytest

MANUAL = Path(__file__).parents[2] / "docs" / "actors.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", MANUAL.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_manual_runs(example):
    exec(compile(example, str(MANUAL), "exec"), {"__name__": "example"})


def test_the_manual_has_an_example():
    assert EXAMPLES
