"""Put a finished build into its folder, and keep or discard measurements of an earlier one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import cattrs
from attrs import evolve

from edge.accuracy import Evaluation, discard_stale
from edge.files import json_text, read_json
from edge.folder.built import Built
from edge.folder.metadata import FILE as METADATA
from edge.folder.workspace import Artifact, Workspace
from edge.pipeline.build import Build
from edge.pipeline.manifest import EVALUATION, LABELS, artifacts, command, labels, manifest, metadata
from edge.pipeline.stages import CALIBRATE, EVAL

# Results of other verbs -> further files that belong to them. Each result names the files that it measured.
RESULTS = {"eval.json": ("answers.csv",), "diagnosis.json": ()}

# (manifest to publish, class names, the build's evaluation) -> report's name -> text
Reports = Callable[[Built, Sequence[str], Evaluation], Mapping[str, str]]


def publish(build: Build, workspace: Workspace, reports: Reports) -> dict[str, object]:
    """Put the result into the build folder and return the manifest."""
    files = artifacts(build)
    names = labels(build)
    about = metadata(build, files, names)
    measured = evolve(build.stage(EVAL).result, command=command("build", build.request))
    texts = {
        METADATA: json_text(cattrs.unstructure(about)),
        EVALUATION: json_text(cattrs.unstructure(measured)),
        **({LABELS: names} if names else {}),
    }
    board = board_figures(workspace, files, build)
    before = {**manifest(build, files, texts), **board}
    sources = {file.role: file.source for file in files}
    hashes = {file.role: build.record(file.source).sha256 for file in files}
    built = Built(workspace.root, before, about, sources, hashes)
    texts |= reports(built, names.splitlines(), measured)
    content = {**manifest(build, files, texts), **board}
    calibration = build.stage(CALIBRATE)
    folders = {calibration.result.directory: calibration.path(calibration.result.directory)}
    stale = stale_results(workspace.root, hashes)
    workspace.publish(files, content, texts=texts, folders=folders, stale=stale)
    workspace.discard_all_but(build.done)
    discard_stale(workspace.root, hashes.values())
    return content


def stale_results(root: Path, hashes: Mapping[str, str]) -> list[str]:
    """Return the names of results in a build folder that measured other files than those in ``hashes``."""
    stale: list[str] = []
    for name, belonging in RESULTS.items():
        try:
            models = read_json(root / name)["models"]
            fits = all(hashes.get(role) == sha256 for role, sha256 in models.items())
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            fits = False
        if not fits:
            stale += [name, *belonging]
    return stale


def board_figures(workspace: Workspace, files: Iterable[Artifact], build: Build) -> dict[str, object]:
    """Return the earlier results of ``edge board`` for exactly this program, to keep them."""
    measured = workspace.manifest().get("board")
    programs = [build.record(file.source).sha256 for file in files if file.role == "bin"]
    if isinstance(measured, dict) and measured.get("bin_sha256") in programs:
        return {"board": measured}
    return {}
