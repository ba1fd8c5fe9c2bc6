"""Ways to generate tokens, each in a process of its own: ours, onnxruntime-genai, llama-cpp-python.

``python -m tests.evidence.talkers`` is that process. The libraries of the others are in an
environment of their own (``make peers``).
"""

from __future__ import annotations

import json
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean, median
from typing import Any

import msgspec

from swapnet.errors import BackendUnavailableError
from swapnet.executor.bench.sides import Request, Side
from swapnet.executor.bench.timing import Round
from swapnet.executor.bench.worker import serve_side
from swapnet.executor.engine import Engine
from swapnet.executor.executor import SwapExecutor
from swapnet.executor.generation.draft import Draft
from swapnet.executor.generation.generator import Generator
from swapnet.executor.probing.reader import BackgroundReader
from swapnet.executor.swapping.storage import LoadMode, WeightFile
from swapnet.manifest import WEIGHTS, Extent

__all__ = ["CONTEXT", "Said", "Talker", "open_talker"]

CONTEXT = 256
"""Most tokens of prompt and answer, of each side."""

_TRIVIAL = (1, 2, 3)
"""Prompt of a trivial model, for the fixed cost."""


class Said(msgspec.Struct, frozen=True):
    """An answer.

    Attributes
    ----------
    tokens
        Its greedy tokens.
    first_ms
        Time from the prompt to the first of them.
    token_ms
        Median time of a later one; 0 without any.
    later_ms
        Mean time of a later one: some of a draft come together.
    read_bytes
        Bytes that our side read for each later one.
    """

    tokens: list[int]
    first_ms: float
    token_ms: float
    later_ms: float
    read_bytes: float = 0.0
    accepted: int = 0


class Talker(Side):
    """A side that answers prompts. Tokens that end a text are tokens like others."""

    def run(self, count: int) -> Round:
        """Answers of a token, for the fixed cost of a trivial model."""
        return Round.of([self.talk(_TRIVIAL, 1).first_ms for _ in range(count)])

    def talk(self, prompt: Sequence[int], most: int, at_most_s: float = 1e9) -> Said:
        """Answer with ``most`` tokens, or at least two of them where they take longer."""
        begun = last = time.perf_counter()
        tokens: list[int] = []
        taken: list[float] = []
        for token in islice(self.tokens(list(prompt)), most):
            tokens.append(token)
            taken.append(-last + (last := time.perf_counter()))
            if last - begun > at_most_s and len(tokens) > 1:
                break
        first, *later = (seconds * 1e3 for seconds in taken)
        middle, mean = (median(later), fmean(later)) if later else (0.0, 0.0)
        return Said(tokens, first, middle, mean, self.read_bytes(), self.accepted())

    @abstractmethod
    def tokens(self, prompt: list[int]) -> Iterator[int]:
        """Greedy tokens that follow a prompt, without end."""

    def read_bytes(self) -> float:
        """Bytes read for each token after the first of the latest answer."""
        return 0.0

    def accepted(self) -> int:
        """Drafted tokens of the latest answer."""
        return 0


class _Ours(Talker):
    """`Generator` at the budget; with ``streamed`` extents it also reads them as a plan would."""

    def __init__(self, request: Request, draft: Draft = "") -> None:
        engine = Engine.open(request.path).on_threads(request.threads, own=True)
        self._generator = Generator(engine, request.budget_bytes, CONTEXT, draft=draft)
        self._reader = None
        if request.streamed:
            storage = WeightFile(Path(request.path) / WEIGHTS, LoadMode(request.load_mode))
            extents = [Extent(offset, nbytes) for offset, nbytes in request.streamed]
            largest = max(extent.nbytes for extent in extents)
            self._reader = BackgroundReader(
                storage, extents, readers=request.readers, read_bytes=largest
            )

    def tokens(self, prompt: list[int]) -> Iterator[int]:
        return self._generator(prompt)

    def read_bytes(self) -> float:
        return self._generator.generated.read_bytes_per_token

    def accepted(self) -> int:
        return self._generator.generated.accepted

    def bytes_per_s(self) -> float:
        """Bandwidth of the extents, into huge pages; 0 without any."""
        return self._reader.total_bytes / self._reader.once() if self._reader else 0.0

    def close(self) -> None:
        self._generator.close()


class _OneOperator(Talker):
    """The process of ours that runs a trivial model."""

    def __init__(self, request: Request) -> None:
        self._executor = SwapExecutor(request.path, "100%")

    def tokens(self, prompt: list[int]) -> Iterator[int]:
        import numpy as np

        while True:
            yield int(self._executor({"x": np.ones(1, np.float32)})["y"][0])

    def close(self) -> None:
        self._executor.close()


class _GenAI(Talker):
    """onnxruntime-genai on a folder, with as many threads as ours."""

    def __init__(self, request: Request) -> None:
        self._library: Any = _library("onnxruntime_genai")
        config = self._library.Config(request.path)
        options = {"intra_op_num_threads": request.threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._model = self._library.Model(config)

    def tokens(self, prompt: list[int]) -> Iterator[int]:
        given = self._library.GeneratorParams(self._model)
        given.set_search_options(max_length=CONTEXT, do_sample=False)
        generator = self._library.Generator(self._model, given)
        generator.append_tokens(prompt)
        while not generator.is_done():
            generator.generate_next_token()
            yield int(generator.get_next_tokens()[0])


class _Llama(Talker):
    """llama-cpp-python on a file that it maps; prompts in chunks of ours.

    A trivial model has the file whose vocabulary counts as a fixed cost in ``inputs``.
    """

    def __init__(self, request: Request) -> None:
        library = _library("llama_cpp")
        if request.inputs:
            self._vocabulary = library.Llama(request.inputs, vocab_only=True, verbose=False)
        self._llama: Any = library.Llama(
            request.path,
            n_ctx=CONTEXT,
            n_batch=128,
            n_threads=request.threads,
            n_threads_batch=request.threads,
            use_mmap=True,
            verbose=False,
        )

    def tokens(self, prompt: list[int]) -> Iterator[int]:
        self._llama.reset()  # else a prompt that begins as the one before is not computed again
        yield from self._llama.generate(prompt, temp=0.0, repeat_penalty=1.0)


_SIDES: dict[str, Callable[[Request], Talker]] = {
    "ours": _Ours,
    "drafts": partial(_Ours, draft="ngram"),
    "one operator": _OneOperator,
    "genai": _GenAI,
    "llama": _Llama,
}


def open_talker(request: Request) -> Talker:
    """The side that a request asks for."""
    return _SIDES[request.role](request)


def _library(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError as error:
        raise BackendUnavailableError(
            f"{name} is not here", why=str(error), hint="make peers"
        ) from error


if __name__ == "__main__":
    sys.exit(serve_side(open_talker))
