"""What the reports say about made-up readings and planted directions, whose answer is known."""

import numpy as np
import pytest
import scipy.linalg
import skimage.data
import torch

from dystyle.attributes import ATTRIBUTES
from dystyle.editors.linear import LinearEditor
from dystyle.editors.search import search, shortfall
from dystyle.errors import InputError
from dystyle.evaluation.editing import EditingConfig, evaluate_editing
from dystyle.evaluation.editing_table import table
from dystyle.evaluation.sheets import MixingConfig, make_mixing_sheet
from dystyle.metrics.comparison import compare, is_right
from dystyle.metrics.distances import frechet
from dystyle.metrics.efficientnet import EfficientNetLite0
from dystyle.pictures import load_image, save_picture
from dystyle.pipeline import FaceEditor


def test_comparison_counts_what_was_asked_for_and_what_was_not():
    before = {"age": 30.0, "smile": 0.1, "mouth_open": 0.1, "eyeglasses": 0.05}
    older = before | {"age": 55.0}  # asked for 60, read 55
    smiling = before | {"smile": 0.9, "mouth_open": 0.9}  # who stops smiling closes the mouth
    blind = before | {"smile": 0.2, "eyeglasses": 0.9, "age": 40.0}  # no smile, but glasses
    edits = [{"age": 60.0}, {"smile": 0.0}, {"smile": 1.0}]
    result = compare([(before, older), (smiling, before), (before, blind)], edits)
    assert result["reached"]["age"]["error"]["mean"] == 5
    assert result["reached"]["age"]["unedited_error"]["mean"] == 30
    assert result["reached"]["smile"]["success"]["mean"] == 0.5
    assert result["right"]["mean"] == pytest.approx(2 / 3)
    assert result["flipped"]["mean"] == pytest.approx(1 / 3)
    # Free to keep their side: smile, mouth and glasses when ageing, only glasses when a smile goes, mouth
    # and glasses when one comes.
    assert result["sides"]["mean"] == pytest.approx(1 / 6)
    assert result["error"]["mean"] == pytest.approx(np.mean([5 / 75, 0.1, 0.8]))
    assert result["moved"]["mean"] == pytest.approx(np.mean([0, 0, 0, 0, 0.8, 0, 10 / 75, 0, 0.85]))
    assert result["flips"] == {"eyeglasses": pytest.approx(1 / 3)}
    assert result["change"]["age"]["mean"] == 5  # of the two edits that did not ask for it
    everything = compare([(before, before)], [before])  # nothing is left to change
    assert everything["error"]["mean"] == 0 and everything["moved"] is everything["sides"] is None


def test_an_edit_is_right_when_it_did_what_was_asked():
    age, smile = ATTRIBUTES["age"], ATTRIBUTES["smile"]
    # Before, after, target: half of the way, near enough (twice), nothing to change.
    for numbers in ((30, 45, 60), (30, 67, 60), (60, 55, 60), (60, 60, 60)):
        assert is_right(age, *numbers), numbers
    # A twitch, less than half, an overshoot, a step back, something done where nothing was to do.
    for numbers in ((30, 31, 60), (30, 44, 60), (50, 75, 60), (30, 20, 60), (60, 50, 60)):
        assert not is_right(age, *numbers), numbers
    assert is_right(smile, 0.1, 0.6, 1.0) and not is_right(smile, 0.1, 0.4, 1.0)
    twitch = compare([({"age": 30.0}, {"age": 31.0})], [{"age": 60.0}])
    assert twitch["right"]["mean"] == 0


def test_frechet_distance_of_shifted_sets_is_the_squared_shift():
    a = list(np.random.default_rng(0).standard_normal((200, 8)))
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet(a, [x + 0.5 for x in a]) == pytest.approx(8 * 0.25, rel=1e-6)


def test_frechet_distance_of_differing_covariances_is_scipys():
    """In all dimensions, and where there are fewer samples than dimensions."""
    rng = np.random.default_rng(0)
    for count, size in ((400, 6), (5, 9)):
        a, b = (rng.standard_normal((count, size)) @ rng.standard_normal((size, size)) for _ in range(2))
        first, second = np.cov(a.T), np.cov(b.T)
        root = scipy.linalg.sqrtm(first).real  # of the product, made symmetric
        spread = np.trace(first + second - 2 * scipy.linalg.sqrtm(root @ second @ root).real)
        expected = np.square(a.mean(0) - b.mean(0)).sum() + spread
        assert frechet(a, b, components=None) == pytest.approx(expected, rel=1e-4)


def test_efficientnets_features_tell_its_classes():
    network, classes = EfficientNetLite0(), {}
    for name in ("chelsea", "coffee"):
        picture = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)[None] / 127.5 - 1
        features = network.embed(torch.nn.functional.interpolate(picture, (256, 256)))
        logits = features @ network.weights["_fc.weight"].T + network.weights["_fc.bias"]
        classes[name] = int(logits.argmax())
    assert classes["chelsea"] in (281, 282, 285) and classes["coffee"] == 967  # cats, espresso


def test_columns_of_the_mixing_sheet_hold_the_styles_they_are_named_after(tmp_path, monkeypatch):
    """Pictures here are 18 stripes, one a row of the code, white where it is the other's."""

    class Stripes(FaceEditor):
        def __init__(self) -> None:
            pass

        def sample(self, seed: int, truncation: float) -> np.ndarray:
            return np.full((18, 512), seed, np.float32)

        def synthesize(self, code: np.ndarray) -> np.ndarray:
            return np.broadcast_to(np.uint8(255 * code[:, :1, None]), (18, 18, 3)).copy()

    monkeypatch.setattr(FaceEditor, "from_pretrained", lambda **_: Stripes())
    out = tmp_path / "sheet.png"
    make_mixing_sheet(MixingConfig(out=out, seeds=(0,), others=(1,), size=18))
    columns = load_image(out)[-18:, 9::18, 0].T / 255
    rows = np.arange(18)
    for column, others in zip(
        columns, (rows < 0, rows < 4, (rows >= 4) & (rows < 8), rows >= 8, rows >= 0), strict=True
    ):
        assert np.array_equal(column, others)
    with pytest.raises(InputError, match="as many --others as --seeds"):
        make_mixing_sheet(MixingConfig(seeds=(1,), others=()))


def planted(rng: np.random.Generator) -> tuple[np.ndarray, dict]:
    """Two directions at 60 degrees and readings along them, with noise."""
    age, smile = np.eye(512)[0], np.eye(512)[0] * 0.5 + np.eye(512)[1] * 0.75**0.5
    codes = rng.standard_normal((3000, 512)).astype(np.float32)

    def measure(w: np.ndarray) -> dict[str, np.ndarray]:
        return {"age": 42.5 + 10 * w @ age, "smile": 1 / (1 + np.exp(-3 * w @ smile))}

    return codes, {"directions": (age, smile), "measure": measure}


def test_linear_editor_finds_planted_directions_and_moves_along_one_alone(tmp_path):
    codes, truth = planted(np.random.default_rng(0))
    fitted = LinearEditor.fit(codes, truth["measure"](codes), np.ones(512))
    for found, direction in zip(fitted.directions, truth["directions"], strict=True):
        assert found @ direction > 0.9
    fitted.save(tmp_path / "directions.safetensors")
    editor = LinearEditor.load(str(tmp_path / "directions.safetensors"))
    assert editor.names == fitted.names
    assert abs(editor.projected("age") @ editor.directions[1]) < 1e-5
    alone = editor.only(("age",))  # no smile that would have to stay
    assert alone.names == ("age",) and alone.projected("age") @ editor.directions[0] > 1 - 1e-6
    assert alone.slopes[0] == editor.slopes[0]
    with pytest.raises(InputError, match="no direction for 'yaw'"):
        editor.only(("age", "yaw"))

    code = np.zeros((18, 512), np.float32)
    edited = editor.edit(
        code, {"age": 60.0}, lambda c: {k: float(v) for k, v in truth["measure"](c[0]).items()}
    )
    after = truth["measure"](edited[0])
    assert after["age"] == pytest.approx(60, abs=4)
    assert abs(after["smile"] - 0.5) < 0.25  # the raw direction would give 0.93
    with pytest.raises(InputError, match="does not hold directions"):
        LinearEditor.load("dystyle")


def test_search_reaches_coupled_saturating_targets_from_a_wrong_guess_within_its_steps():
    tried = []

    def read(code: np.ndarray) -> dict[str, float]:
        tried.append(code)
        yaw, age, smile = code[0, :3]
        return {
            "yaw": float(np.clip(4 * yaw + 2 * age, -40, 40)),
            "age": float(40 + 6 * age - 2 * smile),
            "smile": float(1 / (1 + np.exp(6 - 1.5 * smile - 0.5 * yaw))),
        }

    def move(strengths: np.ndarray) -> np.ndarray:
        code = np.zeros((18, 512), np.float32)
        code[:, :3] = strengths
        return code

    targets = {"yaw": 20.0, "age": 55.0, "smile": 1.0}
    found = read(search(move, targets, read, np.array([0.3, 0.05, 0.1]), 20.0))
    assert all(shortfall(name, target, found[name]) == 0 for name, target in targets.items())
    assert len(tried) <= 17
    flat = search(move, {"smile": 1.0}, lambda code: {"smile": 1e-9}, np.array([0.1]), 3.0)
    assert np.abs(flat).max() == 0  # nothing answers: nothing is changed
    # Out of reach: the nearest code that was tried comes back, within the bound.
    tried.clear()
    nearest = search(move, {"smile": 1.0}, read, np.array([0.1]), 3.0)
    assert np.abs(nearest).max() <= 3
    assert not any(read(code)["smile"] > read(nearest)["smile"] for code in list(tried))


def test_only_attributes_that_the_editor_has_learnt_are_evaluated():
    with pytest.raises(InputError, match="has not learnt 'beauty'"):
        evaluate_editing(EditingConfig(attributes=("yaw", "beauty")))


def test_portraits_are_edited_as_they_are_seen(tmp_path, astronaut):
    for name, photo in (("her", astronaut), ("mirrored", astronaut[:, ::-1])):
        save_picture(np.ascontiguousarray(photo), tmp_path / f"{name}.png")
    told = {"attributes": ("yaw", "smile", "eyeglasses"), "joint": (3,), "methods": (), "inverted": 0}
    result = evaluate_editing(EditingConfig(count=2, compared=2, photos=tmp_path, **told))
    people, portraits = (part["joint"]["3"] for part in (result, result["portraits"]))
    assert people["faces"] == portraits["faces"] == result["photos"] == 2
    assert list(result["portraits"]["joint"]) == ["3"]  # five at once are more than there are
    assert portraits["descriptor_distance"]["mean"] < 0.55  # of her code's picture it is above .6
    page = table(result)
    assert "Portraits are 2 real ones" in page and "| 3 at once, portraits | dystyle |" in page
    with pytest.raises(InputError, match="5 at once are more"):
        evaluate_editing(EditingConfig(**told | {"joint": (2, 5)}))


def test_one_face_alone_is_told_to_be_too_few():
    with pytest.raises(InputError, match="at least two faces"):
        evaluate_editing(EditingConfig(count=1))
