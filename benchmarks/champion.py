"""What choosing the champion on few images costs: the rule of the reports on validation and on folds, and two others.

    python -m benchmarks.champion [--runs 1000]

Four strategies are simulated, the cheapest first. They agree on most images. On the validation split, which is a
quarter of train and validation, the first has one result, and each other the best of 8 equally good epochs, chosen by
its validation log loss, as early stopping does. With 5 folds (`compare.folds`), all images of train and validation are
predicted by a training whose epoch was chosen on others. Each training is luckier or less lucky than others of its
strategy, by 0.7 points of accuracy (standard deviation), on all of its images.

Printed for each rule: the share of runs in which the champion is the cheapest of the truly best strategies, and the
true accuracy that is lost on average, in points.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np
from scipy.stats import norm

from tasks.reports.champion import Validated, choose_champion
from tasks.scores import accuracy, log_loss

Candidates = dict[str, Validated]
Rule = Callable[[Candidates], str]
BASE, SPREAD, EPOCHS = 0.93, 3.0, 8
FOLDS, PARTS = 5, 4
"""Folds, and how many times as many images as validation they hold out together."""
LUCK = 0.05
"""Of a training, on the scale of the logits' standard deviation over images."""
CASES = {
    "all equal": (0, 0, 0, 0),
    "the first is better by 2 points": (2, 0, 0, 0),
    "the first is better by 5 points": (5, 0, 0, 0),
    "the third is better by 2 points": (0, 0, 2, 0),
    "the third is better by 5 points": (0, 0, 5, 0),
}
SIZES = (28, 56, 250, 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="simulated data sets for each row")
    runs = parser.parse_args().runs
    rules: dict[str, Rule] = {
        "highest accuracy": most_accurate,
        "lowest log loss": lambda candidates: min(candidates, key=lambda name: loss_of(candidates[name])),
        "reports": champion,
    }
    print("| strategies | validation images |", " | ".join(rules), f"| reports, {FOLDS} folds |")
    print("|---|---:|", "|".join(["---:"] * (len(rules) + 1)), "|", flush=True)
    for (name, points), n in ((case, n) for case in CASES.items() for n in SIZES):
        random = np.random.default_rng(0)
        accuracies = [min(BASE, BASE + 0.05 - max(points) / 100) + point / 100 for point in points]
        chosen = [
            [*(int(rule(by_validation)) for rule in rules.values()), int(champion(by_folds))]
            for by_validation, by_folds in simulate(random, accuracies, n, runs)
        ]
        best = np.mean(np.array(chosen) == int(np.argmax(accuracies)), axis=0)
        lost = max(accuracies) - np.mean(np.array(accuracies)[chosen], axis=0)
        cells = [f"{100 * share:.0f} % / {abs(100 * points):.2f}" for share, points in zip(best, lost, strict=True)]
        print(f"| {name} | {n} |", " | ".join(cells), "|", flush=True)


def simulate(
    random: np.random.Generator, accuracies: list[float], n: int, runs: int
) -> Iterator[tuple[Candidates, Candidates]]:
    """Predictions for n validation images, and for all images by folds; two classes."""
    fold = np.arange(PARTS * n) % FOLDS
    for _ in range(runs):
        by_validation, by_folds = {}, {}
        common = random.normal(size=PARTS * n)  # how hard an image is for all
        for number, share in enumerate(accuracies):
            epochs = EPOCHS if number else 1
            tried = predict(random, share, common[:n], np.zeros(n, int), epochs)
            by_validation[str(number)] = min((validated(right) for right in tried), key=loss_of)
            [right] = predict(random, share, common, fold, 1)
            by_folds[str(number)] = validated(right)
        yield by_validation, by_folds


def predict(random: np.random.Generator, share: float, common: np.ndarray, training: np.ndarray, epochs: int):
    """Probabilities (epochs, n) of the right class. The logit of an image also differs by strategy and by epoch."""
    n = len(common)
    luck = LUCK * random.normal(size=training.max() + 1)[training]
    noise = np.sqrt(0.12) * random.normal(size=n) + np.sqrt(0.03) * random.normal(size=(epochs, n))
    mean = norm.ppf(share) * np.sqrt(1 + LUCK**2)
    return 1 / (1 + np.exp(-SPREAD * (mean + luck + np.sqrt(0.85) * common + noise)))


def validated(right: np.ndarray) -> Validated:
    n = len(right)
    keys = [f"{number:05}" for number in range(n)]
    return Validated(keys, np.stack([right, 1 - right], axis=1), np.zeros(n, int), np.arange(n))


def champion(candidates: Candidates) -> str:
    return choose_champion(candidates, balanced=False)


def loss_of(one: Validated) -> float:
    return log_loss(one.probabilities, one.labels)


def most_accurate(candidates: Candidates) -> str:
    """The first of the most accurate; ties are decided by the rule of the reports."""
    scores = {name: accuracy(one.probabilities, one.labels) for name, one in candidates.items()}
    equal = {name: one for name, one in candidates.items() if scores[name] == max(scores.values())}
    return champion(equal)


if __name__ == "__main__":
    main()
