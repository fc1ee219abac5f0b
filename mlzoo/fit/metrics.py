"""How good answers are: scikit-learn's definitions, over what the head decodes, which is what a host would hear.

scikit-learn and not torchmetrics: these are the definitions that others compare with, classes without a row included;
answers are few and on the CPU once an epoch has ended; and it brings the split and the peers of the benchmark along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from sklearn import metrics as sk
from sklearn.preprocessing import MultiLabelBinarizer

from mlzoo.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlzoo.fit.columns import Task

FALLING = frozenset({"loss", "mae", "rmse"})  # of which less is better
_KNOWN: dict[Task, tuple[str, ...]] = {
    "classes": ("accuracy", "macro_f1", "loss"),
    "labels": ("f1", "macro_f1", "accuracy", "loss"),
    "numbers": ("rmse", "mae", "r2", "loss"),
    "spans": ("f1", "loss"),
    "other": ("loss",),
}
"""What is measured of which task; the first one decides where nothing else was said."""


@attrs.frozen
class ClassFigures:
    """Of one class: precision, recall and F1, and of how many rows."""

    precision: float
    recall: float
    f1: float
    rows: int


@attrs.frozen
class Figures:
    """What was measured on some rows.

    confusion: ``[class, answer]``, how many rows of a class got which answer, in the order of the labels.
    pairs: (number in the data, number answered) of each row.
    """

    values: dict[str, float]
    classes: dict[str, ClassFigures] = attrs.field(factory=dict)
    confusion: tuple[tuple[int, ...], ...] = ()
    pairs: tuple[tuple[float, float], ...] = ()


def chosen(task: Task, metric: str) -> str:
    """Return the metric that decides.

    Raises:
        ConfigError: There is none of that name for this task.
    """
    if metric == "auto":
        return _KNOWN[task][0]
    if metric not in _KNOWN[task]:
        there = ", ".join(_KNOWN[task])
        raise ConfigError(f"stopping.metric: {metric} is not measured here (there are {there})", path="stopping.metric")
    return metric


def measure(task: Task, labels: Sequence[str], targets: Sequence[Any], answers: Sequence[Any]) -> Figures:
    """Return how good answers are.

    Args:
        task: What is learned.
        labels: Those of the head, in its order.
        targets: What is right, as ``columns`` has it.
        answers: What the head decoded.
    """
    if task == "classes":
        return _of_classes(labels, targets, [answer["label"] for answer in answers])
    if task == "labels":
        return _of_labels(labels, targets, [answer["labels"] for answer in answers])
    if task == "numbers":
        return _of_numbers(targets, [answer["value"] for answer in answers])
    if task == "spans":
        return _of_spans(targets, answers)
    return Figures({})


def _of_classes(labels: Sequence[str], targets: Sequence[str], answers: Sequence[str]) -> Figures:
    names = list(labels)
    each = sk.precision_recall_fscore_support(targets, answers, labels=names, zero_division=0)
    classes = {
        name: ClassFigures(float(precision), float(recall), float(f1), int(rows))
        for name, precision, recall, f1, rows in zip(names, *each, strict=True)
    }
    return Figures(
        values={
            "accuracy": float(sk.accuracy_score(targets, answers)),
            "macro_f1": float(sk.f1_score(targets, answers, average="macro", zero_division=0)),
        },
        classes=classes,
        confusion=tuple(tuple(map(int, row)) for row in sk.confusion_matrix(targets, answers, labels=names)),
    )


def _of_labels(labels: Sequence[str], targets: Sequence[list[str]], answers: Sequence[list[str]]) -> Figures:
    binary = MultiLabelBinarizer(classes=list(labels))
    wanted, given = binary.fit_transform(targets), binary.transform(answers)
    each = sk.precision_recall_fscore_support(wanted, given, zero_division=0)
    classes = {
        name: ClassFigures(float(precision), float(recall), float(f1), int(rows))
        for name, precision, recall, f1, rows in zip(labels, *each, strict=True)
    }
    return Figures(
        values={
            "accuracy": float(sk.accuracy_score(wanted, given)),
            "f1": float(sk.f1_score(wanted, given, average="micro", zero_division=0)),
            "macro_f1": float(sk.f1_score(wanted, given, average="macro", zero_division=0)),
        },
        classes=classes,
    )


def _of_numbers(targets: Sequence[float], answers: Sequence[float]) -> Figures:
    wanted, given = np.asarray(targets, np.float64), np.asarray(answers, np.float64)
    return Figures(
        values={
            "mae": float(sk.mean_absolute_error(wanted, given)),
            "rmse": float(sk.root_mean_squared_error(wanted, given)),
            "r2": float(sk.r2_score(wanted, given)) if len(wanted) > 1 else 0.0,
        },
        pairs=tuple(zip(wanted.tolist(), given.tolist(), strict=True)),
    )


def _of_spans(targets: Sequence[Any], answers: Sequence[Any]) -> Figures:
    """Return figures of whole spans: right is what begins, ends and is called as it should.

    Source: Tjong Kim Sang and De Meulder, "Introduction to the CoNLL-2003 Shared Task", 2003.
    """
    wanted, given = _spans(targets), _spans(answers)
    right = len(wanted & given)
    precision, recall = right / max(len(given), 1), right / max(len(wanted), 1)
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return Figures({"f1": f1, "precision": precision, "recall": recall})


def _spans(rows: Sequence[Any]) -> set[tuple[int, int, int, str]]:
    return {(row, span["start"], span["end"], span["label"]) for row, spans in enumerate(rows) for span in spans}
