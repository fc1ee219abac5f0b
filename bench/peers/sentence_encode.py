"""sentence-transformers and its own batched encode, set up as a worker process is.

``sentence_encode.py DIRECTORY``. A line of JSON on stdin, one answer each: the seconds that it took, and the first
numbers of the first vector.
"""

import json
import sys
import time

from bare import prepared


def main():
    answers = prepared()
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(sys.argv[1], device="cpu")
    for line in sys.stdin:
        texts = json.loads(line)["texts"]
        start = time.perf_counter()
        vectors = model.encode(texts, normalize_embeddings=True)
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "first": vectors[0][:4].tolist()}), file=answers, flush=True)


main()
