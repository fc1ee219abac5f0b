"""Pulls from a wheel and from a path; refusals with their reason; kills, companions and full disks."""

import sys

import attrs
import orjson
import psutil
import pytest
import trio
from places import MODEL, build_wheel, safetensors
from pulls import ignore, left_behind, processes_of, reason_of, start, stopped, visible

from mlzoo.errors import PullFailed
from mlzoo.store import Progress
from mlzoo.store.digest import of_file, of_files, of_listing
from mlzoo.store.pulling import pull


async def test_a_directory_in_a_wheel_is_installed_as_it_is(store, index, wheel_entry):
    entry, heard = wheel_entry(), []
    assert store.find(entry) is None
    installed = await pull(store, entry, heard.append)
    assert store.find(entry) == installed
    assert {path.relative_to(installed.path).as_posix() for path in installed.path.rglob("*") if path.is_file()} == set(
        MODEL
    )
    assert (installed.path / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    assert installed.size_bytes == sum(map(len, MODEL.values()))
    assert installed.digest == of_listing(of_files(installed.path))
    assert installed.converted_by is None
    assert store.verify(installed) == ()
    assert left_behind(store) == []
    assert [progress.stage for progress in heard][-2:] == ["verify", "install"]
    assert Progress("extract", installed.size_bytes, installed.size_bytes) in heard


async def test_an_installed_model_is_not_pulled_again(store, index, wheel_entry):
    entry = wheel_entry()
    first = await pull(store, entry, ignore)
    index.requests.clear()
    assert await pull(store, entry, ignore) == first
    assert index.requests == []


async def test_what_is_no_part_of_a_model_is_left_out(store, index, wheel_entry):
    extra = {**MODEL, ".gitattributes": b"", "run.py": b"", "optimizer.bin": b""}
    installed = await pull(store, wheel_entry(extra), ignore)
    assert not {path.name for path in installed.path.iterdir()} & {".gitattributes", "run.py", "optimizer.bin"}


async def test_a_wheel_that_is_not_the_pinned_one_is_refused(store, index, wheel_entry):
    reason, message = await reason_of(store, wheel_entry(archive_sha256="0" * 64))
    assert reason == "digest"
    assert "nothing of it was kept" in message
    assert visible(store) == left_behind(store) == []


async def test_a_wheel_without_a_pin_is_refused_before_any_download(store, index, wheel_entry):
    assert (await reason_of(store, wheel_entry(archive_sha256=None)))[0] == "digest"
    assert index.requests == []


async def test_weights_that_are_not_the_pinned_ones_are_refused(store, index, wheel_entry):
    reason, message = await reason_of(store, wheel_entry(sha256="0" * 64))
    assert reason == "digest"
    assert "not those that the configuration pins" in message
    assert visible(store) == []


async def test_pinned_weights_are_accepted_and_another_pin_makes_them_not_installed(store, index, wheel_entry):
    installed = await pull(store, wheel_entry(), ignore)
    assert store.find(wheel_entry(sha256=installed.source_sha256)) == installed
    assert store.find(wheel_entry(sha256="0" * 64)) is None


async def test_a_model_whose_source_changed_is_pulled_anew_and_the_old_files_go(store, index, wheel_entry, tmp_path):
    old = await pull(store, wheel_entry(), ignore)
    wheel = build_wheel(tmp_path / "wheels", "toy-weights", "2.0", {"toy/model/model.safetensors": safetensors(9)})
    entry = wheel_entry(source="wheel:toy-weights==2.0/toy/model", archive_sha256=of_file(wheel))
    assert store.find(entry) is None
    new = await pull(store, entry, ignore)
    assert new.path != old.path
    assert not old.path.exists()


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"config.json": b"{}", "pytorch_model.bin": b""}, "pickled weights (.bin), which can run any code"),
        ({"config.json": b"{}"}, "no weights"),
    ],
)
async def test_what_holds_no_safe_weights_is_refused(store, index, wheel_entry, files, told):
    reason, message = await reason_of(store, wheel_entry(files))
    assert reason == "source"
    assert told in message
    assert visible(store) == []


async def test_a_path_that_the_wheel_has_not_is_refused(store, index, wheel_entry):
    assert "has no toy/other" in (await reason_of(store, wheel_entry(source="wheel:toy-weights==1.0/toy/other")))[1]


async def test_a_package_that_the_index_has_not_is_no_network_error(store, index, wheel_entry):
    reason, message = await reason_of(store, wheel_entry(source="wheel:other==1.0/toy/model"))
    assert (reason, message) == ("source", "other 1.0 on the package index: the package index does not have it")


@pytest.mark.parametrize("status", [401, 403])
async def test_an_index_that_refuses_access_is_gated(store, index, wheel_entry, status):
    index.status = status
    assert (await reason_of(store, wheel_entry()))[0] == "gated"


async def test_an_index_that_cannot_be_reached_is_offline(store, wheel_entry, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    assert (await reason_of(store, wheel_entry()))[0] == "offline"


async def test_terms_that_must_be_accepted_are_asked_for_before_any_download(store, index, wheel_entry):
    entry = wheel_entry()
    entry = attrs.evolve(entry, licence=attrs.evolve(entry.licence, must_accept=True))
    reason, message = await reason_of(store, entry)
    assert reason == "licence"
    assert entry.licence.url in message
    assert index.requests == []
    assert await pull(store, entry, ignore, accept_license=True) == store.find(entry)


async def test_what_cannot_fit_is_refused_before_any_download(store, index, wheel_entry):
    assert (await reason_of(store, wheel_entry(disk_bytes=1 << 60)))[0] == "disk"
    assert index.requests == []


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX's")
@pytest.mark.parametrize("limit_bytes", [10_000, 300_000])
async def test_a_disk_that_is_full_in_the_middle_leaves_nothing_visible(store, index, wheel_entry, limit_bytes):
    """At 10,000 bytes the download does not fit, at 300,000 the unpacked weights."""
    entry = wheel_entry({"model.safetensors": safetensors(500_000)})
    packed = index.directory / "toy_weights-1.0-py3-none-any.whl"
    files = {"toy/model/model.safetensors": safetensors(500_000)}
    entry = attrs.evolve(entry, archive_sha256=of_file(_compressed(packed, files)))
    script = (
        "import os, resource, sys;"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit_bytes}, {limit_bytes}));"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    with start(store, entry, sys.executable, "-c", script) as process:
        last = orjson.loads(process.stdout.readlines()[-1])
    assert last["failed"]["reason"] == "disk"
    assert visible(store) == []
    assert not [name for name in left_behind(store) if name.startswith("work-")]
    assert await pull(store, entry, ignore) == store.find(entry)


def _compressed(path, files):
    import zipfile

    with zipfile.ZipFile(path) as old:
        members = {member: old.read(member) for member in old.namelist()}
    path.unlink()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in {**members, **files}.items():
            wheel.writestr(name, content)
    return path


async def test_two_pulls_of_one_model_are_one_download(store, index, wheel_entry):
    entry, heard, results = wheel_entry({"model.safetensors": safetensors(300_000)}), [], []
    index.stop_after_bytes = 100_000

    def hear(progress):
        heard.append(progress)
        if progress.stage == "wait":
            index.go_on.set()

    async def one(on_progress):
        results.append(await pull(store, entry, on_progress))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, ignore)
        await stopped(index)
        nursery.start_soon(one, hear)
    assert results == [store.find(entry)] * 2
    assert [progress.stage for progress in heard] == ["wait"]
    assert len([request for request in index.requests if "GET" in request and ".whl" in request]) == 1


async def test_a_broken_connection_is_taken_up_again_or_leaves_nothing_visible(store, index, wheel_entry):
    entry = wheel_entry({"model.safetensors": safetensors(300_000)})
    index.stop_after_bytes, index.closes = 100_000, True
    index.go_on.set()
    failed: PullFailed | None = None
    try:
        await pull(store, entry, ignore)  # pip from 25.1 on goes on where the connection broke
    except PullFailed as error:
        failed = error
    if failed is not None:
        assert failed.data["reason"] in {"offline", "digest"}  # an older one takes the part for the whole
        assert "connection" in failed.message
        assert visible(store) == []
    assert await pull(store, entry, ignore) == store.find(entry)


async def test_many_pulls_at_once_are_one_download(store, index, wheel_entry):
    entry, results = wheel_entry(), []

    async def one():
        results.append(await pull(store, entry, ignore))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(one)
    assert results == [store.find(entry)] * 3
    assert len([request for request in index.requests if ".whl" in request and "GET" in request]) == 1


async def test_a_model_that_is_being_pulled_cannot_be_removed(store, index, wheel_entry):
    entry = wheel_entry({"model.safetensors": safetensors(300_000)})
    index.stop_after_bytes = 100_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pull, store, entry, ignore)
        await stopped(index)
        with pytest.raises(PullFailed, match="being pulled just now"):
            store.remove(entry)
        nursery.cancel_scope.cancel()
    assert store.remove(entry) > 0
    assert not store.partial("toy").exists()


async def test_a_cancelled_pull_leaves_no_process_and_the_next_one_completes(store, index, wheel_entry):
    entry = wheel_entry({"model.safetensors": safetensors(300_000)})
    index.stop_after_bytes = 100_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pull, store, entry, ignore)
        await stopped(index)
        working = processes_of(store)
        assert len(working) == 2
        nursery.cancel_scope.cancel()
    psutil.wait_procs(working, timeout=10)
    assert processes_of(store) == []
    assert visible(store) == []
    assert await pull(store, entry, ignore) == store.find(entry)


async def test_a_killed_pull_takes_its_child_along_and_the_next_one_completes(store, index, wheel_entry):
    entry = wheel_entry({"model.safetensors": safetensors(300_000)})
    index.stop_after_bytes = 100_000
    with start(store, entry) as process:
        await stopped(index)
        working = processes_of(store)
        assert len(working) == 2
        process.kill()
    _, alive = psutil.wait_procs(working, timeout=10)
    assert not alive
    assert visible(store) == []
    assert any(name.startswith("work-") for name in left_behind(store))
    assert await pull(store, entry, ignore) == store.find(entry)
    assert left_behind(store) == []


async def test_a_pull_whose_sidecar_is_killed_leaves_too(store, index, wheel_entry):
    entry = wheel_entry({"model.safetensors": safetensors(300_000)})
    index.stop_after_bytes = 100_000
    script = "import subprocess, sys; subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE).wait()"
    with start(store, entry, sys.executable, "-c", script) as sidecar:
        await stopped(index)
        working = processes_of(store)
        assert len(working) == 3
        sidecar.kill()
    _, alive = psutil.wait_procs(working, timeout=10)
    assert not alive


async def test_a_wheel_that_had_arrived_whole_is_not_downloaded_again(store, index, wheel_entry):
    entry = wheel_entry(sha256="0" * 64)
    await reason_of(store, entry)
    index.requests.clear()
    installed = await pull(store, attrs.evolve(entry, sha256=None), ignore)
    assert installed == store.find(wheel_entry())
    assert index.requests == []


async def test_a_damaged_manifest_counts_as_not_installed_and_a_pull_mends_it(store, index, wheel_entry):
    entry = wheel_entry()
    installed = await pull(store, entry, ignore)
    for damage in (b"", b"[]", b'{"format":1}', b'{"format":99}'):
        store.manifest("toy").write_bytes(damage)
        assert store.find(entry) is None
    assert await pull(store, entry, ignore) == installed


async def test_safetensors_at_a_path_are_used_where_they_are(store, tmp_path, hub_entry):
    for name, content in MODEL.items():
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_bytes(content)
    entry = attrs.evolve(hub_entry, source=f"path:{tmp_path / 'mine'}")
    installed = await pull(store, entry, ignore)
    assert installed.path == tmp_path / "mine"
    (tmp_path / "mine" / "config.json").write_bytes(b"[]")
    (tmp_path / "mine" / "tokenizer.json").unlink()
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"")
    told = "\n".join(store.verify(installed))
    assert "config.json has changed" in told
    assert "tokenizer.json is missing" in told
    assert "model.safetensors has 0 bytes" in told
    store.remove(entry)
    assert store.find(entry) is None
    assert (tmp_path / "mine" / "config.json").exists()


async def test_a_path_that_does_not_exist_is_a_clear_error(store, tmp_path, hub_entry):
    entry = attrs.evolve(hub_entry, source=f"path:{tmp_path / 'nowhere'}")
    assert "does not exist" in (await reason_of(store, entry))[1]


async def test_a_source_that_names_nothing_is_a_clear_error(store, hub_entry):
    assert "expected wheel:" in (await reason_of(store, attrs.evolve(hub_entry, source="ftp:x")))[1]


@pytest.mark.torch
async def test_a_gguf_file_that_is_none_cannot_be_converted_and_leaves_nothing(store, tmp_path, hub_entry):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF, but not really")
    entry = attrs.evolve(hub_entry, source=f"path:{tmp_path / 'broken.gguf'}")
    assert (await reason_of(store, entry))[0] == "conversion"
    assert visible(store) == []
