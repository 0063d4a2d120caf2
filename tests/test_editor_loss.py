"""What the editor is taught: each term of its loss moves its own number; mirrored faces, mirrored targets."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dystyle.training.editor import EditorConfig, averaging_decay, learning_rate, read_augmented
from dystyle.training.editor_loss import EditorLoss, Readings

FACES = 4


@pytest.fixture
def faces() -> tuple[Tensor, Readings]:
    """Codes and what is seen of them: straight adults who do not smile, of four people."""
    torch.manual_seed(0)
    scores = {name: torch.full((FACES,), value) for name, value in (("yaw", 0.0), ("age", 40.0))}
    scores |= {"smile": torch.full((FACES,), -4.0), "eyeglasses": torch.full((FACES,), -4.0)}
    people = F.normalize(torch.randn(FACES, 1024), dim=1)
    return torch.zeros(FACES, 18, 512), Readings(scores, people, torch.zeros(FACES, 3, 24, 8))


def edited(codes: Tensor, before: Readings, edits: dict[str, Tensor]) -> tuple[Readings, Tensor]:
    """What is seen of edits that are five numbers a face, changes of yaw, age, glasses, person, background;
    and the codes, which change as much."""
    scores = {name: score.clone() for name, score in before.scores.items()}
    for name in ("yaw", "age", "eyeglasses"):
        scores[name] = scores[name] + edits[name]
    others = before.embeddings.roll(1, 0)
    embeddings = F.normalize(before.embeddings + edits["person"][:, None] * others, dim=1)
    backgrounds = before.backgrounds + edits["background"][:, None, None, None]
    change = sum(value.abs() for value in edits.values())
    return Readings(scores, embeddings, backgrounds), codes + 0.05 * change[:, None, None]


def descend(faces: tuple[Tensor, Readings], steps: int = 12, **weights: float) -> dict[str, Tensor]:
    """A few steps from edits that turn a little, age, put on glasses, and lose the person and the background;
    asked for is a yaw of 20 degrees. Returns the edits after them."""
    codes, before = faces
    none = {"identity": 0.0, "norm": 0.0, "preservation": 0.0, "background": 0.0}
    loss = EditorLoss(std_w=torch.ones(512), **none | weights)
    start = {"yaw": 5.0, "age": 10.0, "eyeglasses": 4.0, "person": 1.0, "background": 0.5}
    # One learning rate for all: each number in units of what it may change in a step.
    units = {"yaw": 1.0, "age": 0.5, "eyeglasses": 0.2, "person": 0.05, "background": 0.02}
    edits = {
        name: torch.full((FACES,), value / units[name]).requires_grad_() for name, value in start.items()
    }
    optimiser = torch.optim.Adam(list(edits.values()), lr=1.0)
    for _ in range(steps):
        scaled = {name: units[name] * value for name, value in edits.items()}
        after, changed = edited(codes, before, scaled)
        total, _ = loss([{"yaw": torch.full((FACES,), 20.0)}], before, after, codes, changed)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    return {name: (units[name] * value - start[name]).detach() for name, value in edits.items()}


def test_every_term_moves_its_own_number_and_no_other(faces):
    asked = descend(faces)
    assert (asked["yaw"] > 5).all()
    assert all((asked[name] == 0).all() for name in asked if name != "yaw")
    for term, numbers in {
        "preservation": ("age", "eyeglasses"),
        "identity": ("person",),
        "background": ("background",),
    }.items():
        moved = descend(faces, **{term: 1.0})
        assert (moved["yaw"] > 5).all()
        for name in ("age", "eyeglasses", "person", "background"):
            assert (moved[name] < 0).all() if name in numbers else (moved[name] == 0).all(), (term, name)
    short = descend(faces, norm=1.0)
    assert all((short[name] < 0).all() for name in short if name != "yaw")


def test_terms_add_up_by_their_weights(faces):
    codes, before = faces
    after, changed = edited(
        codes, before, {n: torch.ones(FACES) for n in ("yaw", "age", "eyeglasses", "person", "background")}
    )
    target = [{"yaw": torch.full((2,), 20.0)}, {"yaw": torch.full((2,), 20.0), "smile": torch.ones(2)}]
    weights = {"identity": 2.0, "norm": 3.0, "preservation": 5.0, "background": 7.0}
    total, logs = EditorLoss(std_w=torch.ones(512), **weights)(target, before, after, codes, changed)
    assert all(logs[f"loss/{name}"] > 0 for name in weights)
    expected = logs["loss/attributes"] + sum(w * logs[f"loss/{name}"] for name, w in weights.items())
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)


def test_joint_edits_share_what_identity_and_norm_cost(faces):
    codes, before = faces
    edits = {n: torch.ones(FACES) for n in ("yaw", "age", "eyeglasses", "person", "background")}
    after, changed = edited(codes, before, edits)
    loss = EditorLoss(1.0, 1.0, 1.0, 1.0, torch.ones(512))
    one, two = {"smile": torch.ones(FACES)}, {"smile": torch.ones(FACES), "eyeglasses": torch.ones(FACES)}
    (_, alone), (_, both) = (loss([asked], before, after, codes, changed) for asked in (one, two))
    for name in ("loss/identity", "loss/norm"):
        assert both[name].item() == pytest.approx(alone[name].item() / 2)


def test_logs_hold_every_part_of_the_batch(faces):
    """The curriculum moves on by them: an attribute that several parts ask for counts with all its faces."""
    codes, before = faces
    near, far = {"yaw": torch.full((2,), 1.0)}, {"yaw": torch.full((2,), 30.0)}
    logs = [
        EditorLoss(1, 1, 1, 1, torch.ones(512))(parts, before, before, codes, codes)[1]
        for parts in ([near, far], [far, near])
    ]
    assert logs[0]["error/yaw"] == logs[1]["error/yaw"] == 15.5
    assert logs[0]["attribute/yaw"].item() == pytest.approx(logs[1]["attribute/yaw"].item())


def test_mirrored_faces_are_asked_for_mirrored_targets():
    """A picture that is brighter on its right side reads as turned to it, in the mirror to the other."""
    turned = torch.linspace(-0.5, 0.5, 32).expand(64, 3, 32, 32)
    seen = []

    def reader(images: Tensor, shift: Tensor, scale: Tensor) -> dict[str, Tensor]:
        side = images[..., 16:].mean((1, 2, 3)) - images[..., :16].mean((1, 2, 3))
        seen.append(side)
        return {"yaw": 40 * side, "pitch": 10 + side, "smile": side}

    torch.manual_seed(0)
    scores, images = read_augmented(reader, turned)
    mirrored = seen[0] < 0
    assert 16 < mirrored.sum() < 48  # both are among them
    assert (scores["yaw"] > 10).all()
    assert torch.equal(scores["smile"] < 0, mirrored)  # whose sign the mirror does not change
    assert (scores["pitch"] > 0).all()
    assert torch.equal(images[..., 16:].mean((1, 2, 3)) < images[..., :16].mean((1, 2, 3)), mirrored)


def test_the_learning_rate_grows_then_falls():
    config = replace(EditorConfig(), lr=1.0, steps=1000)
    rates = [learning_rate(config, step) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 50) and max(rates) == rates[49] == pytest.approx(1, abs=0.05)
    assert rates[-1] == pytest.approx(0.05, abs=0.001)
    assert averaging_decay(config, 0) < 0.2 and averaging_decay(config, 5000) == config.ema
