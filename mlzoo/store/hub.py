"""Weights from a model hub, through huggingface_hub: the user's own endpoint, token and proxy are honoured.

``fetch`` runs in the pulling process; what it starts, ``python -m mlzoo.store.hub``, is the only place that imports the
library. That prints progress and at most one ``{"failed": ...}`` line.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import orjson

from mlzoo.errors import PullFailed
from mlzoo.store import children, digest
from mlzoo.store.layout import Progress
from mlzoo.store.sources import check_kind, check_weights, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlzoo.config import ModelEntry
    from mlzoo.config.sources import Hub

PATTERNS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.txt",
    "*.model",
    "*.jinja",
    "README.md",
    "LICENSE*",
)


def fetch(entry: ModelEntry, source: Hub, partial: Path, on_progress: Callable[[Progress], None]) -> Path:
    """Return a directory with the files of a repository. A pull that broke off goes on where it was.

    Raises:
        PullFailed: With its reason.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise PullFailed("models from a hub need the extra `local`: pip install 'mlzoo[local]'", reason="source")
    target = partial / "hub"
    target.mkdir(exist_ok=True)
    order = {
        "repository": source.repository,
        "revision": source.revision,
        "kind": entry.kind,
        "patterns": list(entry.files or PATTERNS),
        "target": str(target),
    }
    total, commit = entry.download_bytes, ""
    failed: dict[str, Any] = {}

    def hear(line: bytes) -> None:
        nonlocal total, commit
        told = orjson.loads(line)
        total, commit = told.get("total", total), told.get("commit", commit)
        failed.update(told.get("failed", {}))

    ended = children.run(
        "mlzoo.store.hub",
        [orjson.dumps(order).decode()],
        environ={**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        on_line=hear,
        on_tick=lambda: on_progress(Progress("download", _arrived_bytes(target), total)),
    )
    if failed:
        raise PullFailed(f"{describe(source)}: {failed['message']}", reason=failed["reason"])
    if ended.status != 0:
        last = " ".join(ended.errors.splitlines()[-3:])
        raise PullFailed(f"{describe(source)}: the download ended with status {ended.status}: {last}", reason="source")
    on_progress(Progress("download", _arrived_bytes(target), total))
    return target / commit


def _arrived_bytes(directory: Path) -> int:
    """Return the size of what has arrived, parts of files included."""
    arrived = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            if not name.endswith((".lock", ".metadata")):
                try:
                    arrived += Path(parent, name).stat().st_size
                except FileNotFoundError:
                    continue  # just renamed
    return arrived


# --------------------------------------------------------------------------------------- in the child


def main(arguments: Sequence[str]) -> int:
    """Download what the order in the first argument asks for."""
    from huggingface_hub.errors import HTTPError  # noqa: PLC0415 - of the client that the library uses

    try:
        _download(orjson.loads(arguments[0]))
    except PullFailed as error:
        _say({"failed": {"message": error.message, "reason": error.data["reason"]}})
        return 1
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        reason, message = _meaning(error)
        _say({"failed": {"message": message, "reason": reason}})
        return 1
    return 0


def _download(order: Mapping[str, Any]) -> None:
    from huggingface_hub import HfApi, hf_hub_url  # noqa: PLC0415 - only this process pays for it
    from huggingface_hub.utils import filter_repo_objects  # noqa: PLC0415

    repository, target = order["repository"], Path(order["target"])
    found = HfApi().model_info(repository, revision=order["revision"], files_metadata=True)
    siblings = {sibling.rfilename: sibling for sibling in found.siblings or ()}
    check_weights(siblings, repository)
    wanted = [siblings[name] for name in filter_repo_objects(siblings, allow_patterns=order["patterns"])]
    _say({"commit": found.sha, "total": sum(sibling.size or 0 for sibling in wanted)})
    for sibling in sorted(wanted, key=lambda sibling: sibling.rfilename != "config.json"):  # It tells what the rest is.
        if ".." in PurePosixPath(sibling.rfilename).parts or PurePosixPath(sibling.rfilename).is_absolute():
            raise PullFailed(f"{repository} holds the path {sibling.rfilename}", reason="source")
        _fetch_file(hf_hub_url(repository, sibling.rfilename, revision=found.sha), sibling, target / found.sha)
        if sibling.rfilename == "config.json":
            check_kind((target / found.sha / "config.json").read_bytes(), order["kind"], repository)


def _fetch_file(url: str, sibling: Any, target: Path) -> None:
    """Bring one file into place once it is whole and has its digest; a part of it that is here is gone on from.

    Parts go by their digest and whole files by their commit: a revision that moves on mixes nothing.
    The library's own download begins a file anew in every process; only its request is used.
    """
    from huggingface_hub.file_download import http_get  # noqa: PLC0415
    from huggingface_hub.utils import build_hf_headers  # noqa: PLC0415

    place = target / sibling.rfilename
    if place.exists():
        return
    expected = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
    part = target.parent / ".parts" / expected
    part.parent.mkdir(exist_ok=True)
    with part.open("ab") as file:
        if (arrived := file.tell()) < sibling.size:
            http_get(url, file, resume_size=arrived, headers=build_hf_headers(), expected_size=sibling.size)
    if expected != (digest.of_file(part) if sibling.lfs else digest.of_git_blob(part)):
        part.unlink()
        raise PullFailed(f"{sibling.rfilename} is not what the hub says it is; it was removed", reason="digest")
    place.parent.mkdir(parents=True, exist_ok=True)
    part.replace(place)


def _meaning(error: BaseException) -> tuple[str, str]:
    """Return the reason and the message for what the library raised; its causes are asked too."""
    from huggingface_hub import errors  # noqa: PLC0415

    seen: BaseException | None = error
    while seen is not None:
        match seen:
            case errors.GatedRepoError():
                return (
                    "gated",
                    "its terms must be accepted on the hub first, and a token of that account set as HF_TOKEN",
                )
            case errors.RevisionNotFoundError():
                return "source", "there is no such revision"
            case errors.RepositoryNotFoundError():
                return "gated", "there is no such repository, or it is private: then set HF_TOKEN"
            case errors.HfHubHTTPError() if seen.response.status_code in {401, 403}:
                return "gated", "the hub refuses access; set HF_TOKEN to a token that may read it"
            case errors.HfHubHTTPError() if seen.response.status_code < 500:
                return "source", f"{seen}"
            case errors.HTTPError() | ConnectionError():
                return "offline", "the hub cannot be reached; what has arrived is kept, pull again to go on"
            case OSError() if seen.errno is not None:
                return "disk", f"{seen.strerror}"
        seen = seen.__cause__ or seen.__context__
    return "source", f"{type(error).__name__}: {error}"


def _say(line: Mapping[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(line) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
