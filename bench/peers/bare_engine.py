"""The worker's engine called bare: no sidecar, no log, no socket. A line of JSON on stdin, one answer each.

``bare_engine.py MODEL``, set up as a worker process is; the model is loaded as the worker loads it.
"""

import json
import os
import sys
import time

from mlzoo.config import load
from mlzoo.config.loading import cache_directory
from mlzoo.inference import process
from mlzoo.store import open_store


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
    engine = BatchEngine(load_chat(order, torch.device("cpu"), cache=cache_directory(None, os.environ)))
    for line in sys.stdin:
        asked = json.loads(line)
        count, seconds = generate(engine, entry.name, asked["prompts"], asked["tokens"])
        print(json.dumps({"tokens": count, "seconds": seconds}), file=answers, flush=True)


def generate(engine, model, prompts, tokens):
    from mlzoo.frames import Generate, Sampling

    count, start = 0, time.perf_counter()
    for number, prompt in enumerate(prompts):
        messages = tuple(prompt["messages"])
        engine.submit(
            Generate(request=str(number), model=model, messages=messages, sampling=Sampling(), max_tokens=tokens)
        )
    while not engine.idle:
        for frame in engine.step():
            count += sum(len(row.tokens) for row in getattr(frame, "rows", ()))
    return count, time.perf_counter() - start


main()
