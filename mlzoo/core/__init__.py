"""The pure part: ``decide(state, command) -> events`` and ``apply(state, event) -> state``.

No trio, no torch, no clock, no randomness, no input or output: the same commands always lead to the same events.
"""
