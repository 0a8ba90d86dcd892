"""What choosing the champion on few validation images costs: `tasks.reports.champion` against two simpler rules.

    python -m benchmarks.champion [--runs 1000]

Four strategies are simulated, the cheapest first. The first has one result; each other has the best of 8 equally good
epochs, chosen by its validation log loss, as early stopping does. The strategies agree on most images. Printed for each
rule: the share of runs in which the champion is the cheapest of the truly best strategies, and the true accuracy that
is lost on average, in points.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from scipy.stats import norm

from tasks.reports.champion import Validated, choose_champion
from tasks.scores import accuracy, log_loss

Rule = Callable[[dict[str, Validated]], str]
BASE, SPREAD, EPOCHS = 0.93, 3.0, 8
CASES = {
    "all equal": (0, 0, 0, 0),
    "the first is better by 2 points": (2, 0, 0, 0),
    "the first is better by 5 points": (5, 0, 0, 0),
    "the third is better by 2 points": (0, 0, 2, 0),
    "the third is better by 5 points": (0, 0, 5, 0),
}
SIZES = (56, 250, 2000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="simulated validation splits for each row")
    runs = parser.parse_args().runs
    rules: dict[str, Rule] = {
        "highest accuracy": most_accurate,
        "lowest log loss": lambda candidates: min(candidates, key=lambda name: loss_of(candidates[name])),
        "reports": lambda candidates: choose_champion(candidates, balanced=False),
    }
    print("| strategies | validation images |", " | ".join(rules), "|")
    print("|---|---:|", "|".join(["---:"] * len(rules)), "|", flush=True)
    for (name, points), n in ((case, n) for case in CASES.items() for n in SIZES):
        random = np.random.default_rng(0)
        accuracies = [min(BASE, BASE + 0.05 - max(points) / 100) + point / 100 for point in points]
        chosen = [
            [int(rule(candidates)) for rule in rules.values()] for candidates in simulate(random, accuracies, n, runs)
        ]
        best = np.mean(np.array(chosen) == int(np.argmax(accuracies)), axis=0)
        lost = max(accuracies) - np.mean(np.array(accuracies)[chosen], axis=0)
        cells = [f"{100 * share:.0f} % / {abs(100 * points):.2f}" for share, points in zip(best, lost, strict=True)]
        print(f"| {name} | {n} |", " | ".join(cells), "|", flush=True)


def simulate(random: np.random.Generator, accuracies: list[float], n: int, runs: int) -> list[dict[str, Validated]]:
    """Predictions for two classes. An image's logit is easy or hard for all, and differs by strategy and by epoch."""
    keys, labels, groups = [f"{number:05}" for number in range(n)], np.zeros(n, int), np.arange(n)
    found = []
    for _ in range(runs):
        candidates = {}
        common = random.normal(size=n)
        for number, share in enumerate(accuracies):
            epochs = EPOCHS if number else 1
            noise = np.sqrt(0.12) * random.normal(size=n) + np.sqrt(0.03) * random.normal(size=(epochs, n))
            logits = SPREAD * (norm.ppf(share) + np.sqrt(0.85) * common + noise)
            right = 1 / (1 + np.exp(-logits))
            validated = [Validated(keys, np.stack([one, 1 - one], axis=1), labels, groups) for one in right]
            candidates[str(number)] = min(validated, key=loss_of)
        found.append(candidates)
    return found


def loss_of(one: Validated) -> float:
    return log_loss(one.probabilities, one.labels)


def most_accurate(candidates: dict[str, Validated]) -> str:
    """The first of the most accurate; ties are decided by the rule of the reports."""
    scores = {name: accuracy(one.probabilities, one.labels) for name, one in candidates.items()}
    equal = {name: one for name, one in candidates.items() if scores[name] == max(scores.values())}
    return choose_champion(equal, balanced=False)


if __name__ == "__main__":
    main()
