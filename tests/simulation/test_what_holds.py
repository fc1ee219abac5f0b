"""ARCHITECTURE.md names a check for each invariant, and a place for each fault: every such name is there."""

import importlib
import re
from pathlib import Path

import planted_bugs
import pytest

from mlzoo.simulation import faults, plans

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
HOLDS, WRONG = PAGE.split("## What holds at every moment")[1].split("## The simulation")[0].split("### What goes wrong")
NAME = re.compile(r"`([^`]+)`")


def rows(section):
    """Return the cells of each row of a table, but for its head."""
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


INVARIANTS = {cells[0]: cells[1:] for cells in rows(HOLDS)}
FAULTS = {cells[0]: NAME.findall(cells[1]) for cells in rows(WRONG)}


def is_there(name):
    """Whether a name stands for code of the simulation, or for a test."""
    if name.startswith("tests/"):
        file, _, test = name.partition("::")
        path = ROOT / file
        return path.exists() and (not test or f"def {test}(" in path.read_text(encoding="utf-8"))
    module, *parts = name.split(".")
    found = importlib.import_module(f"mlzoo.simulation.{module}")
    for part in parts:
        found = getattr(found, part, None)
    return found is not None


def test_each_invariant_names_its_check_and_no_check_is_left_out():
    assert list(INVARIANTS) == [f"I{number}" for number in range(1, 21)]
    for name, (_, checks, _) in INVARIANTS.items():
        assert NAME.findall(checks)
        assert all(is_there(check) for check in NAME.findall(checks)), name


@pytest.mark.parametrize("invariant", INVARIANTS)
def test_a_planted_bug_is_known_that_each_invariant_finds(invariant):
    [bug] = NAME.findall(INVARIANTS[invariant][2])
    planted = getattr(planted_bugs, bug)
    if invariant == "I15":  # That one compares two tellings, so no single story finds its bug.
        assert planted is planted_bugs.ids_come_from_the_machine
    else:
        found_by = planted_bugs.RECOVERY_BUGS.get(planted, set()) | planted_bugs.APP_BUGS.get(planted, set())
        assert invariant in found_by


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_the_menu_is_named_code(fault):
    assert FAULTS[fault]
    for name in FAULTS[fault]:
        assert is_there(name), name


def test_no_fault_is_left_out_of_the_menu():
    named = {name for names in FAULTS.values() for name in names}
    assert {f"faults.{name}" for name in faults.MENU} <= named
    assert {f"plans.{kind.__name__}" for kind in (plans.Stop, plans.Take, plans.CloseOutput, plans.EndInput)} <= named
