"""Bytes and requests: framing, JSON-RPC 2.0, stdio, sockets and the log lines on stderr.

Knows no models, no log of events and no actors. Everything that a connection needs stands behind one interface,
``mlzoo.transport.stream.ByteStream``. This file imports nothing, so that ``mlzoo.transport.stdio`` can run before
anything heavy is loaded.
"""
