"""The report on editing as Markdown."""

from collections.abc import Iterable

from dystyle.attributes import ATTRIBUTES
from dystyle.evaluation.bench import SHIFT
from dystyle.evaluation.editing_bounds import bounds
from dystyle.metrics.comparison import number_text, percent_text, reached_text

HEADING = """\
# Editing

Made by `python -m dystyle.evaluate editing --count {faces} --compared {compared_faces}
--inverted {inverted_faces} --attributes {attributes}
--joint {joint} --methods {methods} --searched {searched} --backend {backend}`, with `--json` and `--plots`
for where this is: {faces} random faces (seeds {first_seed} on, truncation {truncation}, not used in
training; methods are compared on the first {compared_faces}), edited at 1024 px, and {inverted_faces} codes
that the encoder made of degraded pictures of further ones.{portraits} Nothing but these {number}
attributes is edited or read. Numeric targets are uniform in {ranges};
binary ones go to either end. Everything is read twice: by the networks that taught the editor, and by
judges it never met. Means with half of their 95 % confidence intervals.

- right: binary attributes on the asked side of 0.5; numeric ones that have made at least half of the asked
  change, or come near to the target: within {tolerances}
- error, moved: distance to the target, and change of what was not asked for, as shares of the range
- sides: of the attributes that were not asked for, how many have changed sides (below 0.4 to above 0.6,
  or back); flipped: edits after which any has
- identity: cosine of faceres embeddings to the unedited face (strangers: 0.4 to 0.5); distance: of
  dlib's descriptors (one person: below 0.6); Frechet: of the embeddings of edited and unedited faces
- sum: of this editor's single edits; sequential: they follow one another, in random order;
  interfacegan: its directions, each to its target by line search (up to 16 pictures), likewise one after the
  other; interfacegan_joint: their strengths are searched for all at once; look: dystyle with a second look
  at its picture (`FaceEditor.edit(..., looks=1)`)
"""
PORTRAITS = """
Portraits are {photos} real ones (`--photos FOLDER --first-photo {first_photo} --photo-count {photo_count}`),
edited with all that comes along of a photo, and compared with their unedited pictures."""
BOUNDS_HEADING = """
| asked of the editor | bound | random faces | inverted faces |
|---|---|---|---|"""


def table(result: dict) -> str:
    """The result as Markdown: what was reached, then what else changed."""
    rows = _rows(result)
    words = {key: " ".join(result[key]) for key in ("methods", "joint", "attributes")}
    words["number"] = len(result["attributes"])
    words |= _numeric(result["attributes"])
    words["searched"] = " ".join(map(str, result["searched"]))
    words["portraits"] = PORTRAITS.format(**result) if "portraits" in result else ""
    lines = [HEADING.format(**result | words)]
    if "3" in result["joint"]:
        inverted = bounds(result["inverted"]) if "inverted" in result else []
        again = {what: value for what, _, value in inverted}
        lines.append(BOUNDS_HEADING)
        for what, bound, value in bounds(result):
            lines.append(f"| {what} | {bound} | {value} | {again.get(what, '')} |")
        lines.append(f"| moved, pictures shifted by {SHIFT} of 1024 px | | {result['noise']['mean']:.3f} | |")
    lines += [
        "",
        "| edit | method | faces | right | judges: right | error | judges: error | moved | sides "
        "| judges: sides | flipped | judges: flipped | identity | judges: distance | Frechet |",
        "|" + "---|" * 15,
    ]
    for (label, method), f in rows.items():
        taught, judged = f["values"], f["judged"]
        numbers = [
            *(percent_text(read["right"]) for read in (taught, judged)),
            *(percent_text(figure) for figure in (taught["error"], judged["error"], taught["moved"])),
            *(percent_text(read[key]) for key in ("sides", "flipped") for read in (taught, judged)),
            number_text(f["identity"]),
            number_text(f["descriptor_distance"]),
            f"{f['frechet']:.3f}",
        ]
        lines.append(f"| {label} | {method} | {f['faces']} | {' | '.join(numbers)} |")
    lines += [
        "",
        "By attribute: mean absolute error, in brackets had nothing been done, or share reached.",
        "",
        "| edit | method | attribute | reached | by the judges |",
        "|---|---|---|---|---|",
    ]
    for (label, method), f in rows.items():
        for name, reached in f["values"]["reached"].items():
            judged = f["judged"]["reached"].get(name)
            lines.append(
                f"| {label} | {method} | {name} | {reached_text(reached)} | {reached_text(judged)} |"
            )
    names = [name for name in ATTRIBUTES if any(name in f["values"]["change"] for f in rows.values())]
    lines += ["", "Mean absolute change of what was not edited:", ""]
    lines += [f"| edit | method | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for (label, method), f in rows.items():
        change = f["values"]["change"]
        cells = [f"{change[name]['mean']:.2f}" if name in change else "" for name in names]
        lines.append(f"| {label} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _rows(result: dict) -> dict[tuple[str, str], dict]:
    """All figures by the edit's and the method's label."""
    rows = {}
    parts = {"": result, ", inverted": result.get("inverted"), ", portraits": result.get("portraits")}
    for suffix, part in parts.items():
        if part is None:
            continue
        rows |= {(label + suffix, "dystyle"): figures for label, figures in part["single"].items()}
        for size, figures in part["joint"].items():
            rows[(f"{size} at once{suffix}", "dystyle")] = figures
            for method, compared in part["compared"].get(size, {}).items():
                rows[(f"{size} at once{suffix}, {compared['faces']} faces", method)] = compared
    return rows


def _numeric(names: Iterable[str]) -> dict[str, str]:
    """Ranges and tolerances of the numeric attributes, in words."""
    rows = [ATTRIBUTES[name] for name in names if ATTRIBUTES[name].kind == "numeric"]

    def span(low: float, high: float) -> str:
        return f"±{high:g}" if low == -high else f"{low:g} to {high:g}"

    ranges = ", ".join(f"{row.name} {span(*row.evaluated)}" for row in rows)
    return {"ranges": ranges, "tolerances": ", ".join(f"{row.name} {row.tolerance:g}" for row in rows)}
