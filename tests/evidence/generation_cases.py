"""What was measured of language models, and the tables of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import msgspec

from swapnet.units import format_size
from swapnet.version import VERSION
from tests.evidence.pages import conditions, table
from tests.evidence.talkers import CONTEXT, Said

__all__ = [
    "PEERS",
    "ROUNDS",
    "Built",
    "Case",
    "Drafted",
    "Key",
    "Measured",
    "Taken",
    "Talk",
    "spoken",
    "tables",
]

PEERS = ("llama", "genai")
"""Sides that may fail under a limit."""

ROUNDS = 7


class Key(msgspec.Struct, frozen=True):
    """What a measurement depends on."""

    engine: str
    threads: int
    peers: str
    swapnet: str = VERSION
    rounds: int = ROUNDS


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A side of a case.

    Attributes
    ----------
    said
        What it said in each round.
    limit_bytes, peak_bytes
        The kernel's limit, and the peak above the fixed cost; 0 without a limit.
    note
        Why it has fewer rounds.
    """

    said: list[Said]
    limit_bytes: int = 0
    peak_bytes: int = 0
    note: str = ""


class Case(msgspec.Struct, frozen=True):
    """One model at one budget.

    Attributes
    ----------
    budget, budget_bytes
        As written, and in bytes.
    streamed_bytes
        Bytes that the plan reads for a token.
    equal
        For each prompt, whether all tokens are those of onnxruntime-genai without a limit.
    bytes_per_s
        Bandwidth of storage in each round.
    sides
        ``ours`` and ``again``, the same process, in turn with peers; then ``paired``, which is that
        process too, in turn with ``resident`` (ours with everything in memory) and ``unlimited``
        (onnxruntime-genai).
    note
        Why our side is missing.
    """

    model: str
    budget: str
    key: Key
    budget_bytes: int
    streamed_bytes: int = 0
    equal: list[bool] = []
    bytes_per_s: list[float] = []
    sides: dict[str, Taken] = {}
    note: str = ""

    def token_ms(self, side: str) -> list[float]:
        """Time of a token in each round; empty where the side said nothing."""
        return [said.token_ms for said in self.sides[side].said] if side in self.sides else []

    @property
    def bound_ms(self) -> list[float]:
        """The larger time of computing and of reading a token's bytes, in each round."""
        return [
            max(resident, self.streamed_bytes / bandwidth * 1e3 if bandwidth else 0.0)
            for resident, bandwidth in zip(self.token_ms("resident"), self.bytes_per_s, strict=True)
        ]

    def ratio(self, side: str, other: str | Sequence[float]) -> float:
        """Median over rounds of one side's time over another's."""
        times = self.token_ms(other) if isinstance(other, str) else other
        return median(a / b for a, b in zip(self.token_ms(side), times, strict=False))


class Talk(msgspec.Struct, frozen=True):
    """Prompts, and the answers of onnxruntime-genai without a limit."""

    key: Key
    prompts: list[list[int]]
    said: list[Said]
    texts: list[str]

    @property
    def distinct(self) -> int:
        """Fewest distinct tokens of an answer."""
        return min(len(set(said.tokens)) for said in self.said)


class Drafted(msgspec.Struct, frozen=True):
    """Answers with and without drafts at one budget, by whether the text repeats, in each round."""

    key: Key
    budget: str
    plain: dict[str, list[Said]]
    drafted: dict[str, list[Said]]


class Built(msgspec.Struct, frozen=True):
    """A build: its time, the memory of its largest process, and the size of its file."""

    seconds: float
    peak_bytes: int
    file_bytes: int


@dataclass(frozen=True)
class Measured:
    """All of one model."""

    built: Built
    talk: Talk
    cases: list[Case]
    drafted: Drafted | None = None


def tables(measured: Sequence[Measured]) -> list[str]:
    """Lines of Markdown."""
    cases = [case for each in measured for case in each.cases]
    drafts = [row for each in measured for row in _drafts(each)]
    return [
        f"Written by `make bench-generation`: context of {CONTEXT}, medians of {ROUNDS} rounds in "
        f"which sides take turns. {conditions()[:-1]}, {cases[0].key.peers}.",
        "",
        "*Bound*: the larger time of computing with everything in memory and of reading a token's",
        "bytes, in the same round. *A/A*: our side over itself. *Peak*: by the kernel, above the",
        "cost of our process with a model of one operator; the budget is the limit. *Equal*:",
        "prompts whose greedy tokens are those of onnxruntime-genai without a limit, 200 for each",
        "question and 60 for the seeded model.",
        "",
        *table(_OURS, (_ours(case) for case in cases)),
        "",
        "Peers have the limit of their own fixed cost and our budget, page cache dropped before:",
        "tokens per second, and in brackets ours over theirs in the same rounds.",
        "",
        *table(_THEIRS, (_theirs(case) for case in cases)),
        "",
        *table(_BUILDS, (_built(each) for each in measured)),
        *(["", "With drafts (`--draft ngram`), in turn with none:", ""] if drafts else []),
        *(table(_DRAFTS, drafts) if drafts else []),
    ]


def spoken(measured: Sequence[Measured]) -> Iterator[str]:
    """Texts that were compared, and failures of peers."""
    for each in measured:
        yield f"{each.cases[0].model}: at least {each.talk.distinct} distinct tokens"
        yield from each.talk.texts
        for case in each.cases:
            for name in PEERS:
                if (taken := case.sides.get(name)) and taken.note:
                    yield f"{case.model} at {case.budget}, {name}: {taken.note}"


_OURS = (
    *("model", "budget", "size:", "read a token:", "tokens/s:", "of the bound:", "A/A:"),
    *("first token ms:", "peak:", "equal:"),
)
_THEIRS = (
    *("model", "budget", "ours:", "llama.cpp", "onnxruntime-genai"),
    *("onnxruntime-genai without a limit", "ours in memory over it:"),
)
_BUILDS = ("model", "file:", "distinct tokens:", "build s:", "largest process of the build:")
_DRAFTS = (
    *("model", "budget", "text", "tokens/s:", "with drafts:", "ratio:"),
    *("read a token:", "with drafts:", "drafted tokens:"),
)


def _ours(case: Case) -> tuple[str, ...]:
    first = (case.model, case.budget, format_size(case.budget_bytes))
    if case.note:
        return (*first, case.note, *("-",) * (len(_OURS) - 4))
    ours = case.sides["ours"]
    return (
        *first,
        format_size(round(median(said.read_bytes for said in ours.said))),
        _speed(case.token_ms("ours")),
        f"{case.ratio('paired', case.bound_ms):.2f}",
        f"{case.ratio('again', 'ours'):.2f}",
        f"{median(said.first_ms for said in ours.said):.0f}",
        format_size(ours.peak_bytes),
        f"{sum(case.equal)} of {len(case.equal)}",
    )


def _theirs(case: Case) -> tuple[str, ...]:
    ours = case.token_ms("ours")
    unlimited = case.token_ms("unlimited")
    return (
        *(case.model, case.budget, _speed(ours) if ours else "-"),
        *(_peer(case, name) for name in PEERS),
        _speed(unlimited) if unlimited else "-",
        f"{1 / case.ratio('resident', 'unlimited'):.2f}" if unlimited else "-",
    )


def _peer(case: Case, name: str) -> str:
    taken = case.sides.get(name)
    if taken is None or not taken.said:
        return taken.note if taken else "-"
    times = case.token_ms(name)
    ratio = f" ({1 / case.ratio('ours', name):.1f})" if case.token_ms("ours") else ""
    return f"{_speed(times)}{ratio}{'; ' if taken.note else ''}{taken.note}"


def _built(measured: Measured) -> tuple[str, ...]:
    built = measured.built
    return (
        measured.cases[0].model,
        format_size(built.file_bytes),
        str(measured.talk.distinct),
        f"{built.seconds:.0f}",
        format_size(built.peak_bytes),
    )


def _drafts(measured: Measured) -> Iterator[tuple[str, ...]]:
    found = measured.drafted
    for text, plain in found.plain.items() if found else ():
        assert found is not None
        drafted = found.drafted[text]
        ratios = [a.later_ms / b.later_ms for a, b in zip(plain, drafted, strict=True)]
        yield (
            *(measured.cases[0].model, found.budget, text),
            *(_speed([said.later_ms for said in each]) for each in (plain, drafted)),
            f"{median(ratios):.2f}",
            *(format_size(round(each[-1].read_bytes)) for each in (plain, drafted)),
            f"{drafted[-1].accepted} of {len(drafted[-1].tokens)}",
        )


def _speed(times_ms: Sequence[float]) -> str:
    return f"{1e3 / median(times_ms):.1f}"
