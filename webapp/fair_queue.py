"""Who is next: events wait in Gradio's queue, and nobody's events hold up everybody else's."""

import asyncio
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable
from typing import Any

import fastapi
from gradio.blocks import Block
from gradio.data_classes import PredictBodyInternal
from gradio.helpers import skip
from gradio.queueing import Event, Queue
from gradio.server_messages import ProcessCompletedMessage

QUEUE_SIZE = 64  # more waiting events than this are turned away
ADDRESS_SIZE = QUEUE_SIZE // 2  # so are more from one address
UNREAD = 64  # results that nobody has fetched: beyond them, the oldest are dropped
UNREAD_SECONDS = 60  # a result is kept at least so long
REMEMBERED = 1000  # addresses, and sessions of one


def address_of(request: fastapi.Request) -> str:
    """Where a request comes from; behind a proxy, what uvicorn makes of its X-Forwarded-For."""
    return request.client.host if request.client else ""


class Cancelled(Exception):
    """Nobody waits any more for what is being computed."""

    def __init__(self) -> None:
        super().__init__("Cancelled; nothing has changed.")


def _takes(block: Block, value: Any) -> bool:
    """Whether a value has the structure of a component's, as that of a file, which Gradio checks later."""
    model = getattr(block, "data_model", None)
    try:
        if model is not None and value is not None:
            model.model_validate(value, context={"validate_meta": True})
        return True
    except (ValueError, RecursionError):
        return False


class Service:
    """How long everybody's events have been served: start-time fair queueing.

    Who has been served least is next; who was away has saved up nothing, and starts where the clock stands.
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.clock = 0.0  # what the one served last had been served before

    def arrive(self, name: str) -> None:
        """Note that `name` has something to be served, and had nothing."""
        self.seconds[name] = max(self.seconds[name], self.clock)

    def begin(self, name: str) -> None:
        """Note whose turn it is."""
        self.clock = max(self.clock, self.seconds[name])
        if len(self.seconds) > REMEMBERED:
            self.seconds = Counter({n: s for n, s in self.seconds.items() if s > self.clock})


class FairQueue(Queue):
    """Gradio's queue, with two differences.

    Of the waiting events, one of the address that has been served least is taken, and of that address's, one
    of the session that has been. And an event that was cancelled, or whose client has gone, is stopped where
    its work reports its progress, and keeps its place in the queue until then.
    """

    def __init__(self, blocks) -> None:
        super().__init__(
            live_updates=True,
            concurrency_count=blocks.max_threads,
            update_intervals=1,
            max_size=QUEUE_SIZE,
            blocks=blocks,
        )
        self._addresses: Service = Service()
        self._sessions: defaultdict[str, Service] = defaultdict(Service)  # by address
        self._unread: OrderedDict[str, tuple[str, float]] = OrderedDict()  # event: session and time

    def _waiting(self) -> list[Event]:
        return [event for lane in self.event_queue_per_concurrency_id.values() for event in lane.queue]

    async def push(self, body: PredictBodyInternal, request: fastapi.Request, username: str | None):
        """Let an event wait, unless there are too many.

        Returns:
            As Gradio's: whether it waits, its id or why not, and "success", "queue_full" or "error".
        """
        if body.fn_index not in self.blocks.fns:
            return False, "There is no such event.", "error"
        fn, address = self.blocks.fns[body.fn_index], address_of(request)
        if fn.fn is None or len(body.data) < len(fn.inputs) or not all(map(_takes, fn.inputs, body.data)):
            return False, "This event takes other inputs.", "error"
        waiting = self._waiting()
        if sum(address_of(event.request) == address for event in waiting) >= ADDRESS_SIZE:
            return False, "Many of your requests are waiting already; please try again.", "queue_full"
        self._drop_unread()
        if address not in {address_of(event.request) for event in waiting}:
            self._addresses.arrive(address)
        if body.session_hash not in {event.session_hash for event in waiting}:
            self._sessions[address].arrive(body.session_hash or "")
        success, event, state = await super().push(body, request, username)
        if success:
            self._unread[event] = body.session_hash, time.monotonic()
        return success, event, state

    def get_events(self):
        for lane in self.event_queue_per_concurrency_id.values():
            if len(lane.queue) > 1:
                lane.queue.sort(key=self._served)  # stable: what a session asked first stays first
        found = super().get_events()
        if found:
            event = found[0][0]
            address = address_of(event.request)
            self._addresses.begin(address)
            self._sessions[address].begin(event.session_hash)
            if len(self._sessions) > REMEMBERED:
                self._sessions.clear()
        return found

    def _served(self, event: Event) -> tuple[float, float]:
        address = address_of(event.request)
        return self._addresses.seconds[address], self._sessions[address].seconds[event.session_hash]

    async def process_events(self, events: list[Event], batch: bool, begin_time: float, fn) -> None:
        began = time.monotonic()
        # Gradio would cancel the task of the event's name: its place would be free, and its thread work on.
        asyncio.current_task().set_name(events[0]._id)
        try:
            await super().process_events(events, batch, begin_time, fn)
        finally:
            seconds = time.monotonic() - began
            address = address_of(events[0].request)
            self._addresses.seconds[address] += seconds
            self._sessions[address].seconds[events[0].session_hash] += seconds

    async def remove_from_queue(self, event_id: str) -> None:
        """Let an event wait no more, or stop its work."""
        if event := self.event_ids_to_events.get(event_id):
            event.alive = False
        await super().remove_from_queue(event_id)

    def give_up(self, session: str, lanes: Iterable[str]) -> None:
        """Let no event of a session wait in these lanes any more; each ends as one that changes nothing.

        To be called in the event loop.
        """
        for lane in (self.event_queue_per_concurrency_id.get(name) for name in lanes):
            for event in [event for event in lane.queue if event.session_hash == session] if lane else ():
                lane.queue.remove(event)
                self.event_ids_to_events.pop(event._id, None)
                nothing = {"data": [skip() for _ in event.fn.outputs]}
                self.send_message(event, ProcessCompletedMessage(output=nothing, success=True))

    def set_progress(self, event_id: str, iterables: list | None) -> None:
        """Called by an event's work.

        Raises:
            Cancelled: the event was cancelled, or its client has gone.
        """
        event = self.event_ids_to_events.get(event_id)
        if event and not event.alive:
            raise Cancelled
        super().set_progress(event_id, iterables)

    def _drop_unread(self) -> None:
        """Forget results that their visitors have not fetched: they hold pictures."""
        for event, (session, _) in list(self._unread.items()):
            if event not in self.pending_event_ids_session.get(session, ()):
                del self._unread[event]
        for event, (session, since) in list(self._unread.items()):
            if len(self._unread) < UNREAD or time.monotonic() - since < UNREAD_SECONDS:
                break
            if event in self.event_ids_to_events:  # still to be done
                continue
            del self._unread[event]
            self.pending_event_ids_session.pop(session, None)
            self.pending_messages_per_session.pop(session, None)

    def compute_analytics_summary(self, records: list) -> dict:
        """Nothing: monitoring is off, and its statistics would be computed anew after every event."""
        return {}
