"""transformers' own `generate`, prompts padded into one batch: a line of JSON on stdin, one answer each.

``plain_generate.py DIRECTORY THREADS DTYPE``.
"""

import json
import os
import sys
import time

import torch
from transformers import AutoModelForCausalLM


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(int(sys.argv[2]))
    model = AutoModelForCausalLM.from_pretrained(
        sys.argv[1], dtype=getattr(torch, sys.argv[3]), local_files_only=True
    ).eval()
    for line in sys.stdin:
        order = json.loads(line)
        prompts = [prompt["ids"] for prompt in order["prompts"]]
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        tokens = order["tokens"]
        start = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=mask, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens, pad_token_id=0
            )
        seconds = time.perf_counter() - start
        count = (out.shape[1] - longest) * len(prompts)
        print(json.dumps({"tokens": count, "seconds": seconds}), file=answers, flush=True)


main()
