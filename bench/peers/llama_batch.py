"""llama.cpp, many sequences in one batch: a line of JSON on stdin, one answer each.

``llama_batch.py FILE THREADS``. The low-level interface, since the package's own server keeps one sequence at a time:
prompts are decoded together, 512 tokens at once, then one token of every sequence a step, the likeliest.
"""

import ctypes
import json
import os
import sys
import time

import llama_cpp
import numpy as np

BATCH = 512
SEQUENCES = 16
CONTEXT = 1024  # of each sequence


class Model:
    def __init__(self, path, threads):
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        options.use_extra_bufts = False  # Repacked weights crash on some processors with AMX.
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), options)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.threads = threads
        self.context = self.batch = None

    def open(self, sequences):
        """Have a context for so many sequences: one for 16 would cost a single one its attention over all."""
        if self.context is not None:
            llama_cpp.llama_batch_free(self.batch)
            llama_cpp.llama_free(self.context)
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = CONTEXT * sequences, BATCH, BATCH
        options.n_seq_max = sequences
        options.n_threads = options.n_threads_batch = self.threads
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        self.batch = llama_cpp.llama_batch_init(BATCH, 0, 1)

    def decode(self, rows):
        """Read (token, position, sequence, whether its logits are wanted); return the likeliest tokens of those."""
        batch, chosen = self.batch, {}
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            batch.n_tokens = len(part)
            for at, (token, position, sequence, wanted) in enumerate(part):
                batch.token[at], batch.pos[at], batch.logits[at] = token, position, wanted
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, sequence
            assert llama_cpp.llama_decode(self.context, batch) == 0
            for at, (_token, _position, sequence, wanted) in enumerate(part):
                if wanted:
                    logits = llama_cpp.llama_get_logits_ith(self.context, at)
                    address = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float * self.vocabulary)).contents
                    chosen[sequence] = int(np.frombuffer(address, dtype=np.float32).argmax())
        return chosen

    def generate(self, prompts, tokens):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        start = time.perf_counter()
        last = self.decode(
            [
                (token, position, sequence, position == len(prompt) - 1)
                for sequence, prompt in enumerate(prompts)
                for position, token in enumerate(prompt)
            ]
        )
        for step in range(tokens - 1):
            last = self.decode([(last[s], len(prompt) + step, s, True) for s, prompt in enumerate(prompts)])
        return len(prompts) * tokens, time.perf_counter() - start


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    model = Model(sys.argv[1], int(sys.argv[2]))
    for line in sys.stdin:
        order = json.loads(line)
        prompts = [prompt["ids"] for prompt in order["prompts"]]
        assert len(prompts) <= SEQUENCES
        model.open(len(prompts))
        count, seconds = model.generate(prompts, order["tokens"])
        print(json.dumps({"tokens": count, "seconds": seconds}), file=answers, flush=True)


main()
