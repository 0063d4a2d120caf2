"""Every editing method on problems whose answer is known, and once on the real generator."""

import sys

import numpy as np
import pytest
import torch

from dystyle import FaceEditor
from dystyle import editors as registry
from dystyle.attributes import ATTRIBUTES
from dystyle.edit import EditOptions
from dystyle.editors import METHODS, Method, styleflow
from dystyle.editors.base import StrengthEditor, StyledCode
from dystyle.editors.ganspace import FARTHEST, Components, GanSpaceEditor, candidates, explained
from dystyle.editors.interfacegan import Latents
from dystyle.editors.linear import NORMALS, LinearEditor, accuracy_curve, boundary_accuracy, label_line
from dystyle.editors.search import effect, most_selective
from dystyle.editors.styleflow import Flow, StyleFlowEditor
from dystyle.editors.stylespace import (
    REGIONS,
    Atlas,
    affine_layers,
    by_examples,
    channel_names,
    located,
    region_energy,
    regions_of,
    styles,
)
from dystyle.engines.graphs import generator
from dystyle.errors import InputError
from dystyle.evaluation import channel_atlas
from dystyle.evaluation.channel_atlas import AtlasConfig, make_atlas
from dystyle.evaluation.components import dependence, drawn_at_random, peaks
from dystyle.evaluation.method_comparison import (
    MethodComparisonConfig,
    attribute_dependency,
    evaluate_methods,
    table,
)
from dystyle.evaluation.spaces import dci, path_lengths, separability, slerp
from dystyle.metrics.people import People
from dystyle.pictures import load_image, save_picture


@pytest.mark.parametrize("normal", NORMALS)
def test_every_fit_finds_a_planted_direction(normal):
    rng = np.random.default_rng(0)
    codes, truth = rng.standard_normal((3000, 64)).astype(np.float32), np.eye(64)[3]
    std = rng.uniform(0.5, 2, 64)
    values = {"age": 42.5 + 10 * (codes / std) @ truth + rng.normal(0, 3, 3000)}
    editor = LinearEditor.fit(codes, values, std, NORMALS[normal])
    assert editor.directions[0] @ truth > 0.9
    assert editor.slopes[0] > 0


def test_several_labels_are_brought_onto_one_line():
    """Four colours along one direction, in another order than their names', beside one that says nothing."""
    rng = np.random.default_rng(0)
    truth, places = np.eye(32)[3], {"black": 0.0, "brown": 1.5, "blond": 3.0, "gray": 4.5}

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.choice(list(places), count)
        x = rng.standard_normal((count, 32)) + np.outer([places[label] for label in labels], truth)
        return x + np.outer(rng.normal(0, 5, count), np.eye(32)[7]), labels

    direction, positions, ordered = label_line(*draw(2000), *draw(500))
    assert abs(direction @ truth) > 0.97
    found = sorted(positions, key=positions.get, reverse=bool(direction @ truth < 0))
    assert found == list(places) and np.ptp(list(positions.values())) == pytest.approx(4.5, abs=0.6)
    assert 0.9 < ordered < 1
    x, labels = draw(2000)
    assert label_line(x, rng.permutation(labels), *draw(500))[2] < 0.8  # nothing to be found

    codes = rng.standard_normal((500, 64)).astype(np.float32)
    values = {"age": 42.5 + 10 * codes[:, 0], "smile": rng.uniform(0, 1, 500)}
    editor = LinearEditor.fit(codes, values, np.ones(64), NORMALS["mean"], given={"age": 5 * np.eye(64)[0]})
    assert editor.directions[0].tolist() == np.eye(64)[0].tolist() and editor.slopes[0] > 0


def test_accuracy_grows_with_the_number_of_labels():
    x = np.random.default_rng(0).standard_normal((2000, 64))
    curve = accuracy_curve(x, x[:, 0] + 0.5 * x[:, 1] > 0.5, (10, 100, 1000))
    assert curve[10] < curve[100] < curve[1000]  # plain accuracy, then balanced
    assert min(curve[1000]) > 0.85
    rare = np.arange(2000) > 1990  # none among the first labels: all accuracy is that of the common class
    assert accuracy_curve(x, rare, (50,))[50] == (pytest.approx(1 - 9 / 400), 0.5)


def test_wide_directions_move_their_rows_only_and_projection_keeps_other_attributes(tmp_path):
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((2, 16 * 512)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    LinearEditor(("age", "smile"), directions, np.ones(2, np.float32), np.ones(512, np.float32)).save(
        tmp_path / "wide.safetensors"
    )
    editor = LinearEditor.load(str(tmp_path / "wide.safetensors"))
    code = rng.standard_normal((18, 512)).astype(np.float32)
    move = editor.mover(code, ("age",), lambda code: {})
    assert np.array_equal(move(np.zeros(1)), code)
    change = move(np.array([3.0])) - code
    assert np.abs(change[16:]).max() == 0 and np.linalg.norm(change) == pytest.approx(3 * 4, rel=1e-3)
    assert abs(change[:16].ravel() @ directions[1]) < 4e-2  # float16 on disk


def test_a_channel_goes_no_farther_than_twice_what_people_have(editor):
    space = editor.with_method("stylespace").method
    code, name = editor.sample(5), "yaw"
    index, (layer, channel) = space.names.index(name), space.chosen[name]
    linear, row = affine_layers(generator())[layer]
    own = linear(torch.from_numpy(code[row]))[channel].item()
    low, high = space.channels.bounds[index]
    assert low < own < high
    move = space.mover(code, (name,), lambda code: {})
    ends = [own + move(np.array([strength])).styles[layer][channel] for strength in (-1e3, 1e3)]
    assert sorted(ends) == pytest.approx([1.5 * low - 0.5 * high, 1.5 * high - 0.5 * low], rel=1e-4)
    small = move(np.array([0.5])).styles[layer][channel]
    assert small == pytest.approx(0.5 * space.deviations[index], rel=1e-4)
    far = code + 100 * np.sign(space.channels.weights[index]) * (np.arange(18) == row)[:, None]
    assert space.channels.move(index, np.float32(far), 1.0) == 0  # what is out there already stays


def test_the_user_chooses_what_a_direction_keeps():
    directions = np.linalg.qr(np.random.default_rng(0).standard_normal((512, 3)))[0].T
    directions[0] = (directions[0] + directions[1] + directions[2]) / 3**0.5  # age leans to both others
    names, code = ("age", "smile", "gender"), np.zeros((18, 512), np.float32)
    editor = LinearEditor(names, np.float32(directions), np.ones(3), np.ones(512))

    def along(editor: LinearEditor) -> np.ndarray:
        change = editor.mover(code, ("age",), lambda code: {})(np.array([1.0]))[0]
        return directions[1:] @ change

    assert along(editor) == pytest.approx([0, 0], abs=1e-5)  # all others, unless something is said
    smile, gender = along(editor.condition_on(["smile"]))
    assert smile == pytest.approx(0, abs=1e-5) and gender > 0.5
    assert along(editor.condition_on([])) == pytest.approx([3**-0.5] * 2, abs=1e-5)


def test_what_is_kept_is_asked_for_by_name(editor):
    kept = editor.with_method("interfacegan").condition_on(["gender"])
    assert kept.method.kept == ("gender",) and editor.with_method("interfacegan").method.kept != ("gender",)
    with pytest.raises(InputError, match="no attribute 'hat'"):
        editor.with_method("interfacegan").condition_on(["hat"])
    for other in (editor, editor.with_method("mean_difference")):
        with pytest.raises(InputError, match="keeps what it keeps; only InterFaceGAN"):
            other.condition_on(["gender"])
    opened, _ = EditOptions(method="interfacegan", condition_on=("age", "yaw"), backend="onnx").open()
    assert opened.method.kept == ("age", "yaw")


def test_a_boundary_is_judged_on_faces_it_has_not_seen():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4000, 16))
    ends, between = boundary_accuracy(x, x[:, 0], 0.1)
    assert ends > 0.97 and 0.8 < between < ends
    ends, between = boundary_accuracy(x, rng.standard_normal(4000), 0.1)  # nothing to be found
    assert ends == pytest.approx(0.5, abs=0.1) and between == pytest.approx(0.5, abs=0.05)


def test_people_are_read_once_and_where_reading_stopped(editor, tmp_path, monkeypatch):
    latents, mean_w = Latents(), generator().mean_w.numpy()
    people = People.read(editor.backend, latents.map, mean_w, 3, 5, tmp_path)
    picture = editor.synthesize(np.repeat(people.w[1][None], 18, 0), 128)
    assert people.values[1] == pytest.approx(list(editor.measure(picture).values()), abs=0.02)
    assert np.ptp(people.mixed[0], 0).max() >= 0 and people.values.shape == people.mixed_values.shape
    file = tmp_path / "w-5-3.npy"
    known = np.load(file)
    known[2] = np.nan
    np.save(file, known)
    asked = []
    run = editor.backend.run
    monkeypatch.setattr(editor.backend, "run", lambda name, x: asked.append(len(x)) or run(name, x))
    again = People.read(editor.backend, latents.map, mean_w, 3, 5, tmp_path)
    assert again.values == pytest.approx(people.values, abs=1e-4) and asked == [1, 1]


def test_planted_components_come_back_in_order_and_explain_their_attribute():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((512, 6)))[0].T
    deviations = np.array([6.0, 5, 4, 3, 2, 1.5])
    x = rng.standard_normal((4000, 6))
    w = (x * deviations) @ basis + 0.01 * rng.standard_normal((4000, 512)) + 1.0
    found = Components.of((w[:900], w[900:3000], w[3000:]), 6)  # as they come, in parts
    assert np.allclose(found.mean, w.mean(0), atol=1e-4)
    assert np.allclose(found.deviations**2, np.linalg.eigvalsh(np.cov(w.T))[:-7:-1], rtol=1e-3)
    assert np.allclose(np.abs((found.basis * basis).sum(1)), 1, atol=0.01)
    assert np.allclose(found.deviations, deviations, rtol=0.05)
    assert found.share.sum() > 0.99
    values = {"age": 42.5 + 8 * x[:, 3]}  # the fourth component
    shares = explained(w, values, found, (3, 4))["age"]
    assert shares[3] < 0.05 and shares[4] > 0.95
    index, sign = candidates(w, values, found)["age"][0]
    assert index == 3 and sign * (found.basis[3] @ basis[3]) > 0
    code = np.zeros((18, 512), np.float32)
    moved = found.apply(code, 3, 2.0, (4, 8))
    assert np.abs(moved[[3, 8]]).max() == 0
    assert np.linalg.norm(moved[4]) == pytest.approx(2 * found.deviations[3], rel=1e-4)


def test_components_together_go_no_farther_than_their_bound(tmp_path):
    planted = Components(np.zeros(512), np.eye(512)[:2], np.float32([3, 2]), np.float32([0.7, 0.3]))
    chosen = {"age": (0, -1, 4, 8), "smile": (1, 1, 0, 16)}
    GanSpaceEditor(planted, chosen, np.ones(2)).save(tmp_path / "some.safetensors", planted)
    editor = GanSpaceEditor.load(str(tmp_path / "some.safetensors"))
    move = editor.mover(np.zeros((18, 512), np.float32), ("age", "smile"), lambda code: {})
    near, far = move(np.array([1.0, 2.0])), move(np.array([30.0, 40.0]))
    assert near[4, :3] == pytest.approx([-3, 4, 0]) and near[3, :3] == pytest.approx([0, 4, 0])
    assert np.abs(near[16:]).max() == 0
    assert far[4, :2] / planted.deviations == pytest.approx([-0.6 * FARTHEST, 0.8 * FARTHEST])


def test_peaks_and_dependence_of_known_distributions():
    rng = np.random.default_rng(0)
    normal, far = rng.standard_normal(5000), rng.standard_normal(5000) + 6
    assert [peaks(normal), peaks(np.r_[normal, far]), peaks(np.r_[normal, far, far + 9])] == [1, 2, 3]
    assert peaks(np.r_[normal, [8.0] * 3]) == 1  # a few who lie apart are no peak
    angle = rng.uniform(0, 2 * np.pi, 20_000)
    circle = np.stack((np.cos(angle), np.sin(angle), rng.standard_normal(20_000)), 1)  # uncorrelated
    shared = dependence(circle + 0.1 * rng.standard_normal(circle.shape))
    assert shared[0, 1] > 0.5 and np.allclose(shared, shared.T) and not shared.diagonal().any()
    assert max(shared[0, 2], shared[1, 2]) < 0.01
    some = Components(np.zeros(512), np.eye(512)[:3], np.float32([3, 2, 1]), np.ones(3))
    drawn = drawn_at_random(some)
    assert (
        np.linalg.norm(drawn.basis, axis=1) == pytest.approx(1)
        and np.abs(drawn.basis @ some.basis.T).max() < 0.2
    )
    assert np.array_equal(drawn.deviations, some.deviations)


def test_components_of_features_are_carried_over_to_codes():
    rng = np.random.default_rng(0)
    w = rng.standard_normal((3000, 512))
    features = np.tanh(0.1 * w[:, :3] * (9, 4, 2)) @ rng.standard_normal((3, 40))
    found = Components.of_features(w, features, 3)
    assert np.linalg.norm(found.basis[:, :3], axis=1).min() > 0.9  # the three codes that matter


def test_effects_are_measured_where_there_is_room():
    codes, seen = [np.array([-30.0]), np.array([30.0])], []

    def read(code):
        seen.append(float(code[0]))
        return {"yaw": min(code[0], 35.0), "pitch": -code[0] / 2}  # yaw saturates

    before = [read(code) for code in codes]
    changes = effect("yaw", lambda code, side: code + 10 * side, codes, before, read)
    assert seen[2:] == [-20, 20]
    assert changes == {"yaw": pytest.approx(10 / 40), "pitch": pytest.approx(-5 / 25)}
    weak, strong = {"yaw": 0.1, "pitch": 0.0}, {"yaw": 0.5, "pitch": 0.5}
    assert most_selective("yaw", [weak, strong, changes]) == 2


def test_planted_channel_is_found_from_few_examples():
    rng = np.random.default_rng(0)
    s, age = rng.standard_normal((400, 1000)) * rng.uniform(0.1, 9, 1000), rng.standard_normal(400)
    s[:, 123] -= 3 * s[:, 123].std() * age
    distances = by_examples(s, age, 40)
    assert np.abs(distances).argmax() == 123 and distances[123] < 0
    few = np.zeros((400, 2))
    few[:40] = np.stack((2 + 0.1 * age[:40], 4 + 3 * age[:40]), 1)  # agreement counts, not the distance alone
    theta = by_examples(few, np.arange(400)[::-1], 40)
    normal = (few - few.mean(0)) / few.std(0)
    assert theta[0] > theta[1] and theta == pytest.approx(normal[:40].mean(0) / normal[:40].std(0))


def test_a_channel_planted_in_a_region_is_found_there():
    rng, areas = np.random.default_rng(0), np.array([5, 20, 75])
    energies = rng.chisquare(1, (60, 3, 4)) * 1e-3  # of 60 pictures, with the noise of one sign pattern
    signs = rng.chisquare(1, (60, 3))
    energies[:, 0, 0] += signs[:, 0]  # all in the small region
    energies[..., 1] += areas / 100 * signs  # everywhere alike
    energies[:, 2, 2] += 3 * signs[:, 2]  # mostly in the large one
    energies[..., 3] = 0  # beyond the picture's resolution
    regions, shares = located(energies, np.tile(areas, (60, 1)))
    assert regions.tolist() == [0, -1, 2, -1]
    assert shares[0, 0] > 0.8 and shares[2, 2] > 0.8 and not shares[:, 3].any()
    regions, _ = located(energies, np.tile([0, 25, 75], (60, 1)))
    assert 0 not in regions  # what is not in the pictures has no channels
    atlas = Atlas(np.int8([2, -1, 2, 0]), np.float32([1, 9, 3, 2]))
    assert atlas.top(REGIONS[2], 5) == [2, 0] and atlas.top(REGIONS[2], 1) == [2] and not atlas.top("hair", 3)


def test_methods_are_compared_on_people_and_on_portraits(tmp_path, astronaut):
    """Portraits stay theirs: what no code has of them comes along."""
    for name, photo in (("her", astronaut), ("mirrored", astronaut[:, ::-1])):
        save_picture(np.ascontiguousarray(photo), tmp_path / "photos" / f"{name}.png")
    told = {"joint": (1,), "sequence": 0, "methods": ("dystyle",), "photos": tmp_path / "photos"}
    result = evaluate_methods(MethodComparisonConfig(count=2, **told), tmp_path)
    assert list(result["edits"]) == ["1 at once", "portraits, 1 at once"]
    of_people, of_portraits = (methods["dystyle"] for methods in result["edits"].values())
    assert of_people["faces"] == of_portraits["faces"] == result["photos"] == 2
    assert of_portraits["descriptor_distance"]["mean"] < 0.35  # .5 is her code's alone
    page = table(result)
    assert "Portraits are 2 real ones" in page and "| portraits, 1 at once | DyStyle |" in page
    assert [path.name for path in tmp_path.glob("*.jpg")] == ["methods-1-at-once.jpg"]  # nobody who exists


def test_the_atlas_shows_what_the_first_channels_of_a_region_do(tmp_path, monkeypatch):
    region, atlas = REGIONS[0], Atlas.load()
    monkeypatch.setattr(channel_atlas, "REGIONS", REGIONS[:1])
    config = AtlasConfig(tmp_path / "atlas.md", top=1, listed=2, seeds=(5,), people=200, size=64)
    page = make_atlas(config)
    assert config.out.read_text() == page and "(atlas.jpg)" in page
    (row,) = (line for line in page.splitlines() if line.startswith(f"| {region} |"))
    assert f"| {(atlas.regions == 0).sum()} |" in row
    for index in atlas.top(region, 2):
        layer, channel = channel_names(generator())[index]
        assert f"{layer.removesuffix('.modulation').removeprefix('blocks.')} {channel}" in row
    unedited, least, most = np.split(load_image(tmp_path / "atlas.jpg").astype(int), 3, 1)
    for one, other in ((unedited, least), (unedited, most), (least, most)):
        assert np.abs(one - other)[20:].mean() > 1  # below their captions: three pictures


def test_regions_of_a_real_face(editor):
    code = editor.sample(5)
    face = editor.invert(editor.synthesize(code))
    corners = np.float32(face.quad)
    points = (face.landmarks - corners[0]) / np.linalg.norm(
        corners[2] - corners[1]
    )  # upright, as it is drawn
    kinds = np.full((128, 128), 3)
    kinds[:30], kinds[30:100, 20:108] = 1, 0  # hair above, a face, and ground
    masks = dict(zip(REGIONS, regions_of(points, kinds), strict=True))
    assert np.sum(list(masks.values()), 0).max() == 1 and np.all(sum(masks.values()) == 1)
    heights = {name: np.nonzero(mask)[0].mean() for name, mask in masks.items() if mask.any()}
    order = ("hair", "brows", "eyes", "nose", "mouth", "jaw")
    assert sorted(order, key=heights.__getitem__) == list(order)
    assert 30 < masks["eyes"].sum() < masks["brows"].sum() < masks["jaw"].sum() < masks["skin"].sum()
    left, right = np.nonzero(masks["ears"])[1] < 64, np.nonzero(masks["ears"])[1] > 64
    assert left.sum() > 10 and right.sum() > 10


def test_gradient_energy_is_that_of_the_channels_pictures():
    rng = torch.Generator().manual_seed(1)
    pictures = torch.randn(3, 3, 8, 8, generator=rng)  # what a channel adds to the picture
    pictures[0, :, :, 4:] = 0  # the first is all on the left
    mask = np.zeros((8, 8), bool)
    mask[:, :4] = True
    unused = torch.zeros(2, requires_grad=True)
    offsets = [torch.zeros(1, requires_grad=True), torch.zeros(2, requires_grad=True), unused]

    def render(offsets):
        return torch.einsum("k,kchw->chw", torch.cat(offsets[:2]), pictures)[None]

    pictures[2] = 0
    pictures[2, 0, 5, 6] = 3.0  # a single pixel, whose estimate has no noise
    inside, total = region_energy(render, offsets, np.stack([mask, np.ones_like(mask)]))
    assert inside[0] == pytest.approx(total[0]) and inside[0] > 0
    assert inside[2] == 0 and total[2] == pytest.approx(9)
    assert np.all(total[3:] == 0)


def test_log_density_of_a_known_flow_is_exact(monkeypatch):
    monkeypatch.setattr(styleflow, "SOLVER_STEPS", 6)
    flow = Flow(2, 1, hidden=4).eval()
    flow.velocity = lambda t, x, conditions: 0.7 * x + conditions
    x, a = torch.tensor([[0.3, -1.2], [2.0, 0.5]]), torch.tensor([[0.5], [-1.0]])
    z = (x + a / 0.7) * np.exp(-0.7) - a / 0.7
    expected = -0.5 * z.square().sum(1) - np.log(2 * np.pi) - 2 * 0.7
    assert torch.allclose(flow.log_density(x, a), expected, atol=1e-3)
    assert torch.allclose(flow.to_normal(x, a), z, atol=1e-3)
    # Of a linear flow Hutchinson's estimate has no noise.
    assert torch.allclose(flow.log_density(x, a, torch.ones(2, 2)), expected, atol=1e-3)


def test_log_density_of_a_random_network_is_that_of_its_map(monkeypatch):
    monkeypatch.setattr(styleflow, "SOLVER_STEPS", 6)
    torch.manual_seed(0)
    flow, x, a = Flow(3, 2, hidden=8), torch.randn(1, 3), torch.randn(1, 2)
    for p in flow.parameters():
        p.data = 0.4 * torch.randn(p.shape)
    flow.outer(1 + 2 * torch.randn(400, 3))  # it has seen codes that are no standard normal ones
    flow.inner(-1 + 3 * torch.randn(400, 3))
    flow.eval()
    jacobian = torch.autograd.functional.jacobian(lambda y: flow.to_normal(y[None], a)[0], x[0])
    z = flow.to_normal(x, a)
    expected = -0.5 * z.square().sum() - 1.5 * np.log(2 * np.pi) + torch.linalg.det(jacobian).abs().log()
    assert flow.log_density(x, a).item() == pytest.approx(expected.item(), abs=1e-3)
    assert torch.allclose(flow.from_normal(z, a), x, atol=1e-4)


def test_p_is_w_before_its_last_bend():
    latents, z = Latents(), np.random.default_rng(0).standard_normal((4, 512), dtype=np.float32)
    x = z / np.sqrt(np.mean(z * z, 1, keepdims=True) + 1e-8)
    for weight, bias in latents.layers[:-1]:
        x = x @ weight + bias
        x = 2**0.5 * np.where(x > 0, x, 0.2 * x)
    weight, bias = latents.layers[-1]
    p = styleflow.unbend(latents.map(z))
    assert p == pytest.approx(2**0.5 * (x @ weight + bias), rel=1e-3, abs=1e-4)
    assert styleflow.bend(p) == pytest.approx(latents.map(z), rel=1e-6)


def test_flow_learns_a_conditional_density_and_edits_by_it(tmp_path):
    torch.manual_seed(0)
    a = torch.rand(800, 1) * 2 - 1
    x = torch.cat((2 * a + 0.3 * torch.randn(800, 1), torch.randn(800, 1)), 1)
    flow = Flow(2, 1, hidden=16).train()
    losses = flow.fit(x, a, steps=60, batch=128, rate=0.05, exact=True)
    entropy = (2 * 0.5 * np.log(2 * np.pi * np.e) + np.log(0.3)) / 2  # of x given a, per dimension
    assert np.mean(losses[-10:]) < entropy + 0.2 < losses[0]
    basis = np.eye(512, dtype=np.float32)[:2]
    StyleFlowEditor(("age",), flow, np.zeros(512, np.float32), basis, np.ones(2, np.float32)).save(
        tmp_path / "flow.safetensors"
    )
    editor = StyleFlowEditor.load(str(tmp_path / "flow.safetensors"))
    code = np.zeros((18, 512), np.float32)
    move = editor.mover(code, ("age",), lambda code: {"age": 42.5})  # the middle of the scale
    assert np.abs(move(np.zeros(1)) - code).max() < 1e-4
    down = move(np.array([-0.8])) - code
    assert down[0, 0] == pytest.approx(-1.6 / 5, abs=0.08)  # W's lower half is P's, bent
    other = np.zeros((18, 512), np.float32)
    other[3, 0] = 0.5  # rows are codes of their own
    moved = editor.mover(other, ("age",), lambda code: {"age": 42.5})(np.array([0.8])) - other
    assert np.allclose(np.delete(moved, 3, 0), np.delete(move(np.array([0.8])), 3, 0), atol=1e-4)
    assert 0.5 < moved[3, 0] < 3 and np.abs(moved[3] - moved[2]).max() > 1e-3
    change = move(np.array([0.8])) - code
    assert change[0, 0] == pytest.approx(1.6, abs=0.4) and abs(change[0, 1]) < 0.4
    editor.bands = np.array([[4, 8]])
    kept = editor.mover(code, ("age",), lambda code: {"age": 42.5})(np.array([0.8])) - code
    assert np.allclose(kept[4:8], change[4:8], atol=1e-4)
    assert np.abs(np.delete(kept, np.s_[4:8], 0)).max() < 1e-4
    assert editor.sample(3, {"age": 80})[0, 0] > editor.sample(3, {"age": 5})[0, 0] + 2
    with pytest.raises(InputError, match="age"):
        editor.sample(3, {})


def test_disentanglement_and_separability_of_known_spaces():
    """Attributes that are coordinates, the same ones in a rotated space, and ones that it does not know."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3000, 8))
    rotated = x @ np.linalg.qr(rng.standard_normal((8, 8)))[0]
    values = x[:, :4]
    plain, mixed, blind = (
        dci(a, b, 0.05) for a, b in ((x, values), (rotated, values), (x, rotated[::-1, :4]))
    )
    assert all(f["disentanglement"] > 0.9 and f["completeness"] > 0.9 for f in plain) and len(plain) == 5
    assert max(f["disentanglement"] for f in mixed) < min(f["disentanglement"] for f in plain) - 0.2
    assert max(f["completeness"] for f in mixed) < min(f["completeness"] for f in plain) - 0.2
    assert min(f["informativeness"] for f in plain) > 0.97
    assert np.mean([f["informativeness"] for f in blind]) == pytest.approx(0.5, abs=0.08)
    # Many coordinates of which few count: the candidates hold those.
    wide = np.concatenate((0.1 * rng.standard_normal((3000, 1500)), x), 1)
    assert dci(wide, values[:, :2], 0.05, folds=2)[0]["disentanglement"] > 0.9
    told, chance = separability(x, values), separability(x, rng.standard_normal((3000, 4)))
    assert max(told) < 1.6 and min(chance) > 14  # 1 is best, 2 ** 4 is chance
    noisy = values + 0.3 * rng.standard_normal(values.shape)  # what lies near the median is left out
    assert max(separability(x, noisy)) < 2.5


def test_path_lengths_of_a_known_space():
    """W is z itself, and what is seen is W: paths are as long as the vectors between their ends."""
    rng = np.random.default_rng(3)
    ends = []
    for _ in range(4):
        ends.append(rng.standard_normal((2, 512), dtype=np.float32))
        rng.uniform()

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.square(np.float64(a) - b).sum())

    straight = path_lengths(lambda z: z, distance, "w", 4, 1e-2, seed=3)
    assert straight == pytest.approx([distance(a, b) for a, b in ends], rel=1e-3)
    round_ = path_lengths(lambda z: z, distance, "z", 4, 1e-2, seed=3)
    angles = [np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in ends]
    assert round_ == pytest.approx([512 * angle**2 for angle in angles], rel=1e-3)
    a, b = np.random.default_rng(0).standard_normal((2, 512))
    middle = slerp(a, b, 0.5)
    assert np.linalg.norm(middle) == pytest.approx(512**0.5, rel=1e-5)
    assert middle @ a / np.linalg.norm(a) == pytest.approx(middle @ b / np.linalg.norm(b), rel=1e-4)


def test_dependency_is_the_change_of_what_was_not_asked_for():
    before = [{"age": 20.0, "yaw": -10.0}, {"age": 60.0, "yaw": 10.0}]
    after = [{"age": 60.0, "yaw": 0.0}, {"age": 60.0, "yaw": 10.0}]
    assert attribute_dependency(before, after, [{"age": 60.0}] * 2)["mean"] == pytest.approx(0.5)


def test_a_new_method_is_a_file_and_a_line(tmp_path, monkeypatch):
    (tmp_path / "dummy_method.py").write_text(
        "from dystyle.editors.base import Editor\n"
        "class Dummy(Editor):\n"
        "    names = ('age', 'smile')\n"
        "    @classmethod\n"
        "    def open(cls, weights, backend):\n"
        "        return cls()\n"
        "    def edit(self, code, configuration, read):\n"
        "        return code + len(configuration)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.METHODS, "dummy", Method("dummy_method:Dummy", "", "Dummy"))
    editor = FaceEditor.from_pretrained(method="dummy")
    code = editor.sample(0)
    assert list(editor.attributes) == ["age", "smile"]
    assert np.array_equal(editor.edit(code, {"age": 50, "smile": 1}), code + 2)
    assert np.array_equal(editor.edit(code, {}), code)
    with pytest.raises(InputError, match="yaw"):
        editor.edit(code, {"yaw": 5})


def test_a_missing_package_is_named(editor, monkeypatch):
    monkeypatch.delitem(sys.modules, "dystyle.editors.styleflow")
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(InputError, match="pip install torchdiffeq"):
        editor.with_method("styleflow")


@pytest.mark.parametrize("name", [name for name in METHODS if name != "dystyle"])
def test_every_method_moves_the_real_generator_as_asked(editor, name):
    method, code = editor.with_method(name).method, editor.sample(5)
    assert isinstance(method, StrengthEditor)
    attribute = "eyes_closed" if name == "stylespace" else "yaw"  # no single channel turns a head
    index = method.names.index(attribute)

    def read(seen):
        return editor.measure(editor.synthesize(seen, 256))

    before = ATTRIBUTES[attribute].value_to_level(read(code)[attribute])
    strength = min(0.5 / method.slopes[index], method.farthest)
    sign = 1 if before < 0 else -1
    moved = method.mover(code, (attribute,), read)(np.array([sign * strength]))
    assert moved.shape == (18, 512) and moved.dtype == np.float32
    assert sign * (ATTRIBUTES[attribute].value_to_level(read(moved)[attribute]) - before) > 0.05


def test_styleflow_draws_people_as_asked(editor):
    flow, someone = (
        editor.with_method("styleflow").method,
        editor.measure(editor.synthesize(editor.sample(5))),
    )
    for name, low, high in (("yaw", -20, 20), ("age", 20, 60)):
        people = [flow.sample(seed, someone | {name: value}) for seed in (1, 2) for value in (low, high)]
        read = [editor.measure(editor.synthesize(person, 256))[name] for person in people]
        assert np.mean(np.subtract(read[1::2], read[::2])) > 0.4 * (high - low)


def test_the_solver_takes_enough_steps(monkeypatch):
    editor, rng = StyleFlowEditor.load("methods/styleflow"), np.random.default_rng(5)
    x = editor.encode(Latents().map(rng.standard_normal((16, 512))))
    conditions = torch.from_numpy(rng.uniform(-1, 1, (16, len(editor.names)))).float()
    z = editor.flow.to_normal(x, conditions)
    assert (z - x).abs().max() > 0.5  # it does flow
    assert torch.allclose(editor.flow.from_normal(z, conditions), x, atol=1e-3)
    monkeypatch.setattr(styleflow, "SOLVER_STEPS", 16)
    assert torch.allclose(editor.flow.to_normal(x, conditions), z, atol=2e-3)


def test_a_moustache_is_not_asked_to_come_without_a_beard(tmp_path):
    torch.manual_seed(0)
    flow, basis = Flow(2, 2, hidden=4), np.eye(512, dtype=np.float32)[:2]
    for layer in flow.layers[-1:]:
        layer.shift.weight.data[:, :2] = torch.eye(2)  # each coordinate moves with a condition of its own
    names = ("mustache", "beard")
    editor = StyleFlowEditor(names, flow, np.zeros(512, np.float32), basis, np.ones(2, np.float32))
    code, seen = np.zeros((18, 512), np.float32), {"mustache": 0.5, "beard": 0.5}
    alone = editor.mover(code, ("mustache",), lambda code: seen)(np.array([0.6]))
    assert alone[0, :2] == pytest.approx([0.6, 0.6], abs=1e-4)
    both = editor.mover(code, names, lambda code: seen)(np.array([0.6, 0.2]))
    assert both[0, :2] == pytest.approx([0.6, 0.2], abs=1e-4)


def test_style_offsets_are_those_of_another_code(reference):
    a, b = reference.sample(1), reference.sample(2)
    layers = affine_layers(generator())
    widths = [layer.out_features for layer, _ in layers.values()]
    own = np.split(styles(generator(), np.stack([a, b])), np.cumsum(widths)[:-1], 1)
    offsets = {name: part[1] - part[0] for name, part in zip(layers, own, strict=True)}
    expected = reference.synthesize(b).astype(float)
    got = reference.synthesize(StyledCode(a, offsets)).astype(float)
    assert np.abs(got - expected).mean() < 0.05
    half = {name: offset / 2 for name, offset in offsets.items()}
    assert np.abs(reference.synthesize(StyledCode(StyledCode(a, half), half)) - got).mean() < 0.05


def test_mixing_truncation_and_noise(editor):
    a, b = editor.sample(1), editor.sample(2)
    mixed = editor.mix(a, b, 6)
    assert np.array_equal(mixed[:6], a[:6]) and np.array_equal(mixed[6:], b[6:])
    assert np.array_equal(editor.truncate(a, 1), a)
    assert np.allclose(editor.truncate(a, 0), editor.truncate(b, 0))
    picture = editor.synthesize(a)
    quiet = editor.synthesize(a, noise=dict.fromkeys(editor.noise_layers[-4:], 0.0))
    change = np.abs(quiet.astype(float) - picture).mean()
    assert 0.05 < change < 8  # fine texture, not another picture
    assert np.array_equal(editor.synthesize(a, noise={editor.noise_layers[0]: 1.0}), picture)
    for call, message in (
        (lambda: editor.mix(a, b, 19), "row"),
        (lambda: editor.truncate(a, 2), "truncation"),
        (lambda: editor.synthesize(a, noise={"conv9": 0}), "noise layer"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_z_of_a_code_is_found():
    latents = Latents()
    w = latents.map(np.random.default_rng(3).standard_normal((2, 512)))
    error = np.square((latents.map(latents.invert(w)) - w) / latents.std_w).mean()
    assert error < 0.3


def test_the_gradient_by_hand_is_autograds():
    latents, mapping = Latents(), generator().mapping
    rng = np.random.default_rng(5)
    z = torch.from_numpy(rng.standard_normal((3, 512), dtype=np.float32)).requires_grad_(True)
    target = torch.from_numpy(latents.map(rng.standard_normal((3, 512))))
    ((mapping(z) - target) / torch.from_numpy(latents.std_w)).square().mean(1).sum().backward()
    by_hand = torch.from_numpy(latents.gradient(z.detach().numpy(), target.numpy()))
    torch.testing.assert_close(by_hand, z.grad, rtol=1e-4, atol=1e-5 * float(z.grad.abs().max()))
