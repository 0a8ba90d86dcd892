"""The built-in digits: scikit-learn's own, without the import of scikit-learn."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import PROJECT

CODE = """
import sys
from tasks.images.sources.digits import list_digits
images = sorted(list_digits().images, key=lambda image: image.path.partition('/')[2])
assert "sklearn" not in sys.modules, "a second of imports, for each plan"
from sklearn.datasets import load_digits
digits = load_digits()
assert [image.label for image in images] == [str(label) for label in digits.target]
for image, pixels in zip(images, digits.images, strict=True):
    assert (image.place == (pixels * (255 / 16)).round().astype("uint8")).all()
    assert (image.place.dtype, image.place.shape) == ("uint8", (8, 8))
"""


def test_digits_are_those_of_scikit_learn_which_is_not_imported() -> None:
    command = [sys.executable, "-c", CODE]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
