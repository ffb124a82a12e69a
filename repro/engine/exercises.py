"""Exercises of a notebook: an answer is a number or a function, and `check` says whether it holds."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from repro.engine.rng import KeyedNoise
from repro.errors import one_of

Judge = Callable[[Any], bool]
Exercise = tuple[str, Callable[[], Judge], str]  # what it is about, maker of the judgement, what to think of otherwise


def tensors(count: int, shape: tuple[int, ...] = (1, 4, 4), key: str = "exercise", batch: int = 3) -> list[Tensor]:
    """Numbers to try a reader's function on, (batch, *shape) float64 each."""
    noise = KeyedNoise(0, range(batch), key)
    return [noise.normal(shape, step=i).double() for i in range(count)]


def same(answer: Any, target: Tensor) -> bool:
    """Whether an answer is this tensor, to rounding."""
    alike = torch.is_tensor(answer) and answer.shape == target.shape
    return alike and torch.allclose(answer.double(), target, atol=1e-6)


def like(right: Callable[..., Tensor], *cases: tuple) -> Judge:
    """Whether a reader's function gives what `right` gives in every case."""
    return lambda answer: all(same(answer(*case), right(*case)) for case in cases)


def near(number: float, allowed: float = 1e-4) -> Callable[[], Judge]:
    """Whether an answer is this number, give or take `allowed`."""
    return lambda: lambda answer: abs(float(answer) - number) < allowed


def check(name: str, answer: Any, among: Mapping[str, Exercise]) -> None:
    """Print whether `answer` to the exercise of that name holds; None means that the reader has not answered yet."""
    about, make, hint = among[one_of("exercise", name, among)]
    if answer is None:
        print(f"{name}: {about} — waiting for your answer")
        return
    try:
        right = bool(make()(answer))
    except Exception as error:  # whatever a reader's function raises is part of the answer
        print(f"{name}: not yet, your answer raised {type(error).__name__}: {error}")
        return
    print(f"{name}: right" if right else f"{name}: not yet. Hint: {hint}")
