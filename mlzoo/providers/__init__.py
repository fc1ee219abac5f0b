"""Servers elsewhere that answer requests: each kind speaks to one sort of API, behind one small protocol.

They know HTTP and the API's words; nothing of the log, of hosts or of actors.
"""
