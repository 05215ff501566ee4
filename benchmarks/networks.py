"""Training and sampling: ours, diffusers and denoising-diffusion-pytorch in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from benchmarks import memory, ours, peers
from benchmarks.peak import operations, peaks
from benchmarks.rows import Row, make_row
from benchmarks.settings import Settings
from benchmarks.timing import Work, alternate, compare

PEERS = {
    "diffusers": "diffusers",
    "lucidrains": "denoising-diffusion-pytorch",
}
TRAINING = {
    "ours": ours.training_step,
    "diffusers": peers.diffusers_training_step,
    "lucidrains": peers.lucidrains_training_step,
}
SAMPLING = {
    "ours": ours.sampling_steps,
    "diffusers": peers.diffusers_sampling_steps,
    "lucidrains": peers.lucidrains_sampling_steps,
}
# The least ratio that is wanted, by device, ours and the peer's precision.
TRAINING_GOALS = {
    ("cpu", "fp32", "fp32"): 2.0,
    ("cpu", "bf16", "fp32"): 2.0,
    ("cpu", "bf16", "bf16"): 1.25,
    ("cuda", "bf16", "bf16"): 2.0,
    ("cuda", "fp16", "fp16"): 2.0,
}
SAMPLING_GOALS = {
    ("cpu", "fp32", "fp32"): 2.5,
    ("cpu", "bf16", "fp32"): 2.5,
    ("cuda", "bf16", "bf16"): 3.0,
}


@dataclass(frozen=True)
class Contest:
    """One work that several programs do, in several precisions.

    Attributes
    ----------
    name, title
        `training`, `sampling-8`; and in words.
    batch
        Images in the batch.
    training
        Whether gradients are computed.
    makers
        Program to what makes its work, given a precision.
    goals
        By device, our precision and the peer's; for diffusers alone.
    """

    name: str
    title: str
    batch: int
    training: bool
    makers: Mapping[str, Callable[[str], Work]]
    goals: Mapping[tuple[str, str, str], float]


def contests(settings: Settings) -> dict[str, Contest]:
    """Return all contests by name."""
    network = f"{settings.preset}, {settings.image_size}×{settings.image_size}"
    found = {
        "training": Contest(
            "training",
            f"training step, {network}, batch {settings.batch}",
            settings.batch,
            True,
            {name: partial(make, settings) for name, make in TRAINING.items()},
            TRAINING_GOALS,
        )
    }
    for batch, steps in settings.sampling:
        name = f"sampling-{batch}"
        found[name] = Contest(
            name,
            f"sampling step, {network}, batch {batch}",
            batch,
            False,
            {
                program: partial(make, settings, batch=batch, steps=steps)
                for program, make in SAMPLING.items()
            },
            SAMPLING_GOALS,
        )
    return found


def training(settings: Settings) -> list[Row]:
    return _run(settings, contests(settings)["training"])


def sampling(settings: Settings) -> list[Row]:
    found = contests(settings).values()
    return [
        row
        for contest in found
        if not contest.training
        for row in _run(settings, contest)
    ]


def _run(settings: Settings, contest: Contest) -> list[Row]:
    works = {
        (program, precision): make(precision)
        for program, make in contest.makers.items()
        for precision in settings.precisions
    }
    times = alternate(works, settings.rounds, settings.on, settings.seconds)
    del works
    most = memory.of_contest(settings, contest.name, list(times))
    shares = _shares(settings, contest, times)
    return [
        make_row(
            settings,
            f"{contest.name}-{_pair(mine, theirs)}-{program}",
            f"{contest.title}, {mine}",
            f"{PEERS[program]}, {theirs}",
            compare(times["ours", mine], times[program, theirs]),
            goal=goal,
            goal_text=f"≥ {goal:g}×" if goal else "",
            ours_share=shares["ours", mine],
            peer_share=shares[program, theirs],
            ours_bytes=most.get(("ours", mine)),
            peer_bytes=most.get((program, theirs)),
        )
        for program, mine, theirs, goal in _pairs(settings, contest)
    ]


def _pair(mine: str, theirs: str) -> str:
    return mine if mine == theirs else f"{mine}-beside-{theirs}"


def _pairs(
    settings: Settings, contest: Contest
) -> list[tuple[str, str, str, float | None]]:
    """Return (program, our precision, theirs, goal) of the rows.

    Equal precisions; and where there is a goal for it, our bf16 beside a peer that
    runs as its example does, in fp32.
    """
    kind = settings.on.type
    pairs = []
    for program in PEERS:
        example = program == "diffusers"
        for mine in settings.precisions:
            for theirs in settings.precisions:
                goal = contest.goals.get((kind, mine, theirs)) if example else None
                if mine == theirs or goal:
                    pairs.append((program, mine, theirs, goal))
    return pairs


def _shares(
    settings: Settings, contest: Contest, times: Mapping[tuple[str, str], list[float]]
) -> dict[tuple[str, str], float]:
    """Return the part of the matrix-multiply peak that each reached."""
    reached = {}
    for (program, precision), seconds in times.items():
        count = operations(settings, program, contest.batch, contest.training)
        middle = compare(seconds, seconds).ours_s
        reached[program, precision] = (
            count / middle / peaks(settings)["matmul", precision]
        )
    return reached
