import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_of_the_readme_runs_and_its_detector_finds_most_objects(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    names = {}
    for block in blocks:
        exec(block, names)
    loss, found = re.search(
        r"loss ([\d.]+); found (\d+) objects in 8", capsys.readouterr().out
    ).groups()
    assert float(loss) < 1
    assert int(found) >= 5
    assert names["outputs"].lead[0].shape == (1, 8, 8, 3, 25)


def test_every_file_that_the_readme_names_is_there():
    for path in re.findall(r"\((docs/[\w./-]+)\)", README) + re.findall(
        r"\bdocs/[\w.-]+\.md", README
    ):
        assert (ROOT / path).is_file(), path
