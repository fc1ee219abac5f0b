"""What runs in a worker process: models, their batching engine and the loop that serves them.

The only code that imports torch and transformers. It talks to the sidecar through ``mlzoo.frames`` and knows nothing
else of it: no log, no connections, no conversations, no configuration.
"""
