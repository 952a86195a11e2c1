"""The initializer `simalign:RULE`: the teacher's tokens, aligned by the similarity of their states in the teacher.

The counts of links become weights as in `ramen`; rules and source are in `harness.distill.alignment.simalign`. The teacher reads
the foreign sentences with its own tokenizer, since it has states of its own tokens alone: the student keeps these tokens.
SimAlign reads the eighth layer of a multilingual encoder; here the states are the teacher's last ones, in the joint space.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import sparse

from harness.core.data import Floats
from harness.core.errors import HarnessError
from harness.core.languages import ENGLISH
from harness.core.protocols import TokenEncoder
from harness.distill.alignment.cooccurrence import Sparse
from harness.distill.alignment.links import count_links, link_weights
from harness.distill.alignment.simalign import LINK_RULES, state_similarities
from harness.distill.initializers.aligned import AlignedSubwords, AlignmentInput
from harness.distill.initializers.vocabularies import TeacherTokens

PAIRS_AT_ONCE = 1000


class SimAlign(AlignedSubwords):
    """The teacher's tokens, aligned by the links of a rule of LINK_RULES."""

    rescales = False
    vocabulary = TeacherTokens(adds_pieces=False)

    def __init__(self, argument: str = "") -> None:
        super().__init__()
        if argument not in LINK_RULES:
            raise HarnessError(f"expected --init simalign:RULE with the rule {', '.join(LINK_RULES)}, not {argument!r}")
        self.rule = LINK_RULES[argument]

    def weights(self, given: AlignmentInput) -> Sparse:
        """Return the shares of each token's links (f, e). Raises HarnessError if the teacher gives no states of its tokens."""
        pairs = sorted(zip(given.bitext.foreign, given.bitext.english, strict=True))
        counts = sparse.csr_array(given.sizes)
        for first in range(0, len(pairs), PAIRS_AT_ONCE):
            sides = zip(*pairs[first : first + PAIRS_AT_ONCE], strict=True)
            states = list(zip(*(content_states(given, texts) for texts in sides), strict=True))
            links = [self.rule(state_similarities(x, y)) if len(x) and len(y) else set() for (_, x), (_, y) in states]
            counts = counts + count_links([(foreign, english) for (foreign, _), (english, _) in states], links, given.sizes)
        return link_weights(sparse.csr_array(counts))


def content_states(given: AlignmentInput, texts: Sequence[str]) -> Iterator[tuple[list[int], Floats]]:
    """Yield the ids and the states (n, d) of each text's tokens as the teacher reads them, without framing."""
    teacher = given.teacher
    if not isinstance(teacher, TokenEncoder):
        raise HarnessError("this teacher gives no states of its tokens (encode_tokens): use --init ramen")
    framing = [mark for mark in (given.donated.start, given.donated.end) if mark is not None]
    encoded = teacher.encode_tokens(texts, ENGLISH)
    for ids, states in zip(given.donated.tokenize(texts), np.split(encoded.tokens, np.cumsum(encoded.lengths)[:-1]), strict=True):
        kept = ~np.isin(ids, framing)
        yield np.array(ids)[kept].tolist(), states[kept]
