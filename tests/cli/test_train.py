"""`train`, `resume`, `anchors` and `preview`: wrong use is one line; right use reaches the loop."""

import dataclasses
import pathlib

import pytest

from yolov7_jax.cli import anchors, main, preview
from yolov7_jax.cli.run_settings import run_settings
from yolov7_jax.training.loop import RunResult
from yolov7_jax.training.train_config import TrainConfig, load_recipe, write_yaml

TRAIN = "yolov7_jax.cli.training_program.train"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fitted(monkeypatch):
    """Replaces training; gives the list of what was to be trained, and where."""
    calls: list[tuple[TrainConfig, pathlib.Path]] = []

    def fit(config, run):
        calls.append((config, run))
        return RunResult(run, [], 0)

    monkeypatch.setattr(TRAIN, fit)
    return calls


def make_data(folder: pathlib.Path, row: str, images: int = 1) -> str:
    """A data set of images; the label file of the first has the row."""
    import cv2
    import numpy as np

    for part in ("images", "labels"):
        (folder / part).mkdir()
    for name in "abcdefgh"[:images]:
        cv2.imwrite(str(folder / "images" / f"{name}.png"), np.zeros((8, 8, 3), np.uint8))
    (folder / "labels" / "a.txt").write_text(f"0 0.5 0.5 0.5 0.5\n{row}\n")
    data = folder / "data.yaml"
    data.write_text("train: images\nval: images\nnames: [thing]\n")
    return str(data)


def make_run(folder: pathlib.Path) -> pathlib.Path:
    (folder / "checkpoints" / "10").mkdir(parents=True)
    write_yaml(TrainConfig(), folder / "config.yaml")
    return folder


def assert_wrong_use(capsys, arguments: list[str], *parts: str):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    for part in parts:
        assert part in printed.err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["train", "--epoch", "3"], ["--epoch", "did you mean --epochs?"]),
        (["train", "--epochs", "many"], ["--epochs", "many"]),
        (["train", "--epochs", "0"], ["--epochs (=0) must be at least 1"]),
        (["train", "--batch-size", "0"], ["--batch-size (=0) must be at least 1"]),
        (["train", "--optim.lr0", "-1"], ["lr0 (=-1.0) must be more than 0"]),
        (["train", "--optim.lrf", "inf"], ["lrf (=inf) must be at least 0 and finite"]),
        (["train", "--optim.warmup-epochs", "inf"], ["warmup_epochs (=inf)"]),
        (["train"], ["--data is missing: a data.yaml, a COCO .json file"]),
        (["anchors", "--data", ""], ["--data is missing"]),
        (["train", "--output", ""], ["--output must not be empty"]),
        (["train", "--freeze", ""], ["--freeze: a name must not be empty"]),
        (["train", "--loss.box-gain", "-1"], ["box_gain (=-1.0)"]),
        (["train", "--recipe", "tny"], ["unknown recipe 'tny'", "did you mean tiny?"]),
        (["train", "--recipe"], ["--recipe: expected one argument"]),
        (["train", "--recipe", ""], ["unknown recipe ''"]),
        (["train", "--recipe", "no.yaml"], ["no.yaml: cannot be read"]),
        (["train", "--data", "no/data.yaml"], ["no/data.yaml"]),
        (["resume"], ["required", "RUN"]),
        (["resume", ".", "--max-hours", "soon"], ["--max-hours", "soon"]),
        (["resume", ".", "--epochs", "3"], ["--epochs"]),
        (["resume", "nowhere"], ["nowhere: there is no such folder"]),
        (["resume", "."], ["has no config.yaml"]),
        (["train", "--seed", "9" * 20], ["--seed", "must be at most 4294967295"]),
        (["train", "--width", "inf"], ["--width (=inf)"]),
        (["train", "--max-hours", "0"], ["--max-hours (=0.0) must be more than 0"]),
        (
            ["train", "--data", "demo", "--processes.count", "2"],
            ["--processes.coordinator", "belong together"],
        ),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(capsys, arguments, parts):
    assert_wrong_use(capsys, arguments, *parts)
    assert not list(pathlib.Path().iterdir())  # and leaves nothing behind


def test_unknown_key_in_a_recipe_is_refused(capsys, tmp_path):
    (tmp_path / "mine.yaml").write_text("epoch: 5\n")
    assert_wrong_use(capsys, ["train", "--recipe=mine.yaml"], "mine.yaml", "did you mean epochs?")


def test_image_size_and_model_are_checked_against_each_other(capsys, tmp_path):
    data = make_data(tmp_path, "0 0.5 0.5 0.2 0.2", images=8)  # one for each device
    fit = ["train", "--data", data, "--output", "runs/a", "--batch-size", "8"]
    assert_wrong_use(capsys, [*fit, "--image-size", "330"], "multiple of 32", "320 or 352")
    # Before all files of the data set are looked at.
    pathlib.Path(data).with_name("labels").rename(tmp_path / "elsewhere")
    assert_wrong_use(capsys, [*fit, "--model", "yolov7-tny"], "unknown model 'yolov7-tny'")
    assert not pathlib.Path("runs").exists()


def test_a_label_out_of_range_is_named_by_check_with_file_and_line(capsys, tmp_path):
    data = make_data(tmp_path, "7 0.5 0.5 0.5 0.5")
    assert main(["check", "--data", data]) == 0
    assert "labels/a.txt:2" in capsys.readouterr().out
    assert main(["check", "--data", data, "--strict"]) == 1


def test_output_that_holds_a_run_is_refused_and_resume_named(capsys, tmp_path):
    make_run(tmp_path / "old")
    fit = ["train", "--data", "demo", "--output", "old"]
    assert_wrong_use(capsys, fit, "old holds a run already", "yolov7-jax resume old")


def test_output_with_remains_of_a_run_is_refused(capsys, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    (old / "metrics.jsonl").write_text("{}\n")
    fit = ["train", "--data", "demo", "--output", "old"]
    assert_wrong_use(capsys, fit, "old has metrics.jsonl of another run")
    assert (old / "metrics.jsonl").read_text() == "{}\n"


def test_batch_larger_than_the_training_split_is_refused(capsys, tmp_path):
    data = make_data(tmp_path, "0 0.5 0.5 0.2 0.2")
    assert_wrong_use(capsys, ["train", "--data", data], "--batch-size", "must be at most 1")


def test_flags_override_the_recipe(fitted):
    assert main(["train", "--data", "demo", "--epochs", "3", "--optim.lr0", "0.5"]) == 0
    config, _ = fitted[0]
    recipe = load_recipe("tiny")
    assert (config.epochs, config.optim.lr0) == (3, 0.5)
    assert config.augment == recipe.augment
    assert config.optim.lrf == recipe.optim.lrf


@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        ("yolov7-tiny", "tiny"),
        ("yolov7", "p5"),
        ("yolov7x", "p5"),
        *((f"yolov7-{name}", "p6") for name in ("w6", "e6", "d6", "e6e")),
    ],
)
def test_a_model_has_its_recipe(fitted, model, recipe):
    assert main(["train", "--data", "demo", "--model", model]) == 0
    assert main(["train", "--data", "demo", f"--model={model}", "--recipe", "demo"]) == 0
    config = fitted[0][0]
    assert (config.model, config.recipe) == (model, recipe)
    assert config.loss == load_recipe(recipe).loss
    assert (fitted[1][0].model, fitted[1][0].recipe) == (model, "demo")


def test_runs_without_output_get_the_next_free_name(fitted):
    assert main(["train", "--data", "demo"]) == 0
    pathlib.Path("runs/demo-tiny").mkdir(parents=True)
    pathlib.Path("images/blood").mkdir(parents=True)
    pathlib.Path("images/blood/data.yaml").touch()
    assert main(["train", "--data", "demo"]) == 0
    assert main(["train", "--data", "images/blood/data.yaml"]) == 0
    assert [str(run) for _, run in fitted] == [
        "runs/demo-tiny",
        "runs/demo-tiny-2",
        "runs/blood-tiny",
    ]
    assert pathlib.Path(fitted[2][0].data).is_absolute()


def test_resume_takes_the_settings_of_the_run(fitted, tmp_path):
    run = make_run(tmp_path / "old")
    assert main(["resume", str(run)]) == 0
    assert fitted == [(TrainConfig(), run)]


def test_resume_may_change_how_it_is_computed_but_not_what(fitted, tmp_path):
    run = make_run(tmp_path / "old")
    started = dataclasses.replace(TrainConfig(), num_workers=5, max_hours=1.5, seed=7)
    write_yaml(started, run / "config.yaml")
    flags = ["--cache", "disk", "--max-hours", "3", "--worker-processes"]
    assert main(["resume", str(run), *flags]) == 0
    changes = {"cache": "disk", "max_hours": 3.0, "worker_processes": True}
    assert fitted == [(dataclasses.replace(started, **changes), run)]


@pytest.mark.parametrize(
    ("reason", "number", "code"),
    [("SIGTERM", 15, 0), ("SIGINT", 2, 130), ("--max-hours 8", None, 0)],
)
def test_unfinished_run_says_why_and_how_to_continue(capsys, monkeypatch, reason, number, code):
    summary = RunResult(pathlib.Path("runs/a"), [], 40, reason, number)
    monkeypatch.setattr(TRAIN, lambda config, run: summary)
    assert main(["train", "--data", "demo", "--output", "runs/a"]) == code
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"stopped after step 40 ({reason}); continue: yolov7-jax resume runs/a"


def test_a_second_interrupt_is_one_word_and_its_exit_code(capsys, monkeypatch):
    def fit(config, run):
        raise KeyboardInterrupt

    monkeypatch.setattr(TRAIN, fit)
    assert main(["train", "--data", "demo", "--output", "runs/a"]) == 130
    assert capsys.readouterr().err == "interrupted by SIGINT\n"


def test_summary_names_final_and_best_accuracy_and_the_files(capsys, monkeypatch):
    records = [
        {"epoch": 1, "ap": 0.5, "ap50": 0.9},
        {"epoch": 2, "ap": 0.4, "ap50": 0.8},
        {"epoch": 3},
    ]
    monkeypatch.setattr(TRAIN, lambda config, run: RunResult(run, records, 40))
    assert main(["train", "--data", "demo", "--output", "runs/a"]) == 0
    printed = capsys.readouterr().out
    for part in (
        "AP50 0.800, AP 0.400 after epoch 2",
        "best: AP50 0.900, AP 0.500 in epoch 1",
        "runs/a/report.html",
        "runs/a/detections.png",
        "runs/a/metrics.jsonl",
    ):
        assert part in printed


def help_of(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--help"])
    assert caught.value.code == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", ["train", "anchors", "preview", "check"])
def test_help_says_which_data_sets_are_read_and_how_each_is_given(capsys, command):
    printed = help_of(capsys, command)
    for part in ("a data.yaml, which names the classes", "COCO .json file itself", "Pascal VOC"):
        assert part in printed


@pytest.mark.parametrize(
    ("command", "shown", "hidden"),
    [
        (
            "anchors",
            ("--image-size", "--seed", "--autoanchor", "--loss.anchor-threshold"),
            ("--epochs", "--batch-size", "--output", "--optim.", "--augment.", "--loss.box-gain"),
        ),
        (
            "preview",
            ("--batch-size", "--output", "--augment.mosaic", "--loss.anchor-threshold"),
            ("--epochs", "--cache", "--optim.", "--eval-batch-size", "--loss.box-gain"),
        ),
    ],
)
def test_help_of_a_command_shows_the_flags_that_matter_to_it(capsys, command, shown, hidden):
    printed = help_of(capsys, command)
    for flag in ("--data", "--recipe", "--model", *shown):
        assert flag in printed
    assert not [flag for flag in hidden if flag in printed]


def test_help_shows_the_values_of_the_recipe(capsys):
    size = load_recipe("demo").image_size
    assert f"(default: {size})" in help_of(capsys, "anchors", "--recipe", "demo")


def test_every_flag_that_a_help_shows_exists():
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    assert {flag.partition(".")[0] for flag in anchors.SHOWN + preview.SHOWN} <= names


@pytest.mark.parametrize("verb", [anchors, preview])
def test_other_verbs_take_the_flags_of_train_too(verb):
    arguments = ["--data", "demo", "--epochs", "3", "--optim.lr0", "0.5", "--no-autoanchor"]
    config = run_settings(verb.make_parser(arguments).parse(arguments))
    assert (config.epochs, config.optim.lr0, config.autoanchor) == (3, 0.5, False)


def test_a_flag_takes_none_where_a_setting_may_have_it(fitted):
    flags = [
        "--optim.max-gradient-norm",
        "none",
        "--max-hours",
        "None",
        "--freeze",
        "stem",
        "n*",
    ]
    assert main(["train", "--data", "demo", *flags]) == 0
    config, _ = fitted[0]
    assert (config.optim.max_gradient_norm, config.max_hours) == (None, None)
    assert config.freeze == ("stem", "n*")


def test_fit_on_data_without_labels_is_refused_in_one_line(capsys, tmp_path):
    data = make_data(tmp_path, "")
    (tmp_path / "labels" / "a.txt").unlink()
    fit = ["train", "--data", data, "--output", "runs/a"]
    assert_wrong_use(capsys, fit, "'train': no image has a label", "labels/a.txt or ")
    assert not pathlib.Path("runs").exists()
