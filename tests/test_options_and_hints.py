"""What is typed: an option means one thing in every command, and what a text or a hint says to type can be typed."""

from __future__ import annotations

import importlib
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from calibration.datasets import DATASETS
from export.models import NETWORKS, Network
from export.weights import find_weights
from quantize.cli import main as quantize
from runtime.bundle import Bundle
from runtime.errors import WeightsError
from runtime.images import write_picture
from tests.commands import ROOT, Command, commands, find_command, importers, modules, strings, typed_commands

DOCUMENTS = (*sorted(ROOT.glob("*.md")), ROOT / "Makefile", *sorted((ROOT / "deploy_docs").rglob("*.md")))
_OPTION = re.compile(r"(?<![\w/-])--[a-z][a-z0-9-]*")
# Options of somebody else's programs, in what is said of how to install things.
_NOT_OURS = {
    "--query-gpu",
    "--format",
    "--extra-index-url",
    "--force-reinstall",
    "--upgrade",
    "--system-site-packages",
    "--gpus",
    "--runtime",
    "--disable-pip-version-check",
    "--retries",
    "--accelerator-config",
    "--output-dir",
}  # pip, venv, docker, vela
# Commands that write a file where others print: what is in it is the same.
_OTHER_KIND = {"--json": "a comparison has a table on stdout, and its JSON is kept"}


def _shared_options() -> dict[str, list[tuple[Command, str, str]]]:
    found: dict[str, list[tuple[Command, str, str]]] = {}
    for command in commands().values():
        for option in command.options:
            for name in option.names:
                found.setdefault(name, []).append((command, option.help, option.kind))
    return {name: uses for name, uses in found.items() if len(uses) > 1}


@pytest.mark.parametrize("name", sorted(_shared_options()))
def test_an_option_of_one_name_means_one_thing_in_every_command(name: str) -> None:
    """Its help begins with the same words; what is the command's own comes after them."""
    uses = _shared_options()[name]
    meanings = {re.split(r"[:;,(\[]", text)[0].strip() for _, text, _ in uses}
    assert len(meanings) == 1, {command.name: text for command, text, _ in uses}
    assert meanings != {""}
    if name not in _OTHER_KIND:
        assert len({kind == "flag" for _, _, kind in uses}) == 1, f"{name} takes a value in some commands and none in others"


def test_every_option_says_what_it_is() -> None:
    assert not [
        f"{command.name} {option.names[0]}" for command in commands().values() for option in command.options if not option.help
    ]


def _unknown(typed: str) -> list[str]:
    """What of a command that is to be typed the command does not take, or lacks."""
    found = find_command(typed)
    if found is None:
        return []
    command, words = found
    names = {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"}
    wrong = sorted(names - command.names)
    if words and not words[0].startswith("-") and "…" not in typed:
        wrong += [f"{option.names[0]} is missing" for option in command.options if option.required and not {*option.names} & names]
    return wrong


@pytest.mark.parametrize("module", [name for name, _ in modules()])
def test_what_a_text_in_the_code_says_to_type_can_be_typed(module: str) -> None:
    """Commands in it exist and take the options they are given; an option alone is one of a command that imports this module."""
    wrong = []
    path = dict(modules())[module]
    coming = importers("runtime.backends") if module.startswith("runtime.backends.") else importers(module)
    owners = [command for command in commands().values() if command.module in coming]
    known = {name for command in owners or commands().values() for name in command.names}
    for line, text in strings(path):
        told = list(typed_commands(text))
        wrong += [f"{path}:{line}: {typed}: {bad}" for typed in told if (bad := _unknown(typed))]
        rest = text
        for typed in told:
            rest = rest.replace(typed, "")
        named = [one for typed, one in commands().items() if re.search(rf"\b{typed.split()[2]}\b", rest)]
        loose = set(_OPTION.findall(rest)) - known - _NOT_OURS - {name for one in named for name in one.names}
        wrong += [f"{path}:{line}: {name} is no option of {', '.join(one.name for one in owners)}" for name in sorted(loose)]
        wrong += [f"{path}:{line}: {text}" for twice in re.findall(r"(--[a-z-]+) \1\b", text) if twice]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_says_to_type_can_be_typed(document: Path) -> None:
    wrong = [f"{typed}: {bad}" for typed in typed_commands(document.read_text(encoding="utf-8")) if (bad := _unknown(typed))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("choice", [None, "shipped", "published"])
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_a_hint_at_other_weights_names_only_what_there_is(network: Network, choice: str | None) -> None:
    """And each way once: of every network at every scale, whichever weights it has not."""
    for scale in network.scales:
        has = {None: scale in network.shipped, "shipped": scale in network.shipped, "published": scale in network.published}
        if has[choice]:
            continue
        with pytest.raises(WeightsError) as raised:
            find_weights(network, scale=scale, choice=choice)
        ways = raised.value.hint.split(", or ")
        assert ways == [*(["--weights published"] if scale in network.published else []), "--weights FILE"]


# --data in every command: what it is given, and how far the command comes once it has the pictures.

_BUNDLE = "BUNDLE"
_BEYOND: dict[str, tuple[tuple[str, ...], str]] = {
    "python -m benchmarks": (("--out", "file"), "cannot write file"),
    "python -m benchmarks.throughput": (("--size", "5000x5000"), "no picture of 5000×5000 pixels or more"),
    "python -m benchmarks.calibration_cost": (("--crop-size", "large"), "expected HEIGHTxWIDTH"),
    "python -m quantize explain": (("--backend", "nowhere"), "unknown backend 'nowhere'"),
    "python -m quantize": (("--crops=1", "--crop-size=16x16", "--lift", "nothing"), "'nothing'"),
}
"""What to add so that the command ends as soon as it has pictures, and what it says then."""


def _type(command: str, *words: str) -> None:
    """Types a command that ends with the code of a user's mistake."""
    main: Callable[[Sequence[str]], None] = importlib.import_module(commands()[command].module).main
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """A folder that holds Set5, which holds a picture."""
    folder = tmp_path / "sets"
    (folder / "Set5").mkdir(parents=True)
    write_picture(folder / "Set5" / "one.png", np.full((64, 48, 3), 90, np.uint8))
    return folder


@pytest.fixture(scope="module")
def small_int8(exported_small: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`exported_small`, quantized; not to be written to."""
    made = tmp_path_factory.mktemp("small_int8")
    directory = Path(shutil.copytree(exported_small.directory, made / "srcnn_x2"))
    (made / "pictures").mkdir()
    write_picture(made / "pictures" / "a.png", np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    quantize([str(directory), "--calib", str(made / "pictures"), "--effort=fast", "--crops=1", "--crop-size=32x32"])
    return directory


WITH_DATA = sorted(name for name, command in commands().items() if "--data" in command.names)


def test_every_command_that_takes_data_is_tried() -> None:
    """But for three: `export.train` may not know data sets (ARCHITECTURE), and `int8_loss` and `peers` need two of them."""
    others = {"python -m export.train", "python -m benchmarks.int8_loss", "python -m benchmarks.peers"}
    assert {*_BEYOND} == {*WITH_DATA} - others


@pytest.mark.parametrize("command", _BEYOND)
@pytest.mark.parametrize("way", ["its name", "its folder", "the folder it is in"])
def test_data_is_pictures_by_name_by_folder_or_by_the_folder_that_holds_the_set(
    small_int8: Path,
    sets: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    way: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    if way == "its name":
        monkeypatch.setenv("SREDGE_DATA", str(sets))
    data = {"its name": "set5", "its folder": str(sets / "Set5"), "the folder it is in": str(sets)}[way]
    more, said = _BEYOND[command]
    _type(command, str(small_int8), "--data", data, *more)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", _BEYOND)
def test_the_hint_at_a_missing_set_can_be_followed_in_that_command(
    small_int8: Path, sets: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    more, said = _BEYOND[command]
    missing = ("--calib", "set5", "--data", str(tmp_path)) if "--calib" in commands()[command].names else ("--data", "set5")
    _type(command, str(small_int8), *missing, *more)
    hint = capsys.readouterr().err.partition("hint: ")[2]
    assert set(_OPTION.findall(hint)) <= commands()[command].names
    followed = re.search(r"--data (\S+?),", hint)
    assert followed, hint
    typed = ("--data", followed[1].replace("FOLDER", str(sets)))
    _type(command, str(small_int8), *(("--calib", "set5") if "--calib" in missing else ()), *typed, *more)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", _BEYOND)
def test_a_folder_of_several_sets_is_not_guessed_at(
    small_int8: Path, sets: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sets / "Set5", sets / "Set14")
    _type(command, str(small_int8), "--data", str(sets))
    said = capsys.readouterr().err
    assert "holds several data sets: Set14, Set5" in said
    assert str(sets / "Set14") in said.partition("hint: ")[2]


@pytest.mark.parametrize("command", [name for name in _BEYOND if "--calib" in commands()[name].names])
def test_data_beside_a_folder_to_calibrate_on_is_not_silently_ignored(
    small_int8: Path, sets: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    _type(command, str(small_int8), "--calib", str(sets / "Set5"), "--data", str(sets))
    assert "has no effect with --calib" in capsys.readouterr().err


def test_quantize_says_what_is_missing_where_nothing_says_what_to_calibrate_on(
    small_int8: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _type("python -m quantize", str(small_int8))
    said = capsys.readouterr().err
    assert "neither --calib nor --data" in said
    assert DATASETS[0].name in said.partition("hint: ")[2]
