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
    mean, scale = torch.full((512,), 5.0), torch.full((512,), 2.0)
    parser = FeatureParser(["hair", "background", "hair"], mean, scale, centres)
    features = torch.full((1, 512, 1, 3), 5.0)
    features[0, 3, 0, 0] += 1  # however far from the mean
    features[0, 7, 0, 1] += 100
    features[0, [7, 9], 0, 2] += 4  # as much the one as the other
    shares = parser(features)[0, :, 0]
    assert shares.sum(0).numpy() == pytest.approx(1)
    assert shares[KINDS.index("hair")].numpy() == pytest.approx([1, 0, 0.5], abs=1e-3)
    assert shares[KINDS.index("background")].numpy() == pytest.approx([0, 1, 0.5], abs=1e-3)


def test_faces_hair_and_background_are_found_where_they_are(editor):
    for seed in (1, 5, 12):
        shares = editor.backend.run("parser", editor._features(editor.sample(seed)))[0][0]
        kinds = [KINDS[k] for k in shares[:, [36, 2, 2], [32, 1, 62]].argmax(0)]
        assert kinds == ["face", "background", "background"]
        column = shares[:, :32, 32].argmax(0).tolist()  # from above down to the nose
        assert KINDS.index("hair") in column and column[-1] == KINDS.index("face")


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
