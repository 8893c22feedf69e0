"""Train a small network on handwritten digits, in several processes that log into one run.

    python examples/digits.py --ranks 4 --id exp-7

Each rank sees its own part of the data, and after every batch the ranks average their gradients, as
data-parallel training does on many GPUs; here they do it in shared memory. What plait adds are the
lines that name `plait` or `run`: everything else is the training itself.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.context import SpawnContext

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

import plait

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

HELD_OUT = 357
"""Digits that no rank trains on: rank 0 measures the model's accuracy on them after each epoch."""
PARTNER_WAIT_S = 60.0
"""How long a rank waits for the others before it gives up, because one of them has died."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a training is told; it becomes the run's config."""

    ranks: int = 4
    epochs: int = 30
    batch: int = 32
    """Digits of one rank in one step."""
    hidden: int = 32
    rate: float = 0.05
    inertia: float = 0.9
    seed: int = 7


def train(rank: int, run_id: str, config: Config, average: Average) -> None:
    """What one rank does, from init to finish."""
    settings = {name: getattr(config, name) for name in config.__slots__}
    with plait.init(
        project="digits", id=run_id, label=str(rank), primary=rank == 0, config=settings
    ) as run:
        (images, digits), held_out = load(rank, config.ranks)
        model = Model(config)
        shuffle = np.random.default_rng([config.seed, rank])
        step, held_out_accuracy = 0, 0.0
        for epoch in range(config.epochs):
            for chosen in batches(shuffle, config):
                started = time.perf_counter()
                loss, accuracy, own_gradient = model.gradient(images[chosen], digits[chosen])
                gradient = average(rank, own_gradient)
                model.descend(gradient)
                row = {
                    "loss": loss,
                    "accuracy": accuracy,
                    "gradient_norm": float(np.linalg.norm(gradient)),
                    "step_ms": (time.perf_counter() - started) * 1000,
                }
                run.log(row, step=step)
                step += 1
            if rank == 0:
                _, held_out_accuracy, _ = model.gradient(*held_out)
                run.log({"held_out_accuracy": held_out_accuracy, "epoch": epoch}, step=step - 1)
        if rank == 0:
            run.summary["held_out_accuracy"] = held_out_accuracy


class Model:
    """Two layers, 64 pixels to `hidden` to 10 digits, with its weights in one flat array.

    Ranks that begin with the same seed and descend along the same gradients stay equal.
    """

    def __init__(self, config: Config) -> None:
        chance = np.random.default_rng(config.seed)
        self._shapes = [(64, config.hidden), (config.hidden,), (config.hidden, 10), (10,)]
        parts = [chance.normal(0.0, shape[0] ** -0.5, shape) for shape in self._shapes]
        self._weights: Floats = np.concatenate([part.ravel() for part in parts])
        self._velocity = np.zeros_like(self._weights)
        self._config = config

    @staticmethod
    def size(config: Config) -> int:
        """How many weights there are."""
        return 64 * config.hidden + config.hidden + config.hidden * 10 + 10

    def gradient(self, images: Floats, digits: Integers) -> tuple[float, float, Floats]:
        """The mean cross-entropy of these digits, their accuracy, and the loss's gradient."""
        w1, b1, w2, b2 = self._parts()
        hidden = np.maximum(images @ w1 + b1, 0.0)
        scores = hidden @ w2 + b2
        scores -= scores.max(axis=1, keepdims=True)
        odds = np.exp(scores)
        odds /= odds.sum(axis=1, keepdims=True)
        each = np.arange(len(digits))
        loss = -np.log(odds[each, digits] + 1e-12).mean()
        accuracy = (odds.argmax(axis=1) == digits).mean()
        odds[each, digits] -= 1.0
        odds /= len(digits)
        back = (odds @ w2.T) * (hidden > 0.0)
        parts = [images.T @ back, back.sum(axis=0), hidden.T @ odds, odds.sum(axis=0)]
        return float(loss), float(accuracy), np.concatenate([part.ravel() for part in parts])

    def descend(self, gradient: Floats) -> None:
        """One step of gradient descent with momentum."""
        self._velocity = self._config.inertia * self._velocity - self._config.rate * gradient
        self._weights += self._velocity

    def _parts(self) -> list[Floats]:
        """The weights as the arrays that they are."""
        ends = np.cumsum([np.prod(shape) for shape in self._shapes])[:-1]
        flat = np.split(self._weights, ends)
        return [part.reshape(shape) for part, shape in zip(flat, self._shapes, strict=True)]


class Average:
    """The mean of the ranks' gradients, the same for all of them, in memory that they share."""

    def __init__(self, context: SpawnContext, ranks: int, size: int) -> None:
        self._memory = context.RawArray("d", ranks * size)
        self._barrier = context.Barrier(ranks)
        self._shape = (ranks, size)

    def __call__(self, rank: int, own: Floats) -> Floats:
        """Give one's own gradient and get the mean of all, once every rank has given its own.

        Raises:
            threading.BrokenBarrierError: a rank did not come: it has most likely died.
        """
        everyone = np.frombuffer(self._memory).reshape(self._shape)
        everyone[rank] = own
        self._barrier.wait(PARTNER_WAIT_S)
        mean: Floats = everyone.mean(axis=0)
        self._barrier.wait(PARTNER_WAIT_S)  # Nobody overwrites what another still reads.
        return mean


def load(rank: int, ranks: int) -> tuple[tuple[Floats, Integers], tuple[Floats, Integers]]:
    """A rank's part of the 1,797 digits that scikit-learn ships, and those held out."""
    images, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(digits))
    images, digits = images[order] / 16.0, digits[order]
    own = slice(HELD_OUT + rank, None, ranks)
    return (images[own], digits[own]), (images[:HELD_OUT], digits[:HELD_OUT])


def batches(shuffle: np.random.Generator, config: Config) -> list[Integers]:
    """The places of an epoch's batches: as many for each rank, for they step together."""
    share = (1797 - HELD_OUT) // config.ranks
    order = shuffle.permutation(share)
    steps = max(1, share // config.batch)
    return [order[at * config.batch : (at + 1) * config.batch] for at in range(steps)]


def main() -> int:
    """Start the ranks, wait for them, and answer with the worst of their exit codes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ranks", type=int, default=4, help="processes to train in")
    parser.add_argument("--epochs", type=int, default=30, help="times each digit is seen")
    parser.add_argument("--id", required=True, help="the run's id in the project `digits`")
    arguments = parser.parse_args()
    config = Config(ranks=arguments.ranks, epochs=arguments.epochs)
    context = multiprocessing.get_context("spawn")
    average = Average(context, config.ranks, Model.size(config))
    ranks = [
        context.Process(
            target=train, args=(rank, arguments.id, config, average), name=f"rank-{rank}"
        )
        for rank in range(config.ranks)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    return max(abs(process.exitcode or 0) for process in ranks)


if __name__ == "__main__":
    raise SystemExit(main())
