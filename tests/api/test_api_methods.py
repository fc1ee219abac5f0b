"""The table of methods, and what importing it costs."""

import subprocess
import sys
from typing import get_args

import attrs
import pytest

from mlzoo.api.methods import METHODS, NOTHING, Empty, find
from mlzoo.api.wire import structure, unstructure
from mlzoo.errors import InvalidParams, MethodNotFound

VERSION_1 = [
    "initialize", "ping", "status", "shutdown", "chat", "complete", "embed", "tokenize", "detokenize", "cancel",
    "forget", "resume", "models.list", "models.pull", "models.remove", "models.estimate", "models.load",
    "models.unload", "models.info", "predict", "devices.list", "providers.list", "providers.authenticate",
    "events.read", "events.subscribe", "events.unsubscribe", "metrics", "rpc.discover", "conversations.list",
    "conversations.get", "conversations.fork", "conversations.delete", "personas.list", "personas.get", "personas.put",
    "personas.delete",
]  # fmt: skip


def test_the_table_names_every_method_of_the_first_version_and_no_other():
    assert sorted(METHODS) == sorted(VERSION_1)


@pytest.mark.parametrize("method", VERSION_1)
def test_every_method_has_a_class_for_its_params_and_its_result(method):
    spec = find(method)
    assert spec.name == method
    assert attrs.has(spec.params)
    assert attrs.has(spec.result) or method == "rpc.discover" or all(map(attrs.has, get_args(spec.result)))
    assert spec.summary.endswith(".")


def test_what_answers_without_a_log_is_what_the_protocol_says():
    assert {spec.name for spec in METHODS.values() if spec.without_log} == {"initialize", "ping", "status", "shutdown"}


def test_only_what_the_engine_decides_waits():
    assert {spec.name for spec in METHODS.values() if spec.wait} == {
        "shutdown", "chat", "complete", "embed", "predict", "tokenize", "detokenize", "cancel", "resume",
        "models.pull", "models.remove", "models.load", "models.unload", "personas.put",
    }  # fmt: skip


def test_an_unknown_method_is_refused_with_the_nearest_name():
    with pytest.raises(MethodNotFound, match=r"did you mean models\.list\?") as caught:
        structure("model.list", None)
    assert caught.value.data["available"] == list(METHODS)


@pytest.mark.parametrize("params", [None, {}, {"_meta": {"trace": 1}}])
def test_a_method_without_params_takes_nothing_but_the_hosts_own(params):
    assert structure("ping", params) is NOTHING


def test_a_method_without_params_refuses_some():
    with pytest.raises(InvalidParams) as caught:
        structure("ping", {"verbose": True, "_meta": 1})
    assert caught.value.data == {"path": "verbose", "expected": "no parameters"}


def test_the_empty_result_is_an_empty_object():
    assert unstructure(Empty()) == {}


def test_a_ping_brings_in_neither_cattrs_nor_the_classes_of_any_group():
    program = """
import sys
from mlzoo.api.wire import structure, unstructure
unstructure(structure("ping", None))
loaded = {name for name in sys.modules if name.startswith(("cattr", "mlzoo"))}
print(*sorted(loaded))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["mlzoo", "mlzoo.api", "mlzoo.api.methods", "mlzoo.api.wire", "mlzoo.errors"]
