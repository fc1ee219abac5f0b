"""Custom models: their pipeline reads inputs, forwards are shared between requests, their head says what came of them.

Knows a model's directory by its artifact, and frames; nothing of sockets, and of no model what it is made of.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import orjson
import torch

from mlzoo.errors import MlzooError, ModelLoadFailed, TooLarge
from mlzoo.frames import Predict, Predicted
from mlzoo.inference import memory, sizing, weights
from mlzoo.inference.arranging import refuse_int4
from mlzoo.inference.brief import attend_briefly
from mlzoo.inference.failing import broken, failed
from mlzoo.inference.joined import Job, Joined
from mlzoo.inference.loader import expect_room, silent
from mlzoo.inference.packing import pack
from mlzoo.models import artifact
from mlzoo.models.backbones import Transformer
from mlzoo.models.zoo import ZooModel, ZooSpec, build, spec_of, tensors
from mlzoo.pipelines import Example, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlzoo.frames import FromWorker, Load
    from mlzoo.inference.loader import OnProgress

ENVELOPE_BYTES = 4096  # of the line around the outputs


@attrs.frozen(eq=False)
class PredictModel:
    """A custom model, ready to serve."""

    name: str
    module: ZooModel
    dtype: torch.dtype
    device: torch.device
    answer_bytes: int  # of the outputs of one request at most
    architecture: str
    labels: tuple[str, ...]
    context: int  # tokens of a row at most; 0: it reads none
    memory_bytes: int
    why: tuple[str, ...]


def load_predict(load: Load, device: torch.device, progress: OnProgress = silent) -> PredictModel:
    """Load a custom model: an artifact, or a pretrained backbone with a head that has no weights of its own.

    Raises:
        ModelLoadFailed: It is neither, is not what the configuration says, or its files do not hold.
        ConfigError: A part of it does not exist here, or an option does not hold.
        OutOfMemory: It does not fit on the device.
    """
    refuse_int4(load, "custom models compute with whole ones")
    before = memory.used_bytes(device)
    directory = Path(load.path)
    said = spec_of(load.zoo) if load.zoo is not None else None
    if load.dtype == "auto":
        # What custom models answer is kept and compared, as embeddings are: they compute in full precision.
        load = attrs.evolve(load, dtype="float32")
    dtype, why = sizing.choose_dtype(load.dtype, device)
    is_artifact = (directory / artifact.MANIFEST).is_file()
    if is_artifact and not (directory / artifact.WEIGHTS).is_file():
        artifact.weights_of(directory)  # says what is there in their place
    size_bytes = weights.verify(directory)
    expect_room(size_bytes * (2 if is_artifact else 1), device)  # It is made before its weights are read.
    progress("weights", 0, size_bytes, "bytes")
    model = _artifact(directory, said, load) if is_artifact else _pretrained(directory, said)
    model = model.to(device=device, dtype=dtype).eval()
    layers: tuple[str, ...] = ()
    if isinstance(model.backbone, Transformer):
        layers = pack(model.backbone.encoder), attend_briefly(model.backbone.encoder)
    progress("weights", size_bytes, size_bytes, "bytes")
    head = type(model.head).__name__
    return PredictModel(
        name=load.model,
        module=model,
        dtype=dtype,
        device=device,
        answer_bytes=max(load.answer_bytes - ENVELOPE_BYTES, 1),
        architecture=f"{type(model.backbone).__name__} + {head}",
        labels=model.head.labels,
        context=model.pipeline.shapes().tokens,
        memory_bytes=max(memory.used_bytes(device) - before, 0),
        why=(why, *model.backbone.why(), *layers, f"head {head}", *model.pipeline.why()),
    )


def _artifact(directory: Path, said: ZooSpec | None, load: Load) -> ZooModel:
    model = artifact.load(directory, check=not load.digest)  # A digest is that of a store, which has checked the files.
    written = artifact.read(directory).spec
    if said is not None:
        _expect_same(said, written, load.model)
    return model


def _expect_same(said: ZooSpec, written: ZooSpec, name: str) -> None:
    """Refuse a configuration that describes another model than the artifact is; what it leaves open is not compared."""
    for group in ("backbone", "head", "pipeline"):
        ours, theirs = getattr(said, group), getattr(written, group)
        if ours.kind != theirs.kind:
            raise _other(name, f"{group}.kind", ours.kind, theirs.kind)
        for option, value in ours.options.items():
            found = theirs.options.get(option)
            if orjson.dumps(value) != orjson.dumps(found) and value != "auto":
                raise _other(name, f"{group}.{option}", value, found)
    if said.labels and said.labels != written.labels:
        raise _other(name, "labels", list(said.labels), list(written.labels))


def _other(name: str, path: str, said: Any, found: Any) -> ModelLoadFailed:
    told = f"{name}: {path} is {said!r} in the configuration and {found!r} in the artifact"
    return ModelLoadFailed(f"{told}: leave it out, or name the artifact that is meant", model=name, reason=path)


def _pretrained(directory: Path, said: ZooSpec | None) -> ZooModel:
    if said is None:
        told = f"{directory} is no artifact ({artifact.MANIFEST} is not in it), and the configuration names no parts"
        raise ModelLoadFailed(f"{told}: write backbone, head and pipeline, or name an artifact", reason="artifact")
    model = build(said, directory=directory)
    own = [name for name, _ in model.head.named_parameters()]
    if own:
        told = f"the head {said.head.kind} has weights of its own ({own[0]} for one), and {directory} is no artifact"
        raise ModelLoadFailed(f"{told}: they would be random; train it with mlzoo fit", reason="artifact")
    return model


class Predictor(Joined[Predict, Row]):
    """Runs the requests of one custom model."""

    def __init__(self, model: PredictModel) -> None:
        super().__init__(model.device)
        self._model = model

    def submit(self, frame: Predict) -> list[FromWorker]:
        """Take in a request; return what is to be said of it at once: what is wrong with its inputs, if anything."""
        try:
            examples = self._model.module.pipeline.read(frame.inputs)
        except MlzooError as error:
            return [failed(frame.request, error)]
        except Exception as error:  # noqa: BLE001 - an input that breaks a pipeline is one request's misfortune
            return [broken(frame.request, error)]
        rows = [row for example in examples for row in example.rows]
        if not rows:
            return [Predicted(request=frame.request, outputs="[]", count=0)]
        lengths = [row.length for row in rows]
        self._begin(frame.request, frame, rows, lengths, more=examples, batch=frame.batch)
        return []

    @torch.inference_mode()
    def _compute(self, rows: Sequence[Row]) -> Sequence[Any]:
        model = self._model
        batch = tensors(model.module.pipeline.join(rows), model.device)
        if model.dtype != torch.float32:
            batch = {name: t.to(model.dtype) if t.is_floating_point() else t for name, t in batch.items()}
        outputs = model.module(batch).float().cpu()
        is_whole = torch.isfinite(outputs).flatten(1).all(dim=1) if outputs.dim() > 1 else torch.isfinite(outputs)
        return [output if whole else None for output, whole in zip(outputs, is_whole.tolist(), strict=True)]

    def _answer(self, job: Job[Predict, Row]) -> FromWorker:
        examples: list[Example] = job.more
        answers = self._model.module.head.decode(job.outputs, examples)
        outputs = orjson.dumps(answers, option=orjson.OPT_SERIALIZE_NUMPY)
        if len(outputs) > self._model.answer_bytes:
            limit = self._model.answer_bytes
            told = f"the outputs have {len(outputs)} bytes, {limit} fit into one line: send fewer inputs at once"
            return failed(job.request, TooLarge(told, limit=limit, got=len(outputs)))
        tokens = sum(example.tokens for example in examples)
        return Predicted(request=job.request, outputs=outputs.decode(), count=len(answers), prompt_tokens=tokens)
