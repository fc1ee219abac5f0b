"""The benchmarks there are, in the order in which they run, and how each is told to readers of its figures."""

from __future__ import annotations

import attrs


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
        name="constrained",
        title="Answers that must have a form",
        rounds=5,
        how=(
            "smollm2, greedy, the same question with and without a schema, in turn, 128 tokens of one chat and 48 of "
            "each of 16. Rates are of the tokens after the first piece. Nothing is read ahead there, so that both do "
            "the same work; with the default, the two texts are not read ahead alike. Then 500 schemas drawn from a "
            "seed, of the kinds of JSONSchemaBench, once each with up to 200 tokens: every answer that was not cut "
            "must be valid, as the package jsonschema has it."
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
            "An exact request takes up only what was read in whole chunks of 64 tokens, so it reads the rest of a "
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
            "sidecar, over NDJSON, all recorded, its compiled steps ready; eager is one that was installed as a "
            "wheel where there is no C++ compiler, and one with `compile: none`, of torch's kernels alone. llama.cpp "
            "(through llama-cpp-python's batches of many sequences, since its server keeps one at a time) and "
            "OpenVINO GenAI (paged) read the Q4_1 file that our weights were converted from; `transformers serve` is "
            "asked over HTTP; it and `generate` compute in bfloat16, or in float32 where the processor is faster in "
            "that. One measures at a time, the other peers' processes are suspended; each side is asked for 8 tokens "
            "right before it is measured, since the system takes pages of who was idle for long."
        ),
    ),
    Benchmark(
        name="large",
        title="A model of 1.2 billion parameters",
        rounds=3,
        how=(
            "A Llama configuration (18 layers, width 2,048, 32,000 words), random weights, 64 tokens to a prompt of "
            "24, one stream. llama.cpp reads a GGUF file, Q4_1 with its head in Q8_0; ours has the same numbers as "
            "safetensors, 4 bits where that costs nothing, its head in 8. The bound is the memory that all "
            "cores together read in a second, by the bytes of that file that a token needs."
        ),
    ),
    Benchmark(
        name="predict",
        title="Embeddings and custom models",
        rounds=5,
        how=(
            "minilm in fp32 on all sides, with the same threads. Ours is the sidecar, over NDJSON, all recorded, from "
            "the first request to the last answer; sentence-transformers has all sentences in one call, sorted by "
            "length in batches of 32, and writes no JSON. The classifier is a linear layer on the same encoder; the "
            "bare model reads, computes and decodes one sentence after the other. Who is not measured is suspended."
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
            "worker is up when the unloaded model is asked for. Eager is one that was installed as a wheel where there "
            "is no C++ compiler. The longest gap while nothing is read is that of 4 streams for about as long: words "
            "are gathered for a sixtieth of a second, and the machine's own services take processors now and then."
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
        name="fit",
        title="Training",
        rounds=5,
        how=(
            "Each round is another split under another seed, the same for both; the peer sees the same features "
            "and the same rows for training, and both are judged on the same rows for test. The target is the peer's "
            "accuracy less half a point. Times hold the start of the process, the features and all epochs."
        ),
    ),
    Benchmark(
        name="quality",
        title="Quality",
        rounds=1,
        how=(
            "The default kernels against fp32, on 1,152 tokens of quality.txt in 16 segments: the first half of "
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
    Benchmark(
        name="provider",
        title="Providers",
        rounds=5,
        how=(
            "One server on loopback speaks as OpenAI's chat completions do, at 100 tokens a second of each stream, and "
            "as fast as it is heard. The bare client is the HTTP client that the sidecar has (httpx2), in a process of "
            "its own, which parses each event and does nothing else; the sidecar records each token, and is measured "
            "by its host, behind the pipes. The last two rows have no target: no API says tens of thousands of tokens "
            "a second."
        ),
    ),
)
