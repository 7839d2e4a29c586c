"""Images in an object store, by fsspec: ``s3://bucket/prefix``; the store's names and labels are those of a folder."""

from __future__ import annotations

import re
import tempfile
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from edge.errors import ImageError, InputError, UsageError

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://\S+")
_TEXTS = (".csv", ".txt")  # what may hold labels is read; of all else the name is enough


def is_address(source: str) -> bool:
    """Tell whether a source is an address in a store."""
    return bool(_ADDRESS.fullmatch(source))


def read(url: str) -> bytes:
    """Return an object's bytes.

    Raises:
        ImageError: it can't be read.
    """
    store, path = _store(url)
    try:
        found: bytes = store.cat_file(path)
    except Exception as error:  # each store has exceptions of its own
        raise ImageError(f"{url} can't be read: {type(error).__name__}: {error}"[:300]) from error
    return found


def skeleton(url: str) -> tempfile.TemporaryDirectory[str]:
    """Return a folder with the names below an address, empty files all but those that may hold labels.

    So the labels are found by the code that finds them in a folder.

    Raises:
        InputError: nothing is there, or the store refuses.
    """
    store, root = _store(url)
    try:
        names = [str(name) for name in store.find(root)]
    except Exception as error:
        raise InputError(
            f"{url} can't be listed: {type(error).__name__}: {error}"[:300],
            expected="an address that these credentials may list",
            remedy="export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…   and AWS_ENDPOINT_URL, for a store of your own",
        ) from error
    folder: tempfile.TemporaryDirectory[str] = tempfile.TemporaryDirectory(prefix="edge-store-")
    top = PurePosixPath(root)
    for name in names:
        below = PurePosixPath(name).relative_to(top)
        place = Path(folder.name, *(part for part in below.parts if part not in ("..", "/")))
        if place == Path(folder.name):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(store.cat_file(name) if place.suffix.lower() in _TEXTS else b"")
    return folder


@cache
def _filesystem(protocol: str) -> Any:
    try:
        import fsspec

        return fsspec.filesystem(protocol)
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"{protocol}:// needs a package that is not installed: {error}"[:300],
            remedy="pip install 'edge[cluster]'   has fsspec and s3fs; other stores have their own packages",
        ) from error


def _store(url: str) -> tuple[Any, str]:
    protocol = url.partition("://")[0]
    store = _filesystem(protocol)
    return store, str(store._strip_protocol(url)).rstrip("/")
