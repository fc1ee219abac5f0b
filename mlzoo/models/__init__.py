"""Custom models: a backbone that reads, and a head that answers; found by name, kept as a directory of files.

Imports torch: only worker processes and those that train import this. Knows no request, no frame and no wire.
"""
