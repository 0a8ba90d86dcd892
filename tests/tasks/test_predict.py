"""The program `predict`: one row for every image, in the order of the input, even for damaged images."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

from tasks import predict
from tasks.errors import PredictError
from tasks.files import sha256_hex, write_bytes, write_json
from tasks.images.decoding import PERMISSIVE, decode
from tasks.predict import find_images, main, predict_files, to_line
from tasks.vgg.exports import exported_model
from tests.tasks.exporting import compare_red_with_green, tiny_model

CLASSES = ("red", "grün")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An export whose network compares the mean of red with that of green."""
    folder = tmp_path / "export"
    content = tiny_model(compare_red_with_green())
    write_bytes(folder / "model.onnx", content)
    about = {
        "classes": list(CLASSES),
        "decoder": {"background_rgb": [255, 255, 255]},
        "sha256": {"model.onnx": sha256_hex(content)},
    }
    write_json(folder / "export.json", about)
    return folder


def paint(path: Path | bytes, colour: tuple[int, ...], form: str = "PNG") -> str:
    buffer = io.BytesIO()
    Image.new("RGBA" if len(colour) == 4 else "RGB", (30, 20), colour).save(buffer, form)
    file = Path(os.fsdecode(path))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(buffer.getvalue())
    return str(file)


def scored(model: Path, *paths: str | Path, batch_size: int = 2) -> list[dict[str, Any]]:
    return list(predict_files(model, [str(path) for path in paths], batch_size))


def test_predict_gives_rows_in_the_order_of_the_input(model: Path, tmp_path: Path) -> None:
    red, green = paint(tmp_path / "b.png", (200, 0, 0)), paint(tmp_path / "a.jpg", (0, 200, 0), "JPEG")
    text = tmp_path / "text.jpg"
    text.write_text("<html>", encoding="utf-8")
    rows = scored(model, red, text, tmp_path / "missing.png", green, red)
    assert [row["path"] for row in rows] == [red, str(text), str(tmp_path / "missing.png"), green, red]
    assert [row.get("label") for row in rows] == ["red", None, None, "grün", "red"]
    assert rows[1]["error"].startswith("not_an_image: ")
    assert rows[2]["error"] == "unreadable: No such file or directory"
    assert set(rows[0]) == {"path", "label", "probability", "probabilities"}
    assert rows[0]["probability"] == rows[0]["probabilities"]["red"] == max(rows[0]["probabilities"].values())
    assert sum(rows[0]["probabilities"].values()) == pytest.approx(1, abs=1e-6)


@pytest.fixture
def telling(model: Path) -> Path:
    """The export, with the mean colour as features; what differs much from a dark red is foreign."""
    content = tiny_model(compare_red_with_green(), np.eye(3, dtype=np.float32))
    fitted = save({"known": np.array([[1, 0, 0]], np.float16)})
    write_bytes(model / "model.onnx", content)
    write_bytes(model / "foreign.safetensors", fitted)
    about = json.loads((model / "export.json").read_text(encoding="utf-8"))
    about["sha256"] = {"model.onnx": sha256_hex(content), "foreign.safetensors": sha256_hex(fitted)}
    about["foreign"] = {"score": "nearest_neighbours", "threshold": 0.5}
    write_json(model / "export.json", about)
    return model


def test_predict_says_which_images_are_foreign(telling: Path, tmp_path: Path) -> None:
    red, green = paint(tmp_path / "red.png", (200, 0, 0)), paint(tmp_path / "green.png", (0, 200, 0))
    text = tmp_path / "text.jpg"
    text.write_text("<html>", encoding="utf-8")
    rows = scored(telling, red, text, green, red)
    assert [row.get("foreign") for row in rows] == [False, None, True, False]
    assert rows[2]["foreign_score"] == pytest.approx(2**0.5, abs=1e-3)
    assert rows[2]["label"] == "grün"
    assert [json.loads(to_line(row)) for row in rows] == rows


def test_predict_refuses_a_changed_file_that_tells_foreign_images(telling: Path, tmp_path: Path) -> None:
    write_bytes(telling / "foreign.safetensors", save({"known": np.array([[0, 1, 0]], np.float16)}))
    with pytest.raises(PredictError, match=r"foreign\.safetensors is not the file that was exported"):
        scored(telling, paint(tmp_path / "red.png", (200, 0, 0)))
    (telling / "foreign.safetensors").unlink()
    with pytest.raises(PredictError, match="is not a complete exported model"):
        scored(telling, paint(tmp_path / "red.png", (200, 0, 0)))


def test_predict_decodes_as_training_on_the_exported_background(model: Path, tmp_path: Path) -> None:
    about = json.loads((model / "export.json").read_text(encoding="utf-8"))
    about["decoder"]["background_rgb"] = [0, 255, 0]
    write_json(model / "export.json", about)
    clear = paint(tmp_path / "clear.png", (255, 0, 0, 0))
    (row,) = scored(model, clear)
    pixels = decode(Path(clear).read_bytes(), background_rgb=(0, 255, 0))[0]
    [expected] = exported_model.ExportedModel(model).answer([pixels])
    assert row["label"] == "grün"
    assert row == {"path": clear, **expected}


def test_predict_accepts_as_many_pixels_as_training_did(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = paint(tmp_path / "image.png", (200, 0, 0))  # 600 pixels
    monkeypatch.setattr(exported_model, "PERMISSIVE", replace(PERMISSIVE, max_pixels=599))
    assert "more than 599" in scored(model, image)[0]["error"], "an old export has no limit of its own"
    about = json.loads((model / "export.json").read_text(encoding="utf-8"))
    about["decoder"]["max_pixels"] = 600
    write_json(model / "export.json", about)
    assert scored(model, image)[0]["label"] == "red"
    about["decoder"]["max_pixels"] = 598
    write_json(model / "export.json", about)
    assert scored(model, image)[0]["error"].startswith("too_many_pixels: 30x20 pixels, more than 598")


def test_predict_says_which_answers_are_unsure(model: Path, tmp_path: Path) -> None:
    images = [paint(tmp_path / f"{red}.png", (red, 100, 0)) for red in (200, 110, 20)]
    about = json.loads((model / "export.json").read_text(encoding="utf-8"))
    sure = scored(model, *images)[0]["probability"]
    for thresholds, expected in (
        (None, [None, None, None]),  # nothing is wanted
        ([sure, 0.0], [False, True, False]),
        ([0.0, None], [False, False, True]),  # no answer "grün" is sure enough
    ):
        write_json(model / "export.json", {**about, "answers": {"wanted_precision": 0.95, "thresholds": thresholds}})
        assert [row.get("unsure") for row in scored(model, *images)] == expected


def test_predict_walks_folders_in_order_and_stays_inside(tmp_path: Path) -> None:
    outside = paint(tmp_path / "outside.png", (1, 2, 3))
    root = tmp_path / "root"
    for name in ("c.png", "a/z.png", "a/b/y.png", "d/x.png", ".hidden/h.png", "a/.DS_Store"):
        paint(root / name, (1, 2, 3))
    (root / "out.png").symlink_to(outside)
    (root / "in.png").symlink_to(root / "c.png")
    (root / "loop").symlink_to(root)
    (root / "broken.png").symlink_to(root / "nowhere")
    found = [os.path.relpath(path, root) for path in find_images(str(root))]
    assert found == ["c.png", "in.png", "a/z.png", "a/b/y.png", "d/x.png"]


def test_predict_survives_names_and_files_of_all_kinds(model: Path, tmp_path: Path) -> None:
    odd = paint(os.fsencode(tmp_path) + b"/odd/\xff\n.png", (200, 0, 0))
    fifo = tmp_path / "odd" / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "odd" / "empty.jpg").touch()
    rows = scored(model, tmp_path / "odd", "a\0b")
    by_path = {row["path"]: row for row in rows}
    assert by_path[odd]["label"] == "red"
    assert by_path[str(fifo)]["error"] == "unreadable: not a file"
    assert by_path[str(tmp_path / "odd" / "empty.jpg")]["error"].startswith("empty_file")
    assert "error" in by_path["a\0b"]
    lines = [to_line(row) for row in rows]
    assert all(line.count(b"\n") == 1 for line in lines)
    assert [json.loads(line) for line in lines] == rows


def test_predict_does_not_read_what_is_too_large_or_no_image(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = paint(tmp_path / "good.png", (200, 0, 0))
    film, bitmap = tmp_path / "film.mp4", tmp_path / "huge.bmp"
    for path, head, size in ((film, b"\0\0\0\x20ftypisom", 10_000), (bitmap, b"BM", 2_000_000_001)):
        with path.open("wb") as file:
            file.write(head)
            file.truncate(size)
    read: list[Path] = []
    digest = predict.file_sha256
    monkeypatch.setattr(predict, "file_sha256", lambda path: (read.append(path), digest(path))[1])
    rows = scored(model, good, film, bitmap)
    assert rows[0]["label"] == "red"
    assert [row.get("error") for row in rows[1:]] == ["not_an_image: a video", "too_large: more than 2000 MB"]
    assert read == [Path(good)]


def test_predict_reports_an_image_that_goes_while_it_waits(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [paint(tmp_path / f"{number}.png", (200, 0, 0)) for number in range(5)]
    look = predict._look

    def look_and_change(path: str) -> Any:
        image = look(path)
        if path == paths[1]:
            Path(path).unlink()
        if path == paths[3]:
            paint(Path(path), (0, 200, 0))
        return image

    monkeypatch.setattr(predict, "_look", look_and_change)
    rows = scored(model, paths[0], "missing", *paths[1:])
    assert [row["path"] for row in rows] == [paths[0], "missing", *paths[1:]]
    assert [row.get("label") for row in rows] == ["red", None, None, "red", None, "red"]
    assert all("changed while it was read" in rows[number]["error"] for number in (2, 4))


@pytest.mark.parametrize("missing", ["export.json", "model.onnx"])
def test_predict_refuses_an_incomplete_model(model: Path, missing: str) -> None:
    (model / missing).unlink()
    with pytest.raises(PredictError, match="not a complete exported model"):
        predict_files(model, ["x"])


def test_predict_refuses_a_changed_model(model: Path) -> None:
    content = bytearray((model / "model.onnx").read_bytes())
    content[-40] ^= 1
    (model / "model.onnx").write_bytes(content)
    with pytest.raises(PredictError, match="is not the file that was exported"):
        predict_files(model, ["x"])


def run(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "tasks.predict", *map(str, arguments)]
    return subprocess.run(
        command, input=stdin, capture_output=True, check=False, timeout=120, cwd=Path(__file__).parents[2]
    )


def test_predict_program_exits_0_with_some_bad_and_reads_stdin(model: Path, tmp_path: Path) -> None:
    red = paint(tmp_path / "r\xe4d.png", (200, 0, 0))
    done = run("--model", model, "-", stdin=os.fsencode(red) + b"\n\nnowhere\n")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["path"] for row in rows] == [red, "nowhere"]
    assert done.stderr == b""


def test_predict_program_exits_2_when_all_are_bad_or_none_is_there(model: Path, tmp_path: Path) -> None:
    done = run("--model", model, "nowhere")
    assert done.returncode == 2
    assert json.loads(done.stdout)["path"] == "nowhere"
    assert b"None of the 1 images could be scored" in done.stderr
    assert b"Traceback" not in done.stderr
    (tmp_path / "empty").mkdir()
    done = run("--model", model, tmp_path / "empty")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"No image was found" in done.stderr


def test_predict_program_does_without_tensorflow(model: Path, tmp_path: Path) -> None:
    red = paint(tmp_path / "red.png", (200, 0, 0))
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from tasks.predict import predict_files\n"
        "if __name__ == '__main__':\n"
        f"    rows = list(predict_files({str(model)!r}, [{red!r}]))\n"
        "    assert rows[0]['label'] == 'red'\n"
        "    assert not {'tensorflow', 'keras', 'onnx'} & set(sys.modules)\n",
        encoding="utf-8",
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, str(program)], check=True, timeout=120, env=environment)


def test_predict_program_ends_quietly_when_its_reader_does(model: Path, tmp_path: Path) -> None:
    red = paint(tmp_path / "red.png", (200, 0, 0))
    command = [sys.executable, "-m", "tasks.predict", "--model", str(model), *[red] * 200]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=root) as child:
        assert child.stdout
        assert child.stderr
        assert json.loads(child.stdout.readline())["label"] == "red"
        child.stdout.close()
        errors = child.stderr.read()
        assert child.wait(timeout=60) == 0
    assert errors == b""


def test_predict_output_file_holds_the_rows_also_when_all_are_bad(model: Path, tmp_path: Path) -> None:
    red, output = paint(tmp_path / "red.png", (200, 0, 0)), tmp_path / "rows.jsonl"
    assert main(["--model", str(model), "--output", str(output), red]) == 0
    assert json.loads(output.read_bytes())["label"] == "red"
    assert main(["--model", str(model), "--output", str(output), "nowhere"]) == 2
    assert "error" in json.loads(output.read_bytes())


@pytest.mark.parametrize("size", ["0", "-1", "x", "5000"])
def test_predict_refuses_a_wrong_batch_size(model: Path, size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--model", str(model), "--batch-size", size, "x"])
    assert "must be a whole number from 1 to 1024" in capsys.readouterr().err
