"""What is where in a picture, read off the generator's features."""

import sys

import numpy as np
import pytest
import torch

from dystyle import train
from dystyle.encoders import KINDS
from dystyle.encoders.parser import FeatureParser
from dystyle.engines.graphs import generator
from dystyle.errors import InputError
from dystyle.pictures import load_image
from dystyle.training.parser import ParserConfig, fit_parser


def test_a_place_is_what_the_cluster_is_whose_direction_it_has():
    centres = torch.eye(512)[[3, 7, 9]]
    mean, scale = torch.linspace(-9, 500, 512), torch.full((512,), 2.0)
    parser = FeatureParser(["hair", "background", "hair"], mean, scale, centres)
    features = mean[None, :, None, None].repeat(1, 1, 1, 3)
    features[0, 3, 0, 0] += 1  # however far from the mean
    features[0, 7, 0, 1] += 100
    features[0, [7, 9], 0, 2] += 4  # as much the one as the other
    shares = parser(features)[0, :, 0]
    assert shares.sum(0).numpy() == pytest.approx(1)
    assert shares[KINDS.index("hair")].numpy() == pytest.approx([1, 0, 0.5], abs=1e-3)
    assert shares[KINDS.index("background")].numpy() == pytest.approx([0, 1, 0.5], abs=1e-3)


def test_faces_and_hair_are_no_ground_and_what_is_beside_them_is(editor):
    nowhere = np.zeros((1, 1, 64, 64), np.float32)
    for seed in (1, 5, 12):
        features = editor._features(editor.sample(seed))
        shares = FeatureParser.load("parser")(torch.from_numpy(features))[0].numpy()
        column = shares[:, :36, 32].argmax(0).tolist()  # from above down to the nose
        assert KINDS.index("hair") in column and column[-1] == KINDS.index("face")
        ground, things, hair = (
            part[0, 0] for part in editor.backend.run("parts", features, None, faces=nowhere)
        )
        assert ground[20:44, 22:42].max() < 0.05 and ground[2:8, [2, 61]].min() > 0.9
        assert (things <= ground).all() and (hair + ground).max() < 1.1
        assert hair[:36, 32].max() > 0.9 > 0.1 > hair[30:44, 32].max()
        kept = editor.backend.run("parts", features, None, faces=nowhere + 1)
        assert not kept[0].any() and not kept[1].any()  # what is known to be a face


def test_clusters_are_found_again_to_be_named(tmp_path, monkeypatch, capsys):
    config = ParserConfig(tmp_path / "first", people=4, places=50, clusters=5)
    report = fit_parser(config, generator())
    assert 0 < report["cosine"] < 1 and not (config.out / "parser.safetensors").exists()
    assert load_image(config.out / "clusters.png").shape == (2 * 128, 3 * 512, 3)
    names = ["face", "hair", "things", "background", "face"]
    told = ["--names", *names, "--people", "4", "--places", "50", "--clusters", "5"]
    monkeypatch.setattr(sys, "argv", ["train", "parser", "--out", str(tmp_path / "second"), *told])
    train.main()
    second = tmp_path / "second"
    assert (second / "clusters.png").read_bytes() == (config.out / "clusters.png").read_bytes()
    parser = FeatureParser.load(str(second / "parser.safetensors"))
    assert parser.structure["names"] == names
    assert np.linalg.norm(parser.centres, axis=1) == pytest.approx(1, abs=1e-3)
    for wrong in (("face",) * 4, ("face", "hair", "things", "sky", "face")):
        with pytest.raises(InputError, match="Give 5 names"):
            fit_parser(ParserConfig(config.out, clusters=5, names=wrong), generator())
