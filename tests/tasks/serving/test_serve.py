"""The server: what it answers, and that it answers what `tasks.predict` does."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from tasks.predict import predict_files
from tasks.serve import main
from tasks.serving.app import Service
from tasks.vgg.exports.model_folder import model_version
from tests.conftest import PROJECT
from tests.tasks.exporting import encoded, save_export
from tests.tasks.serving.running import Running, running

FIELD = b'--a\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n--a--\r\n'
RED, GREEN = (200, 0, 0), (0, 200, 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_export(tmp_path_factory.mktemp("model") / "export")


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Running]:
    with running(model) as one:
        yield one


def turned(form: str) -> bytes:
    """Half red, half black, turned by EXIF: so the decoder matters."""
    image, exif, buffer = Image.new("RGB", (60, 40)), Image.Exif(), io.BytesIO()
    image.paste(RED, (0, 0, 30, 40))
    exif[0x0112] = 6
    image.save(buffer, form, exif=exif)
    return buffer.getvalue()


def test_serve_answers_as_predict_does(server: Running, model: Path, tmp_path: Path) -> None:
    for data in (encoded(RED), encoded(GREEN, "JPEG"), turned("JPEG")):
        file = tmp_path / "image"
        file.write_bytes(data)
        [expected] = predict_files(model, [str(file)])
        for kind in ("image/jpeg", "application/octet-stream"):
            said = server.send(data, kind)
            assert said.status_code == 200
            [result] = said.json()["results"]
            assert result == {name: value for name, value in expected.items() if name != "path"}
            assert said.json()["model"] == model_version(model)[:12]


def test_serve_answers_each_file_of_a_form_by_its_name(server: Running) -> None:
    files = [("a", ("red\n.png", encoded(RED))), ("b", ("../../text", b"text")), ("a", ("grün.jpg", encoded(GREEN)))]
    said = server.client.post("/predict", files=files, data={"field": "no file"})
    assert said.status_code == 200
    red, text, green = said.json()["results"]
    assert (red["label"], green["label"], green["name"]) == ("red", "grün", "grün.jpg")
    assert "\n" not in red["name"]
    assert (text["name"], text["error"][:12]) == ("../../text", "not_an_image")


def test_serve_gathers_requests_into_batches(server: Running) -> None:
    before = server.metric("rootstock_batch_images_count")
    with ThreadPoolExecutor(32) as pool:
        said = list(pool.map(lambda _: server.send(encoded(RED)), range(96)))
    assert {one.status_code for one in said} == {200}
    assert server.metric("rootstock_batch_images_count") - before < 96


@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        (b"<html>", "image/png", 415),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "image/heic", 415),
        (encoded(RED)[:60], "image/png", 422),
        (b"", "image/png", 422),
        (encoded(RED), "text/plain", 415),
        (encoded(RED), "application/json", 415),
        (encoded(RED), "", 415),
        (b"x", "multipart/form-data", 422),
        (b"--a\r\n\r\n", "multipart/form-data; boundary=a", 422),
        (
            b'--a\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n--a--\r\n',
            "multipart/form-data; boundary=a",
            422,
        ),
        (b"--a\r\nno head\r\n--a--", "multipart/form-data; boundary=a", 422),
        (b"--a\r\n\r\n" * 200 + b"--a--", "multipart/form-data; boundary=a", 413),
    ],
)
def test_serve_refuses_what_is_no_image_with_the_right_status(
    server: Running, data: bytes, kind: str, status: int
) -> None:
    said = server.send(data, kind)
    assert said.status_code == status
    assert said.headers["content-type"] == "application/json"
    assert "error" in said.json() or "error" in said.json()["results"][0]


def test_serve_tells_how_it_is(server: Running) -> None:
    assert server.client.get("/healthz").json() == {"alive": True}
    ready = server.client.get("/readyz").json()
    assert (ready["ready"], ready["waiting"]) == (True, 0)
    server.send(encoded(RED))
    server.send(b"text")
    assert server.metric('rootstock_labels_total{label="red"}') > 0
    assert server.metric('rootstock_images_total{outcome="not_an_image"}') > 0
    assert server.metric('rootstock_requests_total{status="415"}') > 0


def test_health_check_of_the_container_tells_a_server_that_hangs(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    [line] = re.findall(r"^HEALTHCHECK CMD (.*)$", (PROJECT / "server/Dockerfile").read_text(), re.MULTILINE)
    _, *arguments = json.loads(line)
    command = [sys.executable, *(one.replace(":8000/", f":{server.port}/") for one in arguments)]
    assert subprocess.run(command).returncode == 0
    monkeypatch.setattr(Service, "is_stuck", True)
    stuck = subprocess.run(command, capture_output=True, text=True)
    assert (stuck.returncode, "503" in stuck.stderr) == (1, True)


def test_serve_says_that_there_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", str(tmp_path)]) == 2
    assert "is not a complete exported model" in capsys.readouterr().err
