"""mlzoo: a machine-learning sidecar that an application can trust with its life.

This file imports nothing: whoever imports one part of the house pays for that part alone.
"""

__version__ = "0.1.0"
