"""Every benchmark, one after the other, each in a process of its own; what they found goes to bench/RESULTS.md.

``python bench/run.py [--only NAME]... [--rounds N] [--quick] [--output FILE]``. A run of all writes RESULTS.md; a
partial or a quick one prints the same page instead, unless ``--output`` names a file. A benchmark that cannot run says
why in its section. The status is 0 where every target was met, 1 where one was missed or could not be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs
import psutil
from catalogue import BENCHMARKS, Benchmark
from measure import Row, table

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
PACKAGES = ("mlzoo", "trio", "attrs", "orjson", "torch", "transformers")


@attrs.frozen(kw_only=True)
class Outcome:
    """What became of one benchmark: its rows, or why there are none."""

    benchmark: Benchmark
    rounds: int
    rows: tuple[Row, ...]
    seconds: float
    why_not: str = ""


def main() -> int:
    arguments = parse()
    chosen = [one for one in BENCHMARKS if not arguments.only or one.name in arguments.only]
    whole = len(chosen) == len(BENCHMARKS) and not arguments.quick
    subprocess.run([sys.executable, "-m", "compileall", "-q", "mlzoo"], cwd=ROOT, check=True)  # As installed ones are.
    facts = machine()
    outcomes = [run(one, 1 if arguments.quick else arguments.rounds or one.rounds) for one in chosen]
    text = page(facts, outcomes)
    output = arguments.output or (BENCH / "RESULTS.md" if whole else None)
    if output is None:
        print(text)
    else:
        output.write_text(text, encoding="utf-8")
        print(f"Written to {output}")
    met = all(row.verdict() == "met" for outcome in outcomes for row in outcome.rows if row.target)
    return 0 if met and not any(outcome.why_not for outcome in outcomes) else 1


def parse() -> Any:
    parser = argparse.ArgumentParser(description="Run the benchmarks and write bench/RESULTS.md.")
    names = [one.name for one in BENCHMARKS]
    parser.add_argument("--only", action="append", choices=names, help="run this one; may be given again")
    parser.add_argument("--rounds", type=int, help="how often everybody is measured (default: each benchmark's own)")
    parser.add_argument("--quick", action="store_true", help="one round each: does it run, not how fast")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where the page goes")
    return parser.parse_args()


def run(benchmark: Benchmark, rounds: int) -> Outcome:
    """Run one benchmark; whatever happens to it, the others go on."""
    print(f"# {benchmark.title} ({rounds} rounds)", flush=True)
    start = time.perf_counter()
    rows: tuple[Row, ...] = ()
    why_not = ""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "rows.json"
        command = [sys.executable, str(BENCH / f"{benchmark.name}.py"), "--rounds", str(rounds), "--json", str(file)]
        done = subprocess.run(
            command, cwd=ROOT, env=environment(benchmark), stderr=subprocess.PIPE, text=True, check=False
        )
        sys.stderr.write(done.stderr)
        if done.returncode == 0:
            rows = tuple(Row(**row) for row in json.loads(file.read_bytes()))
        else:
            last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            why_not = last.replace(str(ROOT), ".").replace(str(Path.home()), "~")
    return Outcome(benchmark=benchmark, rounds=rounds, rows=rows, seconds=time.perf_counter() - start, why_not=why_not)


def environment(benchmark: Benchmark) -> dict[str, str]:
    """Return the environment for a benchmark, its peer installed apart from the project's own packages."""
    if benchmark.peer is None or find_spec(benchmark.peer[0]) is not None:
        return dict(os.environ)
    name, requirement = benchmark.peer
    target = BENCH / ".peers" / name
    if not target.exists():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run([*install, "--target", str(target), requirement], check=False)
        if done.returncode != 0:
            print(f"{requirement} cannot be installed here; it is left out.")
    return {**os.environ, "PYTHONPATH": str(target)}


# ------------------------------------------------------------------------------------------------------------ the page


def machine() -> list[str]:
    """Return what a reader of the figures must know of this machine and these versions; nothing that names it."""
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{package}: not installed")
    busy = psutil.cpu_percent(interval=2)
    memory_gib = psutil.virtual_memory().total / 2**30
    system = f"{platform.system()} {platform.release().split('-')[0]}"
    return [
        f"- {datetime.now(UTC):%Y-%m-%d}, commit {commit()}",
        f"- {processor()}, {psutil.cpu_count()} cores, {memory_gib:.0f} GiB of memory, {system}",
        f"- {platform.python_implementation()} {platform.python_version()}; {', '.join(versions)}",
        f"- {busy:.0f} % of the cores were busy with other work when the run began.",
    ]


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def commit() -> str:
    """Return the commit that was measured, and whether the files were others than its."""
    try:
        short = git("rev-parse", "--short", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "mlzoo", "configs", "bench/*.py")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{short}, with changes that are not in it" if changed else short


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def page(facts: list[str], outcomes: list[Outcome]) -> str:
    total_min = sum(outcome.seconds for outcome in outcomes) / 60
    wanted = [row for outcome in outcomes for row in outcome.rows if row.target]
    missed = [outcome.benchmark.title for outcome in outcomes if outcome.why_not]
    parts = [
        "# Benchmarks",
        "Written by `make bench`; how to run a part of it is in README.md beside this page.",
        "\n".join([*facts, f"- The run took {total_min:.0f} min."]),
        (
            "Figures of one machine mean little, ratios within one run mean much: each round measures everybody once, "
            "a ratio is taken within each round, and the median over the rounds is given. The first round warms up and "
            "is dropped. Where a target is an absolute figure, the peer is that figure."
        ),
        "## Targets",
        table(wanted) if wanted else "Nothing of it was measured.",
        *([f"Not measured: {', '.join(missed)}; the reason is in the section."] if missed else []),
        *(section(outcome) for outcome in outcomes),
    ]
    return "\n\n".join(parts) + "\n"


def section(outcome: Outcome) -> str:
    body = table(outcome.rows) if outcome.rows else f"It could not run: {outcome.why_not}"
    title, plot = outcome.benchmark.title, outcome.benchmark.plot
    drawn = f"\n\n![{title}](plots/{plot}.svg)" if plot and outcome.rows else ""
    return f"## {title}\n\n{outcome.benchmark.how} Rounds: {outcome.rounds}.\n\n{body}{drawn}"


if __name__ == "__main__":
    sys.exit(main())
