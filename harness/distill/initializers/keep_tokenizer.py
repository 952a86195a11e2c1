"""The initializer `keep-tokenizer`: the teacher's text tower as it is."""

from __future__ import annotations

from harness.distill.initializers.random import RandomSubwords
from harness.distill.initializers.vocabularies import TeacherTokens


class KeepTokenizer(RandomSubwords):
    """The teacher's tokenizer, embeddings, layers and projection: the baseline for languages in the teacher's script.

    With the teacher's pooling, the untrained student is the English tower.
    """

    vocabulary = TeacherTokens(adds_pieces=False)
