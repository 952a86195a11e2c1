"""The initializer `random`: the teacher's layers under random embeddings of new subwords."""

from __future__ import annotations

from harness.core.config import DistillConfig
from harness.core.data import Bitext
from harness.core.protocols import TextEncoder
from harness.distill.data.bitext import MonolingualText
from harness.distill.initializers.interface import BuiltinInitializer, Student, layers_of
from harness.distill.initializers.vocabularies import NewSubwords, Vocabulary, tower_with_embeddings


class RandomSubwords(BuiltinInitializer):
    """The teacher's layers under random embeddings of new subwords.

    vocabulary: the student's subwords, and their embeddings.
    """

    vocabulary: Vocabulary = NewSubwords()

    def student(self, teacher: TextEncoder, config: DistillConfig, bitext: Bitext, text: MonolingualText) -> Student:
        """Return the student. Raises HarnessError if the teacher cannot lend its layers."""
        donated = layers_of(teacher)
        tokenizer, embeddings = self.vocabulary.build(donated, config, bitext, text)
        return Student(tower_with_embeddings(donated, embeddings, config), tokenizer)
