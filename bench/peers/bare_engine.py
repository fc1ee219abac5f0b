"""The worker's engine called bare: no sidecar, no log, no socket. A line of JSON on stdin, one answer each.

``bare_engine.py MODEL [CONTEXT]``, set up as a worker process is; the model is loaded as the worker loads it, its slots
of so many tokens: what compiled steps there are depends on that.
"""

import json
import sys
import time

from bare import started


def main():
    model = sys.argv[1]
    engine, answers = started(model, int(sys.argv[2]) if sys.argv[2:] else None)
    for line in sys.stdin:
        asked = json.loads(line)
        count, seconds = generate(engine, model, asked["prompts"], asked["tokens"])
        print(json.dumps({"tokens": count, "seconds": seconds}), file=answers, flush=True)


def generate(engine, model, prompts, tokens):
    from mlzoo.frames import Generate, Sampling

    count, start = 0, time.perf_counter()
    for number, prompt in enumerate(prompts):
        messages = tuple(prompt["messages"])
        engine.submit(
            Generate(
                request=str(number),
                model=model,
                messages=messages,
                sampling=Sampling(temperature=0),
                max_tokens=tokens,
            )
        )
    while not engine.idle:
        for frame in engine.step():
            count += sum(len(row.tokens) for row in getattr(frame, "rows", ()))
    return count, time.perf_counter() - start


main()
