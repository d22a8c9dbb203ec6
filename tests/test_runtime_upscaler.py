"""The class a device app embeds, on every backend that is installed: right output, and the truth about precision."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import runtime
import runtime.backends
from export.models import find_network
from export.stage import export_network
from export.weights import find_weights, load_module
from runtime.backends import BACKENDS, BackendEntry, LayerPrecision, RanIn, choose_backend, open_backend
from runtime.bundle import Bundle, Contract
from runtime.errors import BackendError, BundleError, ImageError, UnknownNameError
from runtime.images import Picture, to_network
from runtime.targets import Precision
from runtime.upscaler import Upscaler
from runtime.verify.precision import verify_precision

ROOT = Path(__file__).resolve().parents[1]
FIXED = (24, 32)
backends = pytest.mark.parametrize("backend", [entry.name for entry in BACKENDS if entry.opens_graphs])
int8_backends = pytest.mark.parametrize(
    "backend", [entry.name for entry in BACKENDS if entry.opens_graphs and "int8" in entry.precisions]
)
combinations = pytest.mark.parametrize(
    ("backend", "precision"),
    [(entry.name, precision) for entry in BACKENDS if entry.opens_graphs for precision in entry.precisions],
)


@pytest.fixture(scope="module")
def torch_module() -> torch.nn.Module:
    """What `exported` was exported from."""
    network = find_network("lesrcnn", scale=2)
    return load_module(network, scale=2, weights=find_weights(network, scale=2, choice="shipped"))


@pytest.fixture(scope="module")
def static_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """LESRCNN x2 exported for pictures of FIXED alone."""
    network = find_network("lesrcnn", scale=2)
    weights = find_weights(network, scale=2, choice="shipped")
    directory = tmp_path_factory.mktemp("static") / "lesrcnn_x2"
    return export_network(network, scale=2, weights=weights, directory=directory, static_shape=FIXED)


def _noise(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).random(shape, np.float32)


def _noise_picture(height: int, width: int, *, seed: int = 0) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@backends
@pytest.mark.parametrize("shape", [(1, 3, 37, 53), (2, 3, 8, 5), (1, 3, 1, 1)], ids=str)
def test_fp32_output_is_that_of_torch(
    exported: Bundle, torch_module: torch.nn.Module, backend: str, shape: tuple[int, ...]
) -> None:
    array = _noise(*shape)
    with torch.no_grad():
        expected = torch_module(torch.from_numpy(array)).numpy()
    with Upscaler.open(exported, backend=backend) as upscaler:
        assert np.abs(upscaler.run(array) - expected).max() < 1e-4  # a fortieth of an 8-bit step


@backends
def test_a_picture_is_enlarged_before_a_network_that_takes_it_so(enlarged_before: Bundle, picture: Picture, backend: str) -> None:
    network = find_network("srcnn", scale=1.5)
    weights = find_weights(network, scale=1.5, choice=str(enlarged_before.directory.parent / "weights.pth"))
    larger = np.asarray(Image.fromarray(picture).resize((84, 60), Image.Resampling.BICUBIC))
    planes = torch.from_numpy(larger.transpose(2, 0, 1)[np.newaxis] / np.float32(255))
    with torch.no_grad():
        expected = load_module(network, scale=1.5, weights=weights)(planes)[0].clip(0, 1).permute(1, 2, 0).numpy() * 255
    with Upscaler.open(enlarged_before, backend=backend) as upscaler:
        assert np.abs(upscaler(picture) - expected).max() <= 1.5  # a level between two bicubics, half of one for rounding


@combinations
def test_lower_precision_stays_close_to_fp32(quantized: Bundle, picture: Picture, backend: str, precision: Precision) -> None:
    with (
        Upscaler.open(quantized, precision="fp32", backend=backend) as reference,
        Upscaler.open(quantized, backend=backend, precision=precision) as upscaler,
    ):
        array = to_network(picture, Contract(), scale=2)
        error = upscaler.run(array) - reference.run(array)
    psnr_db = -10 * np.log10(max(np.square(error).mean(), 1e-20))  # fp16 is float32 itself where ncnn has no fp16 arithmetic
    assert psnr_db > 40  # 45.5 dB is what int8 gives on this picture, on each backend; half a bit worse is 42.5


@combinations
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (13, 1), (33, 47)], ids=str)
def test_output_is_scale_times_larger_whatever_the_size(
    quantized: Bundle, backend: str, precision: Precision, size: tuple[int, int]
) -> None:
    scale = int(quantized.manifest.scale)
    with Upscaler.open(quantized, backend=backend, precision=precision) as upscaler:
        output = upscaler(_noise_picture(*size))
    assert output.shape == (size[0] * scale, size[1] * scale, 3)
    assert output.dtype == np.uint8


@backends
def test_an_output_is_the_callers_to_keep(exported: Bundle, backend: str) -> None:
    with Upscaler.open(exported, backend=backend) as upscaler:
        first = upscaler.run(_noise(1, 3, 6, 7))
        kept = first.copy()
        upscaler.run(1 - _noise(1, 3, 6, 7))
    assert np.array_equal(first, kept)


@backends
def test_fp32_is_verified_to_run_in_fp32(quantized: Bundle, backend: str) -> None:
    with Upscaler.open(quantized, precision="fp32", backend=backend) as upscaler:
        report = upscaler.precision_report
    assert report.verified, report.not_as_asked
    assert report.mac_share == {"fp32": pytest.approx(1)}


@int8_backends
def test_int8_is_verified_to_run_in_int8_in_every_layer(quantized: Bundle, backend: str) -> None:
    int8 = quantized.variant("int8")
    assert {*int8.int8_layers, *int8.merged_layers} == {layer.name for layer in quantized.manifest.layers}
    with Upscaler.open(quantized, backend=backend, precision="int8") as upscaler:
        report = upscaler.precision_report
    assert report.verified, report.not_as_asked
    assert report.mac_share == {"int8": pytest.approx(1)}


@combinations
def test_a_precision_is_claimed_for_no_layer_of_which_the_backend_did_not_say_it(
    quantized: Bundle, backend: str, precision: Precision
) -> None:
    manifest = quantized.manifest
    with Upscaler.open(quantized, backend=backend, precision=precision) as upscaler:
        report = upscaler.precision_report
    said = {layer.name for layer in report.layers if layer.precision == precision}
    merged = quantized.variant(precision).merged_layers if precision == "int8" else ()
    asked = [layer for layer in manifest.layers if layer.name not in merged]
    told = sum(layer.macs for layer in asked if said & {layer.name, *layer.aliases})
    claimed = report.mac_share.get(precision, 0.0)
    assert claimed <= told / sum(layer.macs for layer in asked) + 1e-9
    assert report.verified == (claimed == pytest.approx(1)), str(report)
    assert (f"not the {precision} asked for" in str(report)) == (not report.verified)


@backends
def test_an_fp32_run_is_not_taken_for_an_int8_one(quantized: Bundle, backend: str) -> None:
    int8 = quantized.variant("int8")
    with open_backend(backend, quantized.read(quantized.variant("fp32")), precision="fp32") as opened:
        report = verify_precision(quantized.manifest, int8, opened.precisions())
    assert not report.verified
    assert report.mac_share == {"fp32": pytest.approx(1)}
    assert len(report.not_as_asked) == len(int8.int8_layers)


def _said(bundle: Bundle, precision: RanIn) -> list[LayerPrecision]:
    return [LayerPrecision(layer.name, layer.op, precision, precision) for layer in bundle.manifest.layers]


@pytest.mark.parametrize("ran_in", ["fp32", "bf16", "int8", "other"])
def test_fp16_is_not_verified_where_the_backend_said_another(exported: Bundle, ran_in: RanIn) -> None:
    asked = exported.variant("fp32").model_copy(update={"precision": "fp16"})
    report = verify_precision(exported.manifest, asked, _said(exported, ran_in))
    assert not report.verified
    assert report.mac_share == {ran_in: pytest.approx(1)}


def test_one_layer_that_ran_otherwise_is_named_and_weighed(exported: Bundle) -> None:
    manifest = exported.manifest
    odd, *others = _said(exported, "fp32")
    ran = [LayerPrecision(odd.name, odd.op, "bf16", "bf16"), *others]
    report = verify_precision(manifest, exported.variant("fp32"), ran)
    assert report.not_as_asked == (f"{odd.name}: bf16",)
    assert report.mac_share["bf16"] == pytest.approx(manifest.layers[0].macs / manifest.macs)


def test_a_layer_the_backend_does_not_mention_is_unknown(exported: Bundle) -> None:
    manifest = exported.manifest
    report = verify_precision(manifest, exported.variant("fp32"), _said(exported, "fp32")[:-1])
    assert report.not_as_asked == (f"{manifest.layers[-1].name}: unknown",)
    assert report.mac_share["unknown"] == pytest.approx(manifest.layers[-1].macs / manifest.macs)


@pytest.mark.parametrize(("target", "outside"), [("cpu", "fp32"), ("tensorrt", "fp16")])
def test_a_layer_left_out_of_an_int8_graph_is_as_asked_in_what_the_target_has_outside(
    quantized: Bundle, target: str, outside: RanIn
) -> None:
    int8 = quantized.variant("int8").model_copy(update={"target": target})
    left, *others = int8.int8_layers
    mixed = int8.model_copy(update={"int8_layers": tuple(others)})
    ran = [LayerPrecision(left, "Conv", outside, outside) if said.name == left else said for said in _said(quantized, "int8")]
    assert verify_precision(quantized.manifest, mixed, ran).verified
    assert not verify_precision(quantized.manifest, mixed, _said(quantized, "int8")).verified


def test_int8_of_a_bundle_without_it_names_the_quantize_command(exported: Bundle) -> None:
    with pytest.raises(BundleError, match="has no int8 graph; it has: fp32") as caught:
        Upscaler.open(exported, precision="int8")
    assert f"python -m quantize {exported.directory}" in caught.value.hint


def test_a_damaged_bundle_is_not_run(bundle_copy: Bundle) -> None:
    bundle_copy.path(bundle_copy.variant("int8")).write_bytes(b"")
    with pytest.raises(BundleError, match="sha256 differs"):
        Upscaler.open(bundle_copy.directory)


def test_an_unknown_backend_lists_the_known_ones(exported: Bundle) -> None:
    with pytest.raises(UnknownNameError) as caught:
        Upscaler.open(exported, backend="abacus")
    assert "'abacus'" in str(caught.value)
    assert all(name in str(caught.value) for name in ("auto", *(entry.name for entry in BACKENDS)))


ABSENT = BackendEntry("abacus", "runtime.backends.abacus", ("no_such_package_abacus",), "pip install abacus", ("fp32",))


def test_a_backend_that_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.backends, "BACKENDS", (ABSENT, *BACKENDS))
    with pytest.raises(BackendError, match="'abacus' is not installed") as caught:
        choose_backend("abacus")
    assert caught.value.hint == ABSENT.install


@backends
def test_bytes_that_are_no_graph_are_a_backend_error(backend: str) -> None:
    with pytest.raises(BackendError) as caught:
        open_backend(backend, b"this is no graph", precision="fp32")
    assert backend in str(caught.value)


def _floats(picture: Picture) -> NDArray[np.generic]:
    return (picture / 255).astype(np.float32)


def _five_channels(picture: Picture) -> NDArray[np.generic]:
    return np.dstack([picture, picture[..., :2]])


def _signed(picture: Picture) -> NDArray[np.generic]:
    return picture.astype(np.int16)


def _no_rows(picture: Picture) -> NDArray[np.generic]:
    return picture[:0]


def _no_columns(picture: Picture) -> NDArray[np.generic]:
    return picture[:, :0]


def _batch(picture: Picture) -> NDArray[np.generic]:
    return picture[np.newaxis]


def _planes_first(picture: Picture) -> NDArray[np.generic]:
    return picture.transpose(2, 0, 1)


@pytest.mark.parametrize("spoil", [_floats, _signed, _five_channels, _no_rows, _no_columns, _batch, _planes_first])
def test_an_array_that_is_no_picture_is_refused_with_its_shape(
    exported: Bundle, picture: Picture, spoil: Callable[[Picture], NDArray[np.generic]]
) -> None:
    wrong = spoil(picture)
    with Upscaler.open(exported) as upscaler, pytest.raises(ImageError, match=r"expected a \(H, W, 3\) uint8") as caught:
        upscaler(cast(Picture, wrong))
    assert f"{wrong.shape} {wrong.dtype}" in str(caught.value)


@backends
def test_a_picture_need_not_be_contiguous(exported: Bundle, picture: Picture, backend: str) -> None:
    flipped = picture[:, ::-1]
    with Upscaler.open(exported, backend=backend) as upscaler:
        assert np.array_equal(upscaler(flipped), upscaler(flipped.copy()))


@backends
def test_a_static_graph_takes_its_one_size(static_bundle: Bundle, backend: str) -> None:
    with Upscaler.open(static_bundle, backend=backend) as upscaler:
        assert upscaler(_noise_picture(*FIXED)).shape == (2 * FIXED[0], 2 * FIXED[1], 3)
        assert upscaler.precision_report.verified


@backends
@pytest.mark.parametrize("size", [(24, 33), (32, 24), (1, 1)], ids=str)
def test_a_static_graph_itself_refuses_another_size(static_bundle: Bundle, backend: str, size: tuple[int, int]) -> None:
    with Upscaler.open(static_bundle, backend=backend) as upscaler, pytest.raises(ImageError, match="24×32") as caught:
        upscaler.run(_noise(1, 3, *size))
    assert "--static" in caught.value.hint


@backends
def test_a_static_graph_refuses_two_pictures_at_once(static_bundle: Bundle, backend: str) -> None:
    with Upscaler.open(static_bundle, backend=backend) as upscaler, pytest.raises(ImageError, match="at a time"):
        upscaler.run(_noise(2, 3, *FIXED))


@combinations
def test_two_upscalers_in_two_threads_agree_with_one(quantized: Bundle, backend: str, precision: Precision) -> None:
    pictures = [_noise_picture(20 + index, 31, seed=index) for index in range(6)]

    def upscale_all(upscaler: Upscaler) -> list[Picture]:
        return [upscaler(picture) for picture in pictures]

    with (
        Upscaler.open(quantized, backend=backend, precision=precision, threads=1) as first,
        Upscaler.open(quantized, backend=backend, precision=precision, threads=1) as second,
        ThreadPoolExecutor(2) as pool,
    ):
        expected = upscale_all(first)
        for outputs in pool.map(upscale_all, (first, second)):
            assert all(np.array_equal(got, want) for got, want in zip(outputs, expected, strict=True))


@backends
def test_closing_twice_is_harmless(exported: Bundle, backend: str) -> None:
    with Upscaler.open(exported, backend=backend) as upscaler:
        upscaler.close()


def test_the_runtime_imports_nothing_that_trains_or_builds_graphs(quantized: Bundle) -> None:
    program = (
        "import sys, numpy; from runtime import Upscaler\n"
        f"with Upscaler.open({str(quantized.directory)!r}, precision='int8') as upscaler:\n"
        "    upscaler(numpy.zeros((2, 2, 3), numpy.uint8))\n"
        "print(sorted({'torch', 'onnx', 'onnx_ir', 'PIL', 'skimage'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_a_precision_int8_is_taken_where_there_is_one(quantized: Bundle, exported: Bundle) -> None:
    for bundle, expected in ((quantized, "int8"), (exported, "fp32")):
        with Upscaler.open(bundle) as upscaler:
            assert upscaler.variant.precision == expected


@backends
def test_a_closed_upscaler_says_that_it_is_closed(exported: Bundle, backend: str, picture: Picture) -> None:
    upscaler = Upscaler.open(exported, backend=backend)
    upscaler.close()
    upscaler.close()
    with pytest.raises(BackendError, match="closed"):
        upscaler(picture)


def test_importing_the_package_alone_imports_nothing_heavy() -> None:
    program = "import sys, runtime; print(sorted({'numpy', 'cv2', 'pydantic', 'PIL', 'onnxruntime'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_has_the_names_it_promises() -> None:
    names = set(runtime.__all__) - {"__version__"}
    assert {name: getattr(runtime, name).__name__ for name in names} == {name: name for name in names}


def test_a_name_the_package_has_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Downscaler'"):
        runtime.Downscaler  # noqa: B018 # the look-up is the test


def test_a_compiled_graph_is_kept_in_the_cache_folder(quantized: Bundle, picture: Picture, tmp_path: Path) -> None:
    outputs = []
    for _ in range(2):
        with Upscaler.open(quantized, backend="openvino", cache=tmp_path) as upscaler:
            outputs.append(upscaler(picture))
    assert list(tmp_path.iterdir())
    assert np.array_equal(outputs[0], outputs[1])


@backends
def test_a_device_that_is_not_there_is_named_with_those_that_are(quantized: Bundle, backend: str) -> None:
    with pytest.raises(BackendError, match="NPU") as caught:
        Upscaler.open(quantized, backend=backend, device="NPU")
    assert "CPU" in f"{caught.value}{caught.value.hint}"


@backends
def test_frames_of_a_stream_come_in_their_order(quantized: Bundle, backend: str) -> None:
    frames = [_noise_picture(20, 31, seed=index) for index in range(9)]
    with Upscaler.open(quantized, backend=backend, parallel=3) as upscaler:
        for got, frame in zip(upscaler.stream(iter(frames)), frames, strict=True):
            assert np.array_equal(got, upscaler(frame))


@backends
def test_a_bad_frame_is_refused_at_its_place(quantized: Bundle, backend: str) -> None:
    frames = [_noise_picture(8, 9), _noise_picture(8, 9)[:0], _noise_picture(8, 9)]
    with Upscaler.open(quantized, backend=backend, parallel=2) as upscaler:
        stream = upscaler.stream(frames)
        assert next(stream).shape == (16, 18, 3)
        with pytest.raises(ImageError, match=r"\(0, 9, 3\)"):
            next(stream)


def test_a_stream_takes_frames_only_as_they_are_needed(quantized: Bundle) -> None:
    taken = []

    def camera() -> Iterator[Picture]:
        for index in itertools.count():
            taken.append(index)
            yield _noise_picture(8, 9, seed=index)

    with Upscaler.open(quantized, parallel=2) as upscaler:
        stream = upscaler.stream(camera())
        for _ in range(3):
            next(stream)
        assert len(taken) <= 3 + upscaler.parallel + 2


@backends
def test_one_upscaler_serves_several_threads(quantized: Bundle, backend: str) -> None:
    frames = [_noise_picture(20, 31, seed=index) for index in range(8)]
    with Upscaler.open(quantized, backend=backend, parallel=2) as upscaler, ThreadPoolExecutor(4) as pool:
        expected = [upscaler(frame) for frame in frames]
        for got, want in zip(pool.map(upscaler, frames), expected, strict=True):
            assert np.array_equal(got, want)


_FIRST_RUNS_AT_ONCE = """
import sys, threading
import numpy as np
from runtime.upscaler import Upscaler

sys.setswitchinterval(1e-6)
with Upscaler.open(sys.argv[1], precision="fp32", backend=sys.argv[2], parallel=3) as upscaler:
    start = threading.Barrier(3)

    def run():
        start.wait()
        upscaler(np.zeros((8, 8, 3), np.uint8))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


@backends
@pytest.mark.parametrize("process", range(3))  # openvino's binding, unprepared, hung in about one process of three
def test_the_first_runs_of_a_process_may_come_at_once(exported: Bundle, backend: str, process: int) -> None:
    command = [sys.executable, "-c", _FIRST_RUNS_AT_ONCE, str(exported.directory), backend]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
