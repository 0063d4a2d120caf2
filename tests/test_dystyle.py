"""DyStyle's structure follows the configuration."""

import itertools
import json

import numpy as np
import onnxruntime
import pytest
import torch

from dystyle.attributes import ATTRIBUTES
from dystyle.editors.compiled import CompiledEditor
from dystyle.editors.dystyle import DyStyle
from dystyle.editors.structure import Structure
from dystyle.engines.editor_graph import EditorWeights, build_editor_graph, shared_weights
from dystyle.errors import InputError
from dystyle.weights import load, save

NAMES = ("yaw", "age", "smile", "eyes_closed")


@pytest.fixture
def editor() -> DyStyle:
    torch.manual_seed(0)
    statistics = {"mean_w": torch.randn(512) * 0.1, "std_w": torch.rand(512) + 0.5}
    model = DyStyle(NAMES, rows=5, hidden=16, **statistics)
    for zeros in (model.scale.weight, model.shift.weight):
        torch.nn.init.normal_(zeros, std=0.05)
    return model


def configuration(*names: str, batch: int = 3) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(len(names))
    ranges = ((name, ATTRIBUTES[name]) for name in names)
    return {n: torch.from_numpy(rng.uniform(r.low, r.high, batch)).float() for n, r in ranges}


def test_inactive_experts_neither_run_nor_learn(editor):
    ran = []
    for name, expert in editor.experts.items():
        expert.register_forward_hook(lambda *_, name=name: ran.append(name))
    editor(torch.randn(3, 18, 512), configuration("age", "smile")).square().sum().backward()
    assert ran == ["age", "smile"]
    for name, expert in editor.experts.items():
        learns = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in expert.parameters()]
        assert learns == [name in ran] * 4


def test_one_attribute_attends_to_itself_alone(editor):
    codes, target = torch.randn(3, 18, 512), configuration("yaw")
    proxies = editor.proxies(codes, target)
    torch.testing.assert_close(editor.attention(proxies), editor.attention.value(proxies[0]))


def test_attention_follows_the_paper(editor):
    proxies = editor.proxies(torch.randn(3, 18, 512), configuration("yaw", "age", "smile"))
    attention = editor.attention
    fused = torch.zeros(5, 3, 16)
    for p_i in proxies:
        logits = [(attention.query(p_i) * attention.key(p_j)).sum(2) / 4 for p_j in proxies]
        weights = torch.stack(logits).softmax(0)
        fused += sum(w[..., None] * attention.value(p_j) for w, p_j in zip(weights, proxies, strict=True))
    torch.testing.assert_close(attention(proxies), fused)


def test_nothing_to_edit_changes_nothing(editor):
    codes = torch.randn(2, 18, 512)
    assert editor(codes, {}) is codes


def test_order_does_not_matter(editor):
    codes, target = torch.randn(3, 18, 512), configuration(*NAMES)
    expected = editor(codes, target)
    for order in itertools.permutations(NAMES):
        assert torch.equal(editor(codes, {name: target[name] for name in order}), expected)


def test_samples_of_a_batch_do_not_mix(editor):
    codes, target = torch.randn(3, 18, 512), configuration("age", "smile")
    together = editor(codes, target)
    for i in range(3):
        alone = editor(codes[i : i + 1], {name: value[i : i + 1] for name, value in target.items()})
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-5)


def test_rows_beyond_the_edited_ones_stay(editor):
    codes = torch.randn(2, 18, 512)
    edited = editor(codes, configuration("age", batch=2))
    assert torch.equal(edited[:, 5:], codes[:, 5:])
    assert not torch.equal(edited[:, :5], codes[:, :5])


def test_unknown_attribute_is_refused(editor):
    with pytest.raises(InputError, match="mustache"):
        editor(torch.randn(1, 18, 512), {"mustache": torch.ones(1)})


def test_saved_editor_gives_the_same_edits_in_torch_and_assembled(editor, tmp_path):
    """Every configuration: PyTorch from the file against the graph assembled without PyTorch."""
    path, weights = tmp_path / "editor.safetensors", tmp_path / "editor.weights"
    editor.save(path)
    loaded = DyStyle.load(str(path))
    content, index = shared_weights(*load(path))
    weights.write_bytes(content)
    shared = EditorWeights.map(weights, index)
    codes = torch.randn(3, 18, 512)
    for size in range(1, len(NAMES) + 1):
        for names in itertools.combinations(NAMES, size):
            target = configuration(*names)
            expected = loaded(codes, target).numpy()
            graph = build_editor_graph(shared, names)
            (tmp_path / "graph.onnx").write_bytes(graph.SerializeToString())
            session = onnxruntime.InferenceSession(tmp_path / "graph.onnx")
            feed = {"codes": codes.numpy(), "targets": np.stack([target[n].numpy() for n in names], 1)}
            np.testing.assert_allclose(session.run(None, feed)[0], expected, atol=1e-5)
            # One first layer an active expert, and none of another.
            assert sum(list(i.dims) == [5, 519, 16] for i in graph.graph.initializer) == size
            # None of the weights is in the graph itself.
            assert graph.ByteSize() < 20_000


def test_an_editor_of_another_version_is_refused(editor, tmp_path):
    path = tmp_path / "editor.safetensors"
    editor.save(path)
    tensors, metadata = load(str(path))
    structure = json.loads(metadata.pop("structure")) | {"interplay": 24}
    save(path, tensors, structure=json.dumps(structure), **metadata)
    with pytest.raises(InputError, match="of another version, whose 'interplay' this one lacks"):
        DyStyle.load(str(path))


class Straight:
    """A backend whose edits add the target to the first row, but nothing more beyond what is evaluated."""

    def edit(self, codes, configuration, editor="editor"):
        rows = {name: ATTRIBUTES[name] for name in configuration}
        return codes + sum(float(np.clip(t, *rows[name].evaluated)) for name, t in configuration.items())


def test_targets_beyond_what_is_evaluated_go_on_in_a_straight_line():
    method, code = CompiledEditor(Structure(NAMES, 5, 16), Straight()), np.zeros((18, 512), np.float32)
    for target in ({"yaw": 10.0}, {"yaw": 40.0}, {"yaw": -40.0, "age": 80.0}, {"age": 5.0, "smile": 1.0}):
        edited = method.edit(code, target, None)
        np.testing.assert_allclose(edited, sum(target.values()), rtol=1e-5)
        assert edited.dtype == np.float32
