"""SIGTERM and SIGINT: finish the update, keep the work, end."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from noisesteps.errors import NoisestepsError

STOPPING = (signal.SIGTERM, signal.SIGINT)


class Interrupted(NoisestepsError):  # noqa: N818 - nothing went wrong
    """A signal ended a stage early; running it again goes on from there.

    Attributes
    ----------
    exit_code : int
        128 plus the signal's number, as shells have it: 143 for SIGTERM, 130 for
        SIGINT.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.exit_code = 128 + number


class StopRequest:
    """While entered, remembers the first SIGTERM or SIGINT instead of dying of it.

    A signal that was ignored before stays ignored (`nohup`, background jobs). Outside
    of the main thread nothing changes, since Python delivers no signals there. One
    inside another tells the outer one of its signal.

    Attributes
    ----------
    number : int or None
        The signal's number, once it came.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        outer = getattr(self._before.get(self.number), "__self__", None)
        if isinstance(outer, StopRequest):
            outer.number = outer.number or self.number

    def __bool__(self) -> bool:
        return self.number is not None

    @property
    def name(self) -> str:
        """The signal's name, such as SIGTERM."""
        return signal.Signals(self.number).name

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.number = self.number or number
