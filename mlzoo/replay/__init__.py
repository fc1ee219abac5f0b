"""Replay, four ways: what a log holds is exported as a recording, checked, played to a host, run again, made smaller.

``matching`` is the pure core of ``mlzoo replay play``: what a host sends against what a recording says that it sent.
This file imports nothing, since ``play`` starts in a blink.
"""
