"""OpenVINO GenAI's continuous batching over a GGUF file: a line of JSON on stdin, one answer each.

``openvino_paged.py FILE``. It says as many tokens as were asked for, whatever they are, the likeliest each time.
"""

import json
import os
import sys
import time

import numpy as np
import openvino
import openvino_genai

CACHE_GB = 1


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = CACHE_GB
    scheduler.enable_prefix_caching = False  # The same prompts come each round; nobody reads them from a cache.
    pipeline = openvino_genai.ContinuousBatchingPipeline(sys.argv[1], scheduler, "CPU")
    for line in sys.stdin:
        order = json.loads(line)
        prompts = [openvino.Tensor(np.array([prompt["ids"]], dtype=np.int64)) for prompt in order["prompts"]]
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = order["tokens"]
        config.do_sample, config.ignore_eos = False, True
        start = time.perf_counter()
        results = pipeline.generate(prompts, [config] * len(prompts))
        seconds = time.perf_counter() - start
        count = sum(len(result.m_generation_ids[0]) for result in results)
        print(json.dumps({"tokens": count, "seconds": seconds}), file=answers, flush=True)


main()
