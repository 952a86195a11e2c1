"""The transport viewer: a page of the transport plan and its cost between the tokens of a sentence and its translation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.arms import reads_entities
from harness.core.builtins import load_encoder
from harness.core.errors import HarnessError
from harness.core.languages import all_languages
from harness.core.plugins import without_code
from harness.core.protocols import TokenEncoder, TokenLocator, TokenNamer
from harness.leaderboards.rendering import render_page, sanitize_line, write_web_file
from harness.records.schema import TowerCard
from harness.records.towers import find_tower_folder, load_card
from harness.retrieval.phrases import chunk_phrases
from harness.retrieval.text_spans import tokens_in_phrases
from harness.storage.store import Store

if TYPE_CHECKING:
    from harness.distill.model.tower import Encoded
    from harness.distill.transport.problem import Transport

_SHADES = 8
_TOKEN_LENGTH, _SENTENCE_LENGTH = 40, 2000


def write_transport_page(tower: str, english: str, foreign: str, chunker: str, out: Path, device: str, store: Store) -> str:
    """Write the page of one sentence pair, and return a line that says where it is and what the transport costs.

    The plan uses the solver, the regularization and the entity weight of the tower's objective; the chunker finds the entities.
    For a tower trained without transport, it is the plan of `ot-token` with the tower's options. Raises HarnessError for an
    unknown tower, an empty sentence, or a teacher that is not the tower's.
    """
    import torch

    from harness.distill.checkpoint import load_tower
    from harness.distill.data.subwords import tokenize
    from harness.distill.objectives import entity_weights
    from harness.distill.transport.problem import cosine_cost
    from harness.distill.transport.solvers import solve

    folder = find_tower_folder(tower, store)
    card = load_card(folder)
    for option, text in (("--english", english), ("--foreign", foreign)):
        if not text.strip():
            raise HarnessError(f"{option} is empty: give a sentence")
    names, teacher_states = teacher_tokens(card, english, chunker, device)
    student, tokenizer = load_tower(folder)
    ids = tokenize(tokenizer, [foreign], student.config.max_length)
    with torch.inference_mode():
        student_states = student.encode(ids)
        cost = cosine_cost(student_states.states, teacher_states.states)
        weights = student_states.mask, teacher_states.mask
        if teacher_states.entities is not None:
            without_entities = replace(student_states, entities=torch.full(student_states.mask.shape, torch.nan))
            weights = entity_weights(without_entities, teacher_states, card.config)
    solved = solve(cost, *weights, solver_of(card))
    foreign_names = [sanitize_line(tokenizer.id_to_token(number) or "", _TOKEN_LENGTH) for number in ids[0]]
    page = render_page(
        "transport.html.j2",
        ("elements.js", "theme.js"),
        card=card,
        objective=sanitize_line(card.config.objective),
        method=solver_of(card).method,
        english=sanitize_line(english, _SENTENCE_LENGTH),
        foreign=sanitize_line(foreign, _SENTENCE_LENGTH),
        value=float(solved.value[0]),
        entities=[name for name, named in zip(names, teacher_states.entities[0], strict=True) if named]
        if teacher_states.entities is not None
        else None,
        **heat_maps(cost[0].tolist(), solved, weights[0][0].tolist(), names, foreign_names),
    )
    write_web_file(out, page)
    return f"Open {out.resolve()}: transport cost {float(solved.value[0]):.3f} ({solver_of(card).method})"


def teacher_tokens(card: TowerCard, english: str, chunker: str, device: str) -> tuple[list[str], Encoded]:
    """Return the names and teacher states of a sentence's tokens, with entities if the tower's objective weights them."""
    import torch

    from harness.distill.model.tower import Encoded

    teacher = load_encoder(without_code(card.teacher, card.digest), device)
    if teacher.fingerprint() != card.teacher_fingerprint:
        raise HarnessError(f"{card.teacher} is not the teacher of this tower: its fingerprint differs")
    if not isinstance(teacher, TokenEncoder):
        raise HarnessError(f"{card.teacher} returns no token states (encode_tokens), which the transport needs")
    encoded = teacher.encode_tokens([english], "en")
    count = len(encoded.tokens)
    names = teacher.name_tokens(english) if isinstance(teacher, TokenNamer) else [f"token {k + 1}" for k in range(count)]
    entities = None
    if reads_entities(without_code(card.config.objective, card.digest)) and isinstance(teacher, TokenLocator):
        (phrases,) = chunk_phrases(chunker, [english], all_languages()["en"])
        (tokens,) = teacher.locate_tokens([english], "en")
        entities = torch.tensor([tokens_in_phrases(tokens, phrases, english)], dtype=torch.float32)
    states, pooled = (torch.from_numpy(rows) for rows in (encoded.tokens, encoded.pooled))
    mask = torch.ones(1, count, dtype=torch.bool)
    return [sanitize_line(name, _TOKEN_LENGTH) for name in names], Encoded(states[None], mask, pooled, entities)


def solver_of(card: TowerCard) -> Any:
    """Return the solver of the tower's objective, or of `ot-token` with the tower's options."""
    from harness.distill.transport.problem import Solver

    unbalanced = "ot-unbalanced" in card.config.objective
    return Solver("unbalanced" if unbalanced else card.config.solver, eps=card.config.eps, rho=card.config.rho)


def heat_maps(
    cost: list[list[float]], solved: Transport, weights: list[float], english: list[str], foreign: list[str]
) -> dict[str, Any]:
    """Return plan and cost as tables of English tokens (rows) by foreign tokens (columns), each cell with its shade.

    weights: of the foreign tokens, proportional to their masses. The plan is in percent of a foreign token's mass: a column sums
    to 100 if the solver enforces the marginals. The cost is 1 - cos, in [0, 2]. Its shades run from the most expensive pair to
    the cheapest, so that mass tends to move where the table is dark.
    """
    scales = [100 * sum(weights) / weight for weight in weights]
    plan = [[scale * value for value in row] for scale, row in zip(scales, solved.plan[0].tolist(), strict=True)]
    low, high, most = min(map(min, cost)), max(map(max, cost)), max(map(max, plan)) or 1
    spread = (high - low) or 1
    return {
        "foreign_tokens": foreign,
        "plan": [
            (name, [(f"{row[place]:.1f}", round(_SHADES * row[place] / most)) for row in plan])
            for place, name in enumerate(english)
        ],
        "cost": [
            (name, [(f"{row[place]:.2f}", round(_SHADES * (high - row[place]) / spread)) for row in cost])
            for place, name in enumerate(english)
        ],
    }
