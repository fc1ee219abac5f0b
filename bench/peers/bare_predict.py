"""A custom model called bare, one input after the other: no sidecar, no log, no socket.

``bare_predict.py ARTIFACT``, set up as a worker process is. A line of JSON on stdin, one answer each.
"""

import json
import sys
import time

from bare import prepared


def main():
    answers = prepared()
    from pathlib import Path

    import torch

    from mlzoo.models.artifact import load
    from mlzoo.models.zoo import tensors

    model = load(Path(sys.argv[1]))
    for line in sys.stdin:
        texts = json.loads(line)["texts"]
        labels = []
        start = time.perf_counter()
        with torch.inference_mode():
            for text in texts:
                examples = model.pipeline.read([text])
                outputs = model(tensors(model.pipeline.collate(examples)))
                labels += [said["label"] for said in model.head.decode(outputs, examples)]
        print(json.dumps({"seconds": time.perf_counter() - start, "labels": labels}), file=answers, flush=True)


main()
