"""What a run of `upscale` would write is known, and claimed, before its first pixel."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime import cli
from runtime.batch.jobs import Job, run_jobs
from runtime.bundle import Bundle
from runtime.errors import ImageError
from runtime.files.whole import folds_case
from runtime.images import Picture, read_picture, write_picture
from runtime.upscaler import Upscaler


@pytest.fixture
def upscale(exported_small: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Types `upscale …` in an empty folder; gives the exit code."""
    monkeypatch.chdir(tmp_path)

    def type_in(*arguments: object) -> object:
        try:
            cli.main(["upscale", *map(str, arguments), "--bundle", str(exported_small.directory), "--backend", "onnxruntime"])
        except SystemExit as ended:
            return ended.code
        return 0

    return type_in


def _pictures(*paths: str) -> None:
    for number, path in enumerate(paths):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_picture(Path(path), np.full((8, 9, 3), number + 1, np.uint8))


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _link(at: str, to: str) -> None:
    Path(at).parent.mkdir(parents=True, exist_ok=True)
    Path(at).symlink_to(Path(to).resolve())


def _hard_link(at: str, to: str) -> None:
    Path(at).parent.mkdir(parents=True, exist_ok=True)
    Path(at).hardlink_to(to)


def _folder(at: str, _: str) -> None:
    Path(at).mkdir(parents=True)


_COLLISIONS: dict[str, tuple[tuple[str, ...], str, tuple[Callable[[str, str], None], str, str] | None, str]] = {
    "two results": (("in/a.png", "in/b/a.png"), "in/a.png in/b/a.png -o out", None, "would both become"),
    "a GIF and a PNG": (("in/a.png", "in/a.gif"), "in -o out", None, "would both become"),
    "a result and a comparison": (("in/a.png", "in/a-compare.png"), "in -o out --compare", None, "the comparison of"),
    "a comparison and a source": (("a-compare.png",), "a-compare.png -o a.png --compare", None, "would be replaced by"),
    "a result and another's source": (
        ("in/x/a.png", "out/x/a.png"),
        "in out/x/a.png -o out",
        None,
        "would be replaced by the result of in/x/a",
    ),
    "a result and its own source": (("a.png",), "a.png -o .", None, "its own result"),
    "a folder and itself": (("in/a.png",), "in -o in", None, "its own result"),
    "a folder and itself through a link": (("in/a.png",), "in -o same", (_link, "same", "in"), "its own result"),
    "a link to a source": (("in/a.png",), "in -o out", (_link, "out/a.png", "in/a.png"), "its own result"),
    "a hard link to a source": (("in/a.png",), "in -o out", (_hard_link, "out/a.png", "in/a.png"), "its own result"),
    "a link to another's source": (("in/a.png", "in/b.png"), "in -o out", (_link, "out/a.png", "in/b.png"), "would be replaced"),
    "a link to another result": (("in/a.png", "in/b.png"), "in -o out", (_link, "out/a.png", "out/b.png"), "would both become"),
    "a folder of a result's name": (("in/a.png", "in/b.png"), "in -o out", (_folder, "out/a.png", ""), "it is a folder"),
    "several into one file": (("a.png", "b.png"), "a.png b.png -o o.png", None, "-o o "),
    "a folder into one file": (("in/a.png",), "in -o o.TIFF", None, "-o o "),
    "several into one file that is there": (("a.png", "b.png", "o"), "a.png b.png -o o", None, "is a file"),
    "a comparison's name too long": ((f"in/{'n' * 247}.png",), "in -o out --compare", (_folder, "out", ""), "File name too long"),
    "a name too long": (("a.png",), f"a.png -o {'n' * 256}.png", None, "File name too long"),
    "a source's name too long": (("a.png",), f"{'n' * 256}.png -o a.png", None, "File name too long"),
}


@pytest.mark.parametrize("name", _COLLISIONS)
def test_outputs_that_meet_are_an_error_before_anything_is_written(
    upscale: Callable[..., object], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures, arguments, link, expected = _COLLISIONS[name]
    for path in pictures:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(b"a picture that nobody has read yet")
    if link is not None:
        make, at, to = link
        make(at, to)
    before = _contents(tmp_path), sorted(tmp_path.rglob("*"))
    assert upscale(*arguments.split(), "--overwrite") == 2
    assert (_contents(tmp_path), sorted(tmp_path.rglob("*"))) == before
    said = capsys.readouterr().err
    assert expected in said
    assert "is not a picture" not in said
    assert " hint: " in said


def test_an_embedding_programs_jobs_are_claimed_too(exported_small: Bundle, tmp_path: Path) -> None:
    jobs = [Job(tmp_path / name, tmp_path / "out" / name) for name in ("a.png", "a-compare.png")]
    with Upscaler.open(exported_small, backend="onnxruntime") as upscaler, pytest.raises(ImageError, match="would both become"):
        run_jobs(upscaler, jobs, compare=True)


def test_names_that_differ_in_case_are_two_files_where_the_file_system_has_two(
    upscale: Callable[..., object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _pictures("one/a.png", "two/A.png")
    code = upscale("one/a.png", "two/A.png", "-o", "out")
    if folds_case(tmp_path):
        assert code == 2
        assert "would both become" in capsys.readouterr().err
    else:
        assert code == 0
        assert set(_contents(tmp_path / "out")) == {"a.png", "A.png"}


def test_one_file_may_replace_itself_when_told_to(upscale: Callable[..., object]) -> None:
    _pictures("a.png")
    assert upscale("a.png", "-o", "a.png") == 2
    assert read_picture(Path("a.png")).shape == (8, 9, 3)
    assert upscale("a.png", "-o", "a.png", "--overwrite") == 0
    assert read_picture(Path("a.png")).shape == (16, 18, 3)


def test_a_comparison_that_is_there_is_not_written_over_without_being_told_to(
    upscale: Callable[..., object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _pictures("in/a.png", "in/b.png")
    (tmp_path / "out").mkdir()
    mine = tmp_path / "out" / "a-compare.png"
    mine.write_text("mine")
    assert upscale("in/a.png", "-o", "out/a.png", "--compare") == 2
    said = capsys.readouterr().err
    assert "a-compare.png is there already" in said
    assert "--overwrite" in said
    assert upscale("in", "-o", "out", "--compare") == 0
    assert "1 left as they are" in capsys.readouterr().out
    assert mine.read_text() == "mine"
    assert set(_contents(tmp_path / "out")) == {"a-compare.png", "b.png", "b-compare.png"}
    assert upscale("in", "-o", "out", "--compare", "--overwrite") == 0
    assert read_picture(mine).shape == (16, 2 * 18 + 4, 3)


@pytest.mark.parametrize("out", ["in/out", "in/deep/out", "in/deep/../out", "link/out"])
def test_results_inside_the_input_are_no_input(
    upscale: Callable[..., object], out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    _pictures("in/a.png", "in/deep/b.png")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for turn in range(3):
        options = ["--overwrite", "--compare"] if turn else ["--compare"]
        assert upscale("in", "-o", out, *options) == 0
        assert "2 pictures in" in capsys.readouterr().out
    assert set(_contents(tmp_path / out)) == {"a.png", "a-compare.png", "deep/b.png", "deep/b-compare.png"}
    assert read_picture(tmp_path / out / "a.png").shape == (16, 18, 3)
    assert "4 pictures below" in caplog.text
    assert upscale("in", "-o", tmp_path / "elsewhere") == 0, "they are pictures of the folder where they are not in the way"
    assert len(_contents(tmp_path / "elsewhere")) == 6


def test_a_folder_above_the_input_may_be_the_output(upscale: Callable[..., object], tmp_path: Path) -> None:
    _pictures("in/deep/a.png")
    assert upscale("in/deep", "-o", "in") == 0
    assert set(_contents(tmp_path / "in")) == {"a.png", "deep/a.png"}


@pytest.mark.parametrize("sources", [("bad.png",), ("bad.png", "worse.png", "none.png")])
def test_a_run_that_writes_nothing_leaves_no_new_folder(upscale: Callable[..., object], sources: tuple[str, ...]) -> None:
    for name in sources[:2]:
        Path(name).write_text("no picture")
    before = sorted(Path().rglob("*"))
    assert upscale(*sources, "-o", "new/deep" if len(sources) > 1 else "new/deep/o.png") == 2
    assert sorted(Path().rglob("*")) == before


def test_two_runs_into_one_folder_at_a_time_each_give_whole_results(exported_small: Bundle, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for number in range(12):
        write_picture(tmp_path / "in" / f"{number}.png", rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
    command = [
        sys.executable,
        "-m",
        "runtime",
        "upscale",
        str(tmp_path / "in"),
        "-o",
        str(tmp_path / "out"),
        "--overwrite",
        "--compare",
    ]
    command += ["--bundle", str(exported_small.directory), "--backend", "onnxruntime", "--threads", "1", "--tile", "32"]
    root = Path(__file__).parents[1]
    runs = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    assert [(run.communicate()[1].decode(), run.returncode) for run in runs] == [("", 0)] * 2
    with Upscaler.open(exported_small, backend="onnxruntime") as upscaler:
        expected: dict[str, Picture] = {path.name: upscaler(read_picture(path)) for path in (tmp_path / "in").iterdir()}
    assert len(list((tmp_path / "out").iterdir())) == 2 * len(expected)
    for name, pixels in expected.items():
        assert np.abs(read_picture(tmp_path / "out" / name).astype(int) - pixels).max() <= 1  # fp32 in tiles
