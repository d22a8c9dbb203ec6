"""The graph that runs is the one that was made for that backend; what does not fit is refused."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest

import runtime.verify.pairs
from calibration.ranges import Method
from calibration.shipped_tables import SHIPPED_TABLES
from calibration.table import read_table
from quantize.options import Effort, Int8Options
from quantize.stage import quantize_bundle
from runtime import Upscaler, upscaler
from runtime.backends import BACKENDS, Backend, open_backend
from runtime.backends.processor import products_overflow
from runtime.bundle import Bundle
from runtime.cli import main
from runtime.errors import BackendError, SredgeError, UnknownNameError
from runtime.images import Picture
from runtime.targets import TARGETS, Target, find_target
from runtime.verify.pairs import AUTO, find_pairs

DYNAMIC = [target for target in TARGETS if not target.static_shapes]


@pytest.fixture(scope="module")
def for_all(exported: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """LESRCNN x2 quantized for every target that takes any shape; not to be written to."""
    bundle = Bundle.open(Path(shutil.copytree(exported.directory, tmp_path_factory.mktemp("all") / "lesrcnn_x2")))
    table = read_table(SHIPPED_TABLES / "lesrcnn_x2.json")
    for target in DYNAMIC:
        bundle = quantize_bundle(bundle, table, Int8Options(target=target, method=Method.PERCENTILE, effort=Effort.FAST))
    return bundle


def _only(bundle: Bundle, targets: Sequence[str]) -> Bundle:
    """`bundle` with the int8 graphs for `targets`, in that order, and fp32."""
    int8 = [bundle.variant("int8", target=name) for name in targets]
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"variants": (bundle.variant("fp32"), *int8)}))


@contextmanager
def _refusing_overflow() -> Iterator[None]:
    """Skip where this processor has no VNNI and the value check refuses what its products of bytes gave."""
    try:
        yield
    except BackendError as error:
        if not (products_overflow() and "openvino computes" in str(error) and "wrongly" in str(error)):
            raise
        pytest.skip(f"no VNNI here: {error}")


@pytest.mark.parametrize("installed", [("openvino", "onnxruntime"), ("onnxruntime",), ("openvino",)], ids="+".join)
@pytest.mark.parametrize("target", DYNAMIC, ids=lambda target: target.name)
def test_every_backend_that_auto_finds_gives_what_the_graph_says(
    for_all: Bundle, target: Target, installed: tuple[str, ...], picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [entry if entry.name in installed else replace(entry, packages=("no_such_package",)) for entry in BACKENDS]
    monkeypatch.setattr(runtime.verify.pairs, "BACKENDS", tuple(entries))
    only = _only(for_all, [target.name])
    with Upscaler.open(only, precision="fp32", backend=installed[0]) as exact:
        wanted = exact(picture)
    if not set(installed) & set(target.backends):
        with pytest.raises(BackendError, match="no installed backend"):
            Upscaler.open(only, precision="int8")
        return
    with _refusing_overflow(), Upscaler.open(only, precision="int8") as opened:
        given = opened(picture)
    error = np.mean(np.square(given.astype(float) - wanted))
    assert 10 * np.log10(255**2 / error) > 30, f"int8 for {target.name} on {opened.backend_name} is no picture of fp32's"


@pytest.mark.parametrize(
    ("target", "backend"),
    [(target.name, entry.name) for target in DYNAMIC for entry in BACKENDS if entry.opens_graphs],
)
def test_a_backend_that_the_target_does_not_name_is_refused_with_what_to_do(for_all: Bundle, target: str, backend: str) -> None:
    only = _only(for_all, [target])
    if backend in find_target(target).backends:
        with _refusing_overflow(), Upscaler.open(only, precision="int8", backend=backend) as opened:
            assert (opened.variant.target, opened.backend_name) == (target, backend)
    else:
        with pytest.raises(BackendError, match=f"{backend} does not compute this graph faithfully: int8 for {target}") as caught:
            Upscaler.open(only, precision="int8", backend=backend)
        assert "--backend" in caught.value.hint
        assert "--target cpu" in caught.value.hint


def test_fp32_in_the_place_of_an_int8_graph_that_does_not_fit_is_said(for_all: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), Upscaler.open(_only(for_all, ["tensorrt"]), backend="openvino") as opened:
        assert opened.variant.precision == "fp32"
    assert "running fp32 on openvino: int8 for tensorrt is not for that backend" in caplog.text


@pytest.mark.parametrize("backend", [AUTO, "openvino", "onnxruntime"])
def test_the_order_of_quantizing_decides_nothing(for_all: Bundle, backend: str) -> None:
    chosen = {
        str(find_pairs(_only(for_all, order), precision="int8", backend=backend)[0])
        for order in permutations(["cpu", "openvino", "tensorrt", "npu"])
    }
    assert chosen == {"int8 for cpu on onnxruntime" if backend == "onnxruntime" else "int8 for openvino on openvino"}


@pytest.mark.parametrize("target", [target.name for target in DYNAMIC])
def test_the_target_asked_for_is_the_one_that_runs(for_all: Bundle, target: str) -> None:
    with Upscaler.open(for_all, precision="int8", target=target) as opened:
        assert opened.variant.target == target
        assert opened.backend_name in find_target(target).backends


def test_a_target_that_the_bundle_has_not_is_refused_with_the_command_that_makes_it(for_all: Bundle) -> None:
    with pytest.raises(SredgeError, match="no int8 graph for target 'npu'") as caught:
        Upscaler.open(_only(for_all, ["cpu"]), precision="int8", target="npu")
    assert "--target npu" in caught.value.hint
    with pytest.raises(UnknownNameError, match="known: cpu"):
        Upscaler.open(for_all, target="abacus")


def test_auto_goes_on_where_a_backend_does_not_open_and_says_so(
    for_all: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def without_openvino(name: str, *arguments: object, **options: object) -> Backend:
        if name == "openvino":
            raise BackendError("openvino cannot be loaded here")
        return open_backend(name, *arguments, **options)  # type: ignore[arg-type] # passed on as they come

    monkeypatch.setattr(upscaler, "open_backend", without_openvino)
    with caplog.at_level(logging.WARNING), Upscaler.open(_only(for_all, ["cpu"]), precision="int8") as opened:
        assert opened.backend_name == "onnxruntime"
    assert "int8 for cpu on openvino: openvino cannot be loaded here; next: int8 for cpu on onnxruntime" in caplog.text


def test_a_backend_asked_for_by_name_is_never_another(for_all: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> Backend:
        raise BackendError("it cannot be loaded here")

    monkeypatch.setattr(upscaler, "open_backend", fail)
    with pytest.raises(BackendError, match="it cannot be loaded here"):
        Upscaler.open(for_all, precision="int8", backend="openvino")


@pytest.mark.parametrize(("precision", "io"), list(product((None, "int8", "fp32"), (None, "float32"))))
def test_int8_comes_before_fp32_and_floats_before_pixels(for_all: Bundle, precision: str | None, io: str | None) -> None:
    pairs = find_pairs(for_all, precision=precision, io=io)  # type: ignore[arg-type] # they are of these types
    assert pairs[0].variant.precision == (precision or "int8")
    assert {pair.variant.io for pair in pairs} == {"float32"}
    assert list(pairs) == sorted(pairs, key=lambda pair: ("int8", "fp32").index(pair.variant.precision))


@pytest.mark.parametrize(
    "arguments", [("--target", "npu"), ("--target", "tensorrt", "--backend", "openvino"), ("--verify", "maybe")]
)
def test_upscale_refuses_what_does_not_fit_in_two_lines(
    quantized: Bundle, tmp_path: Path, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["upscale", "none.png", "-o", str(tmp_path / "out.png"), "--bundle", str(quantized.directory), *arguments])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_info_says_what_would_run(for_all: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    main(["info", str(for_all.directory)])
    suited = "cpu-avx2" if products_overflow() else "openvino"
    assert f"runs    int8 for {suited} on openvino" in capsys.readouterr().out
    main(["info", str(for_all.directory), "--target", "npu"])
    out = capsys.readouterr().out
    assert "runs    int8 for npu on onnxruntime" in out
    assert "int8-cpu" not in out
