"""Text to tokens and back, by the files of a tokenizer in an engine directory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from swapnet.errors import BackendUnavailableError, InputError
from swapnet.manifest import TOKENIZER

__all__ = ["Text"]

_CONFIGS = ("generation_config.json", "genai_config.json", "config.json")
"""Files that name the tokens that end an answer, the most telling first."""


class Text:
    """The tokenizer of an engine directory, by the packages `tokenizers` and `jinja2`.

    Attributes
    ----------
    ends
        Tokens that end an answer.

    Raises
    ------
    InputError
        The engine directory has no tokenizer, or a damaged one.
    BackendUnavailableError
        The package is not installed.
    """

    def __init__(self, engine: Path) -> None:
        self._folder = engine / TOKENIZER
        path = self._folder / "tokenizer.json"
        if not path.is_file():
            raise InputError(
                f"{engine} has no tokenizer",
                why=f"there is no {path}",
                hint="build the folder that the model was exported to, with its tokenizer.json; or "
                "give tokens: --prompt-ids 1,2,3",
            )
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise _missing("tokenizers", error) from error
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises this class itself
            raise _damaged(path, error) from error
        self._config = self._json("tokenizer_config.json")
        self.ends = frozenset(self._ends())

    def tokens(self, prompt: str, *, chat: bool = False) -> list[int]:
        """Tokens of a prompt; with ``chat`` as a question in the model's own form.

        Raises
        ------
        InputError
            The model has no form for a chat, or it does not fit.
        BackendUnavailableError
            The package `jinja2` is not installed.
        """
        text = self._as_chat(prompt) if chat else prompt
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=not chat).ids
        return ids

    def pieces(self, tokens: Iterator[int], stop: Sequence[str] = ()) -> Iterator[str]:
        """Text of tokens as they come, until one of the texts ``stop`` would come."""
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(skip_special_tokens=True)
        held, before = "", 0
        for token in tokens:
            try:
                held += stream.step(self._tokenizer, token) or ""
            except Exception:  # the package raises this class itself
                # Tokens of single bytes were no text together, and change what was said before.
                stream = DecodeStream(skip_special_tokens=True)
                for each in (before, token):
                    held += stream.step(self._tokenizer, each) or ""
            before = token
            if found := [held.index(end) for end in stop if end in held]:
                yield held[: min(found)]
                return
            # The end may be the beginning of a stop.
            kept = max((_overlap(held, end) for end in stop), default=0)
            yield held[: len(held) - kept]
            held = held[len(held) - kept :]
        yield held

    def _ends(self) -> Iterator[int]:
        for found in map(self._json, _CONFIGS):
            if (ids := found.get("model", found).get("eos_token_id")) is not None:
                yield from ids if isinstance(ids, list) else [ids]
                return
        if (end := self._tokenizer.token_to_id(self._special("eos_token"))) is not None:
            yield end

    def _special(self, name: str) -> str:
        found = self._config.get(name) or ""
        return str(found.get("content", "")) if isinstance(found, dict) else str(found)

    def _json(self, name: str) -> dict[str, Any]:
        path = self._folder / name
        try:
            found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise _damaged(path, error) from error
        return found

    def _as_chat(self, prompt: str) -> str:
        path = self._folder / "chat_template.jinja"
        template = path.read_text("utf-8") if path.is_file() else self._config.get("chat_template")
        if not isinstance(template, str):
            raise InputError(
                f"{self._folder.parent} has no form for a chat",
                why=f"there is no {path}, and no chat_template in tokenizer_config.json",
                hint="leave --chat out",
            )
        try:
            from jinja2 import TemplateError
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as error:
            raise _missing("jinja2", error) from error

        def refuse(reason: str) -> None:
            raise TemplateError(reason)

        try:
            made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
            return made.from_string(template).render(
                messages=[{"role": "user", "content": prompt}],
                add_generation_prompt=True,
                raise_exception=refuse,
                bos_token=self._special("bos_token"),
                eos_token=self._special("eos_token"),
            )
        except TemplateError as error:
            raise InputError(
                f"the chat's form of {self._folder.parent} can't be filled",
                why=str(error),
                hint="leave --chat out",
            ) from error


def _overlap(text: str, end: str) -> int:
    """Length of the longest end of ``text`` that ``end`` begins with."""
    return next((n for n in range(min(len(text), len(end)), 0, -1) if text.endswith(end[:n])), 0)


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is damaged", why=str(error), hint="build the engine again")


def _missing(package: str, error: ImportError) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"{package} is not installed",
        why=str(error),
        hint="pip install 'swapnet-trt[generate]'; or give tokens: --prompt-ids 1,2,3",
    )
