"""The report on editing as a plot."""

from pathlib import Path

import numpy as np


def plot(result: dict, path: Path) -> None:
    """Single edits as bars, joint ones as lines over the number of attributes, by method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(15, 8), layout="constrained")
    names, x = list(result["single"]), np.arange(len(result["single"]))
    panels = {
        "right": lambda f, read: f[read]["right"],
        "of what was not asked for, changed sides": lambda f, read: f[read]["sides"],
        "identity (cosine)": lambda f, read: f["identity"],
    }
    for ax, (title, pick) in zip(axes[0], panels.items(), strict=True):
        readings = ("values",) if "identity" in title else ("values", "judged")
        for offset, read in enumerate(readings):
            figures = [pick(result["single"][name], read) for name in names]
            means, spread = _bars(figures)
            label = {"values": "teachers", "judged": "judges"}[read]
            ax.bar(x + 0.4 * offset, means, 0.4, yerr=spread, label=label)
        ax.set_xticks(x + 0.2, names, rotation=60, ha="right")
        ax.set_title(f"one attribute: {title}")
        if len(readings) > 1:
            ax.legend(loc="lower left" if title == "right" else "upper left")
    panels = {
        "error, by the judges (share of the range)": lambda f: f["judged"]["error"],
        "change of the others, by the judges": lambda f: f["judged"]["moved"],
        "identity (cosine)": lambda f: f["identity"],
    }
    sizes = list(result["joint"])
    for ax, (title, pick) in zip(axes[1], panels.items(), strict=True):
        compared = result["compared"] or {size: {"dystyle": f} for size, f in result["joint"].items()}
        for method in dict.fromkeys(name for size in sizes for name in compared[size]):
            known = [index for index, size in enumerate(sizes) if method in compared[size]]
            means, spread = _bars([pick(compared[sizes[index]][method]) for index in known])
            ax.errorbar(known, means, spread, marker="o", capsize=3, label=method)
        ax.set_xticks(range(len(sizes)), sizes)
        ax.set_xlabel("attributes at once")
        ax.set_title(title)
        ax.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _bars(figures: list[dict[str, float] | None]) -> tuple[list[float], list[float]]:
    """Heights and half intervals; nothing is drawn where there is no figure."""
    return tuple([np.nan if f is None else f[key] for f in figures] for key in ("mean", "ci"))
