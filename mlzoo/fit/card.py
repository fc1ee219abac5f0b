"""The model card: what a model was made of and how good it is, as Markdown beside its weights.

Source of the idea: Mitchell et al., "Model Cards for Model Reporting", 2019. Knows what came of a run, and no terminal.
"""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING

import attrs
import yaml  # type: ignore[import-untyped] # It has no types.

from mlzoo import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlzoo.fit.files import DataFile
    from mlzoo.fit.metrics import ClassFigures, Figures
    from mlzoo.fit.order import Order
    from mlzoo.fit.runs import Outcome
    from mlzoo.fit.splitting import Split

_VERSIONS = ("torch", "transformers", "scikit-learn", "peft")


def card(order: Order, outcome: Outcome, data: DataFile, split: Split, pictures: Sequence[str]) -> str:
    """Return the card of a model."""
    settings = outcome.run.settings
    front = {"licence": settings.licence.spdx, "library_name": "mlzoo", "tags": [outcome.learner.spec.head.kind]}
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# {settings.name}\n",
        _made_of(order, outcome),
        _figures(outcome),
        _data(outcome, data, split),
        _training(outcome),
        *(f"![{name.removesuffix('.svg')}]({name})\n" for name in pictures),
        "### Settings\n\n```yaml\n" + yaml.safe_dump(attrs.asdict(settings), sort_keys=False) + "```\n",
        "## Versions\n\n" + _table(("", ""), _versions()),
    ]
    return "\n".join(parts)


def _made_of(order: Order, outcome: Outcome) -> str:
    settings, spec = outcome.run.settings, outcome.learner.spec
    base, model = "no base", outcome.learner.model
    if settings.base is not None:
        entry = order.config.models.get(settings.base)
        base = f"`{settings.base}`" + (f", under {entry.licence.spdx}" if entry is not None else "")
    weights = base if model.backbone.has_read_weights else "no base: its weights began at random"
    files = f" (files of {base})" if settings.base is not None and model.pipeline.files() else ""
    rows = [
        ("backbone", f"{spec.backbone.kind} ({weights})"),
        ("head", spec.head.kind),
        ("pipeline", f"{spec.pipeline.kind}{files}"),
        ("trained", settings.trained),
        ("licence", f"{settings.licence.spdx} {settings.licence.url}".rstrip()),
    ]
    asked = '{"method":"predict","params":{"model":"' + settings.name + '","inputs":[...]}}'
    return _table(("", ""), rows) + f"\nIt answers `{asked}`.\n"


def _data(outcome: Outcome, data: DataFile, split: Split) -> str:
    settings = outcome.run.settings
    parts = f"{len(split.train)} for training, {len(split.validation)} to choose the epoch, {len(split.test)} for test"
    column = settings.data.split.column
    rows = [
        ("file", f"`{data.path}`, {data.format}"),
        ("SHA-256", f"`{data.sha256}`"),
        ("rows", f"{data.rows}: {parts}"),
        ("input", _inputs(outcome)),
        ("target", f"`{settings.data.target}`"),
        ("parts", f"as the column `{column}` says" if column else f"drawn at random, seed {settings.seed}"),
    ]
    return "## Data\n\n" + _table(("", ""), rows)


def _training(outcome: Outcome) -> str:
    return (
        f"## Training\n\n{len(outcome.history)} epochs, of which epoch {outcome.best_epoch} is the best by "
        f"`{outcome.metric}` on the rows for validation; {outcome.parameters:,} numbers were trained. The digest of "
        f"the trained weights is `{outcome.digest}`: the same command on the same machine gives the same.\n"
    )


def _inputs(outcome: Outcome) -> str:
    data = outcome.run.settings.data
    if data.input is not None:
        return f"`{data.input}`"
    return ", ".join(f"`{name}`" for name in outcome.learner.spec.pipeline.options.get("columns", data.features))


def _figures(outcome: Outcome) -> str:
    test, validation = outcome.test, outcome.validation
    names = list(validation.values)
    rows = [("validation", *(f"{validation.values[name]:.4f}" for name in names))]
    if test is not None:
        rows.append(("test", *(f"{test.values[name]:.4f}" for name in names)))
    told = "Rows for test decided nothing; those for validation chose the epoch, so that figures on them flatter.\n"
    if test is None:
        told = "No rows were kept for test: these figures flatter, since the same rows chose the epoch.\n"
    shown = test or validation
    return f"## How good it is\n\n{_table(('rows', *names), rows)}\n{told}" + _classes(shown)


def _classes(figures: Figures) -> str:
    if not figures.classes:
        return ""

    def cells(name: str, of: ClassFigures) -> tuple[str, ...]:
        return (f"`{name}`", f"{of.precision:.3f}", f"{of.recall:.3f}", f"{of.f1:.3f}", str(of.rows))

    rows = [cells(name, of) for name, of in figures.classes.items()]
    return "\n" + _table(("class", "precision", "recall", "F1", "rows"), rows)


def _versions() -> Iterable[tuple[str, str]]:
    yield "mlzoo", __version__
    yield "python", platform.python_version()
    for name in _VERSIONS:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"

    return line(head) + line(["---"] * len(head)) + "".join(map(line, rows))
