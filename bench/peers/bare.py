"""The worker's engine without sidecar, log or socket: set up as a worker process is, the model loaded as there."""

import os

from mlzoo.config import load
from mlzoo.config.loading import cache_directory
from mlzoo.inference import process
from mlzoo.store import open_store


def prepared():
    """Set this process up as a worker's; return where answers go: whatever libraries print goes to stderr."""
    config = load(())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    threads = config.devices.cpu_threads or 0
    process.prepare(os.getppid(), threads, config.devices.cpu_wait_policy)

    import torch  # after the environment is set, as in the worker
    import transformers

    torch.set_num_threads(threads or process.usable_processors())
    transformers.logging.disable_progress_bar()
    return answers


def started(model, context=None):
    """Return an engine that has loaded a model, and where answers go: whatever libraries print goes to stderr.

    Its slots hold so many tokens; None: as many as memory has room for, beside whoever else runs now.
    """
    config = load(())
    entry = config.model(model)
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
        context=context or entry.context,
        digest=installed.digest,
    )
    # The findings of the self-test are those of the sidecar's own load: both sides compute with the same threads.
    engine = BatchEngine(load_chat(order, torch.device("cpu"), cache=cache_directory(None, os.environ)))
    return engine, answers
