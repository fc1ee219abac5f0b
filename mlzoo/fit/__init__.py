"""``mlzoo fit``: from a data file to a model that ``predict`` serves.

``settings.py`` says what a run is, ``composing.py`` where that comes from, ``files.py``, ``columns.py`` and
``splitting.py`` what of the data is used. ``session.py`` tells the story of a command; ``training.py`` that of a run.
Nothing that the command line needs before it starts (settings, composing) imports torch; the rest is a training
process's own.
"""
