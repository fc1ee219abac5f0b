"""The decode loop of the worker process, called bare: no sidecar, no log, no socket, no JSON for tokens.

``bare_decode.py MODEL CONTEXT``, set up as a worker process is, its slots of so many tokens. Each line on stdin,
``[streams, tokens]``, is answered by one on stdout: ``[tokens per second, text]``, from the first piece to the end of
the last stream.
"""

import json
import os
import sys
import time

from bare import started

MESSAGES = json.loads(os.environ["BENCH_MESSAGES"])


def main():
    model, context = sys.argv[1], int(sys.argv[2])
    engine, answers = started(model, context)
    for line in sys.stdin:
        streams, tokens = json.loads(line)
        print(json.dumps(generate(engine, model, streams, tokens)), file=answers, flush=True)


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
