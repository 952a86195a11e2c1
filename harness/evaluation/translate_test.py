"""The tower `translate-test`: the encoder's own text tower reads machine translations of the captions into English."""

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
    """English translations of the captions of one retrieval."""

    @property
    def source(self) -> str:
        """The name of the file or the translator, for readers."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for readers of the record."""
        ...

    @property
    def by(self) -> TranslationSource:
        """The origin of the translations: a file or a translator."""
        ...

    def cache_key_parts(self) -> list[str]:
        """Return the parts of a cell's key that identify the translations."""
        ...

    def english(self, retrieval: Retrieval, store: Store, console: Console) -> tuple[str, ...]:
        """Return a translation for each caption, in order."""
        ...


@dataclass(frozen=True)
class FileTranslations:
    """Translations from a file. source: the given name with its `{lang}`, so that all languages share it."""

    source: str
    texts: tuple[str, ...]
    notes: tuple[str, ...] = ()
    by: ClassVar[TranslationSource] = "file"

    def cache_key_parts(self) -> list[str]:
        """Return a digest of the texts. The name of the file does not matter."""
        return [TRANSLATE_TEST, digest_strings(self.texts)]

    def english(self, retrieval: Retrieval, store: Store, console: Console) -> tuple[str, ...]:  # noqa: ARG002
        """Return the texts of the file."""
        return self.texts


@dataclass(frozen=True)
class MachineTranslations:
    """Translations that a translator makes on demand and the store caches."""

    translator: Translator
    notes: tuple[str, ...] = ()
    by: ClassVar[TranslationSource] = "translator"

    @property
    def source(self) -> str:
        """The translator's name."""
        return self.translator.name

    def cache_key_parts(self) -> list[str]:
        """Return the translator's fingerprint."""
        return [TRANSLATE_TEST, "translator", self.translator.fingerprint()]

    def english(self, retrieval: Retrieval, store: Store, console: Console) -> tuple[str, ...]:
        """Translate the captions that the store does not have. Raises HarnessError as `translate_checked`."""
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
    """Translate some texts. Raises HarnessError unless the translator returns a text for each."""
    english = list(translator.translate(texts, lang))
    if len(english) != len(texts):
        raise HarnessError(f"the translator {translator.name} returned {len(english):,} texts for {len(texts):,}")
    strange = [type(text).__name__ for text in english if not isinstance(text, str)]
    if strange:
        raise HarnessError(f"the translator {translator.name} returned {strange[0]}; expected a text")
    return english


def with_translations(retrieval: Retrieval, english: tuple[str, ...]) -> Retrieval:
    """Return a copy with English translations as captions, for the English tower."""
    return replace(retrieval, lang=ENGLISH, captions=english, english=None, phrases=(), english_phrases=())


def load_file_translations(pattern: str, retrieval: Retrieval) -> FileTranslations:
    """Load translations from a file. `{lang}` in the pattern stands for the code of the retrieval's language.

    Raises HarnessError as `read_translations`.
    """
    path = Path(pattern.replace("{lang}", retrieval.lang)).expanduser()
    found = read_translations(path, retrieval)
    return FileTranslations(Path(pattern).name, found.english, found.notes)


def load_machine_translations(spec: str, device: str) -> MachineTranslations:
    """Return the translations of a translator. Raises HarnessError if there is no translator of the name."""
    return MachineTranslations(load_translator(spec, device))
