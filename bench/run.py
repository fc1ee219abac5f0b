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
from measure import Row, table

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
PACKAGES = ("mlzoo", "trio", "attrs", "orjson", "torch", "transformers")


@attrs.frozen(kw_only=True)
class Benchmark:
    """One of the files beside this one.

    Attributes:
        name: of the file.
        title: of its section.
        rounds: how often everybody is measured.
        how: a note for readers of the figures.
        peer: a package to be installed for it, and only for it: (import name, requirement).
        plot: that it draws, by its name in plots/; empty: none.
    """

    name: str
    title: str
    rounds: int
    how: str
    peer: tuple[str, str] | None = None
    plot: str = ""


@attrs.frozen(kw_only=True)
class Outcome:
    """What became of one benchmark: its rows, or why there are none."""

    benchmark: Benchmark
    rounds: int
    rows: tuple[Row, ...]
    seconds: float
    why_not: str = ""


BENCHMARKS = (
    Benchmark(
        name="ping",
        title="Start-up, memory, ping",
        rounds=5,
        how=(
            "A compiled client spawns each server, keeps 1 or 64 pings in flight on its stdin and counts replies; the "
            "sidecar records every ping in its log first. The raw loop is blocking reads, orjson and writes, nothing "
            "else: with a write per reply, and with one write for all that a read brought. The MCP Python SDK runs its "
            "own stdio server in an environment of its own, and records nothing. Start-up is from spawning the process "
            "to its first reply, beside `python -c pass` in the same round."
        ),
    ),
    Benchmark(
        name="actors",
        title="Actors",
        rounds=5,
        peer=("pykka", "pykka==4.5.0"),
        how=(
            "In one process, against trio's raw memory channels (a request channel and a reply channel for ask; one "
            "channel and `await send` for tell, both bounded to 1024) and against pykka, whose actors are threads. All "
            "rates are until the last message was received."
        ),
    ),
    Benchmark(
        name="replay",
        title="Replay",
        rounds=5,
        how=(
            "A log of 120,000 records, half of it steps of a batch: every decision is made again and compared, in one "
            "process and in as many as there are cores. Start-up is from spawning `mlzoo replay play` to its first "
            "answer, beside `python -c pass` in the same round."
        ),
    ),
    Benchmark(
        name="log",
        title="Event log",
        rounds=5,
        how=(
            "Records of the real schema, about 200 bytes each, numbered, encoded and sealed with a CRC, on the disk "
            "that the project lies on; the peers get bytes that are encoded already. `/CPU s` counts the process's CPU "
            "time, `/s` wall time, which is what targets are of. The 32 clients each wait "
            "until their group of two records is durable; meanwhile a task of the same event loop notes how late its "
            "sleeps of 1 ms end."
        ),
    ),
    Benchmark(
        name="start",
        title="Start on a long log",
        rounds=7,
        how=(
            "Both logs are made by the real log, of requests of 100 tokens each; the long one ends just before its "
            "last segment is full, which is the worst place for a start. From spawning to the first ping, and to the "
            "first answer that the engine decides, for which the log was folded and written to."
        ),
    ),
    Benchmark(
        name="unread",
        title="Memory while a host does not read",
        rounds=1,
        how=(
            "The real sidecar; its workers say 128 streams of 8 MB as fast as they are heard, to a host that reads "
            "nothing until all have ended. Then it reads all, and compares each piece and answer with what was due."
        ),
    ),
    Benchmark(
        name="simulation",
        title="Simulation",
        rounds=3,
        how=(
            "Per second of CPU time of one core, with the seeds of the tests. A crash state is an image of the log's "
            "files that no other of its history equals: recovered, compared with what had been promised, and where it "
            "led to something new, recovered again and folded. A life is a whole sidecar with its hosts and workers, "
            "from its start to its end or its crash."
        ),
    ),
    Benchmark(
        name="soak",
        title="Soak of the simulation",
        rounds=1,
        how=(
            "Fresh seeds; all invariants are checked after every step of every life, and every crash state is "
            "recovered, recovered again and folded. One that was done at the commit already is told again. "
            "`python -m mlzoo.simulation --seed N` tells one of its stories, with `--crash-states` it looks at one "
            "seed's crash states."
        ),
    ),
    Benchmark(
        name="kills",
        title="kill -9 in mid-generation",
        rounds=10,
        how=(
            "smollm2 in fp32 and bf16 at the same time, greedy and sampled, four keyed streams of 24 tokens "
            "together, `determinism: exact`. The sidecar or its worker is killed at a random piece that the "
            "host hears (speaking), now and then again while it starts or decodes again (resuming); each "
            "stream is resumed after the last piece that the host heard. Pieces, text and usage are compared "
            "with those of the same requests uninterrupted, each alone. A kill counts where a stream had said"
            " something and had not ended; the logs say how many kills took a stream while it was running: "
            "the others fell while all were being resumed. A round is ten kills with each dtype."
        ),
    ),
    Benchmark(
        name="speculation",
        title="Speculation",
        rounds=5,
        how=(
            "smollm2, greedy, one chat of up to 128 tokens at a time, through two sidecars of which one reads nothing "
            "ahead. Rates are of the tokens after the first piece. Three chats copy from a text of 240 words, as far "
            "as a model of 135 million parameters does; the story copies from nothing. Both sidecars must give the "
            "same texts."
        ),
    ),
    Benchmark(
        name="history",
        title="Second turns",
        rounds=5,
        how=(
            "smollm2 in bfloat16, through the sidecar. Each turn belongs to a conversation that begins like no other: "
            "a first turn of about 1,000 tokens, its answer, and the second turn, sent as it is, or behind a history "
            "that differs from its first word on. Times are the host's, from the request's line to its first piece. "
            "An exact request takes up only what was read in whole chunks of 128 tokens, so it reads the rest of a "
            "chunk and the first answer again."
        ),
    ),
    Benchmark(
        name="engines",
        title="Engines",
        rounds=5,
        plot="throughput",
        how=(
            "smollm2, greedy, 96 tokens to each of 1, 4 or 16 prompts that come at once and are new each time; all "
            "tokens by the time from the first request to the last one's end, prompts read within it. Ours is the "
            "sidecar, over NDJSON, all recorded, its compiled steps ready; eager is one without any, as on a machine "
            "without a C++ compiler. llama.cpp (through llama-cpp-python's batches of many sequences, "
            "since its server keeps one at a time) and OpenVINO GenAI (paged) read the Q4_1 file that our weights were "
            "converted from; `transformers serve` is asked over HTTP and computes in bfloat16, as `generate` does. "
            "One measures at a time, the other peers' processes are suspended."
        ),
    ),
    Benchmark(
        name="large",
        title="A model of 1.2 billion parameters",
        rounds=3,
        how=(
            "A Llama configuration (18 layers, width 2,048, 32,000 words), random weights, 64 tokens to a prompt of "
            "24, one stream. llama.cpp reads a GGUF file, Q4_1 with its head in Q8_0; ours has the same numbers as "
            "safetensors, 4 bits where that costs nothing and its head in bfloat16. The bound is the memory that all "
            "cores together read in a second, by the bytes of that file that a token needs."
        ),
    ),
    Benchmark(
        name="load",
        title="Open loop",
        rounds=2,
        plot="latency",
        how=(
            "Poisson arrivals for a minute at each share of the capacity, prompts of about 50 to 700 tokens, answers "
            "of 16 to 96. The capacity is that of the same mixture, 16 at once. The door is small: 24 requests run or "
            "wait in the worker, 8 wait; what all 32 take at capacity is the bound of the time to first token."
        ),
    ),
    Benchmark(
        name="reaction",
        title="Reaction",
        rounds=5,
        how=(
            "Times are the host's, from its line to the line that it waits for. Every long prompt is a new one. The "
            "worker is up when the unloaded model is asked for."
        ),
    ),
    Benchmark(
        name="cycles",
        title="Models that come and go",
        rounds=1,
        how=(
            "Each cycle loads smollm2 and minilm, has them answer, and unloads them: each alone, so that its worker "
            "process leaves with it; or the one before the other goes, so that one worker process lives through all. "
            "Memory is the sum of the resident sets of sidecar and worker. Shares count a part of a page that others "
            "hold too, so that neighbours change them."
        ),
    ),
    Benchmark(
        name="quality",
        title="Quality",
        rounds=1,
        how=(
            "The default kernels against fp32, on 1,152 tokens of ARCHITECTURE.md in 16 segments: the first half of "
            "each is read as a prompt, the second decoded as it is written, 1, 4 or 16 segments together."
        ),
    ),
    Benchmark(
        name="stream",
        title="Streams",
        rounds=5,
        how=(
            "smollm2, greedy, one prompt; the sidecar's host is Python and only reads lines. The bare loop is the same "
            "engine called in a process of its own with the same threads and wait policy; of the single stream both "
            "must give the same text. Rates are of the tokens after the first piece until the end of the last stream, "
            "so the prompt of a single stream is left out on both sides. Lateness is that of a task in the sidecar's "
            "own event loop whose sleeps of 1 ms should end on time (epoll alone rounds each up by up to 1 ms). Ping "
            "round trips are seen by the host, one at a time, and hold pipes and host: an upper bound."
        ),
    ),
)


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
