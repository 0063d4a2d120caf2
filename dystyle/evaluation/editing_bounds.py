"""What the project asks of its editor, beside what was measured."""

import numpy as np

from dystyle.attributes import ATTRIBUTES


def bounds(result: dict) -> list[tuple[str, str, str]]:
    """What the project asks of single edits and of three at once: (what, bound, reached).

    Args:
        result: of `dystyle.evaluation.editing.evaluate_editing`. Bounds of what it lacks, or of what no judge
            reads, are left out.
    """
    single, three = result["single"], result["joint"]["3"]
    rows = _taught_bounds(single, three) + _judged_bounds(single, three)
    kept = [f["descriptor_distance"]["mean"] for n, f in single.items() if not ATTRIBUTES[n].changes_person]
    if kept:
        rows.append(("judges: distance, but for age and gender", "0.45", f"{np.mean(kept):.2f}"))
    return rows + _compared_bounds(result["compared"])


def _taught_bounds(single: dict, three: dict) -> list[tuple[str, str, str]]:
    """Of what the editor's teachers read."""
    alone = {name: figures["values"]["reached"][name] for name, figures in single.items()}
    together = three["values"]["reached"]

    def errors(reached: dict, label: str, which: int) -> list[tuple[str, str, str]]:
        limits = {name: ATTRIBUTES[name].error_bounds for name in reached}
        return [
            (f"{name} {label}", f"{limit[which]:g}", f"{reached[name]['error']['mean']:.2f}")
            for name, limit in limits.items()
            if limit
        ]

    rows = errors(alone, "alone", 0)
    if shares := [(f["success"]["mean"], name) for name, f in alone.items() if "success" in f]:
        share, name = min(shares)
        rows.append(("worst binary attribute alone", "92%", f"{share:.0%} ({name})"))
    rows += errors(together, "among three", 1)
    if shares := [f["success"]["mean"] for f in together.values() if "success" in f]:
        rows.append(("binary attributes among three", "88%", f"{np.mean(shares):.0%}"))
    return rows


def _judged_bounds(single: dict, three: dict) -> list[tuple[str, str, str]]:
    """Of what the independent judges read."""
    rows, judged = [], [f["judged"] for f in single.values() if f["judged"]["right"]]
    for key, form, titles, limits in (
        ("right", ".0%", ("alone, right", "among three, right"), ("85%", "75%")),
        ("sides", ".1%", ("sides, alone", "sides, three"), ("5%", "12%")),
    ):
        alone = [figures[key]["mean"] for figures in judged if figures[key]]
        together = [figures["mean"] for figures in (three["judged"][key],) if figures]
        for title, limit, shares in zip(titles, limits, (alone, together), strict=True):
            if shares:
                rows.append((f"judges: {title}", limit, f"{np.mean(shares):{form}}"))
    return rows


def _compared_bounds(compared: dict) -> list[tuple[str, str, str]]:
    """What the project asks of the joint pass beside other methods on the same faces, as `bounds`."""
    rows = []

    def error(figures: dict) -> float:
        return figures["values"]["error"]["mean"]

    def identity(figures: dict) -> float:
        return figures["identity"]["mean"]

    def moved(figures: dict) -> float:
        kept = figures["values"]["moved"]
        return kept["mean"] if kept else 0.0

    asked = (
        ("error", "less", error, "sum"),
        ("identity", "more", identity, "sum"),
        ("error", "1/1.2 or more", error, "sequential"),
        *(
            row
            for method in ("interfacegan", "interfacegan_joint")
            for row in (
                ("error", "half or less", error, method),
                ("identity", "as much", identity, method),
                ("moved", "half or less", moved, method),
            )
        ),
    )
    for what, bound, figure, method in asked:
        sizes = [size for size, methods in compared.items() if method in methods]
        pairs = [[figure(compared[size][name]) for name in ("dystyle", method)] for size in sizes]
        cells = ", ".join(f"{ours:.3f} ({theirs:.3f})" for ours, theirs in pairs)
        if sizes:
            rows.append((f"{what}, {', '.join(sizes)} at once (in brackets: {method})", bound, cells))
    return rows
