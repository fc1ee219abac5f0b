"""The decode loop of the worker process, called bare: no sidecar, no log, no socket, no JSON for tokens.

``bare_decode.py MODEL``, set up as a worker process is. Each line on stdin, ``[streams, tokens]``, is answered by one
on stdout: ``[tokens per second, text]``, from the first piece to the end of the last stream.
"""

import json
import os
import sys
import time

from mlzoo.config import load
from mlzoo.config.loading import cache_directory
from mlzoo.inference import process
from mlzoo.store import open_store

MESSAGES = json.loads(os.environ["BENCH_MESSAGES"])


def main():
    config = load(())
    entry = config.model(sys.argv[1])
    installed = open_store(config).find(entry)
    answers = os.fdopen(os.dup(1), "w")
    threads = config.devices.cpu_threads or 0
    process.prepare(os.getppid(), threads, config.devices.cpu_wait_policy)

    import torch  # after the environment is set, as in the worker
    import transformers

    from mlzoo.frames import Load
    from mlzoo.inference.engine import BatchEngine
    from mlzoo.inference.loader import load_chat

    torch.set_num_threads(threads or process.usable_processors())
    transformers.logging.disable_progress_bar()
    order = Load(
        model=entry.name,
        path=str(installed.path),
        kind="chat",
        dtype=entry.dtype,
        slots=entry.slots,
        context=entry.context,
        digest=installed.digest,
    )
    # The findings of the self-test are those of the sidecar's own load: both sides compute with the same threads.
    engine = BatchEngine(load_chat(order, torch.device("cpu"), cache=cache_directory(None, os.environ)))
    for line in sys.stdin:
        streams, tokens = json.loads(line)
        print(json.dumps(generate(engine, entry.name, streams, tokens)), file=answers, flush=True)


def generate(engine, model, streams, tokens):
    from mlzoo.frames import Generate, Sampling

    for number in range(streams):
        engine.submit(
            Generate(request=str(number), model=model, messages=tuple(MESSAGES), sampling=Sampling(), max_tokens=tokens)
        )
    first, count, text = 0.0, 0, ""
    while not engine.idle:
        for frame in engine.step():
            for row in getattr(frame, "rows", ()):
                first = first or time.perf_counter()
                count += len(row.tokens)
                if row.request == "0":
                    text += row.content
    return (count - 1) / (time.perf_counter() - first), text


main()
