"""Training and sampling: ours, diffusers and denoising-diffusion-pytorch in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from benchmarks.contestants import as_a_stage, contestants, take_turns
from benchmarks.groups import Later
from benchmarks.peak import operations, peaks
from benchmarks.rows import Row, make_row
from benchmarks.settings import Settings
from benchmarks.timing import Measured, Work

# Our program, by what a row adds to its name: on CUDA it runs compiled too. On a CPU
# compilation takes minutes and gains nothing.
OURS = {"ours": "", "compiled": ", compiled"}
BOUNDS = ("convolutions", "layers")  # contestants that do nothing else: layers.py
PEERS = {
    "diffusers": "diffusers",
    "lucidrains": "denoising-diffusion-pytorch",
}
TRAINING = {
    "ours": partial(as_a_stage, Later("ours", "training_step")),
    "diffusers": Later("peers", "diffusers_training_step"),
    "lucidrains": Later("peers", "lucidrains_training_step"),
}
SAMPLING = {
    "ours": partial(as_a_stage, Later("ours", "sampling_steps")),
    "diffusers": Later("peers", "diffusers_sampling_steps"),
    "lucidrains": Later("peers", "lucidrains_sampling_steps"),
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
Entry = tuple[str, str]  # a program and its precision
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
        name: partial(
            as_a_stage,
            Later("layers", name),
            settings,
            batch=batch,
            training=training,
        )
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
    make = partial(contest.makers["ours"], precision)
    with contestants(settings, contest.name, {"ours": make}) as works:
        if not works:
            raise RuntimeError(f"{contest.title}: there is nothing to measure")
        works["ours"].seconds(CALLS)
        used = works["ours"].dismiss()
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
    makers = {
        (program, precision): partial(contest.makers[program], precision)
        for program in contest.makers
        for precision in settings.precisions
    }
    found = take_turns(settings, contest.name, makers)
    shares = _shares(settings, contest, found)
    return [
        _row(settings, contest, found, shares, (variant, mine), (program, theirs), goal)
        for program, mine, theirs, goal in _pairs(settings, contest)
        for variant in OURS
        if {(variant, mine), (program, theirs)} <= found.keys()
    ]


def _row(
    settings: Settings,
    contest: Contest,
    found: Mapping[Entry, Measured],
    shares: Mapping[Entry, float],
    ours: Entry,
    peer: Entry,
    goal: float | None,
) -> Row:
    """Return the row of one of our programs beside one of a peer's."""
    (variant, mine), (program, theirs) = ours, peer
    share = _share_goal(settings, contest, goal)
    return make_row(
        settings,
        f"{contest.name}-{_pair(mine, theirs)}-{program}{_suffix(variant)}",
        f"{contest.title}, {mine}{OURS[variant]}",
        f"{PEERS[program]}, {theirs}",
        (found[ours], found[peer]),
        **_limits(found, program, mine, theirs),
        goal=goal,
        goal_share=share,
        goal_text=_goal_text(goal, share),
        ours_share=shares[ours],
        peer_share=shares[peer],
    )


def _limits(
    found: Mapping[Entry, Measured], program: str, mine: str, theirs: str
) -> dict[str, float]:
    """Return the ratios of the bounds, beside a peer of the same layers."""
    if program != "diffusers":
        return {}
    return {
        f"ratio_{name}": found[program, theirs].middle_s / found[name, mine].middle_s
        for name in BOUNDS
        if (name, mine) in found
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
    settings: Settings, contest: Contest, found: Mapping[Entry, Measured]
) -> dict[Entry, float]:
    """Return the part of the matrix-multiply peak that each reached."""
    reached = {}
    for (program, precision), took in found.items():
        if program in BOUNDS:
            continue
        count = operations(settings, program, contest.batch, contest.training)
        reached[program, precision] = (
            count / took.middle_s / peaks(settings)["matmul", precision]
        )
    return reached
