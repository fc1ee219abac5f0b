"""What a host can say and hear: the methods, their params and results, and the OpenRPC document made of them.

``methods.py`` is the table; ``wire.py`` turns what came into params and results into what goes out; the classes stand
in one file a group and are imported when a method of the group is first called. This part knows no transport, no log
and no models: it says what is allowed, not what happens.

This file imports nothing, so that a start pays only for the table.
"""
