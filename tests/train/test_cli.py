"""The command line: wrong use is one line and exit code 2; right use reaches the loop."""

import pathlib

import pytest

from train import __main__ as cli
from train.arguments import first_message
from train.config import TrainConfig, load_recipe, write_yaml
from train.loop import Summary


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
        return Summary(run, [], 0, None)

    monkeypatch.setattr(cli, "fit", fit)
    return calls


def make_data(folder: pathlib.Path, row: str) -> str:
    """A data set of one picture; its label file has the row."""
    import cv2
    import numpy as np

    for part in ("images", "labels"):
        (folder / part).mkdir()
    cv2.imwrite(str(folder / "images" / "a.png"), np.zeros((8, 8, 3), np.uint8))
    (folder / "labels" / "a.txt").write_text(f"0 0.5 0.5 0.5 0.5\n{row}\n")
    data = folder / "data.yaml"
    data.write_text("train: images\nval: images\nnames: [thing]\n")
    return str(data)


def make_run(folder: pathlib.Path) -> pathlib.Path:
    (folder / "checkpoints" / "10").mkdir(parents=True)
    write_yaml(TrainConfig(), folder / "config.yaml")
    return folder


def assert_wrong_use(capsys, arguments: list[str], *parts: str):
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    for part in parts:
        assert part in printed.err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["a command is wanted", "fit, resume, check, anchors and preview"]),
        (["fti"], ["unknown command 'fti'"]),
        (["fit", "--epoch", "3"], ["--epoch", "did you mean --epochs?"]),
        (["fit", "--epochs", "many"], ["--epochs", "many"]),
        (["fit", "--epochs", "0"], ["--epochs (=0) must be at least 1"]),
        (["fit", "--batch-size", "0"], ["--batch-size (=0) must be at least 1"]),
        (["fit", "--optim.lr0", "-1"], ["lr0 (=-1.0) must be more than 0"]),
        (["fit", "--loss.box-gain", "-1"], ["box_gain (=-1.0)"]),
        (["fit", "--recipe", "tny"], ["unknown recipe 'tny'", "did you mean tiny?"]),
        (["fit", "--recipe"], ["--recipe needs"]),
        (["fit", "--recipe", "no.yaml"], ["no.yaml: cannot be read"]),
        (["fit", "--data", "no/data.yaml"], ["no/data.yaml"]),
        (["resume"], ["resume takes the folder of one run"]),
        (["resume", "nowhere"], ["nowhere: there is no such folder"]),
        (["resume", "."], ["has no config.yaml"]),
        (["fit", "--seed", "9" * 20], ["--seed", "must be at most 4294967295"]),
        (["fit", "--width", "inf"], ["--width (=inf)"]),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(capsys, arguments, parts):
    assert_wrong_use(capsys, arguments, *parts)
    assert not list(pathlib.Path().iterdir())  # and leaves nothing behind


def test_unknown_key_in_a_recipe_is_refused(capsys, tmp_path):
    (tmp_path / "mine.yaml").write_text("epoch: 5\n")
    assert_wrong_use(capsys, ["fit", "--recipe=mine.yaml"], "mine.yaml", "did you mean epochs?")


def test_image_size_and_model_are_checked_against_each_other(capsys, tmp_path):
    data = make_data(tmp_path, "0 0.5 0.5 0.2 0.2")
    fit = ["fit", "--data", data, "--output", "runs/a"]
    assert_wrong_use(capsys, [*fit, "--image-size", "330"], "multiple of 32", "320 or 352")
    assert_wrong_use(capsys, [*fit, "--model", "yolov7-tny"], "unknown model 'yolov7-tny'")
    assert not pathlib.Path("runs").exists()


def test_a_label_out_of_range_is_named_by_check_with_file_and_line(capsys, tmp_path):
    data = make_data(tmp_path, "7 0.5 0.5 0.5 0.5")
    assert cli.main(["check", "--data", data]) == 0
    assert "labels/a.txt:2" in capsys.readouterr().out
    assert cli.main(["check", "--data", data, "--strict"]) == 1


def test_output_that_holds_a_run_is_refused_and_resume_named(capsys, tmp_path):
    make_run(tmp_path / "old")
    assert_wrong_use(
        capsys, ["fit", "--output", "old"], "old holds a run already", "python -m train resume old"
    )


def test_output_with_remains_of_a_run_is_refused(capsys, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    (old / "metrics.jsonl").write_text("{}\n")
    assert_wrong_use(capsys, ["fit", "--output", "old"], "old has metrics.jsonl of another run")
    assert (old / "metrics.jsonl").read_text() == "{}\n"


def test_batch_larger_than_the_training_split_is_refused(capsys, tmp_path):
    data = make_data(tmp_path, "0 0.5 0.5 0.2 0.2")
    assert_wrong_use(capsys, ["fit", "--data", data], "--batch-size", "must be at most 1")


@pytest.mark.parametrize(
    "box",
    [
        "╭─ Wrong ────╮\n│ no such    │\n│ option --a │\n│ ────────── │\n"
        "│ Perhaps you meant: │\n│   --b INT  │\n│ ────────── │\n│ see help   │\n╰────────────╯\n",
        " Wrong \n ------- \n no such \n option --a \n ------- \n"
        " Perhaps you meant: \n   --b INT \n ------- \n see help \n \n",
    ],
    ids=["unicode", "ascii"],
)
def test_message_of_the_flag_parser_becomes_one_line(box):
    assert first_message(box) == "no such option --a (did you mean --b?)"


def test_flags_override_the_recipe(fitted):
    assert cli.main(["fit", "--recipe", "tiny", "--epochs", "3", "--optim.lr0", "0.5"]) == 0
    config, _ = fitted[0]
    recipe = load_recipe("tiny")
    assert (config.epochs, config.optim.lr0) == (3, 0.5)
    assert config.augment == recipe.augment
    assert config.optim.lrf == recipe.optim.lrf


def test_runs_without_output_get_the_next_free_name(fitted):
    assert cli.main(["fit"]) == 0
    pathlib.Path("runs/demo-tiny").mkdir(parents=True)
    assert cli.main(["fit"]) == 0
    assert cli.main(["fit", "--data", "pictures/blood/data.yaml"]) == 0
    assert [str(run) for _, run in fitted] == [
        "runs/demo-tiny",
        "runs/demo-tiny-2",
        "runs/blood-tiny",
    ]
    assert pathlib.Path(fitted[2][0].data).is_absolute()


def test_resume_takes_the_settings_of_the_run(fitted, tmp_path):
    run = make_run(tmp_path / "old")
    assert cli.main(["resume", str(run)]) == 0
    assert fitted == [(TrainConfig(), run)]


def test_unfinished_run_says_how_to_continue(capsys, monkeypatch):
    monkeypatch.setattr(cli, "fit", lambda config, run: Summary(run, [], 40, 15))
    assert cli.main(["fit", "--output", "runs/a"]) == 143
    assert "python -m train resume runs/a" in capsys.readouterr().out


def test_summary_names_final_and_best_accuracy_and_the_files(capsys, monkeypatch):
    records = [
        {"epoch": 1, "ap": 0.5, "ap50": 0.9},
        {"epoch": 2, "ap": 0.4, "ap50": 0.8},
    ]
    monkeypatch.setattr(cli, "fit", lambda config, run: Summary(run, records, 40, None))
    assert cli.main(["fit", "--output", "runs/a"]) == 0
    printed = capsys.readouterr().out
    for part in (
        "AP50 0.800, AP 0.400 after epoch 2",
        "best: AP50 0.900, AP 0.500 in epoch 1",
        "runs/a/detections.png",
        "runs/a/metrics.jsonl",
    ):
        assert part in printed


def test_help_lists_the_settings_with_their_meaning(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["fit", "--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "--image-size" in printed
    assert "passes over the training split" in printed
    assert "--optim.lr0" in printed
