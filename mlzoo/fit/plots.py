"""Pictures of a run, as SVG: how the loss went, and where the answers are wrong. Drawn by matplotlib, without a screen.

Knows figures alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlzoo.fit.metrics import Figures
    from mlzoo.fit.runs import Outcome

MOST_CLASSES = 40  # whose names can be read in a picture
_SIZE_INCHES = (6.4, 4.0)


def draw(outcome: Outcome, directory: Path) -> tuple[str, ...]:
    """Draw what there is to be seen; return the names of the files, none where matplotlib is not there."""
    try:
        import matplotlib as mpl  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        return ()
    figures = outcome.test or outcome.validation
    labels = outcome.learner.spec.labels
    drawn = []
    with mpl.rc_context({"svg.hashsalt": "mlzoo", "svg.fonttype": "none"}):
        picture = Figure(figsize=_SIZE_INCHES, layout="constrained")
        _loss(picture.subplots(), outcome)
        drawn.append(_save(picture, directory / "loss.svg"))
        if figures.confusion and len(labels) <= MOST_CLASSES:
            side = max(3.0, 0.45 * len(labels) + 2)
            picture = Figure(figsize=(side + 1, side), layout="constrained")
            _confusion(picture, figures, labels)
            drawn.append(_save(picture, directory / "confusion.svg"))
        if figures.pairs:
            picture = Figure(figsize=_SIZE_INCHES, layout="constrained")
            _residuals(picture.subplots(), figures)
            drawn.append(_save(picture, directory / "residuals.svg"))
    return tuple(drawn)


def _save(picture: Any, path: Path) -> str:
    picture.savefig(path, format="svg", metadata={"Date": None})
    return path.name


def _loss(axes: Any, outcome: Outcome) -> None:
    epochs = [epoch.epoch for epoch in outcome.history]
    axes.plot(epochs, [epoch.train_loss for epoch in outcome.history], label="training")
    axes.plot(epochs, [epoch.validation_loss for epoch in outcome.history], label="validation")
    axes.axvline(outcome.best_epoch, color="grey", linestyle=":", label=f"best: epoch {outcome.best_epoch}")
    axes.set(xlabel="epoch", ylabel="mean loss", ylim=(0, None))
    axes.legend()


def _confusion(picture: Any, figures: Figures, labels: Sequence[str]) -> None:
    axes = picture.subplots()
    shown = axes.imshow(figures.confusion, cmap="Blues")
    picture.colorbar(shown, ax=axes, label="rows")
    axes.set_xticks(range(len(labels)), labels=labels, rotation=90)
    axes.set_yticks(range(len(labels)), labels=labels)
    axes.set(xlabel="answer", ylabel="class in the data")
    most = max(max(row) for row in figures.confusion)
    for y, row in enumerate(figures.confusion):
        for x, count in enumerate(row):
            if count:
                colour = "white" if count > most / 2 else "black"
                axes.text(x, y, str(count), ha="center", va="center", color=colour, fontsize=8)


def _residuals(axes: Any, figures: Figures) -> None:
    wanted = [wanted for wanted, _ in figures.pairs]
    axes.scatter(wanted, [given - number for number, given in figures.pairs], s=10, alpha=0.6)
    axes.axhline(0, color="grey", linestyle=":")
    axes.set(xlabel="number in the data", ylabel="answer minus number")
