"""What lies beside a plan, where the plan may run, and for which shapes it is built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from export.engine.profile import choose_profile
from runtime.backends.engines import (
    EngineKey,
    HardwareCompatibility,
    ShapeProfile,
    find_engine,
    read_engine,
    read_plan,
    write_engine,
)
from runtime.bundle import Bundle, sha256_bytes
from runtime.describe import describe
from runtime.errors import BackendError, ImageError, UserError
from runtime.sizes import SizeLimits
from runtime.tiles.plan import plan_run

GRAPH, PLAN = "a" * 64, b"a plan"
PROFILE = ShapeProfile(min=(16, 16), opt=(128, 128), max=(256, 512))


def _key(**changed: object) -> EngineKey:
    known: dict[str, object] = {
        "graph_sha256": GRAPH,
        "precision": "fp16",
        "tensorrt": "10.16.1.11",
        "gpu": "Orin",
        "compute_capability": (8, 7),
        "driver": "CUDA 12.6",
        "profile": PROFILE,
    }
    return EngineKey.model_validate({**known, **changed})


def _why_unfit(key: EngineKey, tensorrt: str = "10.16.1.11", gpu: str = "Orin", capability: tuple[int, int] = (8, 7)) -> str | None:
    return key.why_unfit(tensorrt=tensorrt, gpu=gpu, compute_capability=capability)


def test_an_engine_that_was_written_is_found_again(tmp_path: Path) -> None:
    written = write_engine(tmp_path / "engines" / "model.fp16.json", PLAN, _key())
    found = find_engine(tmp_path / "engines", graph_sha256=GRAPH, precision="fp16")
    assert found == written
    assert read_plan(tmp_path / "engines", found) == PLAN


def test_a_new_plan_takes_the_place_of_the_old_one_and_of_no_other(tmp_path: Path) -> None:
    other = write_engine(tmp_path / "model.fp32.json", b"another", _key(precision="fp32"))
    old = write_engine(tmp_path / "model.fp16.json", PLAN, _key())
    new = write_engine(tmp_path / "model.fp16.json", b"a newer plan", _key(tf32=True))
    plans = {path.name for path in tmp_path.glob("*.plan")}
    assert plans == {other.plan.file, new.plan.file}
    assert old.plan.file not in plans


def test_a_build_that_was_cut_off_leaves_the_engine_there_was(tmp_path: Path) -> None:
    before = write_engine(tmp_path / "model.fp16.json", PLAN, _key())
    (tmp_path / "model.fp16.json").chmod(0o444)
    half = tmp_path / f"model.fp16-{sha256_bytes(b'newer')[:16]}.plan"
    half.write_bytes(b"newer")  # killed between the plan and its record
    found = find_engine(tmp_path, graph_sha256=GRAPH, precision="fp16")
    assert found == before
    assert read_plan(tmp_path, found) == PLAN
    write_engine(tmp_path / "model.fp16.json", b"newest", _key(tf32=True))
    assert not half.exists()


@pytest.mark.parametrize("damage", [b"", b"another plan"], ids=["emptied", "exchanged"])
def test_a_plan_that_is_not_the_one_described_is_refused(tmp_path: Path, damage: bytes) -> None:
    record = write_engine(tmp_path / "engines" / "model.fp16.json", PLAN, _key())
    (tmp_path / "engines" / record.plan.file).write_bytes(damage)
    with pytest.raises(BackendError, match="sha256 differs") as caught:
        read_plan(tmp_path / "engines", record)
    assert caught.value.hint == f"python -m export.engine {tmp_path} --precision fp16"


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        ({"plan": {"file": "../../plan", "sha256": "a" * 64}}, "plan.file"),
        ({"schema_version": 2}, "schema_version"),
        ({"more": 1}, "more"),
        ({"key": {}}, "key.graph_sha256"),
    ],
    ids=["a file elsewhere", "newer", "unknown field", "no key"],
)
def test_a_record_that_is_none_of_ours_is_refused(tmp_path: Path, edit: dict[str, object], says: str) -> None:
    path = tmp_path / "model.fp16.json"
    write_engine(path, PLAN, _key())
    path.write_text(json.dumps({**json.loads(path.read_text()), **edit}))
    with pytest.raises(BackendError, match=says) as caught:
        read_engine(path)
    assert caught.value.hint.startswith(f"rm {path}")


@pytest.mark.parametrize("text", ["", "{", "[]", "\0" * 40])
def test_a_record_that_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(BackendError, match="is not the record of an engine"):
        find_engine(tmp_path, graph_sha256=GRAPH, precision="fp16")


def test_without_an_engine_the_error_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="holds no int8 engine of this graph") as caught:
        find_engine(tmp_path / "bundle" / "engines", graph_sha256=GRAPH, precision="int8")
    assert caught.value.hint == f"python -m export.engine {tmp_path / 'bundle'} --precision int8"


def test_an_engine_of_another_graph_is_not_taken(tmp_path: Path) -> None:
    write_engine(tmp_path / "model.fp16.json", PLAN, _key())
    with pytest.raises(BackendError, match="built from another graph"):
        find_engine(tmp_path, graph_sha256="b" * 64, precision="fp16")


def test_the_parts_in_which_two_keys_differ_are_named() -> None:
    other = _key(driver="CUDA 13.0", profile=ShapeProfile(min=(8, 8), opt=(8, 8), max=(8, 8)), refit=True)
    assert _key().differences(_key()) == ()
    assert [line.partition(":")[0] for line in _key().differences(other)] == ["driver", "profile", "refit"]


@pytest.mark.parametrize(
    ("changed", "place", "fits"),
    [
        ({}, {}, True),
        ({}, {"tensorrt": "10.16.1.12"}, False),
        ({}, {"tensorrt": "11.4.0.106"}, False),
        ({}, {"gpu": "another", "capability": (8, 6)}, False),
        ({}, {"gpu": "another"}, False),  # of the same compute capability, but tuned for other numbers of cores
        ({"version_compatible": True}, {"tensorrt": "10.17.0.1"}, True),
        ({"version_compatible": True}, {"tensorrt": "10.3.0"}, False),
        ({"version_compatible": True}, {"tensorrt": "11.4.0.106"}, False),
        ({"hardware_compatible": "same-compute-capability"}, {"gpu": "another"}, True),
        ({"hardware_compatible": "same-compute-capability"}, {"gpu": "another", "capability": (8, 6)}, False),
        ({"hardware_compatible": "ampere-plus"}, {"gpu": "another", "capability": (9, 0)}, True),
        ({"hardware_compatible": "ampere-plus"}, {"gpu": "another", "capability": (7, 5)}, False),
    ],
)
def test_a_plan_runs_where_it_was_built_for_and_nowhere_else(changed: dict[str, object], place: dict[str, str], fits: bool) -> None:
    reason = _why_unfit(_key(**changed), **place)  # type: ignore[arg-type] # of the table above
    assert (reason is None) == fits
    if reason is not None:
        assert all(str(value) in reason for name, value in place.items() if name != "capability")


def test_levels_of_hardware_compatibility_are_those_of_the_documentation() -> None:
    assert HardwareCompatibility.__args__ == ("none", "same-compute-capability", "ampere-plus")  # type: ignore[attr-defined]


@pytest.mark.parametrize("sizes", [((9, 8), (8, 8), (9, 9)), ((8, 8), (9, 8), (8, 8)), ((8, 9), (8, 9), (9, 8))])
def test_a_profile_out_of_order_is_no_profile(sizes: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValidationError, match="expected min <= opt <= max"):
        ShapeProfile(min=sizes[0], opt=sizes[1], max=sizes[2])


def test_the_profile_follows_from_the_network_where_nothing_is_asked(exported: Bundle) -> None:
    profile = choose_profile(exported.manifest, least=None, best=None, most=None, batch=1)
    assert profile == ShapeProfile(min=(16, 16), opt=(512, 512), max=(512, 512))
    heavier = exported.manifest.model_copy(update={"scale": 4.0})
    assert choose_profile(heavier, least=None, best=None, most=None, batch=1).max[0] < 512


def test_a_profile_keeps_something_of_every_window(exported: Bundle) -> None:
    far = exported.manifest.model_copy(update={"halo": 400})
    assert choose_profile(far, least=None, best=None, most=None, batch=1).max[0] > 2 * 400


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"most": (100, 200)}, ((16, 16), (100, 200), (100, 200))),
        ({"best": (720, 1280)}, ((16, 16), (720, 1280), (720, 1280))),
        ({"best": (8, 1280)}, ((8, 16), (8, 1280), (512, 1280))),
        ({"least": (64, 64), "best": (64, 64), "most": (64, 64)}, ((64, 64), (64, 64), (64, 64))),
    ],
)
def test_what_is_asked_is_kept(
    exported: Bundle, asked: dict[str, tuple[int, int]], expected: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
) -> None:
    sizes: dict[str, tuple[int, int] | None] = {"least": None, "best": None, "most": None, **asked}
    profile = choose_profile(exported.manifest, least=sizes["least"], best=sizes["best"], most=sizes["most"], batch=4)
    assert (profile.min, profile.opt, profile.max, profile.batch) == (*expected, 4)


def test_shapes_are_those_of_pictures_where_the_network_takes_them_enlarged(enlarged_before: Bundle) -> None:
    profile = choose_profile(enlarged_before.manifest, least=None, best=None, most=(100, 200), batch=1)
    assert profile.max == (150, 300)


def test_shapes_out_of_order_say_so(exported: Bundle) -> None:
    with pytest.raises(UserError, match="min 64x64, opt 32x32, max 128x128"):
        choose_profile(exported.manifest, least=(64, 64), best=(32, 32), most=(128, 128), batch=1)


def test_a_graph_of_one_shape_has_that_profile(exported: Bundle) -> None:
    contract = exported.manifest.contract.model_copy(update={"static_shape": (24, 32)})
    manifest = exported.manifest.model_copy(update={"contract": contract})
    assert choose_profile(manifest, least=None, best=(24, 32), most=None, batch=1).fixed
    with pytest.raises(UserError, match="takes one 24×32 picture"):
        choose_profile(manifest, least=None, best=None, most=(64, 64), batch=1)


@pytest.mark.parametrize("size", [(7, 300), (20, 20), (64, 96), (65, 500), (300, 301)], ids=str)
def test_every_window_of_a_picture_fits_the_profile(exported: Bundle, size: tuple[int, int]) -> None:
    limits = SizeLimits((16, 24), (64, 96))
    plan = plan_run(exported.manifest, size, sample_bytes=3, tile=None, budget_bytes=1 << 30, parallel=1, limits=limits)
    assert plan.fixed is not None
    assert all(low <= side <= high for low, side, high in zip(limits.least, plan.fixed, limits.most, strict=True))
    for cuts, side, window in zip((plan.rows, plan.columns), size, plan.fixed, strict=True):
        assert all(cut.read.length == window for cut in cuts)  # a smaller picture is filled up to it
        assert [cut.kept.start for cut in cuts] == [0, *(cut.kept.stop for cut in cuts[:-1])]
        assert cuts[-1].kept.stop == side


def test_a_picture_that_must_run_whole_and_does_not_fit_says_what_to_build(exported: Bundle) -> None:
    whole = exported.manifest.model_copy(update={"halo": "global", "global_operator": "GlobalAveragePool"})
    with pytest.raises(ImageError, match="looks at the whole picture") as caught:
        plan_run(
            whole, (100, 90), sample_bytes=3, tile=None, budget_bytes=1 << 30, parallel=1, limits=SizeLimits((16, 16), (64, 64))
        )
    assert caught.value.hint == "python -m export.engine BUNDLE --max 100x90"


def test_info_tells_of_engines_and_of_those_whose_graph_is_gone(bundle_copy: Bundle) -> None:
    fp16 = bundle_copy.variant("fp16")
    write_engine(bundle_copy.directory / "engines" / "model.fp16.json", PLAN, _key(graph_sha256=fp16.sha256))
    write_engine(bundle_copy.directory / "engines" / "model.fp32.json", PLAN, _key(precision="fp32"))
    (bundle_copy.directory / "engines" / "broken.json").write_text("{")
    broken, current, stale = (line for line in describe(bundle_copy) if line.startswith("  engine"))
    assert "is not the record of an engine" in broken
    assert current.endswith(f"fp16 for Orin, TensorRT 10.16.1.11, {PROFILE}")
    assert stale.endswith("of a graph that this bundle no longer has")
