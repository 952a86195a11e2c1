"""Token transport at several depths, and over the batch by the tokens: R@1 and R@10, text to image, on val, after training.

python -m benchmarks.depths ENCODER DATA LANG[,LANG] PAIRS SEEDS [DEVICE]

Each way trains the same student, of the teacher's layers, for the same steps over the same batches, at the default learning rate.
Means over the seeds 0, 1, ... With 1,000 pairs a way, language and seed take four to twenty minutes on a core.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from benchmarks.alignments import Found, Trial, prepared, show
from harness.core.builtins import load_encoder
from harness.core.config import DistillConfig
from harness.distill.data.subwords import tokenize
from harness.distill.model.tower import Encoded, TextTower, Tokens, pad_token_ids
from harness.distill.objectives import cosine_similarities, info_nce, kd_mse, ot_batch, ot_token, symmetric_kl
from harness.distill.trainer import batch_rows, learning_rate
from harness.distill.transport.batches import batch_target
from harness.distill.transport.tokens import token_transport
from harness.retrieval.ranking import hit_rate, rank
from harness.tasks.flickr30k import Flickr30k

Depths = Sequence[Encoded]
"""A batch after each block in order, and finally in the joint space."""

Loss = Callable[[Depths, Depths, DistillConfig], Tensor]


def at_depths(tower: TextTower, texts: Tokens) -> list[Encoded]:
    """Encode a batch with a tower."""
    device = tower.position_embedding.device
    lengths, ids = torch.tensor([len(text) for text in texts], device=device), pad_token_ids(texts).to(device)
    mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
    visible = None if tower.config.causal else mask[:, None, None, :]
    x, found = tower.embedding_norm(tower.token_embedding(ids) + tower.position_embedding[: ids.shape[1]]), []
    for block in tower.blocks:
        x = block(x, visible)
        found.append(x)
    found.append(tower.projection(tower.final_norm(x)))
    return [encoded(states.float(), lengths) for states in found]


def encoded(states: Tensor, lengths: Tensor) -> Encoded:
    """Return the states (B, L, d) of texts of these lengths, and their means."""
    mask = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
    states = states * mask[:, :, None]
    return Encoded(states, mask, states.sum(1) / lengths[:, None])


@torch.inference_mode()
def of_teacher(trial: Trial) -> list[list[Tensor]]:
    """Return the teacher's states of each English sentence at each depth."""
    teacher = TextTower(trial.lent.config).eval()
    teacher.load_state_dict(teacher.state_dict() | trial.lent.weights)
    teacher.to(trial.student.position_embedding.device)
    return [[depth.states[0].clone() for depth in at_depths(teacher, [text])] for text in trial.english]


def token_loss_at(*blocks: int) -> Loss:
    """`ot-token` with the mean of the transport costs after these blocks and in the joint space."""

    def loss(student: Depths, teacher: Depths, config: DistillConfig) -> Tensor:
        alone = config.model_copy(update={"sentence_weight": 0.0})
        costs = [ot_token(student[at], teacher[at], alone) for at in (*(block - 1 for block in blocks), -1)]
        return torch.stack(costs).mean() + config.sentence_weight * relative(student[-1], teacher[-1], config)

    return loss


def sentence_loss_at(*blocks: int) -> Loss:
    """The mean of `kd-mse` after these blocks and in the joint space, each relative to the teacher's norm: the control."""

    def loss(student: Depths, teacher: Depths, config: DistillConfig) -> Tensor:
        places = (*(block - 1 for block in blocks), -1)
        return torch.stack([relative(student[at], teacher[at], config) for at in places]).mean()

    return loss


def relative(student: Encoded, teacher: Encoded, config: DistillConfig) -> Tensor:
    """`kd-mse` in units of the teacher's squared norm."""
    return kd_mse(student, teacher, config) / teacher.pooled.square().sum(1).mean()


def closeness(x: Encoded, y: Encoded) -> Tensor:
    """Return the closeness (B, B) of sentences: the mean of their embeddings' cosine and 1 - their tokens' transport cost."""
    size = len(x.mask)
    places = torch.arange(size, device=x.mask.device)
    rows, columns = places.repeat_interleave(size), places.repeat(size)
    costs, _ = token_transport(x.states[rows], y.states[columns], x.mask[rows], y.mask[columns])
    return (cosine_similarities(x.pooled, y.pooled) + 1 - costs.view(size, size)) / 2


def fused(student: Depths, teacher: Depths, config: DistillConfig) -> Tensor:
    """`ot-batch` by `closeness`: a plan over the batch with transport costs over tokens, for the student as well."""
    with torch.no_grad():
        targets = batch_target(closeness(teacher[-1], teacher[-1]), config.batch_eps, config.batch_iterations)
    scores = closeness(student[-1], teacher[-1]) / config.temperature
    contrast = (info_nce(scores) + info_nce(scores.T)) / 2
    return config.alpha * contrast + (1 - config.alpha) * symmetric_kl(targets, scores, config)


WAYS: Mapping[str, Loss] = {
    "`kd-mse`": lambda student, teacher, config: kd_mse(student[-1], teacher[-1], config),
    "`kd-mse` after blocks 2 and 4 too": sentence_loss_at(2, 4),
    "`ot-token`": lambda student, teacher, config: ot_token(student[-1], teacher[-1], config),
    "`ot-token` after blocks 2 and 4 too": token_loss_at(2, 4),
    "`ot-token` after every block": token_loss_at(1, 2, 3, 4, 5, 6),
    "`ot-batch`": lambda student, teacher, config: ot_batch(student[-1], teacher[-1], config),
    "`ot-batch` by sentences and tokens": fused,
}


def trained(trial: Trial, told: Sequence[Sequence[Tensor]], loss: Loss, config: DistillConfig) -> tuple[float, float]:
    """Return R@1 and R@10 of a student trained as in `harness.distill.trainer`. told: the teacher's states."""
    tower = trial.student.train()
    device = tower.position_embedding.device
    optimiser = torch.optim.AdamW(tower.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=config.weight_decay)
    steps = config.steps_for(len(trial.bitext))
    for step, rows in enumerate(batch_rows(len(trial.bitext), config, steps, 0)):
        with torch.autocast(device.type, torch.bfloat16):
            student = at_depths(tower, [trial.foreign[row] for row in rows])
        lengths = torch.tensor([len(trial.english[row]) for row in rows], device=device)
        teacher = [
            encoded(pad_sequence(states, batch_first=True), lengths) for states in zip(*(told[row] for row in rows), strict=True)
        ]
        optimiser.zero_grad(set_to_none=True)
        loss(student, teacher, config).backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(config, step, steps)
        optimiser.step()
    texts = tokenize(trial.tokenizer, trial.retrieval.captions, trial.longest)
    ranks = rank(trial.images, tower.eval().embed(texts).cpu().numpy(), trial.retrieval.caption_images)
    return hit_rate(ranks.t2i, 1), hit_rate(ranks.t2i, 10)


def main(spec: str, data: str, langs: Sequence[str], pairs: int, seeds: int, device: str) -> None:
    """Print a row for each way."""
    teacher, task = load_encoder(spec, "cpu"), Flickr30k()
    found: Found = defaultdict(lambda: defaultdict(list))
    for lang in langs:
        for seed in range(seeds):
            trial = prepared(teacher, task, data, lang, pairs, seed)
            trial.student.to(device)
            told = of_teacher(trial)
            start = {name: value.clone() for name, value in trial.student.state_dict().items()}
            for name, loss in WAYS.items():
                trial.student.load_state_dict(start)
                found[name][lang].append(trained(trial, told, loss, DistillConfig(seed=seed)))
                print(f"{lang}, seed {seed}, {name}: {found[name][lang][-1]}", file=sys.stderr, flush=True)
    print(f"{pairs:,} pairs, {seeds} seeds, {device}: R@1 / R@10, text to image, val\n")
    show(found, langs)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3].split(","), int(sys.argv[4]), int(sys.argv[5]), (*sys.argv[6:], "cpu")[0])
