"""A server under load while its model changes; the second model beside it; the log."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

import httpx
import numpy as np
import pytest
from PIL import Image

from tasks.files import atomic_folder
from tasks.images.decoding import decode
from tasks.predict import predict_files
from tasks.production import ProductionModel
from tasks.runs.promotions import Promoter
from tasks.serving.models import ModelHolder, load
from tasks.vgg.exports.model_folder import model_version
from tasks.workspace import Workspace
from tests.tasks.exporting import encoded, save_export
from tests.tasks.runs.promoting import make_project, make_version, promoter
from tests.tasks.serving.running import Running, running
from tests.waiting import wait_until

RED = encoded((200, 0, 0))


def replace(folder: Path, model: Path) -> None:
    """As the stage `export` does it: in one step."""
    with atomic_folder(folder) as new:
        shutil.copytree(model, new, dirs_exist_ok=True)


def answers_of(server: Running) -> str:
    return str(server.client.get("/readyz").json()["model"])


@pytest.mark.slow
def test_serve_follows_its_model_under_load_without_a_failed_request(tmp_path: Path) -> None:
    first, second = (save_export(tmp_path / name, strength=one) for name, one in (("v1", 0.05), ("v2", 0.01)))
    replace(tmp_path / "served", first)
    versions = {model_version(one)[:12]: name for one, name in ((first, "v1"), (second, "v2"))}
    seen: list[tuple[int, str, float]] = []
    over = Event()

    def send(client: httpx.Client, place: int) -> None:
        due = time.monotonic() + place / 50
        while not over.is_set():
            said = client.post("/predict", content=RED, headers={"Content-Type": "image/png"})
            body = said.json()
            seen.append((said.status_code, versions[body["model"]], body["results"][0]["probability"]))
            due += 10 / 50
            time.sleep(max(0.0, due - time.monotonic()))  # ten clients: 50 requests/s, if the machine allows

    with running(tmp_path / "served", poll_s=0.1) as server, ThreadPoolExecutor(10) as pool:
        clients = [pool.submit(send, server.client, place) for place in range(10)]
        try:
            for model, name in ((second, "v2"), (first, "v1")):
                replace(tmp_path / "served", model)
                wait_until(lambda name=name: versions[answers_of(server)] == name, f"{name} to answer")
                before = len(seen)
                wait_until(lambda before=before: len(seen) > before + 50, "some answers")
        finally:
            over.set()
        for client in clients:
            client.result()
    assert {status for status, *_ in seen} == {200}
    order = [name for _, name, _ in seen]
    assert order[0] == order[-1] == "v1"
    assert "v2" in order
    assert len({(name, round(probability, 4)) for _, name, probability in seen}) == 2, "each answer is by its model"


def test_serve_keeps_its_model_when_the_new_one_is_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = save_export(tmp_path / "export")
    with running(model, poll_s=0.05) as server:
        before = answers_of(server)
        content = (model / "model.onnx").read_bytes()
        (model / "model.onnx").write_bytes(content[:-1])
        wait_until(lambda: server.metric("rootstock_model_load_failures") == 1, "the refusal", pause_s=0.02)
        assert answers_of(server) == before
        assert server.send(RED).status_code == 200
        shutil.rmtree(model)
        assert server.send(RED).status_code == 200
        save_export(model, strength=0.01)
        wait_until(lambda: answers_of(server) != before, "the next model", pause_s=0.02)
    assert "its SHA-256 differs" in caplog.text


@pytest.mark.slow
def test_serve_follows_production_and_its_roll_back(tmp_path: Path) -> None:
    clone = make_project(tmp_path / "clone", Path("nowhere"))
    (clone / "dvc.yaml").write_text((clone / "dvc.yaml").read_text().replace("out/model", "models/export"))
    (clone / ".gitignore").write_text("models\n.rootstock\n")
    ours: Promoter = promoter(clone)
    commits = [make_version(clone, text, 0.8) for text in "ab"]
    for commit in commits:
        ours.register(commit, "a test")
    where = ProductionModel(Workspace.at(clone), lambda _line: None)
    ours.promote("v1.0.0", "the first")
    first = where.folder()
    assert (first.name, where.folder()) == (commits[0], first)
    ours.promote("v1.1.0", "the second")
    second = where.folder()
    assert second.name == commits[1]
    contents = [sorted((one.name, one.read_bytes()) for one in folder.iterdir()) for folder in (first, second)]
    assert contents[0] != contents[1]
    assert contents[0]
    ours.roll_back("a test")
    assert where.folder() == first


def test_new_model_is_taken_only_when_its_folder_rests(tmp_path: Path) -> None:
    first, second = (save_export(tmp_path / name, strength=one) for name, one in (("v1", 0.05), ("v2", 0.01)))
    replace(tmp_path / "served", first)
    holder = ModelHolder(lambda: tmp_path / "served", load(tmp_path / "served"))
    replace(tmp_path / "served", second)
    for expected in (first, second):  # somebody may still be writing when it is seen for the first time
        holder.look()
        assert holder.current.version == model_version(expected)[:12]


def test_serve_goes_on_looking_after_an_error_that_nobody_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(tmp_path / "served", save_export(tmp_path / "v1"))
    second = save_export(tmp_path / "v2", strength=0.01)
    errors = iter([KeyError("a lock file without stages")])
    look = ModelHolder.look

    def fail_once(self: ModelHolder) -> None:
        for error in errors:
            raise error
        look(self)

    monkeypatch.setattr(ModelHolder, "look", fail_once)
    with running(tmp_path / "served", poll_s=0.05) as server:
        replace(tmp_path / "served", second)
        wait_until(lambda: answers_of(server) == model_version(second)[:12], "the second model")


def test_serve_logs_images_without_their_metadata_and_answers(tmp_path: Path) -> None:
    model, exif, buffer = save_export(tmp_path / "export"), Image.Exif(), io.BytesIO()
    exif[0x010F] = "canary camera"
    Image.new("RGB", (60, 40), (200, 0, 0)).save(buffer, "JPEG", exif=exif)
    data = buffer.getvalue()
    assert b"canary camera" in data
    log = tmp_path / "log"
    with running(model, "--log", str(log)) as server:
        answer = server.send(data).json()["results"][0]
        server.send(b"text")
        wait_until(lambda: server.metric('rootstock_logged_images_total{outcome="written"}') == 1, "the log")
    day = datetime.now(UTC).date().isoformat()
    [image] = (log / "images" / day).iterdir()
    assert b"canary" not in image.read_bytes()
    np.testing.assert_array_equal(np.asarray(Image.open(image)), decode(data)[0])
    [line] = (log / "answers" / f"{day}.jsonl").read_text().splitlines()
    said = json.loads(line)
    assert said["image"] == f"{day}/{image.name}"
    assert {name: said[name] for name in answer} == answer
    [row] = predict_files(model, [str(image)])
    assert row["probabilities"] == answer["probabilities"], "an image of the log is what the network saw"


def test_serve_without_a_log_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with running(save_export(tmp_path / "export")) as server:
        assert server.send(RED).status_code == 200
    assert list(folder.iterdir()) == []


def test_serve_compares_the_answers_of_a_shadow_that_nobody_waits_for(tmp_path: Path) -> None:
    model, shadow = save_export(tmp_path / "export"), save_export(tmp_path / "shadow", strength=-0.05)
    log = tmp_path / "log"
    with running(model, "--shadow", str(shadow), "--log", str(log)) as server:
        answer = server.send(RED).json()["results"][0]
        count: Callable[[], float] = lambda: server.metric('rootstock_shadow_images_total{label="different"}')  # noqa: E731
        wait_until(lambda: count() == 1, "the shadow", pause_s=0.02)
    [file] = (log / "shadow").iterdir()
    [line] = file.read_text().splitlines()
    said = json.loads(line)
    assert (said["answer"], said["shadow"]["label"]) == (answer, "grün")
    assert said["shadow_model"] == model_version(shadow)[:12]
