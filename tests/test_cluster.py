"""Work on a dask.distributed cluster: the same results as one machine's, whatever happens to workers."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from attrs import evolve

from edge.accuracy.answers import NAME
from edge.cluster import pool
from edge.cluster import worker as on_worker
from edge.cluster.content import PIECE, Contents, WrongContent
from edge.cluster.pool import Cluster, ClusterError
from edge.cluster.scheduler import _deaf_children, ask
from edge.cluster.worker import Task
from edge.errors import EdgeError, InputError, ModelFileError, NotEnoughMemory
from edge.folder.store import Store
from edge.images.frames import cores
from edge.progress import Quiet, Silent
from tests import cluster_tasks
from tests.conftest import Run, save_images, save_net
from tests.test_eval_cli import finished

distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")

Join = Callable[..., Cluster]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("EDGE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def threads(cache: Path) -> Iterator[Any]:
    """Two workers in this process."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0", memory_limit=0
    ) as local:
        yield local


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.cluster.pool._LOOK", 0.3)
    monkeypatch.setattr("edge.cluster.scheduler._ANSWER", 2.0)


@pytest.fixture
def join() -> Iterator[Join]:
    """Connect, with this machine's identity or another."""
    opened: list[Cluster] = []

    def open_(local: Any, *, listener: Any = None, **other: Any) -> Cluster:
        address = local if isinstance(local, str) else local.scheduler_address
        asked = evolve(on_worker.identity(), **other)
        cluster = Cluster(address, listener or Quiet(), asked)
        opened.append(cluster)
        return cluster.__enter__()

    yield open_
    for cluster in opened:
        cluster.__exit__()


def nap(what: int, seconds: float = 0.01, memory: int = 0) -> Task:
    return Task(f"nap {what}", cluster_tasks.nap, {"seconds": seconds, "what": what}, memory=memory)


# --- tasks


def test_tasks_come_back_each_once(threads: Any, join: Join) -> None:
    cluster = join(threads)
    jobs = [cluster.submit(nap(i)) for i in range(20)]
    assert [cluster.wait(job).value for job in jobs] == list(range(20))
    assert cluster.counts.tasks == 20
    assert re.fullmatch(r"20 tasks done, \d+\.\d s of work", cluster.summary())


def test_what_the_work_refuses_is_raised_here_and_not_tried_again(threads: Any, join: Join) -> None:
    cluster = join(threads)
    with pytest.raises(ModelFileError) as caught:
        cluster.wait(cluster.submit(Task("x", cluster_tasks.refuses)))
    assert caught.value.remedy == "edge build it again"
    assert cluster.counts.again == 0


def test_files_travel_by_hash_in_pieces_and_once(threads: Any, join: Join, tmp_path: Path) -> None:
    cluster, data = join(threads), os.urandom(2 * PIECE + 17)
    (tmp_path / "file").write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    task = Task("x", cluster_tasks.reads, {"sha256": sha256}, (sha256,))
    assert cluster.wait(cluster.submit(task, {sha256: tmp_path / "file"})).value == data
    (tmp_path / "file").unlink()  # it is there now
    assert cluster.wait(cluster.submit(task, {sha256: tmp_path / "file"})).value == data


def test_a_file_that_changes_on_its_way_is_the_users_and_no_workers_fault(
    threads: Any, join: Join, tmp_path: Path
) -> None:
    cluster, sha256 = join(threads), hashlib.sha256(b"before").hexdigest()
    (tmp_path / "file").write_bytes(b"after")
    task = Task("x", cluster_tasks.reads, {"sha256": sha256}, (sha256,))
    with pytest.raises(InputError, match="was changed while it was sent"):
        cluster.wait(cluster.submit(task, {sha256: tmp_path / "file"}))
    assert cluster.size == 2


def test_other_bytes_than_promised_are_not_kept(tmp_path: Path) -> None:
    contents = Contents(tmp_path)
    with pytest.raises(WrongContent):
        contents.write("0" * 64, 0, b"other", last=True)
    assert contents.missing(["0" * 64])
    assert not list(tmp_path.glob("*/*"))
    with pytest.raises(WrongContent):
        contents.path("../../etc/passwd")


# --- who may work


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"edge": "0" * 64}, "another version of edge's code"),
        ({"versions": {"onnxruntime": "0.1"}}, "instead of 0.1"),
        ({"compiler": "of another day"}, "compiler"),
    ],
)
def test_a_worker_that_does_not_agree_is_refused_and_told(
    threads: Any, join: Join, other: dict[str, Any], why: str
) -> None:
    listener = Quiet()
    with pytest.raises(ClusterError, match="may work") as caught:
        join(threads, listener=listener, **other)
    assert why in caught.value.seen
    assert len([text for text in listener.warnings if "is left out" in text and why in text]) == 2


def test_a_refused_worker_gets_no_task(threads: Any, join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    admitted, honest = [], on_worker._refused

    def one_of_two(asked: Any) -> str:
        admitted.append(1)
        return honest(asked) if len(admitted) == 1 else "it is the second"

    monkeypatch.setattr(on_worker, "_refused", one_of_two)
    cluster = join(threads)
    jobs = [cluster.submit(nap(i)) for i in range(8)]
    assert len({cluster.wait(job).address for job in jobs}) == 1


def test_a_worker_whose_admission_fails_is_asked_again(
    threads: Any, join: Join, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, real = tmp_path / "mark", on_worker.admit

    async def fails_at_first(share: int, resources: dict[str, float], dask_worker: Any = None) -> None:
        with mark.open("a") as stream:
            stream.write(".")
        if len(mark.read_text()) <= 2:
            raise OSError("the connection was lost")
        await real(share, resources, dask_worker)

    monkeypatch.setattr("edge.cluster.pool.admit", fails_at_first)
    cluster = join(threads)
    job, deadline = cluster.submit(nap(1)), time.monotonic() + 20
    while not job.over and time.monotonic() < deadline:
        cluster.turn(0.1)
    assert job.outcome is not None
    assert job.outcome.value == 1


def test_no_task_waits_behind_a_long_one(threads: Any, join: Join) -> None:
    cluster = join(threads)
    long = cluster.submit(nap(0, seconds=2.0))
    short = [cluster.submit(nap(i, seconds=0.1)) for i in range(1, 7)]
    where = {cluster.wait(job).address for job in short}
    assert not long.over
    assert len(where | {cluster.wait(long).address}) == 1 + len(where) == 2


def test_a_cluster_that_adapts_sees_that_more_workers_would_have_work(cache: Path, join: Join) -> None:
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0", memory_limit=0, silence_logs=50
    ) as local:
        cluster = join(local)
        local.adapt(minimum=1, maximum=3, interval="100ms", target_duration="500ms")
        jobs = [cluster.submit(nap(i, seconds=1.5)) for i in range(8)]
        assert len({cluster.wait(job).address for job in jobs}) == 3


def test_what_is_waited_for_is_next(threads: Any, join: Join) -> None:
    cluster = join(threads)
    others = [cluster.submit(nap(i, seconds=0.2), priority=5) for i in range(8)]
    assert cluster.wait(cluster.submit(nap(8))).value == 8
    assert sum(job.over for job in others) <= 3
    assert [cluster.wait(job).value for job in others] == list(range(8))


def test_what_is_taken_back_before_it_begins_is_no_work(threads: Any, join: Join) -> None:
    cluster = join(threads)
    jobs = [cluster.submit(nap(i, seconds=0.3)) for i in range(6)]
    cluster.cancel(jobs[2:])
    assert [cluster.wait(job).value for job in jobs[:2]] == [0, 1]
    assert (cluster.counts.tasks, cluster.counts.dropped) == (2, 0)
    cluster.turn(0.1)
    assert not any(job.over for job in jobs[2:])


def test_brief_tasks_do_not_keep_a_long_one_from_a_worker(threads: Any, join: Join) -> None:
    cluster = join(threads)
    brief = [cluster.submit(evolve(nap(i, seconds=0.1), brief=True), priority=5) for i in range(40)]
    assert cluster.wait(cluster.submit(nap(40))).value == 40
    assert sum(job.over for job in brief) < 20
    assert [cluster.wait(job).value for job in brief] == list(range(40))


def test_two_large_tasks_do_not_share_a_worker(cache: Path, join: Join) -> None:
    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        dashboard_address=":0",
        memory_limit=0,
        resources={"MEMORY": 10e9},
    ) as local:
        cluster = join(local)
        large = Task("large", cluster_tasks.spans, {"seconds": 0.3}, memory=int(6e9))
        spans = sorted(cluster.wait(job).value for job in [cluster.submit(large), cluster.submit(large)])
        assert spans[0][1] <= spans[1][0]
        small = evolve(large, memory=int(4e9))
        spans = sorted(cluster.wait(job).value for job in [cluster.submit(small), cluster.submit(small)])
        assert spans[1][0] < spans[0][1]
        with pytest.raises(NotEnoughMemory, match=r"11\.2 GiB"):
            cluster.wait(cluster.submit(evolve(large, memory=int(12e9))))


def test_workers_that_are_started_here_do_not_hear_ctrl_c() -> None:
    before = signal.getsignal(signal.SIGINT)
    with _deaf_children():
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    assert signal.getsignal(signal.SIGINT) == before
    try:
        child.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(1)
    finally:
        child.kill()
        child.wait()


def test_dasks_settings_of_a_worker_are_undone(cache: Path, join: Join) -> None:
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=":0", memory_limit=0, silence_logs=50
    ) as local:
        cluster = join(local)
        found = cluster.wait(cluster.submit(Task("x", cluster_tasks.environment))).value
    assert "MALLOC_TRIM_THRESHOLD_" not in found
    assert found["OMP_NUM_THREADS"] == str(cores())
    assert int(found["faults"]) < 100, "each of 200 arrays of 4 MB was given back to the system and fetched again"


def test_a_program_of_a_task_that_is_taken_back_ends(threads: Any, join: Join, tmp_path: Path) -> None:
    cluster, mark = join(threads), tmp_path / "mark"
    job = cluster.submit(Task("x", cluster_tasks.sleeps, {"mark": str(mark)}))
    while not (mark.exists() and mark.read_text()):
        cluster.turn(0.05)
    cluster.cancel([job])
    deadline = time.monotonic() + 20
    while psutil.pid_exists(int(mark.read_text())) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(int(mark.read_text()))
    assert not list(tmp_path.glob("ended")), "the task went on as if its program had ended"
    assert cluster.wait(cluster.submit(nap(1))).value == 1


# --- faults


def test_a_killed_workers_task_is_done_elsewhere(cache: Path, join: Join, tmp_path: Path) -> None:
    listener = Quiet()
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", memory_limit=0, silence_logs=50
    ) as local:
        cluster, mark = join(local, listener=listener), tmp_path / "mark"
        job = cluster.submit(Task("x", cluster_tasks.slow_at_first, {"mark": str(mark)}))
        others = [cluster.submit(nap(i)) for i in range(4)]
        while not (mark.exists() and mark.read_text()):
            cluster.turn(0.05)
        os.kill(int(mark.read_text()), signal.SIGKILL)
        assert cluster.wait(job).value != int(mark.read_text())
        assert sorted(cluster.wait(other).value for other in others) == [0, 1, 2, 3]
        assert cluster.counts.tasks == 5
        deadline = time.monotonic() + 20
        while not cluster.counts.lost and time.monotonic() < deadline:
            cluster.turn(0.2)
        assert cluster.counts.lost == 1
        assert any("is gone" in text for text in listener.warnings)


def test_a_worker_that_is_killed_with_a_result_that_it_keeps(cache: Path, join: Join) -> None:
    listener = Quiet()
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", memory_limit=0, silence_logs=50
    ) as local:
        cluster = join(local, listener=listener)
        job = cluster.submit(nap(1))
        while job.future.status == "pending":  # as a client that thinks: it does not take what has ended
            time.sleep(0.05)
        os.kill(cluster._client.run(os.getpid, workers=[job.where])[job.where], signal.SIGKILL)
        time.sleep(1.0)
        assert cluster.wait(job).value == 1
    assert any("nap 1 is sent again: worker" in text and "is gone" in text for text in listener.warnings)


def test_a_worker_that_is_gone_is_not_asked(cache: Path, join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    """dask would try for 30 s to reach it, and a worker that is killed every 20 s would stop all work."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", memory_limit=0, silence_logs=50
    ) as local:
        cluster = join(local)
        cluster.wait(cluster.submit(nap(1)))
        while cluster.size < 2:
            cluster.turn(0.1)
        gone, pid = next(iter(ask(cluster._client, list(cluster._workers), os.getpid).items()))
        os.kill(pid, signal.SIGKILL)
        while gone in (known := cluster._known()) or len(known) < 2:  # the nanny starts another
            time.sleep(0.05)
        assert "is gone" in str(ask(cluster._client, [gone], os.getpid)[gone])
        asked = list[str]()

        def tell(client: Any, workers: list[str], *rest: Any) -> dict[str, Any]:
            asked.extend(workers)
            return ask(client, workers, *rest)

        monkeypatch.setattr(pool, "ask", tell)
        cluster._look()
        assert asked
        assert gone not in asked


def test_a_worker_with_a_full_disk_gets_no_further_task(threads: Any, join: Join, tmp_path: Path) -> None:
    listener = Quiet()
    cluster = join(threads, listener=listener)
    task = Task("x", cluster_tasks.full_disk_at_first, {"mark": str(tmp_path / "mark")})
    assert cluster.wait(cluster.submit(task)).value == 1
    assert (cluster.size, cluster.counts.again) == (1, 1)
    assert any("gets no further task" in text and "No space left" in text for text in listener.warnings)


def test_a_lost_scheduler_comes_back(cache: Path, join: Join) -> None:
    listener = Quiet()

    def start(port: int) -> Any:
        return distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=False,
            dashboard_address=":0",
            memory_limit=0,
            protocol="tcp",
            scheduler_port=port,
            silence_logs=50,
        )

    first = start(0)
    port = int(first.scheduler_address.rpartition(":")[2])
    cluster = join(first, listener=listener)
    job = cluster.submit(nap(1, seconds=3.0))
    again: list[Any] = []

    def restart() -> None:
        first.close()
        again.append(start(port))

    thread = threading.Thread(target=restart)
    thread.start()
    assert cluster.wait(job).value == 1
    thread.join()
    cluster.__exit__()
    again[0].close()


# --- edge eval


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return finished(tmp_path / "build" / "small")


def figures(text: str) -> dict[str, Any]:
    found = json.loads(text[text.index("{") :])  # the store of a test says a word before
    del found["seconds"]
    for step in found["steps"]:
        del step["seconds"]
    return found


def answers_in(build: Path) -> dict[str, dict[bytes, bytes]]:
    with Store(build, NAME, Silent().warn) as store:
        return {part: dict(store.items(part)) for part in store.parts()}


def test_an_evaluation_is_the_one_of_a_single_machine(
    threads: Any, edge: Run, build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = save_images(tmp_path / "images", 70)
    (images / "0" / "broken.png").write_bytes(b"no image")
    words = ("eval", "small", "--images", str(images), "--count", "0", "--json")
    code, alone, err = edge(*words)
    assert code == 0, err
    kept = answers_in(build)
    (build / NAME).unlink()
    assert kept
    # The workers read the files themselves, or, where they can't, are sent them.
    for visible in (True, False):
        monkeypatch.setattr("edge.cluster.sets._same", lambda *_, visible=visible: visible)
        code, together, err = edge(*words, "--cluster", threads.scheduler_address)
        assert code == 0, err
        assert figures(together) == figures(alone)
        assert answers_in(build) == kept
        (build / NAME).unlink()
    # Begun here, it goes on there: only what is missing is sent.
    edge("eval", "small", "--images", str(images), "--count", "0", "--steps", "float,nv12")
    code, together, err = edge(*words, "--cluster", threads.scheduler_address)
    assert code == 0, err
    assert "(unchanged)" in err
    assert answers_in(build) == kept
    assert [step["computed"] for step in json.loads(together)["steps"]][:1] == [0]


def test_images_of_a_store_are_read_by_the_workers(
    threads: Any, edge: Run, build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer(port=0)
    import boto3
    import fsspec

    images = save_images(tmp_path / "images", 70)
    rows = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.*"))
    (images / "labels.csv").write_text("".join(f"{name},{i % 3}\n" for i, name in enumerate(rows)))
    for name, value in {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        client = boto3.client("s3")
        client.create_bucket(Bucket="photos")
        for path in (*(images / name for name in rows), images / "labels.csv"):
            client.upload_file(str(path), "photos", f"val/{path.relative_to(images).as_posix()}")
        words = ("eval", "small", "--count", "0", "--json", "--labels", str(build / "labels.txt"))
        code, alone, err = edge(*words, "--images", str(images))
        assert code == 0, err
        (build / NAME).unlink()
        code, together, err = edge(*words, "--images", "s3://photos/val", "--cluster", threads.scheduler_address)
        assert code == 0, err
        mine, theirs = figures(alone), figures(together)
        assert (theirs["steps"], theirs["dataset_sha256"]) == (mine["steps"], mine["dataset_sha256"])
        assert theirs["dataset"] == "val (70 images)"
        code, _, err = edge(*words, "--images", "s3://photos/none")
        assert code == 1
        assert "s3://photos/none holds no images" in err
    finally:
        fsspec.filesystem("s3").clear_instance_cache()
        server.stop()


def test_without_a_cluster_dask_is_not_loaded() -> None:
    code = (
        "import sys, edge.cli.tune, edge.cli.eval, edge.cli.build, edge.cli.models\nprint('distributed' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_no_scheduler_is_told(edge: Run, build: Path) -> None:
    code, _, err = edge("eval", "small", "--images", "demo:test", "--cluster", "tcp://127.0.0.1:9")
    assert code == 2
    assert "no scheduler answers at tcp://127.0.0.1:9" in err
    assert "refused" in err


@pytest.mark.parametrize("url", ["local", "local:", "local:x", "local:0", "local:1000", "", "foo", "http://a:8786"])
def test_what_is_no_address_is_refused(edge: Run, build: Path, url: str) -> None:
    code, _, err = edge("eval", "small", "--images", "demo:test", "--cluster", url)
    assert code == 2
    assert f"--cluster {url!r}" in err
    assert "local:N with 1 to" in err


# --- edge build and edge models


def manifest_of(folder: Path) -> dict[str, Any]:
    """Return what a build published, without what holds times."""
    found = json.loads((folder / "manifest.json").read_text())
    kept: dict[str, Any] = {key: found[key] for key in ("accuracy", "name", "precision")}
    return {**kept, "files": [one for one in found["artifacts"] if one["path"].endswith((".onnx", ".txt"))]}


def test_several_models_are_built_as_alone(threads: Any, edge: Run, tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", 24)
    nets = [save_net(tmp_path / f"{name}.onnx") for name in ("one", "two")]
    words = ("--mean", "127.5", "--std", "127.5", "--resize", "64", "--calib", str(images), "--calib-count", "20")
    words = (*words, "--images", str(images), "--compiler", "onnxruntime")
    code, _, err = edge("build", str(nets[1]), *words, "--build-dir", "alone")
    assert code == 0, err
    code, out, err = edge("build", *map(str, nets), *words, "--json", "--cluster", threads.scheduler_address)
    assert code == 0, err
    assert list(json.loads(out)) == ["one", "two"]
    alone, together = (tmp_path / folder / "two" for folder in ("alone", "build"))
    assert manifest_of(together) == manifest_of(alone)
    assert answers_in(together) == answers_in(alone)
    assert err.count(" on ") >= 2
    code, _, err = edge("build", *map(str, nets), *words, "--cluster", threads.scheduler_address)
    assert code == 0, err
    assert "✓ worker" not in err  # nothing was left to do


def test_a_lying_worker_is_found_out(threads: Any, edge: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lies: list[str] = []
    honest = Contents.read

    def read(self: Contents, sha256: str, offset: int) -> bytes:
        data = honest(self, sha256, offset)
        if not lies:
            lies.append(sha256)
            return data[:-1] + bytes([data[-1] ^ 1])
        return data

    images, net = save_images(tmp_path / "images", 24), save_net(tmp_path / "one.onnx")
    words = ("--mean", "127.5", "--std", "127.5", "--resize", "64", "--calib", str(images), "--calib-count", "20")
    monkeypatch.setattr(Contents, "read", read)
    monkeypatch.setattr("edge.cluster.pool.contents", lambda: Contents(tmp_path / "another machine's"))
    words = (*words, "--images", str(images), "--compiler", "onnxruntime", "--seed", "7")
    code, _, err = edge("build", str(net), *words, "--cluster", threads.scheduler_address)
    assert code == 0, err
    assert lies
    assert "gets no further task: it sent wrong bytes" in err
    assert "is sent again" in err


def test_a_model_that_can_not_be_built_does_not_stop_the_others(threads: Any, edge: Run, tmp_path: Path) -> None:
    images, net = save_images(tmp_path / "images", 24), save_net(tmp_path / "one.onnx")
    (tmp_path / "bad.onnx").write_bytes(net.read_bytes()[:200])
    words = ("--mean", "127.5", "--std", "127.5", "--resize", "64", "--images", str(images), "--calib", str(images))
    words = (*words, "--calib-count", "20", "--compiler", "onnxruntime", "--cluster", threads.scheduler_address)
    try:
        code, _, err = edge("build", "bad.onnx", str(net), *words)
    except EdgeError:
        pytest.fail("refused as a whole")
    assert code in (1, 2), err
