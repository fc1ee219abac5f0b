"""What a custom model is given and gives, outside of the model: JSON to arrays and back.

Numpy alone: the processes that read inputs need no torch for it. Knows no model, no worker and no wire.
"""

from __future__ import annotations

from mlzoo.pipelines.pipeline import Example, Pipeline, Row, Shapes, make

__all__ = ["Example", "Pipeline", "Row", "Shapes", "make"]
