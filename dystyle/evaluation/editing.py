"""How well an editor edits: targets reached, identity kept, other attributes left alone."""

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from dystyle.attributes import ATTRIBUTES
from dystyle.pipeline import FaceEditor

# Targets that faces can follow; the sliders' ranges are wider.
TARGET_RANGES = {"yaw": (-25, 25), "pitch": (-15, 15), "age": (10, 70), "gender": (0, 1)}


@dataclass(frozen=True)
class EditingConfig:
    """Edits of random faces, measured on the 1024 px picture by the project's own readers.

    Attributes:
        count: faces, of seeds `first_seed` on (training draws its codes elsewhere); truncation of theirs.
        joint: numbers of attributes edited at once, besides every single one.
    """

    count: int = 128
    first_seed: int = 10_000
    truncation: float = 0.7
    joint: tuple[int, ...] = (3,)
    backend: str = "onnx"
    device: str = "cpu"


def evaluate_editing(config: EditingConfig) -> dict:
    """Measure single and joint edits.

    Returns:
        "single": by attribute (binary ones as "name=0" and "name=1"), and "joint": by number of attributes.
        Numeric: "error", mean absolute, in the attribute's unit, and "unedited_error", had nothing been
        done. Binary: "success", the share of faces that read on the asked side of 0.5. Always: "identity",
        mean cosine to the unedited face by the identity network, and "change", the mean absolute change
        of the readings that were not asked for, by attribute.
    """
    editor = FaceEditor.from_pretrained(config.device, config.backend)
    bench = _Bench(
        editor, [editor.sample(config.first_seed + i, config.truncation) for i in range(config.count)]
    )
    rng = np.random.default_rng(config.first_seed)
    singles = {}
    for name, row in editor.attributes.items():
        if row.kind == "binary":
            for target in (0.0, 1.0):
                edits = [{name: target}] * config.count
                singles[f"{name}={target:.0f}"] = bench.measure(edits, f"{name}={target:.0f}")
        else:
            singles[name] = bench.measure([_draw(rng, [name]) for _ in range(config.count)], name)
    joint = {}
    for size in config.joint:
        names = [list(rng.choice(list(editor.attributes), size, replace=False)) for _ in range(config.count)]
        joint[str(size)] = bench.measure([_draw(rng, chosen) for chosen in names], f"{size} at once")
    return {
        "faces": config.count,
        "first_seed": config.first_seed,
        "truncation": config.truncation,
        "backend": config.backend,
        "single": singles,
        "joint": joint,
    }


def _draw(rng: np.random.Generator, names: list[str]) -> dict[str, float]:
    """Uniform targets; binary attributes to either end."""
    return {
        name: float(
            rng.integers(2) if ATTRIBUTES[name].kind == "binary" else rng.uniform(*TARGET_RANGES[name])
        )
        for name in names
    }


class _Bench:
    """The unedited faces with their readings."""

    def __init__(self, editor: FaceEditor, codes: list[np.ndarray]) -> None:
        self.editor, self.codes = editor, codes
        self.before = [self._read(code) for code in tqdm(codes, desc="unedited faces")]

    def _read(self, code: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
        picture = self.editor.synthesize(code)
        return self.editor.measure(picture), self.editor.embed(picture)

    def measure(self, edits: list[dict[str, float]], label: str) -> dict:
        """The figures of `evaluate_editing` for one edit a face."""
        errors: dict[str, list[float]] = {}
        unedited: dict[str, list[float]] = {}
        changes: dict[str, list[float]] = {}
        cosines = []
        for code, (before, embedding), edit in zip(
            self.codes, self.before, tqdm(edits, desc=label), strict=True
        ):
            after, edited = self._read(self.editor.edit(code, edit))
            cosines.append(float(embedding @ edited))
            for name in after:
                if name not in edit:
                    changes.setdefault(name, []).append(abs(after[name] - before[name]))
                elif ATTRIBUTES[name].kind == "binary":
                    errors.setdefault(name, []).append(float((after[name] > 0.5) == (edit[name] > 0.5)))
                else:
                    errors.setdefault(name, []).append(abs(after[name] - edit[name]))
                    unedited.setdefault(name, []).append(abs(before[name] - edit[name]))
        reached = {}
        for name, values in errors.items():
            if ATTRIBUTES[name].kind == "binary":
                reached[name] = {"success": float(np.mean(values))}
            else:
                reached[name] = {
                    "error": float(np.mean(values)),
                    "unedited_error": float(np.mean(unedited[name])),
                }
        return {
            "reached": reached,
            "identity": float(np.mean(cosines)),
            "change": {name: float(np.mean(values)) for name, values in changes.items()},
        }


def table(result: dict) -> str:
    """The result as Markdown: what was reached, then what else changed."""
    rows = {**result["single"], **{f"{size} at once": v for size, v in result["joint"].items()}}
    lines = ["| edit | attribute | reached | unedited | identity |", "|---|---|---|---|---|"]
    for label, figures in rows.items():
        for name, reached in figures["reached"].items():
            if "success" in reached:
                value, unedited = f"{reached['success']:.0%}", ""
            else:
                value = f"{reached['error']:.2f} {ATTRIBUTES[name].unit}".strip()
                unedited = f"{reached['unedited_error']:.2f}"
            lines.append(f"| {label} | {name} | {value} | {unedited} | {figures['identity']:.2f} |")
    names = [name for name in ATTRIBUTES if any(name in figures["change"] for figures in rows.values())]
    lines += ["", "Mean absolute change of what was not edited:", ""]
    lines += [f"| edit | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for label, figures in rows.items():
        changes = [f"{figures['change'][name]:.2f}" if name in figures["change"] else "" for name in names]
        lines.append(f"| {label} | {' | '.join(changes)} |")
    return "\n".join(lines)
