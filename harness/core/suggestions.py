"""Did-you-mean clauses for unknown names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """A did-you-mean clause, or every known name where none is near.

    >>> nearest("flickr", ["flickr30k", "coco"])
    'did you mean flickr30k?'
    >>> nearest("zzz", ["flickr30k", "coco"])
    'known are coco, flickr30k'
    """
    names = sorted(set(known))
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(names)}"
