from __future__ import annotations

import errno
import hashlib
import http.server
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.errors import DownloadError, WorkspaceError
from edge.progress import Silent
from edge.sources import download as module
from edge.sources.download import cache_dir, cache_entry, download, fetch

BODY = bytes(range(256)) * 4000
SHA = hashlib.sha256(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012 - one list for the server's threads
    released = threading.Event()

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, body: bytes = BODY, status: int = 200, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        path = self.path.split("?")[0]
        if path.endswith("/good.onnx"):
            self.answer()
        elif path == "/silent.onnx":  # headers and half of the body, then nothing
            self.answer(BODY[:100], length=len(BODY))
            self.wfile.flush()
            self.released.wait(10)
        elif path == "/mute.onnx":
            self.released.wait(10)
        elif path == "/cut.onnx":
            self.answer(BODY[:-1], length=len(BODY))
        elif path == "/empty.onnx":
            self.answer(b"")
        elif path == "/page.onnx":
            self.answer(b"<!DOCTYPE html><p>log in", Content_Type="text/plain")
        elif path == "/typed.onnx":
            self.answer(b"please log in", Content_Type="text/html; charset=utf-8")
        elif path == "/hub":  # as Hugging Face: the checksum stands on the redirect
            self.answer(b"", 302, Location="/store/good.onnx", X_Linked_Etag=f'"{SHA}"')
        elif path == "/hub-bad":
            self.answer(b"", 302, Location="/store/good.onnx", X_Linked_Etag='"' + "0" * 64 + '"')
        elif path == "/huge.onnx":
            self.answer(b"x", length=1 << 60)
        elif path == "/broken.onnx":
            self.answer(b"", 500)
        else:
            self.answer(b"no", 404)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    Handler.asked.clear()
    Handler.released.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        Handler.released.set()
        running.shutdown()


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.part")]


def test_gets_a_whole_file(server: str, tmp_path: Path) -> None:
    got = download(f"{server}/good.onnx", tmp_path / "m.onnx", sha256=SHA.upper())
    assert (got.sha256, got.bytes, got.path.read_bytes()) == (SHA, len(BODY), BODY)
    assert not leftovers(tmp_path)


def test_tells_its_progress(server: str, tmp_path: Path) -> None:
    class Listener(Silent):
        def __init__(self) -> None:
            super().__init__()
            self.heard: list[tuple[str, float | None]] = []

        def update(self, text: str, fraction: float | None = None) -> None:
            self.heard.append((text, fraction))

    listener = Listener()
    download(f"{server}/good.onnx", tmp_path / "m.onnx", reporter=listener)
    assert listener.heard[-1] == ("download m.onnx: 1.0 of 1.0 MB", 1.0)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere.onnx", "404"),
        ("broken.onnx", "500"),
        ("cut.onnx", "(?i)1023999|incomplete"),
        ("empty.onnx", "sent 0 bytes"),
        ("page.onnx", "web page"),
        ("typed.onnx", "web page"),
        ("hub-bad", "sha256"),
        ("silent.onnx", "silent for 0.3 s"),
        ("mute.onnx", "silent for 0.3 s"),
    ],
)
def test_a_bad_answer_is_an_error_and_leaves_nothing(server: str, tmp_path: Path, path: str, message: str) -> None:
    dest = tmp_path / "m.onnx"
    with pytest.raises(DownloadError, match=message) as caught:
        download(f"{server}/{path}", dest, read_timeout=0.3)
    assert caught.value.remedy
    assert not dest.exists()
    assert not leftovers(tmp_path)


def test_a_wrong_checksum_keeps_the_older_file(server: str, tmp_path: Path) -> None:
    dest = tmp_path / "m.onnx"
    dest.write_bytes(b"older")
    with pytest.raises(DownloadError, match=SHA) as caught:
        download(f"{server}/good.onnx", dest, sha256="1" * 64)
    assert caught.value.expected == "1" * 64
    assert dest.read_bytes() == b"older"


def test_takes_the_checksum_that_the_hub_states(server: str, tmp_path: Path) -> None:
    assert download(f"{server}/hub", tmp_path / "m.onnx").sha256 == SHA


@pytest.mark.parametrize("url", ["nonsense", "ftp://host/file", "http://host:99999/x", "http://[::1/x"])
def test_refuses_what_is_no_address(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="is not a web address"):
        download(url, tmp_path / "m.onnx")


def test_says_when_nobody_listens(server: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refused
        with pytest.raises(DownloadError, match=r"no network: 127\.0\.0\.1: .*refused"):
            download(f"http://127.0.0.1:{taken.getsockname()[1]}/m", tmp_path / "m.onnx")


def test_name_lookup_has_a_limit(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: [][: Handler.released.wait(10)])
    with pytest.raises(DownloadError, match=r"not resolved within 0\.1 s"):
        download("http://model.example/m", tmp_path / "m.onnx", connect_timeout=0.1)


def test_all_addresses_share_one_limit(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def addresses(*args: object, **kwargs: object) -> list[tuple[object, ...]]:
        return [(2, 1, 6, "", (f"192.0.2.{n}", 80)) for n in range(8)]

    tried = []

    def drop(address: tuple[str, int], timeout: float) -> None:
        tried.append(address)
        Handler.released.wait(10)
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", addresses)
    monkeypatch.setattr(socket, "create_connection", drop)
    with pytest.raises(DownloadError, match=r"no answer within 0\.3 s"):
        download("http://model.example/m", tmp_path / "m.onnx", connect_timeout=0.3)
    assert len(tried) == 8


def test_goes_through_the_proxy_of_the_environment(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server)
    url = "http://model.example/good.onnx"  # resolves nowhere: only the proxy can answer
    assert download(url, tmp_path / "m.onnx").sha256 == SHA
    assert Handler.asked == [url]


def test_names_a_dead_proxy_but_not_its_password(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("http_proxy", f"http://me:secret@127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(DownloadError, match="the proxy 127") as caught:
            download("http://model.example/m", tmp_path / "m.onnx")
    assert "secret" not in str(caught.value)


def test_a_file_larger_than_the_disk_is_refused_before_it_starts(server: str, tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="free") as caught:
        download(f"{server}/huge.onnx", tmp_path / "m.onnx")
    assert "EDGE_CACHE" in str(caught.value.remedy)


def test_a_full_disk_is_said_and_cleaned_up(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(WorkspaceError, match="is full"):
        download(f"{server}/good.onnx", tmp_path / "m.onnx")
    assert not leftovers(tmp_path)


def test_a_missing_folder_is_said(server: str, tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="can't be written"):
        download(f"{server}/good.onnx", tmp_path / "no" / "m.onnx")


def test_the_cache_downloads_once_and_checks_again(server: str, tmp_path: Path) -> None:
    url = f"{server}/good.onnx"
    first = fetch(url)
    assert fetch(url) == first
    assert first.path == cache_entry(url)
    assert cache_dir() in first.path.parents
    assert Handler.asked == ["/good.onnx"]
    first.path.write_bytes(BODY[:-1] + b"!")  # damaged on the disk
    assert fetch(url).path.read_bytes() == BODY
    assert len(Handler.asked) == 2


def test_the_cache_keeps_checksums_apart(server: str) -> None:
    url = f"{server}/good.onnx"
    fetch(url)
    with pytest.raises(DownloadError, match="sha256"):
        fetch(url, sha256="2" * 64)
    assert fetch(url, sha256=SHA).sha256 == SHA


def test_the_cache_takes_no_file_of_a_killed_run(server: str) -> None:
    url = f"{server}/good.onnx"
    entry = cache_entry(url)
    entry.parent.mkdir(parents=True)
    entry.write_bytes(b"half")
    stale = entry.with_name("good.onnx.1-1.part")
    stale.write_bytes(b"half")
    assert fetch(url).path.read_bytes() == BODY
    assert not stale.exists()


def test_two_at_once_download_once(server: str) -> None:
    url = f"{server}/good.onnx"
    threads = [threading.Thread(target=fetch, args=(url,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Handler.asked == ["/good.onnx"]


def test_the_cache_works_offline(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{server}/good.onnx"
    fetch(url)
    monkeypatch.setattr(module, "reach", lambda *a: pytest.fail("asked the network"))
    assert fetch(url).sha256 == SHA


def test_a_cache_that_cannot_be_made_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "file"))
    with pytest.raises(WorkspaceError, match="can't be written"):
        fetch("http://127.0.0.1:9/x")
