"""One attribute over its range by two methods: what is reached, and how far the identity is kept.

python examples/sweep_attribute.py --attribute yaw --steps 5
"""

import numpy as np
import tyro

from dystyle import FaceEditor


def main(attribute: str = "yaw", steps: int = 5, seed: int = 7) -> None:
    editor = FaceEditor.from_pretrained()
    code, row = editor.sample(seed), editor.attributes[attribute]
    identity = editor.embed(editor.synthesize(code, 256))
    print(f"{'method':10} {'asked for':>10} {'reached':>10} {'identity':>10}")
    for method in ("dystyle", "interfacegan"):
        other = editor.with_method(method)  # shares the engines
        for value in np.linspace(row.low, row.high, steps):
            picture = other.synthesize(other.edit(code, {attribute: float(value)}), 256)
            reached, kept = other.measure(picture)[attribute], float(other.embed(picture) @ identity)
            print(f"{method:10} {value:10.2f} {reached:10.2f} {kept:10.2f}")


if __name__ == "__main__":
    tyro.cli(main)
