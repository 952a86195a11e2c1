"""The findings of a study, collected from its records in the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from harness.core.arms import STEPLESS
from harness.core.config import DistillConfig
from harness.core.digests import digest_json
from harness.records.files import check_stored_record
from harness.records.provenance import command_line
from harness.records.schema import Provenance
from harness.retrieval.ranking import chance_rates
from harness.runtime.console import Console
from harness.statistics.matching import StoredRecord
from harness.storage.seals import load_readable
from harness.storage.store import Store
from harness.study.contrasts import (
    StudyRecords,
    ablation_families,
    arm_scores,
    facet_families,
    find_ablations,
    heterogeneity,
    secondary_contrasts,
    transport_families,
)
from harness.study.design import Arm, StudyConfig
from harness.study.findings import (
    ArmSummary,
    ContrastFamily,
    Findings,
    LanguageSummary,
    MissingCells,
    Origin,
    PlannedContrast,
    Replication,
)
from harness.study.grid import GridPosition, Study, StudyLanguage


def collect_findings(
    study: Study, store: Store, failed: Mapping[GridPosition, str], console: Console, looks: int = 1
) -> Findings:
    """Return the findings of the existing records. failed: cells that failed in this run, with the reason.

    looks: at the data with different sets of seeds, this one included.
    """
    languages = {code: language_summary(language, study.config, store) for code, language in study.languages.items()}
    grid = frozenset(step.place for step in study.steps)
    done = {step.place: entry for step in study.steps if (entry := find_stored_record(step.cell.key, store))}
    impossible = tuple((each.lang, each.pairs, each.reason) for each in study.impossible)
    return make_findings(StudyRecords(study.config, languages, grid, done, looks), failed, impossible, console)


def find_stored_record(cell: str, store: Store) -> StoredRecord | None:
    """Return a cell's record if it exists. A damaged record is named in a note and skipped."""
    folders = [folder for folder in [store.record(cell)] if folder.is_dir()]
    return next((StoredRecord(folder, record) for folder, record in load_readable(folders, check_stored_record)), None)


def language_summary(language: StudyLanguage, config: StudyConfig, store: Store) -> LanguageSummary:
    """Return the captions, the bitext and the English scores of a language."""
    captions, (guarded,) = language.english[0].retrieval, language.guarded
    towers = [find_stored_record(cell.key, store) for cell in language.english]
    scores = [entry.record.scores[f"{config.direction}_r1"] if entry else None for entry in towers]
    images = len(captions.images.ids)
    return LanguageSummary(
        code=language.language.code,
        name=language.language.name,
        script=language.language.script,
        tier=language.language.tier,
        gallery=captions.images.digest(),
        images=images,
        captions=len(captions.captions),
        source=captions.source,
        kind=captions.kind,
        texts_digest=captions.texts_digest(),
        usable=language.usable,
        dropped=guarded.dropped,
        bitext=guarded.bitext.source,
        bitext_kind=guarded.bitext.kind,
        notes=tuple(dict.fromkeys((*captions.notes, *guarded.bitext.notes))),
        searched=len(language.search.retrieval.captions) if language.search else 0,
        sample=captions.sample,
        floor=scores[0],
        ceiling=scores[1] if len(scores) > 1 else None,
        chance=chance_rates(captions.caption_images, images)[f"{config.direction}_r1"],
    )


def make_findings(
    evidence: StudyRecords,
    failed: Mapping[GridPosition, str],
    impossible: Sequence[tuple[str, int | None, str]],
    console: Console,
) -> Findings:
    """Return the complete findings of a study."""
    config, records = evidence.config, [entry.record for entry in evidence.done.values()]
    pairs_of_arms = find_ablations(config)
    with console.stage("compares", 4 if config.replicate else 3, "parts") as advance:
        scores, parts = arm_scores(evidence), facet_families(evidence)
        advance(1, "")
        first = transport_families(evidence, config.seeds)
        advance(1, "")
        changes = ablation_families(evidence, pairs_of_arms, config.seeds)
        advance(1, "")
        again: tuple[ContrastFamily, ...] = ()
        if config.replicate:
            again = (
                *transport_families(evidence, config.replicate),
                *ablation_families(evidence, pairs_of_arms, config.replicate),
            )
            advance(1, "")
    repeated, later = match_replications((*first, *changes), again)
    return Findings(
        title=config.title,
        question=config.question,
        digest=digest_json(config.model_dump(mode="json")),
        command=command_line(),
        task=config.task,
        task_version=records[0].task_version if records else "",
        split=config.split,
        sample=any(language.sample for language in evidence.languages.values()),
        direction=config.direction,
        encoder=config.encoder,
        encoder_fingerprint=records[0].encoder_fingerprint if records else "",
        sizes=config.sizes,
        seeds=config.seeds,
        replicate=config.replicate,
        shared=shared_options(config),
        tuned=bool(config.distill.get("tune")),
        resamples=evidence.resamples,
        margin=config.margin,
        looks=evidence.looks,
        primary=config.primary if config.primary and first[1].planned else "means" if first[1].planned else "languages",
        baseline=config.on("standard")[0].name,
        arms=tuple(arm_summary(arm, evidence) for arm in config.arms),
        languages=tuple(evidence.languages.values()),
        planned=len(evidence.grid),
        done=len(evidence.done),
        points=tuple(scores),
        by_language=first[0],
        means=first[1],
        by_tier=first[2],
        facets=tuple(parts),
        ablated=tuple(pairs_of_arms),
        ablations=changes[0],
        ablation_means=changes[1],
        secondary=tuple(secondary_contrasts(evidence, first[1].verdicts or first[0].verdicts)),
        random_effects=tuple(heterogeneity(first[1].verdicts, first[0].verdicts)),
        repeated=tuple(repeated),
        found_later=later,
        left=tuple(missing_cells(evidence, failed)),
        impossible=tuple(impossible),
        unconverged=sum(record.tower.unconverged for record in records if record.tower),
        origins=tuple(record_origins([record.provenance for record in records])),
    )


def shared_options(config: StudyConfig) -> dict[str, object]:
    """Return the options that all arms share and that are not defaults."""
    chosen = DistillConfig(**config.distill).model_dump(mode="json", exclude_defaults=True)
    return {key: value for key, value in chosen.items() if key in config.distill}


def arm_summary(arm: Arm, evidence: StudyRecords) -> ArmSummary:
    """Return an arm with its learning rates and training time."""
    towers = [entry.record.tower for place, entry in evidence.done.items() if place.arm == arm.name and entry.record.tower]
    tuned = [tower.config for tower in towers if arm.objective not in STEPLESS]
    rates = Counter(config.peak_learning_rate for config in tuned)
    sizes = Counter(config.vocabulary for config in tuned if config.tune_vocabulary)
    steps = Counter(config.steps for config in tuned if config.tune_steps and config.steps)
    # Towers of several seeds share the trials of a language and size.
    trials = {(tower.lang, tower.bitext.used, trial) for tower in towers for trial in tower.tuning}
    return ArmSummary(
        name=arm.name,
        side=arm.side or "control",
        objective=arm.objective,
        init=arm.init,
        options=arm.options,
        rates=tuple(sorted(rates.items())),
        vocabularies=tuple(sorted(sizes.items())),
        steps=tuple(sorted(steps.items())),
        hours=sum(tower.seconds for tower in towers) / 3600,
        trials=len(trials),
        search_hours=sum(trial.seconds or 0.0 for _, _, trial in trials) / 3600,
    )


def match_replications(first: Sequence[ContrastFamily], again: Sequence[ContrastFamily]) -> tuple[list[Replication], int]:
    """Pair each significant contrast with its replication.

    Returns these pairs and the number of contrasts that are significant with the replication seeds only.
    """
    found, later = [], 0
    for one, other in zip(first, again, strict=False):
        twins = {(each.arm, each.pairs, each.value, each.langs, rival_key(one, each)): each for each in other.verdicts}
        for each in one.verdicts:
            twin = twins.get((each.arm, each.pairs, each.value, each.langs, rival_key(one, each)))
            if each.outcome != "tie":
                found.append(Replication(family=one.name, claim=each, again=twin))
            elif twin and twin.outcome != "tie":
                later += 1
    return found, later


def rival_key(of: ContrastFamily, test: PlannedContrast) -> str:
    """Return the part of a contrast's key that depends on the other arm.

    In an ablation the other arm is fixed. Elsewhere it is the best of several and may change.
    """
    return test.rival if of.name.startswith("ablation") else ""


def missing_cells(evidence: StudyRecords, failed: Mapping[GridPosition, str]) -> list[MissingCells]:
    """Return the missing cells by size, language and block of seeds, in the order of the run."""
    found = []
    for seeds in (evidence.config.seeds, evidence.config.replicate):
        for pairs in evidence.config.sizes:
            for lang in evidence.possible(pairs):
                planned = [GridPosition(arm.name, lang, pairs, seed) for seed in seeds for arm in evidence.config.arms]
                missing = [place for place in planned if place not in evidence.done]
                reasons = dict.fromkeys(
                    f"{place.arm}, seed {place.seed}: {failed[place]}" for place in missing if place in failed
                )
                if missing:
                    found.append(
                        MissingCells(
                            lang=lang,
                            pairs=pairs,
                            seeds=seeds,
                            cells=len(missing),
                            planned=len(planned),
                            reason="; ".join(reasons),
                        )
                    )
    return found


def record_origins(made: Sequence[Provenance]) -> list[Origin]:
    """Return the code versions and machines of the records, the most frequent first."""
    groups: dict[str, list[Provenance]] = {}
    for each in made:
        groups.setdefault(each.model_dump_json(exclude={"created", "command"}), []).append(each)
    return [
        Origin(
            records=len(group),
            first=min(each.created for each in group),
            last=max(each.created for each in group),
            **group[0].model_dump(exclude={"created", "command"}),
        )
        for group in sorted(groups.values(), key=len, reverse=True)
    ]
