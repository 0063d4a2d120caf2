"""The visits that are going on, in memory: which of them have to go when there is no room for all.

Gradio keeps a state for every session name that anybody sends. Here a session has one while it has a visit.
"""

import dataclasses
import datetime
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from copy import copy
from typing import Any

from gradio.blocks import Blocks
from gradio.components import State
from gradio.state_holder import SessionState, StateHolder

logger = logging.getLogger(__name__)

VISIT_BYTES = 3 * 2**27  # of all visits together
ADDRESSES = 10_000  # sessions whose address is remembered


class Session(SessionState):
    """A session's state, without the copy of all components that Gradio makes for deep links."""

    def __init__(self, blocks: Blocks, keep: Callable[["Session"], None]) -> None:
        self.blocks_config, self.config_values = copy(blocks.default_config), {}
        self.state_data: dict[int, Any] = {}
        self._state_ttl: dict[int, tuple] = {}
        self.is_closed, self.STATE_TTL_WHEN_CLOSED = False, 3600
        self.used, self.bytes, self._keep = time.monotonic(), 0, keep

    def __setitem__(self, key: int, value: Any) -> None:
        block = self.blocks_config.blocks.get(key)
        if not isinstance(block, State):
            self.blocks_config.blocks[key] = value
            return
        self._state_ttl[key] = (block.time_to_live, datetime.datetime.now())
        self.state_data[key] = value
        if value is not None:
            self.bytes = size(list(self.state_data.values()))
            self._keep(self)

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass


class Visits(StateHolder):
    """Holds the sessions that have a visit, up to `most` bytes.

    Beyond them, addresses that hold more than an equal share let go of visits: first those whose page is not
    open, then those that have been idle longest.
    """

    def __init__(self, most: int = VISIT_BYTES) -> None:
        super().__init__()
        self.most = most
        self.open: Counter[str] = Counter()  # sessions whose page is open in a browser
        self._addresses: OrderedDict[str, str] = OrderedDict()
        self._told = 0

    def came_from(self, session: str, address: str) -> None:
        """Note where a session's requests come from."""
        self._addresses[session] = address
        self._addresses.move_to_end(session)
        while len(self._addresses) > ADDRESSES:
            self._addresses.popitem(last=False)

    def __getitem__(self, session: str) -> Session:
        if found := self.session_data.get(session):
            found.used = time.monotonic()
            return found
        return Session(self.blocks, lambda new: self._keep(session, new))

    def update(self, session: str) -> None:
        """Nothing to do: what is let go is decided by bytes, when a visit is kept."""

    def _keep(self, session: str, state: Session) -> None:
        self.session_data[session] = state
        state.used = time.monotonic()
        while self.bytes > self.most and len(self.session_data) > 1:
            least = self._least(besides=session)
            idle = time.monotonic() - self.session_data.pop(least).used
            logger.info("A visit was let go that had been idle for %.0f s; %s", idle, self)

    def _least(self, besides: str) -> str:
        """The session to let go next."""
        by_address: Counter[str] = Counter()
        for name, state in self.session_data.items():
            by_address[self._address(name)] += state.bytes
        share = self.bytes / len(by_address)
        others = [name for name in self.session_data if name != besides]
        greedy = [name for name in others if by_address[self._address(name)] >= share]
        return min(greedy or others, key=lambda name: (self.open[name] > 0, self.session_data[name].used))

    def _address(self, session: str) -> str:
        return self._addresses.get(session, "")

    @property
    def bytes(self) -> int:
        """What all visits hold."""
        return sum(state.bytes for state in self.session_data.values())

    def __str__(self) -> str:
        addresses = len({self._address(name) for name in self.session_data})
        return f"{len(self.session_data)} visits from {addresses} addresses hold {self.bytes / 2**20:.0f} MB"

    def delete_state(self, session_id: str, expired_only: bool = False) -> None:
        """Forget a visit, or only if its time is over."""
        super().delete_state(session_id, expired_only)
        state = self.session_data.get(session_id)
        if state is not None and not any(value is not None for value in state.state_data.values()):
            del self.session_data[session_id]

    def tell(self) -> None:
        """Say in the log what is held, if that has changed."""
        if self.bytes != self._told:
            self._told = self.bytes
            logger.info("%s", self)


def size(value: Any) -> int:
    """Bytes of all arrays and tensors that a value holds, each counted once; strings and bytes count, too."""
    seen: dict[int, int] = {}
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if id(value) in seen or value is None:
            continue
        base = getattr(value, "base", None)
        seen[id(value)] = 0
        if hasattr(value, "nbytes"):
            waiting += [base] if hasattr(base, "nbytes") else []
            seen[id(value)] = 0 if hasattr(base, "nbytes") else value.nbytes
        elif isinstance(value, (str, bytes)):
            seen[id(value)] = len(value)
        elif isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set)):
            waiting += value
        elif dataclasses.is_dataclass(value):
            waiting += vars(value).values()
    return sum(seen.values())
