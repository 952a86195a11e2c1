"""The tower `translate-test`: captions are translated into English by a machine, and the encoder's own text tower reads that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, Protocol, TypeAlias

from harness.core.builtins import load_translator
from harness.core.data import Retrieval
from harness.core.digests import digest_strings
from harness.core.errors import HarnessError
from harness.core.languages import ENGLISH
from harness.core.protocols import Translator
from harness.readers.translations import read_translations
from harness.records.schema import TRANSLATE_TEST
from harness.runtime.console import Console
from harness.storage.seals import load_json_entry, write_json_entry
from harness.storage.store import Store

TranslationSource: TypeAlias = Literal["file", "translator"]
_TEXTS_A_CALL = 256


class Translations(Protocol):
    """English for the captions of one retrieval. source: the file or the translator, for people."""

    @property
    def source(self) -> str:
        """Where they come from."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of them."""
        ...

    @property
    def by(self) -> TranslationSource:
        """What made them."""
        ...

    def cache_key_parts(self) -> list[str]:
        """What decides them: part of a cell's name."""
        ...

    def english(self, retrieval: Retrieval, store: Store, console: Console) -> tuple[str, ...]:
        """One for each caption, in their order."""
        ...


@dataclass(frozen=True)
class FileTranslations:
    """Translations that a file has. source: its name as it was given, `{lang}` and all, so that languages share it."""

    source: str
    texts: tuple[str, ...]
    notes: tuple[str, ...] = ()
    by: ClassVar[TranslationSource] = "file"

    def cache_key_parts(self) -> list[str]:
        """The texts: the same by another name are the same."""
        return [TRANSLATE_TEST, digest_strings(self.texts)]

    def english(self, retrieval: Retrieval, store: Store, console: Console) -> tuple[str, ...]:  # noqa: ARG002
        """As they stand."""
        return self.texts


@dataclass(frozen=True)
class MachineTranslations:
    """Translations that a translator makes when they are needed, and the store keeps."""

    translator: Translator
    notes: tuple[str, ...] = ()
    by: ClassVar[TranslationSource] = "translator"

    @property
    def source(self) -> str:
        """The translator's name."""
        return self.translator.name

    def cache_key_parts(self) -> list[str]:
        """The translator's fingerprint."""
        return [TRANSLATE_TEST, "translator", self.translator.fingerprint()]

    def english(self, retrieval: Retrieval, store: Store, console: Console) -> tuple[str, ...]:
        """Translate what the store does not have. Raises HarnessError if the translator gives anything but a text for each."""
        captions, lang = retrieval.captions, retrieval.lang
        texts: list[str] = []
        with console.stage(f"translates {lang}", len(captions), "captions") as advance:
            for start in range(0, len(captions), _TEXTS_A_CALL):
                part = captions[start : start + _TEXTS_A_CALL]
                path = store.translations(digest_strings([self.translator.fingerprint(), lang, *part]))
                texts += store.get_or_create(path, load_json_entry, partial(self.translate, part, lang, advance))
        return tuple(texts)

    def translate(self, texts: Sequence[str], lang: str, advance: Callable[[int, str], None], path: Path) -> list[str]:
        """Translate some texts and write them to a file of the store."""
        english = translate_checked(self.translator, texts, lang)
        write_json_entry(path, english)
        advance(len(texts), "")
        return english


def translate_checked(translator: Translator, texts: Sequence[str], lang: str) -> list[str]:
    """What a translator makes of some texts. Raises HarnessError if it is not a text for each."""
    english = list(translator.translate(texts, lang))
    if len(english) != len(texts):
        raise HarnessError(f"the translator {translator.name} gave {len(english):,} texts for {len(texts):,}")
    strange = [type(text).__name__ for text in english if not isinstance(text, str)]
    if strange:
        raise HarnessError(f"the translator {translator.name} gave {strange[0]} where a text was expected")
    return english


def with_translations(retrieval: Retrieval, english: tuple[str, ...]) -> Retrieval:
    """The same queries, as the English tower is to read them."""
    return replace(retrieval, lang=ENGLISH, captions=english, english=None, phrases=(), english_phrases=())


def load_file_translations(pattern: str, retrieval: Retrieval) -> FileTranslations:
    """Translations from the file of a retrieval's language: `{lang}` in the pattern stands for its code.

    Raises HarnessError as the reader does.
    """
    path = Path(pattern.replace("{lang}", retrieval.lang)).expanduser()
    found = read_translations(path, retrieval)
    return FileTranslations(Path(pattern).name, found.english, found.notes)


def load_machine_translations(spec: str, device: str) -> MachineTranslations:
    """Translations by a translator. Raises HarnessError if there is none of the name."""
    return MachineTranslations(load_translator(spec, device))
