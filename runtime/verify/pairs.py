"""Pair a bundle's graphs with backends: a bundle and wishes in, the pairs that are computed faithfully out, the best first.

A graph that was made for a target runs on the backends that the target names. A graph for every target runs on every backend, but
on one that runs prebuilt engines only where that is asked for by name. One that runs by name alone is never taken otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from ..backends import BACKENDS, BackendEntry, choose_backend
from ..bundle import IOS, Bundle, Io, Variant
from ..errors import BackendError, UnknownNameError
from ..targets import TARGETS, Precision, Target, find_target
from .fastest import fastest_backend
from .overflow import is_made_for_overflow

AUTO = "auto"


class Pair(NamedTuple):
    """A graph, and a backend that computes it faithfully."""

    variant: Variant
    backend: BackendEntry

    def __str__(self) -> str:
        return f"{self.variant} on {self.backend.name}"


def find_pairs(
    bundle: Bundle,
    *,
    precision: Precision | None = None,
    io: Io | None = None,
    target: str | None = None,
    backend: str = AUTO,
) -> tuple[Pair, ...]:
    """Return the pairs that fit what was asked, at least one, the best first.

    int8 comes before fp32, and float32 ends before uint8 ones. Then comes a target whose weights are small because products of
    bytes overflow on this processor, a target called as the backend is, and the order of TARGETS; then the target's own backend
    before one that computes it too, and for a graph of floats the backend that is measured fastest.

    Args:
        precision, io, target: of the graph; None takes any, of precisions int8 and fp32.
        backend: its name, which must be installed; "auto" stands for all that are.

    Raises:
        UnknownNameError: no such target or backend.
        BundleError: the bundle has no such graph.
        BackendError: the backend does not compute any such graph faithfully, or none that does is installed.
    """
    asked = None if target is None else find_target(target)
    named = None if backend == AUTO else choose_backend(backend)
    precisions: tuple[Precision, ...] = ("int8", "fp32") if precision is None else (precision,)
    ios: tuple[Io, ...] = IOS if io is None else (io,)
    graphs = [
        variant
        for one in precisions
        for kind in ios
        for variant in bundle.manifest.variants
        if (variant.precision, variant.io) == (one, kind) and _is_for(variant, asked)
    ]
    if not graphs:
        bundle.variant(precisions[0 if target else -1], target=target, io=ios[0])  # which says what there is
    faithful = [Pair(variant, entry) for variant in graphs for entry in _faithful(variant, asked, named)]
    ready = [pair for pair in faithful if pair.backend.installed and pair.variant.precision in pair.backend.precisions]
    if not ready:
        raise _refuse(bundle, graphs, faithful, named)

    fastest = {variant.file: fastest_backend(bundle, variant) for variant in graphs} if named is None else {}

    def rank(pair: Pair) -> tuple[int, ...]:
        variant, entry = pair
        names = [known.name for known in TARGETS]
        own = () if variant.target is None else find_target(variant.target).backends
        return (
            precisions.index(variant.precision),
            ios.index(variant.io),
            variant.target is None or not is_made_for_overflow(find_target(variant.target)),
            variant.target != entry.name,
            names.index(variant.target) if variant.target else -1,
            own.index(entry.name) if own else 0,
            fastest.get(variant.file) not in (None, entry.name),
            BACKENDS.index(entry),
        )

    return tuple(sorted(ready, key=rank))


def only_for(bundle: Bundle, target: Target) -> Bundle:
    """Return `bundle` with no other graphs than those that `target` runs.

    Raises:
        BundleError: there are none.
    """
    variants = tuple(variant for variant in bundle.manifest.variants if _is_for(variant, target))
    if not variants:
        bundle.variant("int8", target=target.name)  # which says what there is
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"variants": variants}))


def backend_for(target: Target, name: str) -> BackendEntry:
    """Return what opens graphs for `target` here: the backend of that name, or for "auto" the first installed that is faithful to
    it.

    Raises:
        UnknownNameError, BackendError: no such backend, one that is not faithful, or none is installed.
    """
    if name != AUTO and choose_backend(name).name not in target.backends:
        raise BackendError(
            f"{name} does not compute graphs for target {target.name} faithfully", hint=f"--backend {target.backends[-1]}"
        )
    ready = [entry for own in target.backends for entry in BACKENDS if entry.name == own and entry.opens_graphs]
    return ready[0] if name == AUTO and ready else choose_backend(target.default_backend if name == AUTO else name)


def _is_for(variant: Variant, target: Target | None) -> bool:
    """Return whether `target` runs the graph.

    One that runs operators on int8 alone is given its own graphs: another could crash it.
    """
    return target is None or variant.target == target.name or (variant.target is None and not target.int8_only_ops)


def _faithful(variant: Variant, asked: Target | None, named: BackendEntry | None) -> Iterator[BackendEntry]:
    try:
        target = asked if variant.target is None else find_target(variant.target)
    except UnknownNameError:  # of a later sredge: nothing here is known to compute it
        return
    for entry in BACKENDS:
        fits = entry.name in target.backends if target is not None else entry is named or not entry.prebuilt
        if fits and (named is entry or (named is None and not entry.by_name_alone)):
            yield entry


def _refuse(bundle: Bundle, graphs: Sequence[Variant], faithful: Sequence[Pair], named: BackendEntry | None) -> BackendError:
    found = ", ".join(dict.fromkeys(str(variant) for variant in graphs))
    if faithful:  # none of them is installed, or has such arithmetic
        precision = faithful[0].variant.precision
        able = [entry for _, entry in faithful if precision in entry.precisions]
        if not able:
            others = [entry.name for entry in BACKENDS if precision in entry.precisions]
            return BackendError(f"{faithful[0].backend.name} has no {precision} arithmetic", hint=f"--backend {', '.join(others)}")
        installed = ", ".join(entry.name for entry in BACKENDS if entry.installed) or "none"
        return BackendError(
            f"no installed backend runs {found} (installed: {installed}), expected {able[0].name}", hint=able[0].install
        )
    others = list(dict.fromkeys(entry.name for variant in graphs for entry in _faithful(variant, None, None)))
    quantize = f"python -m quantize {bundle.directory} --calib div2k"
    target = next((known.name for known in TARGETS if named is not None and known.default_backend == named.name), "cpu")
    return BackendError(
        f"{named.name if named else 'no backend'} does not compute this graph faithfully: {found}",
        hint=f"{f'--backend {others[0]}, or ' if others else ''}make one for it: {quantize} --target {target}",
    )
