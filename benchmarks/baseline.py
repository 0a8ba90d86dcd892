"""The usual way, as tutorials print it: every epoch sends every image through all of the frozen VGG16.

    python -m benchmarks.baseline FOLDER [--epochs 10]

FOLDER holds train/<class>/* and val/<class>/*. Prints one JSON line: seconds from start to trained model, and the
accuracy on val after each epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

START = time.perf_counter()


def read_split(folder: Path):
    """Images (n, 224, 224, 3) float32, preprocessed by Keras' own function, and class indices (n,)."""
    import keras
    import numpy as np
    import tensorflow as tf

    images, labels = [], []
    for label, name in enumerate(sorted(entry.name for entry in folder.iterdir() if entry.is_dir())):
        for file in sorted((folder / name).iterdir()):
            if file.suffix.lower() in (".jpg", ".jpeg", ".png"):
                image = tf.io.decode_image(file.read_bytes(), channels=3, expand_animations=False)
                image.set_shape([None, None, 3])
                images.append(tf.image.resize(image, [224, 224]).numpy())
                labels.append(label)
    return keras.applications.vgg16.preprocess_input(np.stack(images)), np.array(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description="Feature extraction as tutorials print it.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from tasks.vgg.quiet_tensorflow import load_cusolver

    load_cusolver()
    import keras

    from tasks.vgg.weights import load_weights
    from tests.tasks.vgg.keras_backbone import build_keras_backbone

    keras.utils.set_random_seed(0)
    train_x, train_y = read_split(options.folder / "train")
    val_x, val_y = read_split(options.folder / "val")
    base = build_keras_backbone(load_weights())
    base.trainable = False
    head = keras.Sequential(
        [
            keras.layers.Flatten(),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dense(int(train_y.max()) + 1, activation="softmax"),
        ]
    )
    model = keras.Model(base.input, head(base.outputs[0]))
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(train_x, train_y, epochs=options.epochs, validation_data=(val_x, val_y), verbose=0).history
    print(
        json.dumps(
            {
                "seconds": round(time.perf_counter() - START, 1),
                "epochs": options.epochs,
                "train": len(train_x),
                "val": len(val_x),
                "val_accuracy": [round(value, 4) for value in history["val_accuracy"]],
            }
        )
    )


if __name__ == "__main__":
    main()
