"""Write `tasks/vgg/far_features.safetensors` again: `python -m tests.far_features`, if the drawn images change."""

from __future__ import annotations

import numpy as np
from safetensors.numpy import save

from tasks.files import write_bytes
from tasks.vgg.boundaries import BOTTLENECK
from tasks.vgg.engines import Engine, build_extractor
from tasks.vgg.far_images import FAR_IMAGES, draw_far_images
from tasks.vgg.foreign_features import FAR_FEATURES, POOLING
from tasks.vgg.head import Floats, pool
from tasks.vgg.weights import load_weights


def compute(most: int = FAR_IMAGES) -> Floats:
    """Pooled features (n, 1024) of the first drawn images, by the published weights."""
    images = draw_far_images()[:most]
    extract = build_extractor(Engine("ncnn", "float32"), load_weights(), (BOTTLENECK,), len(images))
    return pool(extract(images)[0], POOLING)


if __name__ == "__main__":
    write_bytes(FAR_FEATURES, save({"pooled": compute().astype(np.float16)}))
