"""Layers lifted out of int8: where quantizers then are, which ones a search lifts, and what it remembers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.metrics import score
from benchmarks.protocols import find_protocol
from calibration.crops import describe_source
from calibration.pairs import ImageSet, Pair, load_pair
from calibration.table import CalibrationSource
from quantize.graph.operators import activations
from quantize.graph.placement import liftable_additions, place_quantizers
from quantize.graph.qdq import activation_parameters, write_qdq
from quantize.search.choose import Budget, LiftingCost, choose_lifted, lifting_order
from quantize.search.held_back import hold_back, psnr_db
from quantize.search.result import SearchState, Timing, Trial, pareto_front
from quantize.search.trials import time_in_turn
from quantize.weights.unfitted import round_unfitted
from runtime.backends import BACKENDS, Backend, open_backend
from runtime.bundle import Bundle, Contract
from runtime.errors import DatasetError, UserError
from runtime.images import from_network, write_picture
from runtime.targets import TARGETS, Target, find_target
from runtime.verify.precision import verify_precision
from tests.graphs import Graph
from tests.tables import table_in
from tests.test_quantize_placement import small_graph
from tests.typed import Ran

CPU = find_target("cpu")
MIXED = [target for target in TARGETS if not target.everything_int8]
EACH_MIXED = pytest.mark.parametrize("target", MIXED, ids=[target.name for target in MIXED])
EACH_WRITES_FLOATS = pytest.mark.parametrize(
    "target", [target for target in MIXED if target.writes_floats], ids=lambda target: str(target.name)
)
SMALL = ("--crops", "3", "--crop-size", "24x24")


# Placement


@EACH_MIXED
def test_a_lifted_layer_asks_for_no_quantizer(target: Target) -> None:
    graph = small_graph("first = Conv(input, w, b) second = Conv(first, w, b) output = Conv(second, w, b)")

    before_output = set() if target.writes_floats else {"second"}
    for lifted, quantized in [("first", {"first", "second", "output"}), ("output", {"input", "first"} | before_output)]:
        placement = place_quantizers(graph, target, lifted=[lifted])
        assert placement.quantizers.keys() == quantized
        assert set(placement.int8_layers) == {"first", "second", "output"} - {lifted}


@EACH_MIXED
def test_between_two_lifted_layers_nothing_is_rounded(target: Target) -> None:
    graph = small_graph(
        'first = Conv(input, w, b) active = Relu(first) moved = DepthToSpace <blocksize = 1, mode = "CRD"> (active) '
        "second = Conv(moved, w, b) output = Conv(second, w, b)"
    )

    assert place_quantizers(graph, target, lifted=["first", "second"]).quantizers.keys() == {"second", "output"}


@EACH_MIXED
def test_an_addition_of_what_a_lifted_layer_makes_does_not_round_it(target: Target) -> None:
    graph = small_graph("base = Conv(input, w, b) made = Conv(base, w, b) sum = Add(base, made) output = Conv(sum, w, b)")

    written = set() if target.writes_floats else {"base"}
    assert place_quantizers(graph, target, lifted=["made"]).quantizers.keys() == {"input", "sum", "output"} | written


@EACH_WRITES_FLOATS
def test_an_addition_that_is_lifted_reads_what_was_never_rounded(target: Target) -> None:
    """The convolution beside it goes on reading integers, and its own branch comes from one that does."""
    graph = Graph(0, channels=3)
    base = graph.add("Relu", graph.conv("input", 3, 3))
    inner = graph.conv(base, 3, 3)
    total = graph.add("Add", base, inner)
    model = graph.model(graph.conv(total, 3, 3))
    placement = place_quantizers(model.graph, target, lifted=[total])
    rounded = {str(node.name): round_unfitted(node, target, input_scale=1.0) for node in model.graph if node.op_type == "Conv"}
    parameters = dict.fromkeys(placement.quantizers, activation_parameters((-1.0, 1.0), target))

    write_qdq(model, parameters=parameters, rounded=rounded, target=target, float_readers=placement.float_readers)

    read = {node.name: [value.name for value in activations(node)] for node in model.graph}
    assert placement.int8_layers == tuple(rounded)
    assert read[total] == [base, inner]
    assert read[inner][0] == f"{base}.dequantized"


@EACH_WRITES_FLOATS
def test_no_addition_is_lifted_where_layers_write_integers(target: Target) -> None:
    graph = small_graph("base = Conv(input, w, b) made = Conv(base, w, b) sum = Add(base, made) output = Conv(sum, w, b)")

    assert liftable_additions(graph, target) == (("sum",) if target.fuses_addition else ())
    assert liftable_additions(graph, replace(target, writes_floats=False)) == ()


def test_what_is_moved_towards_int8_is_moved_as_integers() -> None:
    graph = small_graph('up = Conv(input, w, b) moved = DepthToSpace <blocksize = 2, mode = "CRD"> (up) output = Conv(moved, w, b)')

    assert place_quantizers(graph, CPU, lifted=["up"]).quantizers.keys() == {"up", "moved", "output"}


class Sleeper:
    """A backend that takes so long for a run, and five times as long once a machine is busy."""

    def __init__(self, seconds: float, is_busy: Callable[[], bool]) -> None:
        self._seconds, self._is_busy = seconds, is_busy

    def run(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        time.sleep(self._seconds * (5 if self._is_busy() else 1))
        return array


def test_a_busy_stretch_moves_latencies_and_not_their_ratio() -> None:
    runs = itertools.count()
    backends = [Sleeper(seconds, lambda: next(runs) > 30) for seconds in (0.002, 0.008, 0.004)]
    fp32, one, other = time_in_turn(cast(Sequence[Backend], backends), Timing(shape=(1, 1, 2, 2), warm_up=1, n=20))
    assert len(one) == len(other) == 10 > len(fp32)
    assert max(one) > 3 * min(one)
    assert np.median(np.divide(one, other)) == pytest.approx(2, rel=0.2)


# The search, on costs and drops that add up


LAYERS = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}  # their share of multiply-accumulates


def made_up(drops: Mapping[str, float], lifted: Iterable[str], *, slow: float = 1.0) -> Trial:
    names = frozenset(lifted)
    share = sum(LAYERS[name] for name in names)
    drop_db = sum(drop for name, drop in drops.items() if name not in names)
    ms = {"p50_ms": 10 * (1 + slow * share), "int8_p50_ms": 10.0, "fp32_p50_ms": 20.0, "times_int8": 1 + slow * share}
    return Trial(lifted=tuple(sorted(names)), sha256="0" * 64, int8_mac_share=1 - share, drop_db=drop_db, **ms)


def choose(
    drops: Mapping[str, float], budget: Budget, *, misled: bool = False, gained_db: float = 0.0, flattered: int | None = None
) -> tuple[Trial, list[Trial]]:
    """What is chosen, and all that was tried.

    Args:
        misled: all layers are taken for equally sensitive.
        gained_db: by weights that are rounded for what is lifted.
        flattered: how many layers are lifted where that seems to take no longer than if none were, until weights are.
    """
    tried: list[Trial] = []

    def attempt(lifted: frozenset[str]) -> Trial:
        tried.append(made_up(drops, lifted, slow=0 if len(lifted) == flattered else 1))
        return tried[-1]

    def noise(lifted: frozenset[str]) -> float:
        return float(len(LAYERS) - len(lifted)) if misled else made_up(drops, lifted).drop_db

    def fit(lifted: frozenset[str]) -> Trial:
        trial = made_up(drops, lifted)
        return trial.model_copy(update={"fitted": True, "drop_db": trial.drop_db - gained_db})

    costs = {name: LiftingCost(share, share, name) for name, share in LAYERS.items()}
    return choose_lifted(costs, budget, noise=noise, attempt=attempt, fit=fit), tried


def test_nothing_is_lifted_where_nothing_must_be() -> None:
    chosen, tried = choose({"a": 0.01, "b": 0.01}, Budget(0.03))

    assert (chosen.lifted, len(tried)) == ((), 1)


@pytest.mark.parametrize(
    ("limit", "misled"), [(limit, misled) for limit in (0.09, 0.05, 0.03) for misled in (False, True)] + [(0.011, False)]
)
def test_what_is_chosen_keeps_the_limit_and_no_layer_of_it_is_for_nothing(limit: float, misled: bool) -> None:
    drops = {"a": 0.01, "b": 0.06, "c": 0.01, "d": 0.02}

    chosen, tried = choose(drops, Budget(limit), misled=misled)

    assert chosen.drop_db <= limit
    assert chosen.cost == min(trial.cost for trial in tried if trial.drop_db <= limit)
    assert len(tried) == len({trial.lifted for trial in tried}) <= 8
    if not misled:
        assert all(made_up(drops, set(chosen.lifted) - {layer}).drop_db > limit for layer in chosen.lifted)


def test_what_is_chosen_is_measured_again_with_weights_rounded_for_it() -> None:
    drops = {"a": 0.01, "b": 0.06, "c": 0.01, "d": 0.02}
    plain, _ = choose(drops, Budget(0.05))

    gained, _ = choose(drops, Budget(0.05), gained_db=0.01)
    lost, _ = choose(drops, Budget(0.05), gained_db=-0.005)

    assert (gained.lifted, gained.fitted) == (plain.lifted, True)
    assert gained.drop_db == pytest.approx(plain.drop_db - 0.01)
    assert lost.drop_db <= 0.05
    with pytest.raises(UserError, match="cannot be met"):
        choose(drops, Budget(0.05), gained_db=-1)


def test_one_busy_minute_does_not_decide_what_is_chosen() -> None:
    """Three layers and two of them are both within the limit."""
    drops = {"a": 0.01, "b": 0.06, "c": 0.01, "d": 0.02}
    expected, _ = choose(drops, Budget(0.03), misled=True)
    assert expected.lifted == ("a", "b")

    chosen, tried = choose(drops, Budget(0.03), misled=True, flattered=3)

    assert min(tried, key=lambda trial: trial.cost + (not trial.lifted)).lifted == ("a", "b", "c")
    assert chosen.lifted == expected.lifted


def test_the_share_asked_for_stays_in_int8() -> None:
    drops = {"a": 0.02, "b": 0.02, "d": 0.1}

    chosen, tried = choose(drops, Budget(0.11, min_int8_macs=0.65))

    assert set(chosen.lifted) == {"a", "b"}
    assert all(trial.int8_mac_share >= 0.65 for trial in tried)


def _loss_of(drops: Mapping[str, float], lifted: frozenset[str]) -> float:
    return made_up(drops, lifted).drop_db


def test_what_gains_most_is_not_kept_out_by_what_gains_more_for_its_cost() -> None:
    """Unless the others together gain more."""
    costs = {name: LiftingCost(share, share, name) for name, share in LAYERS.items()}
    for gains, expected in [({"a": 0.04, "d": 0.1}, {"d"}), ({"a": 0.04, "b": 0.07, "d": 0.1}, {"a", "b"})]:
        order = lifting_order(costs, partial(_loss_of, gains), spare=0.45)
        assert set(order) == expected


def test_a_limit_that_cannot_be_met_says_what_can() -> None:
    with pytest.raises(UserError, match=r"0\.02 dB.* 0\.100 dB") as raised:
        choose(dict.fromkeys(LAYERS, 0.1), Budget(0.02))
    assert "--max-drop-db 0.1" in raised.value.hint

    with pytest.raises(UserError, match=r"90\.0% of MACs") as raised:
        choose({"d": 0.1}, Budget(0.02, min_int8_macs=0.9))
    assert "--min-int8-macs" in raised.value.hint


def test_the_front_has_no_trial_that_another_beats_in_both() -> None:
    drops = {"a": 0.05, "b": 0.01}
    trials = [made_up(drops, lifted) for lifted in ("", "a", "b", "ab", "c")]

    assert [trial.lifted for trial in pareto_front(trials)] == [(), ("a",), ("a", "b")]


# Pictures held back


def picture_set(folder: Path, sizes: Iterable[tuple[int, int]], *, truth: bool) -> ImageSet:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    pairs = []
    for index, size in enumerate(sizes):
        path = folder / f"{index}.png"
        write_picture(path, rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        pairs.append(Pair(path.stem, path if truth else None, None if truth else path))
    return ImageSet("random", tuple(pairs))


def ignore_step(done: int, total: int) -> None:
    """Shows nothing."""


def source_of(images: ImageSet, *, crops: int) -> CalibrationSource:
    return describe_source(images, scale=2, crops=crops, crop_size=(16, 16))


@pytest.mark.parametrize("truth", [True, False], ids=["with ground truth", "plain pictures"])
def test_pictures_held_back_are_none_that_calibration_used(tmp_path: Path, truth: bool) -> None:
    images = picture_set(tmp_path / "pictures", [(40, 44 + index) for index in range(9)], truth=truth)
    source = source_of(images, crops=4)

    held_back, crops = hold_back(images, source, scale=2, contract=Contract(), on_step=ignore_step)

    used = {image.low_sha256 for image in source.images} | {image.high_sha256 for image in source.images}
    assert held_back.are_other_pictures
    assert len(held_back.images) == 4  # sixteen crops in all, four each
    assert not used & {digest for image in held_back.images for digest in (image.low_sha256, image.high_sha256)}
    assert held_back.crops == sum(map(len, crops)) >= 16


def test_of_few_pictures_other_crops_are_held_back(tmp_path: Path) -> None:
    images = picture_set(tmp_path / "pictures", [(40, 44), (60, 50)], truth=True)

    held_back, crops = hold_back(images, source_of(images, crops=4), scale=2, contract=Contract(), on_step=ignore_step)

    assert (held_back.are_other_pictures, len(held_back.images), [len(found) for found in crops]) == (False, 2, [8, 8])


def test_pictures_too_small_to_measure_on_are_refused(tmp_path: Path) -> None:
    images = picture_set(tmp_path / "pictures", [(20, 20)], truth=True)

    with pytest.raises(DatasetError, match="16x16"):
        hold_back(images, source_of(images, crops=1), scale=2, contract=Contract(), on_step=ignore_step)


@pytest.mark.parametrize(
    ("scale", "contract"),
    [(2, Contract()), (3, Contract(colour="Y")), (1.5, Contract(pre_upscale=True)), (2, Contract(static_shape=(24, 20)))],
)
def test_a_crops_truth_is_the_place_it_was_taken_from(tmp_path: Path, scale: float, contract: Contract) -> None:
    """Pixels say where they are, in the low picture and in the high one: what is taken of both must name the same places."""
    sides = 48, 42
    rows, columns = np.mgrid[0 : round(sides[0] * scale), 0 : round(sides[1] * scale)] / scale
    high = np.stack([rows * 5, columns * 6, 0 * rows], axis=-1).round().astype(np.uint8)
    low = high[np.ix_(*((np.arange(side) * scale).round().astype(int) for side in sides))]
    write_picture(tmp_path / "high.png", high)
    write_picture(tmp_path / "low.png", low)
    images = ImageSet("places", (Pair("place", tmp_path / "high.png", tmp_path / "low.png"),))

    _, (crops,) = hold_back(images, source_of(images, crops=1), scale=scale, contract=contract, on_step=ignore_step)

    for crop in crops:
        repeat = 1 if contract.pre_upscale else int(scale)
        enlarged = crop.given.repeat(repeat, axis=2).repeat(repeat, axis=3)
        assert crop.square_error(enlarged) < 5**2  # a place that is off by one low pixel: 5 and 6 steps in two of the channels


def test_psnr_is_that_of_the_fields_protocol(tmp_path: Path) -> None:
    images = picture_set(tmp_path / "pictures", [(40, 44)], truth=True)
    _, ((crop, *_),) = hold_back(images, source_of(images, crops=1), scale=2, contract=Contract(), on_step=ignore_step)
    low, high = load_pair(images.pairs[0], scale=2)  # smaller than a crop would be: the crop is all of it
    output = np.random.default_rng(1).normal(0.5, 0.4, (1, 3, *high.shape[:2])).astype(np.float32)

    picture = from_network(output, "RGB", source=low)

    expected = score(picture, high, find_protocol("paper-y"), scale=2).psnr_db
    assert psnr_db([crop.square_error(output)]) == pytest.approx(expected, abs=1e-9)


# As it is typed


@pytest.fixture
def bundle(small_copy: Bundle, monkeypatch: pytest.MonkeyPatch) -> Path:
    """To search in; what is timed on the way is small, for how long it takes is no matter here."""
    monkeypatch.setattr("quantize.search.stage._TIMED_SIDE", 32)
    return small_copy.directory


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Smooth ones: enlarging them bicubically is nearly right, so that what int8 loses shows."""
    folder = tmp_path / "smooth"
    folder.mkdir()
    rows, columns = np.mgrid[0:64, 0:72]
    for index in range(3):
        waves = [127 + 100 * np.sin(rows / (9 + 2 * index) + colour) * np.cos(columns / 9) for colour in range(3)]
        write_picture(folder / f"{index}.png", np.stack(waves, axis=-1).round().astype(np.uint8))
    return folder


def state_of(bundle: Path) -> SearchState:
    return SearchState.model_validate_json((bundle / "reports" / "search-cpu.json").read_bytes())


def search(run: Callable[..., Ran], bundle: Path, pictures: Path, *options: object) -> Ran:
    return run(bundle, "--calib", pictures, *SMALL, "--backend", "onnxruntime", *map(str, options))


def test_a_search_writes_the_graph_that_it_measured(run: Callable[..., Ran], bundle: Path, pictures: Path) -> None:
    assert search(run, bundle, pictures, "--max-drop-db", 10).code == 0
    (plain,) = state_of(bundle).trials
    assert (plain.lifted, Bundle.open(bundle).variant("int8").sha256) == ((), plain.sha256)
    limit = 0.98 * plain.drop_db  # of so small a network fitted weights may lose more than those they take the place of
    assert limit > 0

    ran = search(run, bundle, pictures, "--max-drop-db", limit)

    assert ran.code == 0, ran.err
    variant = Bundle.open(bundle).variant("int8")
    chosen = {trial.sha256: trial for trial in state_of(bundle).trials}[variant.sha256]
    assert chosen.fitted
    assert chosen.drop_db <= limit
    assert chosen.lifted
    assert variant.options["lifted"] == tuple(sorted(chosen.lifted))
    assert chosen.int8_mac_share == Bundle.open(bundle).manifest.int8_mac_share(variant)
    for shown in (*chosen.lifted, f"{chosen.drop_db:.3f}", f"{chosen.p50_ms:.1f}"):
        assert shown in ran.out
        assert shown in (bundle / "reports" / "search-cpu.md").read_text()


def test_what_was_tried_is_not_tried_again(run: Callable[..., Ran], bundle: Path, pictures: Path) -> None:
    search(run, bundle, pictures, "--max-drop-db", 10)
    (plain,) = state_of(bundle).trials
    command = ("--max-drop-db", 0.98 * plain.drop_db)
    search(run, bundle, pictures, *command)
    before = state_of(bundle)
    assert before.trials[0] == plain

    again = search(run, bundle, pictures, *command)

    assert (again.code, "0 of them now" in again.out, "up to date" in again.out) == (0, True, True)
    assert state_of(bundle) == before


@pytest.mark.parametrize("spoil", ["other pictures", "no JSON"])
def test_another_question_starts_anew(run: Callable[..., Ran], bundle: Path, pictures: Path, spoil: str) -> None:
    search(run, bundle, pictures, "--max-drop-db", 10)
    key = state_of(bundle).key
    if spoil == "no JSON":
        (bundle / "reports" / "search-cpu.json").write_text("{")
    else:
        (pictures / "0.png").unlink()

    ran = search(run, bundle, pictures, "--max-drop-db", 10)

    assert (ran.code, "1 of them now" in ran.out) == (0, True)
    assert (state_of(bundle).key == key) == (spoil == "no JSON")


def test_a_limit_that_cannot_be_met_leaves_the_bundle_as_it_was(run: Callable[..., Ran], bundle: Path, pictures: Path) -> None:
    before = (bundle / "manifest.json").read_bytes()

    ran = search(run, bundle, pictures, "--max-drop-db", 0, "--min-int8-macs", 0.999)

    assert ran.code == 2
    assert "cannot be met with 99.9% of MACs in int8" in ran.err
    assert "--max-drop-db" in ran.err.partition("hint")[2]
    assert (bundle / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("backend", [entry.name for entry in BACKENDS if entry.opens_graphs and "int8" in entry.precisions])
def test_a_layer_lifted_by_hand_runs_in_float_and_the_others_in_int8(
    run: Callable[..., Ran], bundle: Path, pictures: Path, backend: str
) -> None:
    layers = [layer.name for layer in Bundle.open(bundle).manifest.layers]

    assert run(bundle, "--calib", pictures, *SMALL, "--lift", layers[1]).code == 0

    opened = Bundle.open(bundle)
    variant = opened.variant("int8")
    assert variant.int8_layers == (layers[0], layers[2])
    with open_backend(backend, opened.read(variant), precision="int8") as compiled:
        report = verify_precision(opened.manifest, variant, compiled.precisions())
    assert report.ran == {layers[0]: "int8", layers[1]: "fp32", layers[2]: "int8"}
    assert report.verified


def test_lifting_by_hand_gives_the_graph_of_the_search(run: Callable[..., Ran], bundle: Path, pictures: Path) -> None:
    """Where no weights are rounded for what is lifted."""
    fast = ("--effort", "fast")
    search(run, bundle, pictures, "--max-drop-db", 10, *fast)
    search(run, bundle, pictures, "--max-drop-db", state_of(bundle).trials[0].drop_db / 2, *fast)
    for trial in state_of(bundle).trials[1:]:
        lift = [part for layer in trial.lifted for part in ("--lift", layer)]

        assert run(bundle, "--calib", pictures, *SMALL, *fast, *lift).code == 0
        assert Bundle.open(bundle).variant("int8").sha256 == trial.sha256


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(("--lift", "conv9"), "unknown layer 'conv9'; known: {layers}", id="unknown layer"),
        pytest.param(("--lift", "{0}", "--lift", "{1}", "--lift", "{2}"), "nothing is left in int8", id="all layers"),
        pytest.param(("--lift", "{0}", "--target", "npu"), "runs everything in int8", id="target without float"),
        pytest.param(("--max-drop-db", "0.1", "--target", "npu"), "runs everything in int8", id="search for one"),
        pytest.param(("--lift", "{0}", "--max-drop-db", "0.1"), "--keep-in-float names them", id="both ways"),
        pytest.param(("--min-int8-macs", "0.9"), "without --max-drop-db", id="share alone"),
        pytest.param(("--backend", "openvino"), "without --max-drop-db", id="backend alone"),
        pytest.param(("--max-drop-db", "inf"), "expected numbers", id="no number"),
        pytest.param(("--max-drop-db", "0.1", "--backend", "abacus"), "known: auto", id="unknown backend"),
    ],
)
def test_a_mistake_exits_2_and_says_what_was_expected(
    run: Callable[..., Ran], bundle: Path, pictures: Path, arguments: tuple[str, ...], expected: str
) -> None:
    layers = [layer.name for layer in Bundle.open(bundle).manifest.layers]

    ran = run(bundle, "--calib", pictures, *SMALL, *(argument.format(*layers) for argument in arguments))

    assert ran.code == 2
    assert expected.format(layers=", ".join(layers)) in ran.err


def test_a_search_without_pictures_is_told_to_bring_some(run: Callable[..., Ran], bundle: Path, pictures: Path) -> None:
    run(bundle, "--calib", pictures, *SMALL)

    ran = run(bundle, "--calib", table_in(bundle), "--max-drop-db", "0.1")

    assert (ran.code, "brings none" in ran.err, "--calib FOLDER" in ran.err) == (2, True, True)
