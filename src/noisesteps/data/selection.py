"""Which candidates become images, and in which split: decided by seed alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from noisesteps import config
from noisesteps.data.readers import Candidate
from noisesteps.errors import ConfigError, DataError
from noisesteps.seeds import numpy_generator


@dataclass
class Pool:
    """Candidates in the order they are considered, and the splits they fill in turn.

    Attributes
    ----------
    order
        Sources; a rejected one is replaced by the next that was not considered yet.
    quotas
        Splits with the images each takes, filled one after the other; the last may be
        None: all that remain.
    """

    order: list[str]
    quotas: list[tuple[str, int | None]]
    taken: list[str] = field(default_factory=list)
    considered: int = 0

    @property
    def required(self) -> int:
        """Images without which the splits cannot be filled."""
        return sum(1 if count is None else count for _, count in self.quotas)

    @property
    def takes_all(self) -> bool:
        return any(count is None for _, count in self.quotas)

    def next_batch(self) -> list[str]:
        """Return the candidates to consider now, so that no more are decoded."""
        end = self.considered + self.required - len(self.taken)
        batch = self.order[self.considered : None if self.takes_all else end]
        self.considered += len(batch)
        return batch

    def assigned(self) -> Iterator[tuple[str, str]]:
        """Yield (source, split) for every image taken."""
        first = 0
        for split, count in self.quotas:
            last = len(self.taken) if count is None else first + count
            for source in self.taken[first:last]:
                yield source, split
            first = last


def make_pools(
    name: str, dataset: config.Dataset, candidates: list[Candidate], seed: int
) -> list[Pool]:
    """Order the candidates of a data set and say which splits they fill.

    The order is a permutation of the sorted sources, so that it depends on neither
    the order of an archive nor the platform. Without an official split the held-out
    images are chosen first; with one, each of its parts fills its own split.

    Raises
    ------
    ConfigError, DataError
        If there is no official split to hold out, or there are too few candidates.
    """
    if any(candidate.split for candidate in candidates):
        pools = _official_pools(name, dataset, candidates, seed)
    elif dataset.held_out is None:
        raise ConfigError(
            f"datasets.{name}.held_out is null, but this format has no held-out split "
            "of its own; give the number of images to hold out."
        )
    else:
        sources = [candidate.source for candidate in candidates]
        quotas = [("held_out", dataset.held_out), ("train", dataset.train)]
        pools = [Pool(_shuffled(sources, seed, name), quotas)]
    for pool in pools:
        if len(pool.order) < pool.required:
            raise too_few(name, pool, len(pool.order), {})
    return pools


def _official_pools(
    name: str, dataset: config.Dataset, candidates: list[Candidate], seed: int
) -> list[Pool]:
    pools = []
    for split, count in (("train", dataset.train), ("held_out", dataset.held_out)):
        sources = [c.source for c in candidates if c.split == split]
        chosen = count is not None
        order = _shuffled(sources, seed, name, split) if chosen else sorted(sources)
        pools.append(Pool(order, [(split, count)]))
    return pools


def _shuffled(sources: list[str], seed: int, *key: str) -> list[str]:
    ordered = sorted(sources)
    permutation = numpy_generator(seed, "split", *key).permutation(len(ordered))
    return [ordered[index] for index in permutation]


def too_few(name: str, pool: Pool, usable: int, rejected: dict[str, str]) -> DataError:
    """Say how many images there are, what was rejected and which key to lower."""
    wanted, rest = dict(pool.quotas), usable
    split = pool.quotas[-1][0]
    if len(pool.quotas) > 1:
        rest -= wanted["held_out"]
        if rest < 1:
            split, rest = "held_out", usable - 1
    asked = " and ".join(
        "one image to train on" if count is None else f"{split}: {count}"
        for split, count in pool.quotas
        if count != 0
    )
    remedy = (
        f"lower datasets.{name}.{split} to at most {rest}" if rest > 0 else "add images"
    )
    shown = [f"{source}: {reason}" for source, reason in sorted(rejected.items())[:5]]
    more = f" and {len(rejected) - 5:,} more" if len(rejected) > 5 else ""
    reasons = f" (rejected: {', '.join(shown)}{more})" if rejected else ""
    return DataError(
        f"{name} has {usable:,} usable images among {len(pool.order):,} files, too few "
        f"for {asked}{reasons}; {remedy}."
    )
