"""The command line: help without JAX, options in any order, errors of two lines at most, sweeps that resume."""

import enum
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import fieldprob.study as study_module
from fieldprob import studyfile
from fieldprob.cli import arguments, main
from fieldprob.cli.convert import convert

STUDY = '''
"""A toy whose loss falls as 1/width.

More about it.
"""
import numpy as np
import fieldprob as fp

presets = {"small": {"width": 4, "shift": 0.5}, "full": {"width": 1000}}


def model():
    return None


def study(width: int = 10, shift: float = 0.0, kind: str = "a", classes: tuple[int, ...] = (0, 1), seed: int = 0):
    """Builds it.

    Args:
        width: neurons of
            each layer
        seed: of everything
    """
    if width < 1:
        raise ValueError(f"width={width}: give at least 1")

    def limit(prior, task):
        return fp.Prediction(theory="limit", mean={"train_loss": 1.0 + shift, "f": np.full((3, 1), 2.0)})

    model.width, model.shift = width, shift
    return fp.Study(model, None, theories=(limit,), seed=seed)
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A study file in an empty working directory, draws in place of a sampler; returns the calls of the sampler."""
    (tmp_path / "toy.py").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    calls = []

    def sample(prior, task, *, seed, progress, stop=False, directory=None, resume=False):
        calls.append((prior.width, seed))
        rng = np.random.default_rng(seed)
        loss = rng.normal(1.0 + prior.shift + 1 / prior.width, 0.1, (4, 500))
        f = rng.normal(2.0 + 1 / prior.width, 0.1, (4, 500, 3, 1))
        posterior = xr.Dataset(
            {"train_loss": (("chain", "draw"), loss), "f": (("chain", "draw", "train_point", "output"), f)}
        )
        tree = xr.DataTree.from_dict({"posterior": posterior.assign_coords(train_point=np.arange(3), output=[0])})
        tree.attrs["interrupted"] = 0
        return tree

    monkeypatch.setattr(study_module, "sample", sample)
    return calls


def interrupt_at(monkeypatch, number, keep):
    """Ctrl-C in the call of that number; the sampler returns what it has, or has nothing yet."""
    original, count = study_module.sample, iter(range(100))

    def sample(*positional, **options):
        stop = next(count) == number
        if stop and not keep:
            raise KeyboardInterrupt
        tree = original(*positional, **options)
        tree.attrs["interrupted"] = int(stop)
        return tree

    monkeypatch.setattr(study_module, "sample", sample)


def only(pattern):
    (found,) = Path(".").glob(pattern)
    return found


def error_lines(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert 1 <= len(lines) <= 2 and lines[0].startswith("fieldprob: "), lines
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------- help


def test_help_and_lists_import_neither_jax_nor_arviz_nor_tyro(tmp_path):
    (tmp_path / "toy.py").write_text(STUDY)
    program = textwrap.dedent("""
        import sys
        from fieldprob.cli import main
        for words in (["--help"], ["list"], ["run", "--help"], ["sweep", "-h"], ["report", "--help"],
                      ["run", "toy.py", "--help"], ["run", "toy.py", "--widht", "3"], ["run", "nothing"]):
            main(words)
            heavy = {"jax", "numpyro", "arviz", "xarray", "numpy", "tyro", "rich", "matplotlib"} & set(sys.modules)
            assert not heavy, (words, heavy)
    """)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_help_of_a_study_shows_types_defaults_texts_presets_and_the_options_of_the_command(toy, capsys):
    assert main(["run", "toy.py", "--help"]) == 0
    text = capsys.readouterr().out
    for part in (
        "A toy whose loss falls",
        "--width INT",
        "neurons of each layer (default: 10)",
        "--classes",
        "--out DIR",
    ):
        assert part in text
    assert "small" in text and "width=4, shift=0.5" in text


def test_info_shows_versions_and_devices(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("fieldprob", "jax", "numpyro", "arviz", "devices", "precision"))


def test_list_shows_the_studies_that_come_with_fieldprob(tmp_path, monkeypatch, capsys):
    (tmp_path / "toy.py").write_text(STUDY)
    (tmp_path / "broken.py").write_text("def study(:")
    monkeypatch.setattr(studyfile, "models_directory", lambda: tmp_path)
    monkeypatch.setattr("fieldprob.cli.models_directory", lambda: tmp_path)
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    assert "A toy whose loss falls as 1/width." in text and "--preset small: width=4, shift=0.5" in text
    assert "broken" in text and "line 1" in text


# ---------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    "words",
    [
        "toy.py --width 3 --classes 0 1 --out x",
        "--out x toy.py --width=3 --classes 0 1",
        "--width 3 --classes 0 1 --out x toy.py",
        "--classes 0 1 toy.py --out=x --width 3",
        "--width 3 toy.py --classes 0 1 --out x",
    ],
)
def test_options_may_stand_anywhere(toy, words):
    request = arguments.parse("run", words.split())
    assert request.target == "toy.py" and request.options == {"out": "x"}
    assert request.parameters == {"width": ["3"], "classes": ["0", "1"]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "toy.py", "--widht", "3"], "toy has no parameter --widht; did you mean --width?"),
        (["run", "toy.py", "--ouut", "3"], "did you mean --out?"),
        (["run", "toy.py", "--seeds", "3"], "belongs to `fieldprob sweep`"),
        (["run", "toy.py", "--width", "3.5"], "--width 3.5: expected an integer"),
        (["run", "toy.py", "--width"], "--width nothing: expected an integer"),
        (["run", "toy.py", "--classes", "0,1"], "separate the entries of one value by spaces"),
        (["run", "toy.py", "--width", "3", "--width", "4"], "--width is given twice"),
        (["run", "toy.py", "--precision", "16"], "choose from 32, 64"),
        (["run", "toy.py", "--out"], "--out needs a value"),
        (["run", "toy.py", "--preset", "smal"], "no preset 'smal' (presets: small, full)"),
        (["run", "toy.py", "extra"], "unexpected argument 'extra'"),
        (["run", "toyy.py"], "toyy.py does not exist; did you mean toy.py?"),
        (["run", "toy"], "write toy.py"),
        (["run", "nosuchthing"], "no study is called 'nosuchthing'"),
        (["run"], "which study?"),
        (["rum", "toy.py"], "no command 'rum'; did you mean run?"),
        (["sweep", "toy.py", "--width", "3"], "nothing to sweep"),
        (["sweep", "toy.py", "--width", "3,x"], "--width x: expected an integer"),
        (["sweep", "toy.py", "--width", "3,4", "--seeds", "0"], "--seeds 0"),
        (["report", "nowhere"], "not a directory"),
        (["report", "."], "holds no result"),
        (["run", "toy.py", "--width", "0"], "width=0: give at least 1  (toy.py, line"),
    ],
)
def test_a_wrong_command_is_answered_in_two_lines_at_most(toy, capsys, words, message):
    assert main(words) == 2
    assert message in error_lines(capsys)
    assert not toy, "nothing may be sampled"


def test_debug_shows_where_an_error_came_from(toy, capsys):
    assert main(["run", "toy.py", "--width", "0", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["preset", "out", "device", "precision", "seeds", "help", "debug", "overwrite", "no_x"]
)
def test_a_parameter_that_clashes_with_the_command_line_is_an_error(tmp_path, name, capsys):
    (tmp_path / "clash.py").write_text(f"def study({name}: int = 1): ...")
    assert main(["run", str(tmp_path / "clash.py")]) == 2
    assert f"the parameter `{name}` of study(...) clashes" in error_lines(capsys)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", "has no function `study`"),
        ("def study(width=1): ...", "`width` of study(...) has no type"),
        ("def study(**options): ...", "must name each parameter"),
        ("presets = dict(a={})\ndef study(): ...", "presets must be a literal dictionary"),
        ("presets = {'a': {'widht': 3}}\ndef study(width: int = 1): ...", "does not take; did you mean width?"),
        ("def study(:", "line 1"),
        ("def study() -> int:\n    return 3", "returned a int; it must return a fp.Study"),
    ],
)
def test_a_file_that_is_no_study_says_why(tmp_path, monkeypatch, capsys, source, message):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(source)
    assert main(["run", "mine.py"]) == 2
    assert message in error_lines(capsys)


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    ("kind", "words", "value"),
    [
        (int, ["-3"], -3),
        (float, ["-1e-3"], -1e-3),
        (bool, ["true"], True),
        (bool, ["False"], False),
        (tuple[int, ...], ["0", "1", "2"], (0, 1, 2)),
        (tuple[int, float], ["0", "1"], (0, 1.0)),
        (int | None, ["None"], None),
        (int | None, ["4"], 4),
        (float | str, ["mean-field"], "mean-field"),
        (float | str, ["1.5"], 1.5),
        (float | tuple[float, ...], ["1", "2"], (1.0, 2.0)),
        (Literal["a", "b"], ["b"], "b"),
        (Colour, ["RED"], Colour.RED),
    ],
)
def test_words_become_values_of_the_parameters_type(kind, words, value):
    assert convert("x", kind, words) == value


@pytest.mark.parametrize(
    ("kind", "words", "expected"),
    [
        (float | Literal["width"], ["widht"], "--x widht: expected a number, or width"),
        (Literal["standard", "mean-field"] | float, ["mean"], "expected standard or mean-field, or a number"),
        (int | None, ["x"], "expected an integer, or None"),
        (tuple[int, ...], ["1", "x"], "expected entries that are each an integer"),
        (tuple[int, float], ["1", "x"], "expected an integer, then a number"),
        (bool, ["perhaps"], "choose from True, False"),
    ],
)
def test_a_wrong_word_is_told_what_is_expected_in_words(kind, words, expected):
    with pytest.raises(ValueError, match=expected):
        convert("x", kind, words)


def test_a_wrong_choice_lists_the_right_ones():
    with pytest.raises(ValueError, match="choose from RED"):
        convert("x", Colour, ["BLUE"])


def test_a_switch_may_be_bare_negated_or_given_a_value(tmp_path):
    (tmp_path / "f.py").write_text("def study(fast: bool = False): ...")
    file = studyfile.read(tmp_path / "f.py")
    for words, value in ((["--fast"], "True"), (["--no-fast"], "False"), (["--fast", "true"], "true")):
        request = arguments.parse("run", ["f.py", *words])
        arguments.check_parameters(request, file)
        assert request.parameters == {"fast": [value]}


def test_only_code_makes_a_result_stale_not_comments_and_docstrings(tmp_path):
    path = tmp_path / "toy.py"
    path.write_text(STUDY)
    first = studyfile.read(path).fingerprint
    path.write_text(STUDY.replace("More about it.", "Less.").replace("def model", "# a comment\ndef model"))
    assert studyfile.read(path).fingerprint == first
    path.write_text(STUDY.replace("1.0 + shift", "1.1 + shift"))
    assert studyfile.read(path).fingerprint != first


# ---------------------------------------------------------------------------------------------------- run


def test_a_run_writes_everything_needed_to_read_and_repeat_it(toy, capsys):
    assert main(["run", "toy.py", "--preset", "small", "--width", "7"]) == 0
    assert toy == [(7, 0)], "an explicit option wins over the preset"
    directory = only("results/toy/small_width=7-*")
    assert {"result.nc", "figure.png", "report.html", "settings.json", "toy.py"} == {
        p.name for p in directory.iterdir()
    }
    settings = json.loads((directory / "settings.json").read_text())
    assert settings["command"] == "fieldprob run toy.py --preset small --width 7"
    assert settings["parameters"] == {"width": 7, "shift": 0.5, "kind": "a", "classes": [0, 1], "seed": 0}
    assert "--width 7 --shift 0.5 --kind a --classes 0 1 --seed 0" in settings["explicit_command"]
    assert {"jax", "numpyro", "python", "fieldprob"} <= set(settings["versions"])
    assert str(Path.cwd()) not in (directory / "settings.json").read_text() + (directory / "report.html").read_text()
    assert "train_loss" in capsys.readouterr().out


def test_the_explicit_command_repeats_the_run(toy):
    main(["run", "toy.py", "--preset", "small", "--out", "a"])
    command = json.loads(Path("a/settings.json").read_text())["explicit_command"].split()
    assert main([*command[1:], "--out", "b"]) == 0
    first, second = (json.loads(Path(d, "settings.json").read_text()) for d in "ab")
    assert first["configuration"] == second["configuration"]


def test_a_run_records_what_the_study_chose(toy):
    text = Path("toy.py").read_text().replace("width: int = 10", "width: int | None = None")
    text = text.replace("    if width <", "    width = width or 12\n    if width <")
    Path("toy.py").write_text(text.replace("seed=seed)", 'seed=seed, chosen={"width": width})'))
    assert main(["run", "toy.py", "--out", "a"]) == 0
    settings = json.loads(Path("a/settings.json").read_text())
    assert settings["parameters"]["width"] is None and settings["chosen"] == {"width": 12}
    assert "<th>width</th><td>12</td>" in Path("a/report.html").read_text()
    command = settings["explicit_command"].split()
    assert main([*command[1:], "--out", "b"]) == 0
    assert json.loads(Path("b/settings.json").read_text())["configuration"] == settings["configuration"]


def test_a_run_draws_the_figures_of_the_study_and_the_page_shows_them(toy, capsys):
    draw = "def draw(result):\n    from matplotlib.figure import Figure\n    return Figure()\n\n\ndef study("
    text = Path("toy.py").read_text().replace("def study(", draw)
    Path("toy.py").write_text(text.replace("seed=seed)", 'seed=seed, figures={"the_curve": draw})'))
    assert main(["run", "toy.py", "--out", "a"]) == 0
    assert "figure.png, the_curve.png, report.html" in capsys.readouterr().out
    assert Path("a/the_curve.png").read_bytes().startswith(b"\x89PNG")
    page = Path("a/report.html").read_text()
    assert "<h2>The curve</h2>" in page and page.count("data:image/png") == 2
    assert main(["report", "a"]) == 0
    assert Path("a/report.html").read_text() == page


def test_a_study_with_its_own_sampler_can_be_swept(toy):
    Path("toy.py").write_text(Path("toy.py").read_text().replace("seed=seed)", "seed=seed, sampler=fp.study.sample)"))
    assert main(["sweep", "toy.py", "--width", "10,30", "--out", "s"]) == 0
    assert [width for width, _ in toy] == [10, 30]


def test_report_makes_the_figure_and_the_page_again(toy, capsys):
    main(["run", "toy.py", "--out", "a"])
    Path("a/figure.png").unlink()
    Path("a/report.html").unlink()
    capsys.readouterr()
    assert main(["report", "a"]) == 0
    assert Path("a/figure.png").is_file() and Path("a/report.html").is_file()
    assert "train_loss" in capsys.readouterr().out


def test_a_directory_that_cannot_be_written_is_refused_before_sampling(toy, capsys):
    Path("file").write_text("")
    assert main(["run", "toy.py", "--out", "file/inside"]) == 2
    assert "cannot write into file/inside" in error_lines(capsys)
    assert not toy


def test_a_result_of_another_configuration_is_not_overwritten_unless_told_to(toy, capsys):
    assert main(["run", "toy.py", "--out", "a"]) == 0
    capsys.readouterr()
    assert main(["run", "toy.py", "--out", "a", "--width", "3"]) == 2
    assert "another configuration (width=10)" in error_lines(capsys)
    assert main(["run", "toy.py", "--out", "a"]) == 0, "the same configuration may be run again"
    assert main(["run", "toy.py", "--out", "a", "--width", "3", "--overwrite"]) == 0
    assert toy == [(10, 0), (10, 0), (3, 0)]


def test_an_interruption_after_sampling_says_that_the_result_is_there(toy, monkeypatch, capsys):
    from fieldprob.cli import commands

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "write_pages", stop)
    assert main(["run", "toy.py", "--out", "a"]) == 130
    assert "after the result was saved; `fieldprob report a` shows it" in capsys.readouterr().err
    assert not study_module.load("a").interrupted


def test_an_interrupted_run_keeps_its_draws_and_says_so(toy, monkeypatch, capsys):
    interrupt_at(monkeypatch, 0, keep=True)
    assert main(["run", "toy.py", "--out", "a"]) == 130
    captured = capsys.readouterr()
    assert "interrupted; 500 draws per chain were finished and are in a" in captured.err
    assert study_module.load("a").interrupted
    assert "Interrupted" in Path("a/report.html").read_text() and "interrupted" in captured.out


def test_an_interruption_before_the_first_block_saves_nothing(toy, monkeypatch, capsys):
    interrupt_at(monkeypatch, 0, keep=False)
    assert main(["run", "toy.py", "--out", "a"]) == 130
    assert "nothing is saved" in capsys.readouterr().err and not list(Path("a").iterdir())


def test_an_interrupted_run_does_not_replace_the_finished_one(toy, monkeypatch):
    main(["run", "toy.py", "--out", "a"])
    interrupt_at(monkeypatch, 0, keep=True)
    assert main(["run", "toy.py", "--out", "a"]) == 130
    assert not study_module.load("a").interrupted


def test_the_samples_are_saved_when_the_comparison_fails(toy, monkeypatch, capsys):
    def fails(samples, predictions):
        raise ValueError("no statistic in common")

    monkeypatch.setattr("fieldprob.cli.commands.compare", fails)
    assert main(["run", "toy.py", "--out", "a"]) == 2
    assert "no statistic in common" in capsys.readouterr().err
    assert study_module.load("a").samples["posterior"].sizes["draw"] == 500


def test_a_full_disk_is_an_error_of_one_line(toy, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.DataTree, "to_netcdf", full)
    assert main(["run", "toy.py", "--out", "a"]) == 1
    assert "cannot write a/result.nc (No space left on device)" in capsys.readouterr().err
    assert not list(Path("a").iterdir())


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(toy, capsys):
    assert main(["run", "toy.py", "--device", "gpu"]) == 2
    assert "--device gpu: JAX finds no GPU here" in error_lines(capsys)


def test_precision_and_platform_are_set_before_the_study_is_loaded(toy, monkeypatch):
    order = []
    monkeypatch.setattr("fieldprob.cli.environment.configure", lambda *words: order.append(words))
    monkeypatch.setattr(studyfile.StudyFile, "load", lambda self: order.append("load") or pytest.fail("loaded"))
    with pytest.raises(pytest.fail.Exception):
        main(["run", "toy.py", "--device", "cpu", "--precision", "32"])
    assert order == [("cpu", "32"), "load"]


def test_precision_and_platform_reach_jax():
    program = (
        "from fieldprob.cli.environment import configure; configure('cpu', '32'); import jax, jax.numpy as jnp;"
        "print(jnp.ones(()).dtype, jax.default_backend()); configure(None, '64'); print(jnp.ones(()).dtype)"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["float32", "cpu", "float64"], done.stderr


def test_a_system_without_network_runs_from_end_to_end_with_the_real_sampler(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("gauss.py").write_text(
        textwrap.dedent("""
        import numpyro, numpyro.distributions as dist
        import fieldprob as fp
        def model():
            numpyro.sample("mu", dist.Normal(0.0, 1.0))
        def exact(prior, task):
            return fp.Prediction(theory="exact", mean={"mu": 0.0}, variance={"mu": 1.0}, dims={"mu": ()})
        def study(draws: int = 20, seed: int = 0):
            return fp.Study(model, theories=(exact,), sampling={"draws": draws, "chains": 2, "warmup": 20}, seed=seed)
        """)
    )
    assert main(["run", "gauss.py", "--out", "a"]) == 0
    assert "exact" in capsys.readouterr().out
    assert study_module.load("a").samples["posterior"]["mu"].shape == (2, 20)


# ---------------------------------------------------------------------------------------------------- sweep


def test_a_sweep_runs_the_product_of_its_values_and_seeds_and_draws_it(toy, capsys):
    assert main(["sweep", "toy.py", "--width", "2,200", "--shift", "0.0,1.0", "--seeds", "2", "--out", "s"]) == 0
    assert sorted(toy) == sorted((w, s) for w in (2, 200) for _ in range(2) for s in (0, 1))
    table = pd.read_csv("s/summary.csv", keep_default_na=False)
    assert list(table.columns) == ["width", "shift", "seed", "statistic", "quantity", "theory", "value", "error"]
    far = table[(table["quantity"] == "distance") & (table["theory"] == "limit")].groupby("width")["value"].mean()
    assert far[2] > 10 * far[200]
    assert Path("s/figure.png").stat().st_size > 10_000
    page = Path("s/index.html").read_text()
    assert 'href="width=2_shift=0.0_seed=0/report.html"' in page and "http" not in page
    assert "train_loss" in capsys.readouterr().out


def test_a_sweep_skips_what_is_there_and_goes_on_with_more_seeds_in_the_same_directory(toy, capsys):
    assert main(["sweep", "toy.py", "--width", "2,20"]) == 0
    assert main(["sweep", "toy.py", "--width", "2,20", "--seeds", "2"]) == 0
    assert toy == [(2, 0), (20, 0), (2, 1), (20, 1)]
    directory = only("results/toy/sweep_width-*")
    assert len(list(directory.glob("*/result.nc"))) == 4
    assert "already there" in capsys.readouterr().err


@pytest.mark.parametrize("keep", [True, False])
def test_an_interrupted_sweep_keeps_its_points_and_the_same_command_finishes_it(toy, monkeypatch, capsys, keep):
    command = ["sweep", "toy.py", "--width", "2,20,30", "--out", "s"]
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1, keep)
        assert main(command) == 130
    said = capsys.readouterr().err
    assert "1 of 3 points are finished and kept" in said and "fieldprob sweep toy.py --width 2,20,30 --out s" in said
    toy.clear()
    assert main(command) == 0
    assert toy == [(20, 0), (30, 0)]


def test_truncated_points_are_run_again_and_other_configurations_too(toy):
    command = ["sweep", "toy.py", "--width", "2,20", "--out", "s"]
    main(command)
    damaged = Path("s/width=2_seed=0/result.nc")
    damaged.write_bytes(damaged.read_bytes()[:1000])
    toy.clear()
    assert main(command) == 0 and toy == [(2, 0)]
    Path("toy.py").write_text(STUDY.replace("1.0 + shift", "1.1 + shift"))
    assert main(command) == 2, "the study has changed: the directory is another sweep's"
    toy.clear()
    assert main([*command, "--overwrite"]) == 0 and toy == [(2, 0), (20, 0)]


def test_a_point_that_fails_does_not_stop_the_others(toy, capsys):
    assert main(["sweep", "toy.py", "--width", "0,2,20", "--out", "s"]) == 1
    assert toy == [(2, 0), (20, 0)]
    said = capsys.readouterr().err
    assert "width=0_seed=0 failed: width=0: give at least 1" in said and "1 of 3 points failed" in said
    assert Path("s/figure.png").is_file()


def test_report_draws_a_sweep_again(toy, capsys):
    main(["sweep", "toy.py", "--kind", "a,b", "--out", "s"])
    for name in ("figure.png", "index.html", "summary.csv"):
        Path("s", name).unlink()
    assert main(["report", "s"]) == 0
    assert all(Path("s", name).is_file() for name in ("figure.png", "index.html", "summary.csv"))
    Path("s/sweep.json").write_text("{")
    capsys.readouterr()
    assert main(["report", "s"]) == 2
    assert "run the sweep again" in error_lines(capsys)


def test_a_sweep_with_an_exact_theory_draws_and_prints_the_ladder(toy, capsys):
    exact = 'fp.Prediction(theory="exact", mean={"train_loss": 1.0 + shift + 1 / width}, exact=True)'
    Path("toy.py").write_text(STUDY.replace("theories=(limit,)", f"theories=(limit, lambda prior, task: {exact})"))
    assert main(["sweep", "toy.py", "--width", "10,100,1000", "--out", "s"]) == 0
    said = capsys.readouterr().out
    assert "9.90e-03" in said and "slope" in said and "ladder.png" in said, "1 / (width + 1)"
    table = pd.read_csv("s/summary.csv", keep_default_na=False)
    assert set(table["quantity"]) == {"value", "distance", "size", "error"}
    Path("s/ladder.png").unlink()
    assert main(["report", "s"]) == 0
    assert Path("s/ladder.png").stat().st_size > 10_000 and "Errors of the theories" in Path("s/index.html").read_text()
    capsys.readouterr()
    assert main(["sweep", "toy.py", "--width", "0,10", "--out", "one"]) == 1
    assert "rms exact" in capsys.readouterr().out and not Path("one/ladder.png").exists(), "one point is no line"
