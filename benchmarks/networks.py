"""Training and sampling: ours, diffusers and denoising-diffusion-pytorch in turn."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from benchmarks.contestants import BOUNDS, OURS, contestants
from benchmarks.groups import later
from benchmarks.peak import operations, peaks
from benchmarks.rows import Row, make_row
from benchmarks.settings import Settings
from benchmarks.timing import Work, alternate, compare

PEERS = {
    "diffusers": "diffusers",
    "lucidrains": "denoising-diffusion-pytorch",
}
TRAINING = {
    "ours": later("ours", "training_step"),
    "diffusers": later("peers", "diffusers_training_step"),
    "lucidrains": later("peers", "lucidrains_training_step"),
}
SAMPLING = {
    "ours": later("ours", "sampling_steps"),
    "diffusers": later("peers", "diffusers_sampling_steps"),
    "lucidrains": later("peers", "lucidrains_sampling_steps"),
}
# The least ratio that is wanted, by device, ours and the peer's precision.
TRAINING_GOALS = {
    ("cpu", "fp32", "fp32"): 2.0,
    ("cpu", "bf16", "fp32"): 2.0,
    ("cpu", "bf16", "bf16"): 1.25,
    ("cuda", "bf16", "bf16"): 2.0,
    ("cuda", "fp16", "fp16"): 2.0,
}
# The least part of the peak besides, of a training on CUDA beside diffusers.
SHARE_GOAL = 0.45
SAMPLING_GOALS = {
    ("cpu", "fp32", "fp32"): 2.5,
    ("cpu", "bf16", "fp32"): 2.5,
    ("cuda", "bf16", "bf16"): 3.0,
}


CARD = 24 * 10**9  # the dissertation's Tesla P40
SMALL_CARD = 8 * 10**9
CALLS = 3


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
            {name: partial(make, settings) for name, make in TRAINING.items()}
            | _compiled(settings, TRAINING["ours"])
            | _bounds(settings, settings.batch, training=True),
            TRAINING_GOALS,
        ),
        "recomputed": Contest(
            "recomputed",
            f"training step, {network}, batch {settings.batch}, recomputing",
            settings.batch,
            True,
            {"ours": partial(TRAINING["ours"], settings, recompute=True)},
            {},
        ),
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
            }
            | _compiled(settings, SAMPLING["ours"], batch=batch, steps=steps)
            | _bounds(settings, batch, training=False),
            SAMPLING_GOALS,
        )
    return found


def _compiled(
    settings: Settings, make: Callable[..., Work], **sizes: int
) -> dict[str, Callable[[str], Work]]:
    if settings.on.type != "cuda":
        return {}
    return {"compiled": partial(make, settings, compiled=True, **sizes)}


def _bounds(
    settings: Settings, batch: int, *, training: bool
) -> dict[str, Callable[[str], Work]]:
    return {
        name: partial(later("layers", name), settings, batch=batch, training=training)
        for name in BOUNDS
    }


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


def memory(settings: Settings) -> list[Row]:
    """Say how much of a GPU's memory a training takes, plain and recomputing."""
    precision = settings.precisions[0]
    return [
        _memory_row(settings, contests(settings)[name], precision, limit)
        for name, limit in (("training", CARD), ("recomputed", SMALL_CARD))
    ]


def _memory_row(
    settings: Settings, contest: Contest, precision: str, limit: int
) -> Row:
    with contestants(settings, contest.name, [("ours", precision)]) as works:
        for work in works.values():
            work.seconds(CALLS)
            used = work.dismiss()
    return make_row(
        settings,
        f"memory-{contest.name}",
        f"GPU memory, {contest.title}, {precision}",
        "a card",
        ratio=limit / used,
        goal=1.0,
        goal_text=f"≤ {limit / 1e9:g} GB",
        ours_bytes=used,
        peer_bytes=limit,
        note="the ratio is the card's memory to what is used",
    )


def _run(settings: Settings, contest: Contest) -> list[Row]:
    who = list(itertools.product(contest.makers, settings.precisions))
    with contestants(settings, contest.name, who) as works:
        times = alternate(works, settings.rounds, settings.seconds)
        most = {name: work.dismiss() for name, work in works.items()}
    shares = _shares(settings, contest, times)
    return [
        make_row(
            settings,
            f"{contest.name}-{_pair(mine, theirs)}-{program}{_suffix(variant)}",
            f"{contest.title}, {mine}{OURS[variant]}",
            f"{PEERS[program]}, {theirs}",
            compare(times[variant, mine], times[program, theirs]),
            **_limits(times, program, mine, theirs),
            goal=goal,
            goal_share=(share := _share_goal(settings, contest, goal)),
            goal_text=_goal_text(goal, share),
            ours_share=shares[variant, mine],
            peer_share=shares[program, theirs],
            ours_bytes=most[variant, mine],
            peer_bytes=most[program, theirs],
        )
        for program, mine, theirs, goal in _pairs(settings, contest)
        for variant in OURS
        if {(variant, mine), (program, theirs)} <= times.keys()
    ]


def _limits(
    times: Mapping[tuple[str, str], list[float]], program: str, mine: str, theirs: str
) -> dict[str, float]:
    """Return the ratios of the bounds, beside a peer of the same layers."""
    if program != "diffusers":
        return {}
    return {
        f"ratio_{name}": compare(times[name, mine], times[program, theirs]).ratio
        for name in BOUNDS
        if (name, mine) in times
    }


def _pair(mine: str, theirs: str) -> str:
    return mine if mine == theirs else f"{mine}-beside-{theirs}"


def _share_goal(
    settings: Settings, contest: Contest, goal: float | None
) -> float | None:
    wanted = goal and contest.training and settings.on.type == "cuda"
    return SHARE_GOAL if wanted else None


def _goal_text(goal: float | None, share: float | None) -> str:
    times = f"≥ {goal:g}×" if goal else ""
    return f"{times}, ≥ {share:.0%} of peak" if share else times


def _suffix(variant: str) -> str:
    return "" if variant == "ours" else f"-{variant}"


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
        if program in BOUNDS:
            continue
        count = operations(settings, program, contest.batch, contest.training)
        middle = compare(seconds, seconds).ours_s
        reached[program, precision] = (
            count / middle / peaks(settings)["matmul", precision]
        )
    return reached
