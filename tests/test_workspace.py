"""The build folder: what is reused, what is re-run, and what a failure leaves behind."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from attrs import frozen

from edge.errors import CompileError, ToolchainError, WorkspaceError
from edge.folder.publication import settle
from edge.folder.workspace import MANIFEST, Artifact, Workspace, content_key, stage_key
from edge.progress import Silent


@frozen
class Made:
    text: str


def make(text: str, calls: list[str] | None = None):
    def action(out: Path) -> Made:
        if calls is not None:
            calls.append(text)
        (out / "file.txt").write_text(text)
        return Made(text)

    return action


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "build" / "net"


def test_a_stage_runs_once_and_its_result_comes_back_typed(root: Path) -> None:
    calls: list[str] = []
    for expected in (False, True):
        with Workspace(root, Silent()) as workspace:
            stage = workspace.run("export", {"a": 1}, make("x", calls), Made)
            assert stage.cached is expected
            assert stage.result == Made("x")
            assert stage.path("file.txt").read_text() == "x"
    assert calls == ["x"]


def test_a_changed_input_runs_the_stage_again(root: Path) -> None:
    calls: list[str] = []
    with Workspace(root, Silent()) as workspace:
        workspace.run("export", {"a": 1}, make("x", calls), Made)
        workspace.run("export", {"a": 2}, make("y", calls), Made)
    assert calls == ["x", "y"]


def test_changed_code_changes_the_key(tmp_path: Path) -> None:
    assert stage_key("s", {}, "digest") == stage_key("s", {}, "digest")
    assert stage_key("s", {}, "digest") != stage_key("s", {}, "another")
    # The compiler works in a folder of this name, so it is in the bytes of every program.
    assert content_key("compile", {"yaml": "1", "onnx": "2"}) == (
        "21da7230f51e06050c99b44fee0478382937a36d8739ca3cb81e07831924a004"
    )


def test_stages_of_an_earlier_edge_are_told_and_made_anew(tmp_path: Path) -> None:
    calls: list[str] = []
    with Workspace(tmp_path / "net", Silent()) as workspace:
        workspace.run("export", {"a": 1}, make("x", calls), Made)
        workspace.run("simplify", {"a": 1}, make("x", calls), Made)
    for path in (tmp_path / "net/.stages").glob("*/stage.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "schema_version": 1}))
    reporter = Silent()
    with Workspace(tmp_path / "net", reporter) as workspace:
        assert reporter.warnings == [f"2 stages in {tmp_path / 'net'} made by an earlier edge and not reused"]
        workspace.run("export", {"a": 1}, make("x", calls), Made)
    assert len(calls) == 3


def test_the_key_does_not_depend_on_the_order_of_inputs() -> None:
    assert stage_key("s", {"a": 1, "b": 2}) == stage_key("s", {"b": 2, "a": 1})


@pytest.mark.parametrize("harm", ["edit", "delete", "truncate record"])
def test_a_damaged_stage_is_made_again(root: Path, harm: str) -> None:
    with Workspace(root, Silent()) as workspace:
        stage = workspace.run("export", {}, make("good"), Made)
        if harm == "edit":
            stage.path("file.txt").write_text("evil")
        elif harm == "delete":
            stage.path("file.txt").unlink()
        else:
            (stage.dir / "stage.json").write_text('{"key":')
        again = workspace.run("export", {}, make("good"), Made)
    assert not again.cached
    assert again.path("file.txt").read_text() == "good"


def test_a_failed_stage_leaves_its_log_and_no_folder(root: Path) -> None:
    def action(out: Path) -> Made:
        (out / "half.bin").write_bytes(b"half")
        (out / "vendor.log").write_text("why it failed")
        raise CompileError("hbdk-cc", "no", log=str(out / "vendor.log"))

    with Workspace(root, Silent()) as workspace, pytest.raises(CompileError) as caught:
        workspace.run("compile", {}, action, Made)
    assert not list(root.rglob("half.bin"))
    log = root / "failed" / "compile" / "vendor.log"
    assert log.read_text() == "why it failed"
    assert str(log) in str(caught.value)


def test_the_log_of_an_exporter_is_named_where_it_lies_afterwards(root: Path) -> None:
    def action(out: Path) -> Made:
        (out / "export.log").write_text("why it hung")
        raise ToolchainError("it did not export")

    with Workspace(root, Silent()) as workspace, pytest.raises(ToolchainError) as caught:
        workspace.run("export", {}, action, Made)
    log = root / "failed" / "export" / "export.log"
    assert str(caught.value).endswith(f"log: {log}")
    assert log.read_text() == "why it hung"


def test_a_full_disk_is_told_and_the_next_run_recovers(root: Path) -> None:
    def action(out: Path) -> Made:
        (out / "half.bin").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with Workspace(root, Silent()) as workspace:
        with pytest.raises(WorkspaceError, match="full") as caught:
            workspace.run("export", {}, action, Made)
        assert "--build-dir" in str(caught.value)
        assert workspace.run("export", {}, make("x"), Made).result == Made("x")


def test_a_killed_stage_is_never_taken_for_good(root: Path) -> None:
    def victim() -> None:
        def action(out: Path) -> Made:
            (out / "file.txt").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
            return Made("half")

        with Workspace(root, Silent()) as workspace:
            workspace.run("export", {}, action, Made)

    process = multiprocessing.get_context("fork").Process(target=victim)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with Workspace(root, Silent()) as workspace:
        stage = workspace.run("export", {}, make("whole"), Made)
    assert not stage.cached
    assert stage.path("file.txt").read_text() == "whole"


def test_a_foreign_folder_is_refused(root: Path) -> None:
    root.mkdir(parents=True)
    (root / "thesis.tex").write_text("years of work")
    with pytest.raises(WorkspaceError, match="did not make"), Workspace(root, Silent()):
        pass
    assert (root / "thesis.tex").read_text() == "years of work"


def test_a_file_in_the_way_is_refused(root: Path) -> None:
    root.parent.mkdir(parents=True)
    root.write_text("")
    with pytest.raises(WorkspaceError, match="is a file"), Workspace(root, Silent()):
        pass


def test_a_file_among_the_parents_is_told(root: Path) -> None:
    root.parent.write_text("")
    with pytest.raises(WorkspaceError, match="--build-dir"), Workspace(root, Silent()):
        pass


def _hold(root: Path, ready: object, release: object) -> None:
    with Workspace(root, Silent()):
        ready.set()
        release.wait(30)


def test_two_builds_of_one_model_wait_for_each_other(root: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(root, ready, release))
    holder.start()
    assert ready.wait(30)

    class Releasing(Silent):
        def warn(self, message: str) -> None:
            super().warn(message)
            release.set()

    reporter = Releasing()
    with Workspace(root, reporter) as workspace:
        workspace.run("export", {}, make("x"), Made)
    holder.join()
    assert reporter.warnings
    assert "another edge" in reporter.warnings[0]


def publish(workspace: Workspace, name: str, text: str) -> None:
    stage = workspace.run("export", {"text": text}, make(text), Made)
    manifest = {"artifacts": [{"path": name}, {"path": "report.md"}]}
    workspace.publish([Artifact("bin", stage.path("file.txt"), name)], manifest, texts={"report.md": text})
    workspace.discard_all_but([stage])


def test_publishing_replaces_the_set_and_removes_what_is_no_longer_in_it(root: Path) -> None:
    with Workspace(root, Silent()) as workspace:
        publish(workspace, "a.bin", "one")
        publish(workspace, "b.bin", "two")
    assert not (root / "a.bin").exists()
    assert (root / "b.bin").read_text() == "two"
    assert (root / "report.md").read_text() == "two"
    assert len(list((root / ".stages").iterdir())) == 1


def test_a_failure_after_publishing_loses_nothing(root: Path) -> None:
    with Workspace(root, Silent()) as workspace:
        publish(workspace, "a.bin", "one")
    manifest = (root / MANIFEST).read_text()
    with Workspace(root, Silent()) as workspace, pytest.raises(ZeroDivisionError):
        workspace.run("export", {"text": "new"}, lambda out: Made(str(1 / 0)), Made)
    assert (root / "a.bin").read_text() == "one"
    assert (root / MANIFEST).read_text() == manifest
    with Workspace(root, Silent()) as workspace:
        assert workspace.run("export", {"text": "one"}, make("one"), Made).cached


def test_a_folder_is_shown_by_a_relative_link(root: Path) -> None:
    with Workspace(root, Silent()) as workspace:
        stage = workspace.run("calibrate", {}, make("x"), Made)
        workspace.publish([], {"artifacts": []}, folders={"data": stage.dir})
    moved = root.with_name("moved")
    root.rename(moved)
    assert (moved / "data" / "file.txt").read_text() == "x"


def test_copies_where_hard_links_are_not_to_be_had(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EXDEV, "cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    with Workspace(root, Silent()) as workspace:
        publish(workspace, "a.bin", "one")
    assert (root / "a.bin").read_text() == "one"
    assert (root / "a.bin").stat().st_nlink == 1


def test_unchanged_files_are_not_hashed_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Workspace(root, Silent()) as workspace:
        workspace.run("export", {}, make("x"), Made)

    def refuse(path: Path) -> str:
        raise AssertionError(path)

    monkeypatch.setattr("edge.folder.workspace.sha256_of", refuse)
    with Workspace(root, Silent()) as workspace:
        assert workspace.run("export", {}, make("x"), Made).cached


def test_a_touched_but_equal_file_is_still_good(root: Path) -> None:
    with Workspace(root, Silent()) as workspace:
        stage = workspace.run("export", {}, make("x"), Made)
        os.utime(stage.path("file.txt"), (time.time() + 100, time.time() + 100))
        assert workspace.run("export", {}, make("x"), Made).cached


def test_a_record_is_json_with_relative_names(root: Path) -> None:
    with Workspace(root, Silent()) as workspace:
        stage = workspace.run("export", {}, make("x"), Made)
    record = json.loads((stage.dir / "stage.json").read_text())
    assert [file["path"] for file in record["files"]] == ["file.txt"]
    assert str(root) not in json.dumps(record)


@pytest.mark.parametrize("whole", [True, False], ids=["time kept", "record"])
def test_what_was_changed_by_hand_is_made_again(root: Path, whole: bool) -> None:
    with Workspace(root, Silent()) as workspace:
        stage = workspace.run("export", {}, make("12.5"), Made)
        if whole:
            before = stage.path("file.txt").stat()
            stage.path("file.txt").write_text("00.1")
            os.utime(stage.path("file.txt"), ns=(before.st_atime_ns, before.st_mtime_ns))
        else:
            record = stage.dir / "stage.json"
            record.write_text(record.read_text().replace('"12.5"', '"00.1"'))
        again = workspace.run("export", {}, make("12.5"), Made)
    assert not again.cached
    assert again.result == Made("12.5")
    assert again.path("file.txt").read_text() == "12.5"


class _Killed(BaseException):
    pass


def test_a_kill_at_any_moment_of_a_publication_leaves_one_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every change of the disk is a moment: the old set or the new one, whole, is what is found afterwards."""
    changes = ("replace", "unlink", "mkdir", "rmdir", "symlink_to")
    seen = set()
    for moment in range(100):
        root = tmp_path / str(moment)
        with Workspace(root, Silent()) as workspace:
            publish(workspace, "a.bin", "one")
        left = [1_000_000]

        def die(left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise _Killed

        with monkeypatch.context() as patch, Workspace(root, Silent()) as workspace:
            for name in changes:
                work = getattr(Path, name)
                patch.setattr(Path, name, lambda *a, work=work, die=die, **k: (die(), work(*a, **k))[1])
            stage = workspace.run("export", {"text": "two"}, make("two"), Made)
            try:
                manifest = {"artifacts": [{"path": "b.bin"}, {"path": "report.md"}]}
                files = [Artifact("bin", stage.path("file.txt"), "b.bin")]
                left[0] = moment
                workspace.publish(files, manifest, texts={"report.md": "two"})
                done = True
            except _Killed:
                done = False
        settle(root)
        names = {path.name for path in root.iterdir() if not path.name.startswith(".")}
        text = (root / "report.md").read_text()
        assert names == {MANIFEST, "report.md", {"one": "a.bin", "two": "b.bin"}[text]}
        assert {(root / name).read_text() for name in names - {MANIFEST}} == {text}
        assert json.loads((root / MANIFEST).read_text())["artifacts"][0]["path"] in names
        seen.add(text)
        with Workspace(root, Silent()) as workspace:
            publish(workspace, "c.bin", "three")
        assert (root / "c.bin").read_text() == "three"
        if done:
            break
    assert seen == {"one", "two"}
    assert 5 < moment < 99


def strange(root: Path) -> list[str]:
    return ["../precious", str(root.parent / "precious"), "sub/../../precious", "..", ".lock"]


def test_a_received_manifest_makes_nothing_outside_go(root: Path) -> None:
    with Workspace(root, Silent()) as workspace:
        publish(workspace, "a.bin", "one")
    precious = root.parent / "precious"
    precious.write_text("mine")
    entries = [{"path": name} for name in strange(root)]
    (root / MANIFEST).write_text(json.dumps({"artifacts": entries}))
    with Workspace(root, Silent()) as workspace:
        assert workspace.published() == []
        publish(workspace, "b.bin", "two")
    assert precious.read_text() == "mine"


def test_a_received_half_published_set_makes_nothing_outside_go(root: Path) -> None:
    with Workspace(root, Silent()) as workspace:
        publish(workspace, "a.bin", "one")
    precious = root.parent / "precious"
    precious.write_text("mine")
    (root / ".next").mkdir()
    (root / ".next" / ".gone.json").write_text(json.dumps(strange(root)))
    (root / ".next" / "a.bin").write_text("new")
    settle(root)
    assert precious.read_text() == "mine"
    assert (root / "a.bin").read_text() == "new"


@pytest.mark.parametrize("name", [".stages", "failed", ".next"])
def test_links_in_place_of_our_folders_are_refused(root: Path, name: str) -> None:
    with Workspace(root, Silent()) as workspace:
        publish(workspace, "a.bin", "one")
    elsewhere = root.parent / "elsewhere" / "export-0123456789ab"
    elsewhere.mkdir(parents=True)
    (elsewhere / "mine.txt").write_text("mine")
    shutil.rmtree(root / name, ignore_errors=True)
    (root / name).symlink_to(elsewhere.parent)
    with pytest.raises(WorkspaceError, match="is a link"), Workspace(root, Silent()):
        pass
    assert (elsewhere / "mine.txt").read_text() == "mine"


def test_only_folders_of_our_own_naming_are_removed(root: Path) -> None:
    with Workspace(root, Silent()) as workspace:
        for name in ("notes", "export-short", "export-0123456789ab", ".export-0123456789ab.partial"):
            (root / ".stages" / name).mkdir(parents=True)
        publish(workspace, "a.bin", "one")
    left = {path.name for path in (root / ".stages").iterdir()}
    assert {"notes", "export-short"} < left
    assert len(left) == 3


@pytest.mark.parametrize("name", ["../../precious", "/etc/passwd"])
def test_a_stage_that_names_files_elsewhere_is_made_again(root: Path, name: str) -> None:
    with Workspace(root, Silent()) as workspace:
        stage = workspace.run("export", {}, make("x"), Made)
        with pytest.raises(WorkspaceError, match="names"):
            stage.path(name)
        (stage.dir / "file.txt").unlink()
        (stage.dir / "file.txt").symlink_to("/etc/hostname")
        assert not workspace.run("export", {}, make("x"), Made).cached
