"""Tokenizers of students: a model's own, with a prefix or a language mark in front of every text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import HarnessError
from harness.core.languages import all_languages, resolve_language
from harness.distill.data.subwords import framing_ids, set_framing
from harness.encoders.file_names import MODEL_CONFIG_FILE, PROMPTS_FILE
from harness.encoders.hugging_face.translation import language_mark
from harness.encoders.text_preparation import read_json_or_empty

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_END = "</s>"
# Beginnings of texts: letters of several scripts, a digit and punctuation.
_BEGINNINGS = ("a", "Two dogs", "ñ", "Два", "一", "كلب", "3", '"', "(")


def default_prefix(name: str, folder: Path) -> str:
    """Return the prefix that a model was trained with in front of every query, or "".

    It is the default prompt of `config_sentence_transformers.json`, else its prompt `query`. E5 models without this file have
    `query: ` (Wang et al., arXiv 2402.05672). They are recognised by their name.
    """
    stated = read_json_or_empty(folder / PROMPTS_FILE)
    prompts = stated.get("prompts")
    if isinstance(prompts, dict) and prompts:
        found = prompts.get(stated.get("default_prompt_name") or "query", "")
        return found if isinstance(found, str) else ""
    own_name = read_json_or_empty(folder / MODEL_CONFIG_FILE).get("_name_or_path", "")
    return "query: " if any(re.search(r"\be5(?!.*instruct)\b", str(text).lower()) for text in (name, own_name)) else ""


def add_prefix(tokenizer: Tokenizer, prefix: str) -> None:
    """Make a tokenizer read every text as if it began with a prefix.

    The prefix becomes part of the framing. An empty text has it too, and the spans of its tokens are empty, as those of other
    framing tokens. Raises HarnessError if the tokens of a text depend on the prefix before them, which framing cannot express.
    """
    if not prefix:
        return
    expected = [tokenizer.encode(prefix + text).ids for text in _BEGINNINGS]
    front, back = framing_ids(tokenizer)
    alone, joined = (tokenizer.encode(text, add_special_tokens=False).ids for text in ("a", prefix + "a"))
    set_framing(tokenizer, [*front, *joined[: len(joined) - len(alone)]], back)
    if [tokenizer.encode(text).ids for text in _BEGINNINGS] != expected:
        raise HarnessError(
            f"the model's tokenizer joins the prefix {prefix!r} to the words after it: give a prefix that ends in a space with "
            '--prefix, or none with --prefix ""'
        )


def frame_with_language(tokenizer: Tokenizer, name: str, lang: str) -> None:
    """Make the tokenizer of an NLLB or M2M-100 frame every text as `mark text </s>`, with the mark of a language.

    name: the model's, for messages. lang: BCP 47. Raises HarnessError if the model has no mark for the language, and for several
    languages, separated by commas.
    """
    if "," in lang:
        raise HarnessError(f"{name} starts every text with the mark of one language, so {lang} cannot share a tower of it")
    known = tokenizer.get_vocab()
    # The table of languages also lists the codes of FLORES-200, which NLLB uses.
    codes = (lang, *resolve_language(lang, all_languages()).aliases)
    marks = [mark for code in codes if (mark := language_mark(code, known))]
    if not marks:
        raise HarnessError(f"{name} starts every text with a language mark, and has none for {lang}")
    set_framing(tokenizer, [known[marks[0]]], [known[_END]])
