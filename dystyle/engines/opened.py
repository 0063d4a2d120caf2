"""Engines that are open: each is opened once, however many threads ask for it, and has a lock of its own."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

Run = Callable[[dict[str, np.ndarray]], list[np.ndarray]]
"""An open engine: inputs by name -> outputs."""


@dataclass
class _Entry:
    engine: Future = field(default_factory=Future)
    asked: dict[int, float] = field(default_factory=dict)  # the time by thread


class Opened:
    """Keeps those of the engines open that were used last.

    The lock guards the list alone: an open engine answers while others are being opened, and who asks for one
    that is being opened waits for that one.

    Args:
        most: number of engines.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str, open: Callable[[], Run]) -> Run:
        """The engine under this key, opened by `open` if it is not there. What `open` raises, this does."""
        with self._lock:
            missing = key not in self._entries
            entry = self._entries.setdefault(key, _Entry())
            entry.asked[threading.get_ident()] = time.monotonic()
            self._entries.move_to_end(key)
            while len(self._entries) > self.most:
                self._entries.popitem(last=False)
        if missing:
            try:
                entry.engine.set_result(open())
            except BaseException as error:
                with self._lock:
                    if self._entries.get(key) is entry:
                        del self._entries[key]
                entry.engine.set_exception(error)
        return entry.engine.result()

    def close_unused(self, seconds: float) -> None:
        """Close what no other thread has asked for in the last `seconds`; what runs ends first."""
        since, own = time.monotonic() - seconds, threading.get_ident()
        with self._lock:
            for key, entry in list(self._entries.items()):
                others = [asked for thread, asked in entry.asked.items() if thread != own]
                if max(others, default=since) <= since:
                    del self._entries[key]
