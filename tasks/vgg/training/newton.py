"""Newton's method for smooth convex functions (J. Nocedal, S. Wright, Numerical Optimization, 2006, algorithm 7.1).

Conjugate gradients solve the equations of each step only as exactly as the step deserves. They need products with the
Hessian, never the Hessian itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Protocol

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

_MOST_PRODUCTS = 1000
"""Most products with the Hessian in a step."""
_SMALLEST_STEP = 2.0**-30
_SUFFICIENT = 1e-4
"""A step must lower the value by at least this share of what the slope promises."""
_ROUNDING = 4 * np.finfo(np.float64).eps


class Convex(Protocol):
    """A smooth convex function of an array."""

    def value_and_gradient(self, point: Doubles) -> tuple[float, Doubles]: ...

    def curve(self, direction: Doubles) -> Doubles:
        """The Hessian times a direction, at the point that was evaluated last."""
        ...


@dataclass(frozen=True)
class Minimum:
    """Where the search ended, after how many steps, and whether the gradient is as small as was asked for."""

    point: Doubles
    steps: int
    converged: bool


def minimize(function: Convex, start: Doubles, tolerance: float, most_steps: int) -> Minimum:
    """The minimum of a convex function.

    Args:
        function: to minimize.
        start: where to begin.
        tolerance: largest component of the gradient at the end.
        most_steps: at most.
    """
    point = start
    value, gradient = function.value_and_gradient(point)
    for step in range(most_steps + 1):
        if np.abs(gradient).max() <= tolerance:
            return Minimum(point, step, True)
        if step == most_steps:
            break
        direction = _solve(function, gradient)
        slope, length = _dot(gradient, direction), 1.0
        while length > _SMALLEST_STEP:
            there = point + length * direction
            lower, turned = function.value_and_gradient(there)
            if lower <= value + _SUFFICIENT * length * slope + _ROUNDING * abs(value):
                break
            length /= 2
        else:
            return Minimum(point, step, False)
        point, value, gradient = there, lower, turned
    return Minimum(point, most_steps, False)


def _solve(function: Convex, gradient: Doubles) -> Doubles:
    """The direction of Newton's step, by conjugate gradients: the smaller the gradient, the more exactly."""
    direction, left = np.zeros_like(gradient), -gradient
    conjugate, squared = left, _dot(left, left)
    enough = min(0.25, sqrt(squared)) * squared
    for _ in range(_MOST_PRODUCTS):
        product = function.curve(conjugate)
        curvature = _dot(conjugate, product)
        if curvature <= 0:  # a direction that changes nothing: only rounding leads there
            break
        share = squared / curvature
        direction = direction + share * conjugate
        left = left - share * product
        before, squared = squared, _dot(left, left)
        if squared <= enough:
            break
        conjugate = left + squared / before * conjugate
    return direction


def _dot(one: Doubles, other: Doubles) -> float:
    return float(np.vdot(one, other))
