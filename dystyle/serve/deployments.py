"""What runs where on Ray Serve: engines in three deployments, and before them the HTTP API.

Inversion, editing and rendering grow and shrink apart, each between a least and a most number of replicas. In
a replica, calls that ask for the same at about the same time run as one batch. A replica that is lost costs
nothing but time: all that engines compute can be computed again.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from dystyle.engines.choice import choose_backend
from dystyle.errors import InputError
from dystyle.memory import share_freed_memory
from dystyle.pipeline import FaceEditor
from dystyle.serve.api import Busy, build_api

APP = "dystyle"
EDITING, INVERSION, RENDERING = "editing", "inversion", "rendering"
RENDERS = ("generator", "features", "decoder", "carrier", "parts")  # how the names of its graphs begin
SECONDS = 120.0  # until an engine has to have answered
TRIES = 4
REQUESTS = 32  # that a replica of the API answers at once: they mostly wait for engines
HEALTH_SECONDS = 10
# Of a core, what a replica reserves: one of each to a core, and editing takes next to nothing.
RESERVED = {EDITING: 0.0, INVERSION: 0.5, RENDERING: 0.5}


@dataclass(frozen=True)
class ServeConfig:
    """Serve the page's operations and the engines, for pages, command lines and programs elsewhere.

    Attributes:
        host, port: where the API is served, for example to `FaceEditor.from_pretrained(backend="serve",
            url="http://127.0.0.1:8000")`.
        least, most: replicas of inversion, of editing and of rendering.
        threads: that each replica computes with.
        batch: calls that run together at most. On a CPU 1 is best: of eight pictures each takes as long as
            alone (docs/scale.md).
        wait: milliseconds for which the first of them waits for others.
        queue: calls that may wait for each deployment; who comes then is told so (503).
        backend: "auto", "onnx" or "openvino".
        address: of a Ray cluster to serve on, "auto" for the one that was started here; without it, Ray is
            started for this server alone. Where one serves already, its replicas are replaced one after the
            other.
        metrics_port: where Ray shows its metrics and the server's to Prometheus, if it is started here.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    least: int = 1
    most: int = 1
    threads: int = 1
    batch: int = 1
    wait: float = 2.0
    queue: int = 64
    backend: str = "auto"
    address: str | None = None
    metrics_port: int = 9400

    def check(self) -> None:
        """Find out before the start whether the numbers make sense.

        Raises:
            InputError: they do not.
        """
        if not 1 <= self.least <= self.most:
            raise InputError("--least takes a number from 1 on, and --most one from there on.")
        if min(self.threads, self.batch) < 1 or min(self.queue, self.wait) < 0:
            raise InputError("--threads and --batch take numbers from 1 on, --queue and --wait from 0 on.")
        if self.backend not in ("auto", "onnx", "openvino"):
            raise InputError(f"--backend takes auto, onnx or openvino, not '{self.backend}'.")


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a backend.

    Attributes:
        method: of the backend: "run", "edit" or "attention".
        name: of the graph.
        x: its input, or codes.
        others: further inputs; for editing the targets, (b,) each, by attribute.
        weights: as for `Backend.run`.
    """

    method: str
    name: str
    x: np.ndarray
    others: Mapping[str, np.ndarray] = field(default_factory=dict)
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def kind(self) -> tuple:
        """Calls with the same can run together; what has weights of its own runs alone."""
        tensors = {"": self.x, **self.others}
        shapes = tuple((key, x.shape[1:], x.dtype.str) for key, x in tensors.items())
        return self.method, self.name, shapes, id(self) if self.weights else 0


class Engines:
    """A replica of one of the three.

    Args:
        backend: as `ServeConfig`; batch, wait likewise.
    """

    def __init__(self, backend: str, batch: int, wait: float) -> None:
        self.backend = choose_backend("cpu", backend)
        self._together.set_max_batch_size(batch)
        self._together.set_batch_wait_timeout_s(wait / 1000)

    async def run(self, call: Call) -> list[np.ndarray] | InputError:
        """The outputs, batch in front; or what is wrong with the call."""
        return await self._together(call)

    @serve.batch
    async def _together(self, calls: list[Call]) -> list[list[np.ndarray] | InputError]:
        return await asyncio.to_thread(answer, self.backend, calls)

    def check_health(self) -> None:
        """Whether engines run here; Ray starts a replica that cannot anew."""
        self.backend.edit(np.zeros((1, 18, 512), np.float32), {"age": 40.0})


def answer(backend, calls: Sequence[Call]) -> list[list[np.ndarray] | InputError]:
    """What each call asks for, those of one kind computed together."""
    groups: dict[tuple, list[int]] = defaultdict(list)
    for place, call in enumerate(calls):
        groups[call.kind].append(place)
    answers: list[list[np.ndarray] | InputError] = [[]] * len(calls)
    for places in groups.values():
        group = [calls[place] for place in places]
        try:
            outputs = _compute(backend, group)
        except (InputError, InvalidArgument, ValueError) as error:
            said = str(error).partition("\n")[0]
            for place in places:
                answers[place] = InputError(f"The engine refuses this: {said}")
            continue
        ends = np.cumsum([len(call.x) for call in group])[:-1]
        shares = zip(*(np.split(output, ends) for output in outputs), strict=True)
        for place, share in zip(places, shares, strict=True):
            answers[place] = list(share)
    return answers


def _compute(backend, group: Sequence[Call]) -> list[np.ndarray]:
    first = group[0]
    x = np.concatenate([call.x for call in group])
    others = {key: np.concatenate([call.others[key] for call in group]) for key in first.others}
    if first.method == "run":
        return backend.run(first.name, x, first.weights, **others)
    if first.method == "edit":
        return [backend.edit(x, others)]
    return [backend.attention(x, others).swapaxes(0, 1)]


class DeployedBackend:
    """Engines in deployments. A `Backend`; not to be called from an event loop.

    Args:
        handles: of the deployments, by name.
    """

    precision = "fp32"

    def __init__(self, handles: Mapping[str, DeploymentHandle]) -> None:
        self.handles = handles

    def run(
        self,
        name: str,
        x: np.ndarray,
        weights: Mapping[str, np.ndarray] | None = None,
        **others: np.ndarray,
    ) -> list[np.ndarray]:
        """See `Backend.run`.

        Raises:
            InputError: the engine does not take this.
            Busy: too many are waiting.
        """
        part = RENDERING if name.startswith(RENDERS) else INVERSION
        return self._ask(part, Call("run", name, x, others, weights or {}))

    def edit(self, codes: np.ndarray, configuration: Mapping, editor: str = "editor") -> np.ndarray:
        """See `Backend.edit`; errors as `run`. Targets may be arrays (b,), too."""
        return self._ask(EDITING, Call("edit", editor, codes, _targets(codes, configuration)))[0]

    def attention(self, codes: np.ndarray, configuration: Mapping, editor: str = "editor") -> np.ndarray:
        """See `Backend.attention`; as `edit`."""
        outputs = self._ask(EDITING, Call("attention", editor, codes, _targets(codes, configuration)))
        return outputs[0].swapaxes(0, 1)

    def release_memory(self) -> None:
        """Replicas' memory is their own."""

    def _ask(self, part: str, call: Call) -> list[np.ndarray]:
        for _ in range(TRIES):
            try:
                found = self.handles[part].run.remote(call).result(timeout_s=SECONDS)
            except (BackPressureError, TimeoutError) as error:
                raise Busy from error
            except RayActorError:  # the replica is gone; another one will do
                continue
            if isinstance(found, InputError):
                raise found
            return [np.array(output) for output in found]  # what lies in Ray's memory cannot be changed
        raise Busy


def _targets(codes: np.ndarray, configuration: Mapping) -> dict[str, np.ndarray]:
    return {name: np.full(len(codes), value, np.float32) for name, value in configuration.items()}


def _ingress():
    """The API in a replica of its own, before the engines."""
    share_freed_memory()  # dozens of threads hold pictures
    handles = {part: serve.get_deployment_handle(part, APP) for part in RESERVED}
    return build_api(FaceEditor.from_pretrained(backend=DeployedBackend(handles)))


def application(config: ServeConfig) -> serve.Application:
    """All of it, to be run by `ray.serve.run(..., name=APP)`."""

    def options(ongoing: int, cores: float) -> dict:
        return {
            "autoscaling_config": {
                "min_replicas": config.least,
                "max_replicas": config.most,
                "target_ongoing_requests": ongoing / 2,
            },
            "max_ongoing_requests": ongoing,
            "max_queued_requests": config.queue,
            "health_check_period_s": HEALTH_SECONDS,
            "graceful_shutdown_timeout_s": SECONDS,  # what it has begun, it ends
            "ray_actor_options": {
                "num_cpus": cores,
                "runtime_env": {"env_vars": {"DYSTYLE_CORES": str(config.threads)}},
            },
        }

    engines = [
        serve.deployment(Engines, name=part, **options(2 * config.batch, cores)).bind(
            config.backend, config.batch, config.wait
        )
        for part, cores in RESERVED.items()
    ]
    ingress = serve.deployment(serve.ingress(_ingress)(), name="api", **options(REQUESTS, 0.0))
    return ingress.bind(*engines)
