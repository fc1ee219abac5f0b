"""What is trained and what is not, what is measured, and what a checkpoint holds: real parts, small ones."""

import attrs
import orjson
import pytest
import torch

from mlzoo import parts
from mlzoo.errors import ConfigError
from mlzoo.fit import checkpoints, files
from mlzoo.fit.columns import samples
from mlzoo.fit.learning import batches, keep_features, make
from mlzoo.fit.metrics import measure
from mlzoo.fit.settings import (
    DataSettings,
    FitSettings,
    LoraSettings,
    OptimiserSettings,
    ScheduleSettings,
    SplitSettings,
)
from mlzoo.fit.splitting import split
from mlzoo.fit.training import Trainer, rate_at
from mlzoo.models.artifact import load, save
from mlzoo.models.features import Backbone, Features
from mlzoo.models.zoo import tensors
from mlzoo.parts import spec_of

pytestmark = pytest.mark.torch


@attrs.frozen
class BagOptions:
    says_so: bool = False


WORDS = ("quick", "brown", "lazy", "system", "seven", "user")


def lines(path, rows):
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def texts(path):
    """Write texts whose class is that of their last word."""
    rows = [{"text": f"the {WORDS[n % 6]} {WORDS[n % 5]}", "label": ("a", "b")[n % 6 < 3]} for n in range(60)]
    return lines(path / "texts.jsonl", rows)


def trainer(path, head, base=None, *, spec=None, **changes):
    """Return a trainer of a file, as ``mlzoo fit`` makes it."""
    model = spec or {"backbone": {"kind": "transformer"}, "head": {"kind": head}, "pipeline": {"kind": "text"}}
    data = DataSettings(path=str(path), input="text", split=SplitSettings(stratified=False))
    defaults = {"optimiser": OptimiserSettings(lr=0.02), "epochs": 8, "batch_size": 16}
    settings = FitSettings(name="a", data=data, model=model, **{**defaults, **changes})
    found = samples(files.read(data), data, spec_of(model))
    drawn = split(files.read(data), data, found, settings.seed)
    return Trainer(make(settings, found, drawn, base), drawn, found.task), drawn


def trained(made, epochs=8):
    for _ in range(epochs):
        made.next_epoch(made.run_epoch(lambda: None))
    return made


def test_a_head_learns_on_features_that_are_computed_once_and_are_those_of_the_backbone(encoder, tmp_path):
    made, parts = trainer(texts(tmp_path), "classification", encoder)
    learner = made.learner
    with torch.no_grad():
        computed = learner.outputs(parts.train)
        told = []
        keep_features(learner, lambda done, total: told.append((done, total)))
        assert told[-1] == (60, 60)
        torch.testing.assert_close(learner.outputs(parts.train), computed, atol=1e-5, rtol=1e-5)
    before = {name: value.clone() for name, value in learner.model.backbone.state_dict().items()}
    trained(made)
    assert made.place.history[-1].train_loss < made.place.history[0].train_loss
    assert all(torch.equal(value, before[name]) for name, value in learner.model.backbone.state_dict().items())
    assert set(learner.trained()) == {"head.linear.weight", "head.linear.bias"}


def test_adapters_are_trained_beside_a_backbone_that_stays_and_become_a_part_of_it(encoder, tmp_path):
    made, parts = trainer(texts(tmp_path), "classification", encoder, trained="lora")
    learner = made.learner
    before = {name: value.clone() for name, value in learner.model.state_dict().items() if "lora_" not in name}
    trained(made, 4)
    now = learner.model.state_dict()
    assert all(torch.equal(now[name], value) for name, value in before.items() if name.startswith("backbone."))
    assert any("lora_B" in name and value.any() for name, value in now.items())
    with torch.no_grad():
        learner.model.eval()
        said = learner.outputs(parts.test)
        model = learner.merged()
        assert not [name for name in model.state_dict() if "lora_" in name]
        torch.testing.assert_close(learner.outputs(parts.test), said, atol=1e-4, rtol=1e-4)
    save(model, learner.spec, tmp_path / "artifact")
    again = load(tmp_path / "artifact")
    batch = tensors(again.pipeline.collate([learner.examples[row] for row in parts.test]))
    torch.testing.assert_close(again(batch).detach(), said, atol=1e-4, rtol=1e-4)


def test_all_of_a_model_may_be_trained(encoder, tmp_path):
    made, _ = trainer(texts(tmp_path), "classification", encoder, trained="all", optimiser=OptimiserSettings(lr=1e-3))
    before = {name: value.clone() for name, value in made.learner.model.backbone.named_parameters()}
    trained(made, 1)
    changed = [name for name, value in made.learner.model.backbone.named_parameters() if not value.equal(before[name])]
    assert len(changed) > 10


def test_spans_are_learned_and_measured_as_a_whole(encoder, tmp_path):
    rows = []
    for n in range(40):
        words = ["the", WORDS[n % 6], "jumps", WORDS[(n + 1) % 6]]
        start = len(f"{words[0]} ")
        rows.append({
            "text": " ".join(words),
            "label": [{"start": start, "end": start + len(words[1]), "label": "KIND"}],
        })  # fmt: skip
    path = lines(tmp_path / "a.jsonl", rows)
    frozen, parts = trainer(path, "tagging", encoder)
    with torch.no_grad():
        computed = frozen.learner.outputs(parts.train)
        keep_features(frozen.learner, lambda _done, _total: None)
        there = frozen.learner.wanted(parts.train) >= 0  # What is padding is neither learned nor told.
        kept = frozen.learner.outputs(parts.train)
        torch.testing.assert_close(kept[there], computed[there], atol=1e-4, rtol=1e-4)
    made, parts = trainer(path, "tagging", encoder, epochs=40, trained="all", optimiser=OptimiserSettings(lr=5e-3))
    loss, figures = trained(made, 40).evaluate(parts.validation)
    assert figures.values["f1"] > 0.8, (loss, figures)


def test_several_labels_are_learned_and_measured(encoder, tmp_path):
    rows = [{"text": f"the {WORDS[n % 6]}", "label": [["x"], ["x", "y"], []][n % 3]} for n in range(60)]
    path = lines(tmp_path / "a.jsonl", rows)
    made, parts = trainer(path, "multilabel", encoder, epochs=40, trained="all", optimiser=OptimiserSettings(lr=5e-3))
    assert trained(made, 40).evaluate(parts.test)[1].values["f1"] > 0.9


def test_a_head_alone_on_a_backbone_that_has_nothing_learned_is_refused(tmp_path):
    rows = [{"size": float(n), "label": "ab"[n % 2]} for n in range(40)]
    path = lines(tmp_path / "a.jsonl", rows)
    model = {"backbone": {"kind": "mlp"}, "head": {"kind": "classification"}, "pipeline": {"kind": "tabular"}}
    data = DataSettings(path=str(path))
    found = samples(files.read(data), data, spec_of(model))
    parts = split(files.read(data), data, found, 0)
    with pytest.raises(ConfigError, match="trained=all"):
        make(FitSettings(name="a", data=data, model=model), found, parts, None)


class Bag(Backbone):
    """A class of somebody's own, which reads no weights until it is asked to say that it has."""

    Options = BagOptions
    reads = frozenset({"input_ids"})

    def __init__(self, options):
        super().__init__()
        self.options, self.width = options, 4
        self.has_read_weights = options.says_so
        self.embedding = torch.nn.Embedding(1000, 4)

    @classmethod
    def make(cls, options, _shapes, _directory, *, pretrained):
        del pretrained
        return cls(options)

    def forward(self, batch):
        return Features(self.embedding(batch["input_ids"]).mean(1))


@pytest.fixture
def bag(monkeypatch):
    """Add it to the backbones that there are."""
    monkeypatch.setitem(parts._BUILT_IN["backbone"], "bag", f"{__name__}:Bag")


def a_bag(**options):
    return {"backbone": {"kind": "bag", **options}, "head": {"kind": "classification"}, "pipeline": {"kind": "text"}}


@pytest.mark.parametrize("trained", ["head", "lora"])
def test_a_backbone_that_read_no_weights_is_not_left_as_it_is_though_there_is_a_base(encoder, tmp_path, bag, trained):
    path = texts(tmp_path)
    with pytest.raises(ConfigError, match=r"bag has read no weights of a base.*say trained=all"):
        trainer(path, "classification", encoder, spec=a_bag(), trained=trained)
    whole, _ = trainer(path, "classification", encoder, spec=a_bag(), trained="all")
    assert any(name.startswith("backbone.") for name in whole.learner.trained())
    said, _ = trainer(path, "classification", encoder, spec=a_bag(says_so=True))
    assert set(said.learner.trained()) == {"head.linear.weight", "head.linear.bias"}


def test_layers_that_are_not_there_get_no_adapters(encoder, tmp_path):
    with pytest.raises(ConfigError, match="there are dense, key, query, value"):
        trainer(texts(tmp_path), "classification", encoder, trained="lora", lora=lora("qurey"))


def lora(*targets):
    return LoraSettings(targets=targets)


def test_no_batch_but_a_single_one_has_one_row():
    assert [len(rows) for rows in batches(range(33), 16)] == [16, 17]
    assert [len(rows) for rows in batches(range(32), 16)] == [16, 16]
    assert [len(rows) for rows in batches(range(1), 16)] == [1]
    assert [len(rows) for rows in batches(range(3), 1)] == [1, 1, 1]


def test_the_rate_rises_and_falls_as_the_schedule_says():
    cosine = ScheduleSettings(kind="cosine", warmup=0.2)
    rates = [rate_at(cosine, step, 10) for step in range(10)]
    assert rates[0] < rates[1] < rates[2] == 1.0
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rate_at(ScheduleSettings(kind="constant", warmup=0.0), 9, 10) == 1.0
    assert rate_at(ScheduleSettings(kind="linear", warmup=0.0), 5, 10) == 0.5


def test_figures_of_classes_count_those_that_have_no_row():
    answers = [{"label": label} for label in "aab"]
    figures = measure("classes", ("a", "b", "c"), ["a", "b", "b"], answers)
    assert figures.values["accuracy"] == pytest.approx(2 / 3)
    assert figures.values["macro_f1"] == pytest.approx(2 / 3)
    assert figures.confusion == ((1, 0, 0), (1, 1, 0), (0, 0, 0))
    assert (figures.classes["b"].recall, figures.classes["c"].rows) == (0.5, 0)


def test_figures_of_numbers_and_spans_are_what_they_are_defined_as():
    numbers = measure("numbers", (), [1.0, 2.0, 3.0], [{"value": value} for value in (1.0, 2.0, 5.0)])
    assert numbers.values["mae"] == pytest.approx(2 / 3)
    assert numbers.values["rmse"] == pytest.approx((4 / 3) ** 0.5)
    assert numbers.values["r2"] == pytest.approx(-1.0)
    span = {"start": 0, "end": 3, "label": "X"}
    spans = measure("spans", ("O", "X"), [[span], [span]], [[span], [{**span, "end": 4}]])
    assert spans.values == {"f1": 0.5, "precision": 0.5, "recall": 0.5}


def test_a_trainer_that_is_taken_up_between_steps_ends_as_one_that_went_on(encoder, tmp_path):
    path = texts(tmp_path)
    dropping = attrs.evolve(lora(), dropout=0.2)  # so that the generator's place matters
    whole, _ = trainer(path, "classification", encoder, trained="lora", lora=dropping)
    trained(whole, 3)

    class Broken(Exception):
        pass

    def stop():
        if (first.place.epoch, first.place.step) == (2, 2):
            raise Broken

    first, _ = trainer(path, "classification", encoder, trained="lora", lora=dropping)
    first.next_epoch(first.run_epoch(stop))
    with pytest.raises(Broken):
        first.run_epoch(stop)
    kept = tmp_path / "checkpoint.safetensors"
    checkpoints.write(kept, first.tensors(), {"step": first.place.step}, {"a": 1})
    found = checkpoints.read(kept)
    assert (found.document, found.identity) == ({"step": 2}, {"a": 1})

    second, _ = trainer(path, "classification", encoder, trained="lora", lora=dropping)
    second.resume(found.tensors, attrs.evolve(first.place))
    trained(second, 2)
    assert all(value.equal(second.learner.trained()[name]) for name, value in whole.learner.trained().items())


def test_a_checkpoint_that_is_cut_off_is_told_and_one_that_is_not_there_is_none(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    assert checkpoints.read(path) is None
    checkpoints.write(path, {"a": torch.ones(1000)}, {}, {})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ConfigError, match="no whole checkpoint"):
        checkpoints.read(path)


def test_a_checkpoint_of_another_architecture_is_refused_with_the_tensor_that_differs(tmp_path):
    there = {"architecture": {"head/linear/weight": "[2, 32] float32"}, "settings": {"seed": 1}}
    here = {"architecture": {"head/linear/weight": "[3, 32] float32"}, "settings": {"seed": 1}}
    with pytest.raises(ConfigError, match=r"head/linear/weight is .\[2, 32\] float32. there and .\[3, 32\]"):
        checkpoints.refuse_another(tmp_path / "c", there, here)
    checkpoints.refuse_another(tmp_path / "c", there, there)
