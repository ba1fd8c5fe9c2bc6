"""Uses that the bindings do not allow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from swapnet.tensorrt import TENSORRT
from tests.contract.names import DYNAMIC, ONLY
from tests.contract.surface import Member, Surface
from tests.contract.uses import Use

__all__ = ["declared_backend", "unknown_anywhere", "violations"]


def violations(uses: Sequence[Use], surface: Surface) -> list[str]:
    """What a version does not allow, each with its place."""
    return [
        f"{use.place}: {surface.version}: {wrong}"
        for use in uses
        if _concerns(use, surface)
        for wrong in _wrong(use, surface)
    ]


def unknown_anywhere(uses: Sequence[Use], surfaces: Sequence[Surface]) -> list[str]:
    """Guarded uses of what no version has, and members by computed names that are not declared."""
    return [
        f"{use.place}: {use.title} is in no version"
        for use in uses
        if use.kind != "dynamic" and all(s.find(use.owner, use.name) is None for s in surfaces)
    ] + [
        f"{use.place}: computed members of {use.owner} are not declared"
        for use in uses
        if use.kind == "dynamic" and use.owner not in DYNAMIC
    ]


def declared_backend(use: Use) -> str | None:
    """The one library that has it, by declaration; None where both do."""
    for backend in TENSORRT:
        if {use.title, use.owner} & ONLY[backend].keys():
            return backend
    return None


def _concerns(use: Use, surface: Surface) -> bool:
    if use.kind in ("ask", "dynamic") or surface.backend not in use.backends:
        return False
    if declared_backend(use) not in (None, surface.backend):
        return False
    return not use.guarded or surface.find(use.owner, use.name) is not None


def _wrong(use: Use, surface: Surface) -> Iterator[str]:
    member = surface.find(use.owner, use.name)
    if member is None:
        yield f"there is no {use.title}"
    elif use.kind == "read" and member.kind == "property" and not member.readable:
        yield f"{use.title} can't be read"
    elif use.kind == "write" and not member.writable:
        yield f"{use.title} can't be written"
    elif use.kind == "call" and not _fits(use, member, surface):
        given = ", ".join([argument or "…" for argument in use.arguments] + [*use.keywords])
        yield f"{use.title} does not take ({given})"


def _fits(use: Use, member: Member, surface: Surface) -> bool:
    return any(
        signature.fits(use.arguments, use.keywords, bound=use.bound, classes=surface.classes)
        for signature in member.signatures
    )
