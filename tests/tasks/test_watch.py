"""The program `watch`: new images like the test images raise no alarm, others do, and the page shows the worst."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image

from tasks.errors import PredictError
from tasks.files import read_json
from tasks.images.manifest import read_examples
from tasks.params import load_settings
from tasks.vgg.exports import exported_model
from tasks.vgg.exports.exported_model import ExportedModel
from tasks.vgg.exports.signature import PUBLIC_KEY
from tasks.watch import JSON, PAGE, main, watch
from tasks.watching import reference, scored
from tasks.watching.scored import read_scored
from tasks.workspace import Workspace
from tests.conftest import changing, fill_source, new_workspace, save_image
from tests.tasks.exporting import save_export
from tests.tasks.serving.running import running
from tests.tasks.steps import run_prepare, settings_for
from tests.tasks.vgg.exports.test_model_folder import new_keys

Watch = Callable[..., dict[str, Any]]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_export(tmp_path / "export", ("ant", "bee"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with 80 prepared images."""
    folder = tmp_path_factory.mktemp("project")
    workspace = new_workspace(folder)
    run_prepare(settings_for(changing(workspace), fill_source(folder / "source", 40)), workspace)
    return folder


@pytest.fixture
def workspace(project: Path, tmp_path: Path) -> Path:
    return shutil.copytree(project, tmp_path / "project") / "workspace"


@pytest.fixture
def watching(model: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Compares a source with the test images of the project."""
    monkeypatch.setattr(reference, "COPIED", 2)

    def run(source: Path) -> dict[str, Any]:
        return watch(model, str(source), tmp_path / "out", load_settings(workspace), Workspace.at(workspace))

    return run


def count_tested(workspace: Path) -> int:
    return sum(one.split == "test" for one in read_examples(Workspace.at(workspace).prepared))


def others(folder: Path, count: int = 20) -> Path:
    """Images of no class, dark blue."""
    for number in range(count):
        save_image(folder / f"{number}.png", "cat", number)
    return folder


def like_training(folder: Path) -> Path:
    """Images of both classes that are not among those of the project, without labels."""
    for number in range(100, 112):
        save_image(folder / f"{number}.png", "ant" if number % 2 else "bee", number)
    return folder


def test_images_like_the_test_images_raise_no_alarm(watching: Watch, workspace: Path, tmp_path: Path) -> None:
    found = watching(like_training(tmp_path / "new"))
    assert not found["alarm"]
    assert found["n"] == {"reference": count_tested(workspace), "new": 12}
    assert found["accuracy"]["reference"] == 1.0
    assert found["class_shares"]["ant"]["share"] == pytest.approx(0.5, abs=0.05)
    assert found["class_shares"]["ant"]["training"] == pytest.approx(0.5, abs=0.1)
    assert "Nothing unusual" in (tmp_path / "out" / PAGE).read_text()


def test_other_images_raise_an_alarm_and_the_most_foreign_are_shown(watching: Watch, tmp_path: Path) -> None:
    new = others(tmp_path / "new")
    Image.new("RGB", (40, 40), (0, 0, 255)).save(new / "blue.png")
    (new / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    found = watching(new)
    assert found["alarm"]
    assert found["images"] == 21
    assert sum(found["errors"].values()) == 1
    assert len(found["most"]) == scored.SHOWN
    page = (tmp_path / "out" / PAGE).read_text()
    assert "These images have changed" in page
    assert page.count('<span class="tag warning">alarm</span>') == sum(one["alarm"] for one in found["tests"]) > 0
    assert page.count("<img ") == scored.SHOWN
    assert read_json(tmp_path / "out" / JSON)["alarm"] is True


def test_what_a_server_has_logged_can_be_watched(watching: Watch, model: Path, tmp_path: Path) -> None:
    with running(model, "--log", str(tmp_path / "log")) as server:
        for image in others(tmp_path / "sent").iterdir():
            assert server.send(image.read_bytes()).status_code == 200
    found = watching(tmp_path / "log/images")
    assert (found["alarm"], found["images"]) == (True, 20)


def test_same_images_give_the_same_result_and_pass_the_network_once(
    watching: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = like_training(tmp_path / "new")
    first = watching(new)
    monkeypatch.setattr(ExportedModel, "answer_with_features", pytest.fail)
    assert watching(new) == first


def test_other_test_images_are_another_reference(watching: Watch, workspace: Path, tmp_path: Path) -> None:
    watching(like_training(tmp_path / "new"))
    kept = Workspace.at(workspace).reference
    first = [path.name for path in kept.iterdir()]
    run_prepare(changing(workspace)("prepare.split_seed=1"), workspace)
    watching(tmp_path / "new")
    assert len(list(kept.iterdir())) == 1
    assert [path.name for path in kept.iterdir()] != first


def test_project_without_the_models_data_is_refused(watching: Watch, workspace: Path, tmp_path: Path) -> None:
    shutil.rmtree(Workspace.at(workspace).prepared)
    with pytest.raises(PredictError, match="dvc pull prepare"):
        watching(like_training(tmp_path / "new"))


def test_model_that_is_not_signed_is_not_loaded(
    watching: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PUBLIC_KEY, str(new_keys(tmp_path, ec.SECP256R1())[1]))
    monkeypatch.setattr(exported_model, "_session", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(PredictError, match="it has no signature"):
        watching(like_training(tmp_path / "new"))


def test_model_of_other_classes_is_refused(watching: Watch, model: Path, tmp_path: Path) -> None:
    save_export(model, ("ant", "wasp"))
    with pytest.raises(PredictError, match="test images of the model"):
        watching(like_training(tmp_path / "new"))


def test_single_image_is_too_few(watching: Watch, tmp_path: Path) -> None:
    save_image(tmp_path / "new/1.png", "ant", 1)
    with pytest.raises(PredictError, match="two new images"):
        watching(tmp_path / "new")


def test_sample_is_the_same_however_the_rows_are_in_parts(
    watching: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching(like_training(tmp_path / "new"))
    monkeypatch.setattr(scored, "MOST", 5)
    folder = tmp_path / "out/scores"
    parts = read_json(folder / "scores.json")["parts"]
    sample, most = read_scored(folder, parts)
    assert len(sample.probabilities) == 5
    assert sample.features.shape == (5, 1024)
    assert np.allclose(sample.probabilities.sum(axis=1), 1)
    assert [one["score"] for one in most] == sorted((one["score"] for one in most), reverse=True)


def test_program_says_whether_there_is_an_alarm(
    watching: Watch, model: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(workspace)
    code = main(["--model", str(model), "--out", str(tmp_path / "out"), str(others(tmp_path / "new"))])
    assert code == 0
    assert capsys.readouterr().out.startswith("ALARM: 20 images of ")


def test_names_from_data_stay_text_on_the_page(watching: Watch, tmp_path: Path) -> None:
    new = others(tmp_path / "<b>&new")
    (new / "0.png").rename(new / "<img src=x onerror=alert(1)>.png")
    watching(new)
    page = (tmp_path / "out" / PAGE).read_text()
    assert "<img src=x" not in page
    assert "<b>&new" not in page
