"""The transport viewer: between a sentence and its translation, which token is carried where, and at what cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.builtins import load_encoder
from harness.core.errors import HarnessError
from harness.core.languages import all_languages
from harness.core.objective_terms import reads_entities
from harness.core.plugins import without_code
from harness.core.protocols import TokenEncoder, TokenLocator, TokenNamer
from harness.leaderboards.board.builder import sanitize_line
from harness.leaderboards.board.page import render_page
from harness.leaderboards.board.publish import write_web_file
from harness.records.schema import TowerCard
from harness.records.towers import find_tower_folder, load_card
from harness.retrieval.phrases import chunked
from harness.retrieval.text_spans import within
from harness.storage.store import Store

if TYPE_CHECKING:
    from harness.distill.model.tower import Encoded
    from harness.distill.transport.problem import Transport

STEPS = 8
TOKEN_LENGTH = 40


def write_transport_page(tower: str, english: str, foreign: str, chunker: str, out: Path, device: str, store: Store) -> str:
    """Write the page of one sentence pair; say where it is, and what the transport costs.

    The plan is that of the tower's own objective: its solver, regularisation and weight of entities, which the chunker finds; for
    one trained otherwise, of `ot-token` with the same options. Raises HarnessError for an unknown tower, an empty sentence, or a
    teacher that is not the tower's.
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
    names, read = teacher_tokens(card, english, chunker, device)
    student, tokenizer = load_tower(folder)
    ids = tokenize(tokenizer, [foreign], student.config.max_length)
    with torch.inference_mode():
        asked = student.encode(ids)
        cost = cosine_cost(asked.states, read.states)
        weights = asked.mask, read.mask
        if read.entities is not None:
            untold = replace(asked, entities=torch.full(asked.mask.shape, torch.nan))
            weights = entity_weights(untold, read, card.config)
    solved = solve(cost, *weights, solver_of(card))
    foreign_names = [sanitize_line(tokenizer.id_to_token(number) or "", TOKEN_LENGTH) for number in ids[0]]
    page = render_page(
        "transport.html.j2",
        ("elements.js", "theme.js"),
        card=card,
        objective=sanitize_line(card.config.objective),
        method=solver_of(card).method,
        english=sanitize_line(english, 2000),
        foreign=sanitize_line(foreign, 2000),
        value=float(solved.value[0]),
        entities=[name for name, named in zip(names, read.entities[0], strict=True) if named]
        if read.entities is not None
        else None,
        **heat_maps(cost[0].tolist(), solved, weights[0][0].tolist(), names, foreign_names),
    )
    write_web_file(out, page)
    return f"Open {out.resolve()}: transport cost {float(solved.value[0]):.3f} ({solver_of(card).method})"


def teacher_tokens(card: TowerCard, english: str, chunker: str, device: str) -> tuple[list[str], Encoded]:
    """Names and states of the tokens of an English sentence under a tower's teacher; entities where the tower weighs them."""
    import torch

    from harness.distill.model.tower import Encoded

    teacher = load_encoder(without_code(card.teacher, card.digest), device)
    if teacher.fingerprint() != card.teacher_fingerprint:
        raise HarnessError(f"{card.teacher} is not the teacher of this tower: its weights differ")
    if not isinstance(teacher, TokenEncoder):
        raise HarnessError(f"{card.teacher} gives no token states (encode_tokens): there is nothing to carry")
    read = teacher.encode_tokens([english], "en")
    count = len(read.tokens)
    names = teacher.name_tokens(english) if isinstance(teacher, TokenNamer) else [f"token {k + 1}" for k in range(count)]
    entities = None
    if reads_entities(without_code(card.config.objective, card.digest)) and isinstance(teacher, TokenLocator):
        (phrases,) = chunked(chunker, [english], all_languages()["en"])
        (tokens,) = teacher.locate_tokens([english], "en")
        entities = torch.tensor([within(tokens, phrases, english)], dtype=torch.float32)
    states, pooled = (torch.from_numpy(rows) for rows in (read.tokens, read.pooled))
    mask = torch.ones(1, count, dtype=torch.bool)
    return [sanitize_line(name, TOKEN_LENGTH) for name in names], Encoded(states[None], mask, pooled, entities)


def solver_of(card: TowerCard) -> Any:
    """The solver that the tower's objective has, or that `ot-token` would have with its options."""
    from harness.distill.transport.problem import Solver

    unbalanced = "ot-unbalanced" in card.config.objective
    return Solver("unbalanced" if unbalanced else card.config.solver, eps=card.config.eps, rho=card.config.rho)


def heat_maps(
    cost: list[list[float]], solved: Transport, weights: list[float], english: list[str], foreign: list[str]
) -> dict[str, Any]:
    """Plan and cost as tables of English tokens (rows) against foreign ones (columns), each cell with its shade.

    weights: of the foreign tokens, in proportion to which they have mass. The plan is shown in percent of a foreign token's mass,
    so that a column adds up to 100 where marginals are kept. The cost is 1 - cos, in [0, 2]; its shades run from the dearest pair
    to the cheapest, so that dark is where mass wants to go.
    """
    scales = [100 * sum(weights) / weight for weight in weights]
    plan = [[scale * value for value in row] for scale, row in zip(scales, solved.plan[0].tolist(), strict=True)]
    low, high, most = min(map(min, cost)), max(map(max, cost)), max(map(max, plan)) or 1
    spread = (high - low) or 1
    return {
        "foreign_tokens": foreign,
        "plan": [
            (name, [(f"{row[place]:.1f}", round(STEPS * row[place] / most)) for row in plan])
            for place, name in enumerate(english)
        ],
        "cost": [
            (name, [(f"{row[place]:.2f}", round(STEPS * (high - row[place]) / spread)) for row in cost])
            for place, name in enumerate(english)
        ],
    }
