"""Recipes and run configurations: strict reading, faithful writing."""

import dataclasses

import pytest

from yolov7_jax.errors import UserError
from yolov7_jax.training.train_config import (
    RECIPES,
    ProcessConfig,
    TrainConfig,
    check_config,
    check_image_size,
    load_recipe,
    read_yaml,
    write_yaml,
)


def read(tmp_path, text: str) -> TrainConfig:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return read_yaml(path)


def test_written_configuration_reads_back_equal(tmp_path):
    config = load_recipe("tiny")
    config = dataclasses.replace(config, output="runs/x", activation="silu", epochs=7)
    write_yaml(config, tmp_path / "config.yaml")
    assert read_yaml(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_says_its_command(path):
    config = load_recipe(path.stem)
    check_config(config)
    check_image_size(config.image_size, (8, 16, 32))
    assert config.recipe == path.stem
    assert path.read_text().startswith("# ")
    assert "yolov7-jax train" in path.read_text()


def test_recipe_changes_only_what_it_mentions(tmp_path):
    config = read(tmp_path, "epochs: 5\noptim: {lr0: 1e-3}\n")
    default = TrainConfig()
    assert config == dataclasses.replace(
        default, epochs=5, optim=dataclasses.replace(default.optim, lr0=0.001)
    )


def test_empty_recipe_is_the_default(tmp_path):
    assert read(tmp_path, "") == TrainConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 5", r"unknown key epoch \(did you mean epochs\?\)"),
        ("optim: {lr_0: 1}", r"unknown key optim\.lr_0 \(did you mean optim\.lr0\?\)"),
        ("epochs: many", "epochs must be an integer, got 'many'"),
        ("epochs: 1.5", "epochs must be an integer, got 1.5"),
        ("epochs: true", "epochs must be an integer, got True"),
        ("data: 5", "data must be text, got 5"),
        ("optim: {lr0: fast}", r"optim\.lr0 must be a number, got 'fast'"),
        ("optim: {optimizer: sdg}", r"optim\.optimizer must be one of sgd, adam, adamw, got 'sdg'"),
        ("optim: 3", "optim must be a mapping of settings, got 3"),
        ("augment: {translate: 0.7}", r"augment\.translate \(=0\.7\) must be between"),
        ("- 1", "must be a mapping of settings"),
        ("a: [", "is not YAML"),
        ("epochs: 1\nseed: 2\nepochs: 3", "is not YAML: line 3: epochs is set again"),
        ("optim:\n  lr0: 1\n  lr0: 1", "is not YAML: line 3: lr0 is set again"),
        ("{epochs: 1, epochs: 3}", "line 1: epochs is set again"),
        ("[1, 2]: 3", "is not YAML"),
        ("max_hours: soon", "max_hours must be a number or null, got 'soon'"),
        ("freeze: backbone", "freeze must be a list of texts, got 'backbone'"),
        ("freeze: [1]", r"freeze must be a list of texts, got \[1\]"),
        ("foo: 1\nbar: 2", "unknown key foo; unknown key bar"),
    ],
)
def test_wrong_recipe_is_refused_with_file_key_and_reason(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "recipe.yaml"))
    assert "\n" not in str(caught.value)


def test_one_key_in_several_groups_is_no_repetition(tmp_path):
    config = read(tmp_path, "seed: 1\noptim: {lr0: 1}\naugment: {scale: 0.5}\n")
    assert (config.seed, config.optim.lr0, config.augment.scale) == (1, 1, 0.5)
    shared = read(tmp_path, "optim: &o {lr0: 1}\nloss: {box_gain: 2}\n")
    assert shared.loss.box_gain == 2


def test_which_process_this_is_is_not_kept(tmp_path):
    here = dataclasses.replace(TrainConfig(), processes=ProcessConfig("localhost:1", 2, 1))
    write_yaml(here, tmp_path / "config.yaml")
    assert "localhost" not in (tmp_path / "config.yaml").read_text()
    assert read_yaml(tmp_path / "config.yaml") == TrainConfig()


def test_unknown_recipe_lists_the_known_ones():
    with pytest.raises(UserError, match=r"unknown recipe 'tny'; known are .*tiny.*mean tiny"):
        load_recipe("tny")


def test_missing_recipe_file_is_named():
    with pytest.raises(UserError, match=r"no/such\.yaml: cannot be read: No such file"):
        load_recipe("no/such.yaml")


def test_all_values_out_of_range_are_named_at_once():
    with pytest.raises(UserError, match=r"--epochs \(=0\).*--batch-size \(=-1\)"):
        check_config(dataclasses.replace(TrainConfig(), epochs=0, batch_size=-1))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("multi_scale", -1),
        ("multi_scale", 1),
        ("eval_epochs", 0),
        ("plain_epochs", -1),
        ("patience", -1),
        ("max_skipped", 0),
        ("max_hours", 0.0),
        ("max_hours", float("nan")),
        ("checkpoint_minutes", 0.0),
        ("width", 0.0),
        ("width", 9.0),
    ],
)
def test_a_value_out_of_range_is_named_as_its_flag(name, value):
    flag = f"--{name.replace('_', '-')} \\(={value}\\) must be "
    with pytest.raises(UserError, match=flag):
        check_config(dataclasses.replace(TrainConfig(), **{name: value}))


def test_image_size_must_be_a_multiple_of_the_largest_stride():
    check_image_size(320, (8, 16, 32))
    with pytest.raises(UserError, match=r"\(=330\) must be a multiple of 32.*320 or 352"):
        check_image_size(330, (8, 16, 32))
    with pytest.raises(UserError, match=r"\(=352\) must be a multiple of 64"):
        check_image_size(352, (8, 16, 32, 64))
