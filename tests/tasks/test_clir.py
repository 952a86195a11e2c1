"""Text-to-text retrieval: relevant captions, collections in the layout of BEIR, records, boards and a run."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest

from harness.core.builtins import TASKS
from harness.core.config import RunConfig
from harness.core.data import DOCUMENTS_A_PART, Listed, TextRetrieval
from harness.core.errors import HarnessError, MissingError
from harness.evaluation.planning import make_plans
from harness.evaluation.runner import measure_plan
from harness.leaderboards.board.builder import make_boards
from harness.leaderboards.board.config import load_board_configs
from harness.leaderboards.records.loading import find_records
from harness.leaderboards.records.submission import check_record
from harness.records.files import load_measures, load_ranks, load_record
from harness.retrieval.ranking import MISSED
from harness.runtime.console import Console
from harness.statistics.comparison import compare_records
from harness.statistics.comparison_schema import ComparisonOptions
from harness.statistics.measurement import Measurement
from harness.statistics.run_summary import summarise
from harness.storage.store import Store
from harness.tasks.clir import CORPUS_FILE, Clir, open_documents
from harness.tasks.flickr30k_clir import Flickr30kClir, matching_captions
from tests.support.command_line import harness
from tests.support.flickr30k_folders import write_lines
from tests.support.synthetic_records import reseal


def with_english(folder: Path, sentences: dict[str, list[str]]) -> Path:
    path = folder / "dataset_flickr30k.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        name = image["filename"].removesuffix(".jpg")
        if name in sentences:
            image["sentences"] = [{"raw": text} for text in sentences[name]]
    path.write_text(json.dumps(content))
    return folder


def texts(retrieval: TextRetrieval) -> tuple[str, ...]:
    assert isinstance(retrieval.documents, Listed)
    return retrieval.documents.texts


# flickr30k-clir


def test_relevant_captions_exclude_the_original_of_the_query(flickr30k_folder: Path) -> None:
    retrieval = Flickr30kClir().load(flickr30k_folder, "de", "test")
    assert retrieval.captions == ("Bildtext von 31.", "Bildtext von 32.", "Bildtext von 33.")
    assert texts(retrieval) == tuple(f"Caption {k} of {name}." for name in (31, 32, 33) for k in (0, 1))
    assert retrieval.relevant == ({0: 1}, {2: 1}, {4: 1})
    assert retrieval.barred == ((1,), (3,), (5,))
    assert retrieval.headline == "R@1"


def test_no_pictures_are_needed(flickr30k_folder: Path) -> None:
    shutil.rmtree(flickr30k_folder / "flickr30k-images")
    retrieval = Flickr30kClir().load(flickr30k_folder, "qu", "val")
    assert retrieval.images.ids == ("21",)
    with pytest.raises(HarnessError, match="no picture of 21 is read here"):
        retrieval.images.open(0)


def test_english_on_english_has_the_same_candidates(flickr30k_folder: Path) -> None:
    german = Flickr30kClir().load(flickr30k_folder, "de", "test")
    english = german.in_english()
    assert english.captions == tuple(f"Caption 1 of {name}." for name in (31, 32, 33))
    assert (english.documents, english.relevant, english.barred) == (german.documents, german.relevant, german.barred)
    assert english.texts_digest() != german.texts_digest()


def test_an_english_caption_excludes_itself_and_its_copy(flickr30k_folder: Path) -> None:
    with_english(flickr30k_folder, {"31": ["A dog runs.", "a dog runs", "Grass."], "32": ["A dog runs.", "Two cats."]})
    retrieval = Flickr30kClir().load(flickr30k_folder, "en", "test")
    assert retrieval.barred[:5] == ((0, 1), (0, 1), (2,), (3,), (4,))
    assert retrieval.relevant[:5] == ({2: 1}, {2: 1}, {0: 1, 1: 1}, {4: 1}, {3: 1})


def test_copies_of_a_caption_match_despite_spelling(flickr30k_folder: Path) -> None:
    """The English of Karpathy and of Multi30k differs in one caption of fifty: gray and grey, a corrected typing error."""
    spelled = ["A grey bird stands majestically on the beach.", "A gray bird stands on a beach, and waves roll in."]
    with_english(flickr30k_folder, {"33": spelled})
    raw = flickr30k_folder / "multi30k" / "data" / "task1" / "raw"
    write_lines(raw / "test_2016_flickr.en", ["A gray bird stands majestically on a beach.", "Caption 1 of 32."])
    retrieval = Flickr30kClir().load(flickr30k_folder, "de", "test")
    assert retrieval.barred[2] == (4,)
    assert retrieval.relevant[2] == {5: 1}


@pytest.mark.parametrize(
    ("text", "found"),
    [("A dog runs.", [0, 2]), ("a dog, runs", [0, 2]), ("A dog ran.", []), ("A small dog ran over the gras.", [1]), (None, [])],
)
def test_the_most_similar_captions_match_above_the_threshold(text: str | None, found: list[int]) -> None:
    captions = ("A dog runs.", "A small dog ran over the grass.", "A dog runs", "A cat.")
    assert matching_captions(text, range(4), captions) == found


def test_queries_without_relevant_captions_are_left_out_and_counted(flickr30k_folder: Path) -> None:
    with_english(flickr30k_folder, {"32": ["Caption 1 of 32."]})
    retrieval = Flickr30kClir().load(flickr30k_folder, "de", "test")
    assert retrieval.caption_ids == ("31#0", "33#0")
    assert len(texts(retrieval)) == 5, "what nobody looks for may still be found in its place"
    assert any(note.startswith("1 of 3 queries (multi30k) have no English caption to find") for note in retrieval.notes)
    with_english(flickr30k_folder, {name: [f"Caption 1 of {name}."] for name in ("31", "33")})
    with pytest.raises(HarnessError, match="no de caption of test has a relevant English caption"):
        Flickr30kClir().load(flickr30k_folder, "de", "test")


def test_a_query_whose_original_is_missing_is_counted(flickr30k_folder: Path) -> None:
    raw = flickr30k_folder / "multi30k" / "data" / "task1" / "raw"
    write_lines(raw / "test_2016_flickr.en", ["Something else entirely.", "Caption 1 of 32."])
    retrieval = Flickr30kClir().load(flickr30k_folder, "de", "test")
    assert retrieval.barred == ((1,), (3,), ())
    assert "1 of 3 queries (multi30k) translate a caption that is not among the English ones" in retrieval.notes


def test_independent_captions_have_all_captions_of_their_image(flickr30k_folder: Path) -> None:
    write_lines(flickr30k_folder / "captions" / "sw.tsv", ["31.jpg\tPicha.", "32.jpg\tNyingine."])
    retrieval = Flickr30kClir().load(flickr30k_folder, "sw", "test")
    assert retrieval.relevant == ({0: 1, 1: 1}, {2: 1, 3: 1})
    assert retrieval.barred == ((), ())
    assert len(texts(retrieval)) == 6, (
        "documents are those of the whole split: a language that lacks a caption makes nothing easier"
    )
    assert "2 of 3 images have a caption in sw" in retrieval.notes


def test_splits_whose_images_have_one_english_caption_are_not_offered(flickr30k_folder: Path) -> None:
    with pytest.raises(HarnessError, match="unknown split 'test_2017_flickr': flickr30k-clir has val, test"):
        Flickr30kClir().load(flickr30k_folder, "de", "test_2017_flickr")


def test_the_digest_depends_on_candidates_and_relevance(flickr30k_folder: Path) -> None:
    retrieval = Flickr30kClir().load(flickr30k_folder, "de", "test")
    documents = Listed(("a", *retrieval.documents.ids[1:]), texts(retrieval))  # type: ignore[attr-defined]
    changes: list[dict[str, Any]] = [
        {"documents": documents},
        {"relevant": ({0: 2}, *retrieval.relevant[1:])},
        {"barred": ((), *retrieval.barred[1:])},
        {"captions": ("Anders.", *retrieval.captions[1:])},
    ]
    digests = {retrieval.texts_digest(), *(replace(retrieval, **change).texts_digest() for change in changes)}
    assert len(digests) == 5
    assert retrieval.take([0, 1, 2]).texts_digest() == retrieval.texts_digest()
    assert retrieval.take([2]).relevant == ({4: 1},)


# a collection in the layout of BEIR

CORPUS_LINES = [
    {"_id": "d1", "title": "Dogs", "text": "Dogs run."},
    {"_id": "d2", "text": "Cats sit."},
    {"_id": 3, "title": "", "text": "Fish swim."},
    {"_id": "q2", "text": "A document of a query's id."},
]
QUERY_LINES = [{"_id": "q1", "text": "Was rennt?"}, {"_id": "q2", "text": "Was sitzt?"}, {"_id": "q9", "text": "Ohne Urteil."}]
QRELS = ["query-id\tcorpus-id\tscore", "q1\td1\t2", "q1\td2\t1", "q1\t3\t0", "q2\td2\t1", "q2\tq2\t1", "q3\td1\t1", "q4\td1\t0"]


def as_lines(entries: list[dict[str, Any]]) -> list[str]:
    return [json.dumps(entry, ensure_ascii=False) for entry in entries]


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    folder = tmp_path / "animals"
    write_lines(folder / CORPUS_FILE, as_lines(CORPUS_LINES))
    write_lines(folder / "queries.jsonl", as_lines(QUERY_LINES))
    write_lines(folder / "qrels" / "test.tsv", QRELS)
    return folder


def test_a_collection_is_read_as_in_beir(collection: Path) -> None:
    retrieval = Clir().load(collection, "de", "test")
    assert retrieval.captions == ("Was rennt?", "Was sitzt?")
    assert retrieval.relevant == ({0: 2, 1: 1}, {1: 1}), "grades are kept, 0 is not relevant, and a query never finds its own id"
    assert retrieval.barred == ((), (3,))
    assert (retrieval.source, retrieval.headline, len(retrieval.documents)) == ("animals", "nDCG@10", 4)
    assert list(retrieval.documents.parts()) == [
        (["d1", "d2", "3", "q2"], ["Dogs Dogs run.", "Cats sit.", "Fish swim.", CORPUS_LINES[3]["text"]])
    ]
    assert "queries.jsonl does not say its language: taken to be German" in retrieval.notes
    assert "1 of 3 judged queries are not in queries.jsonl: left out" in retrieval.notes


def test_missing_relevant_documents_are_counted_and_stay_in_the_ideal_ranking(collection: Path) -> None:
    write_lines(collection / "qrels" / "test.tsv", [*QRELS, "q1\tgone\t2"])
    retrieval = Clir().load(collection, "de", "test")
    assert sorted(retrieval.relevant[0].values()) == [1, 2, 2]
    assert min(retrieval.relevant[0]) < -1
    assert any(note.startswith("1 of 4 relevant documents are not in corpus.jsonl") for note in retrieval.notes)


def test_gzip_files_are_read(collection: Path) -> None:
    plain = Clir().load(collection, "de", "test")
    for path in (collection / CORPUS_FILE, collection / "queries.jsonl", collection / "qrels" / "test.tsv"):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert Clir().load(collection, "de", "test").texts_digest() == plain.texts_digest()


def test_file_names_have_the_language(collection: Path) -> None:
    write_lines(
        collection / "queries.jsonl", as_lines([{"_id": "q1", "text": "What runs?"}, {"_id": "q2", "text": "What sits?"}])
    )
    write_lines(collection / "queries.de.jsonl", as_lines(QUERY_LINES))
    write_lines(collection / "queries.swh_Latn.jsonl", as_lines(QUERY_LINES[:1]))
    task = Clir()
    german = task.load(collection, "de", "test")
    assert german.english == ("What runs?", "What sits?")
    assert german.in_english().relevant == german.relevant
    assert task.load(collection, "Swahili", "test").caption_ids == ("q1",)
    assert task.load(collection, "en", "test").captions == german.english
    with pytest.raises(MissingError, match=r"has no French queries: looked for queries.fr.jsonl, found queries.de.jsonl, "):
        task.load(collection, "fr", "test")
    assert task.held_out(collection, "de").english == {"What runs?", "What sits?"}


def test_one_file_is_not_read_as_two_languages(collection: Path) -> None:
    """Otherwise `--lang all` would measure the same queries two hundred times, and English rows would have German queries."""
    task = Clir()
    task.load(collection, "de", "test")
    with pytest.raises(HarnessError, match=r"was read as de and cannot be fr too: rename it queries.de.jsonl"):
        task.load(collection, "fr", "test")
    with pytest.raises(MissingError, match="cannot be en too"):
        task.load(collection, "en", "test")
    assert Clir().load(collection, "en", "test").english is None


def broken(folder: Path, name: str, number: int, line: str) -> Path:
    path = folder / name
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[number - 1] = line
    write_lines(path, lines)
    return path


@pytest.mark.parametrize(
    ("name", "number", "line", "message"),
    [
        (CORPUS_FILE, 2, '{"_id": "d2", "text"', "Invalid JSON: EOF while parsing"),
        (CORPUS_FILE, 2, '["d2"]', "Input should be an object"),
        (CORPUS_FILE, 2, '{"text": "No id."}', "_id: Field required"),
        (CORPUS_FILE, 2, '{"_id": "", "text": "x"}', "String should have at least 1 character"),
        (CORPUS_FILE, 2, '{"_id": true, "text": "x"}', "Input should be a valid string"),
        (CORPUS_FILE, 3, '{"_id": "d3", "text": 7}', "text: Input should be a valid string"),
        (CORPUS_FILE, 3, '{"_id": "d3", "title": 7, "text": "x"}', "title: Input should be a valid string"),
        (CORPUS_FILE, 4, '{"_id": "d2", "text": "Twice."}', "the document 'd2' is on line 2 already"),
        ("queries.jsonl", 2, '{"_id": "q1", "text": "Twice."}', "the query 'q1' occurs twice"),
        ("queries.jsonl", 2, '{"_id": "q2", "text": " "}', "the query 'q2' is empty"),
        ("queries.jsonl", 1, "Was rennt?", "Invalid JSON"),
        ("qrels/test.tsv", 3, "q1 d2 1", "expected query id, document id and a whole number, separated by tabs"),
        ("qrels/test.tsv", 3, "q1\td2\t1.0", "expected query id, document id and a whole number"),
        ("qrels/test.tsv", 3, "q1\td2\t1\t1", "expected query id, document id and a whole number"),
        ("qrels/test.tsv", 3, "q1\td1\t1", "'d1' is judged twice for the query 'q1'"),
    ],
)
def test_a_malformed_line_is_named(collection: Path, name: str, number: int, line: str, message: str) -> None:
    path = broken(collection, name, number, line)
    with pytest.raises(HarnessError) as caught:
        Clir().load(collection, "de", "test")
    assert str(caught.value).startswith(f"{path}, line {number}: "), caught.value
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_and_missing_files_are_named(collection: Path, tmp_path: Path) -> None:
    task = Clir()
    with pytest.raises(HarnessError, match=r"qrels/dev.tsv is missing: the folder has the splits test"):
        task.load(collection, "de", "dev")
    with pytest.raises(HarnessError, match="unknown caption source 'multi30k': clir has one source, queries"):
        task.load(collection, "de", "test", "multi30k")
    with pytest.raises(HarnessError, match="is not a folder: give the folder of a collection with --data DIR or CLIR_ROOT"):
        task.load(tmp_path / "nowhere", "de", "test")
    (collection / f"{CORPUS_FILE}.gz").write_bytes(gzip.compress((collection / CORPUS_FILE).read_bytes())[:40])
    (collection / CORPUS_FILE).unlink()
    with pytest.raises(HarnessError, match=r"corpus.jsonl.gz cannot be read after line \d+: "):
        Clir().load(collection, "de", "test")
    (collection / f"{CORPUS_FILE}.gz").unlink()
    with pytest.raises(HarnessError, match=r"corpus.jsonl is missing: expected a folder in the layout of BEIR"):
        Clir().load(collection, "de", "test")


def test_a_corpus_is_read_in_parts(tmp_path: Path) -> None:
    count = 2 * DOCUMENTS_A_PART + 5
    path = tmp_path / CORPUS_FILE
    write_lines(path, [f'{{"_id": "d{number}", "text": "text {number}"}}' for number in range(count)])
    corpus, places = open_documents(path, {"d7", f"d{count - 1}", "gone"})
    assert len(corpus) == count
    assert places == {"d7": 7, f"d{count - 1}": count - 1}
    sizes = [len(ids) for ids, _ in corpus.parts()]
    assert sizes == [DOCUMENTS_A_PART, DOCUMENTS_A_PART, 5]
    with path.open("a") as file:
        file.write('{"_id": "more", "text": "more"}\n')
    with pytest.raises(HarnessError, match="no longer has 16,389 documents"):
        list(corpus.parts())


def test_data_check_lists_a_collection(collection: Path) -> None:
    found = {finding.what: finding for finding in Clir().check(collection)}
    assert {what: finding.detail for what, finding in found.items()} == {
        "documents": "4 in corpus.jsonl",
        "queries.jsonl": "3 queries",
        "qrels/test.tsv": "3 queries judged",
    }
    broken(collection, "queries.jsonl", 2, "{")
    (finding,) = (finding for finding in Clir().check(collection) if finding.what == "queries.jsonl")
    assert not finding.found
    assert "line 2" in finding.detail


def test_the_task_has_no_sample() -> None:
    with pytest.raises(HarnessError, match="clir has no embedded sample: give the folder of a collection"):
        TASKS.load("clir")().sample_version()


# runs, records, boards


def measured(tmp_path: Path, **choices: Any) -> tuple[list[Measurement], Store]:
    """Measure every cell of a run in this process."""
    store = Store(tmp_path / "store")
    (plan,), _ = make_plans(RunConfig(device="cpu", **choices), store)
    measure_plan(plan, store, Console())
    return [Measurement.read(cell.label, store.record(cell.key)) for cell in plan.cells], store


def features_of(folder: Path, rows: dict[tuple[str, str], list[float]]) -> str:
    kinds, ids = ["text"] * len(rows), [name for _, name in rows]
    np.savez(folder / "made.npz", kind=kinds, id=ids, lang=[lang for lang, _ in rows], embedding=np.array(list(rows.values())))
    return f"features:{folder / 'made.npz'}"


def test_embeddings_by_id_are_ranked_by_graded_relevance(collection: Path, tmp_path: Path) -> None:
    """q1 ranks a document judged 0 first, then the less relevant of its two documents, then the other."""
    rows = {("de", "q1"): [1, 0.0, 0], ("de", "q2"): [0, 1.0, 0]}
    rows |= {("en", "d1"): [0.5, 0.5, 0.7], ("en", "d2"): [0.8, 0.6, 0], ("en", "3"): [0.9, 0.1, 0], ("en", "q2"): [0, 1, 0]}
    encoder = features_of(tmp_path, rows)
    ((tower,), _) = measured(tmp_path, task="clir", lang="de", data=str(collection), encoder=encoder)
    record = tower.record
    assert (record.documents, record.headline, record.sought) == (4, "nDCG@10", "texts")
    assert tower.ranks.t2i.tolist() == [2, 1], "q2's own document would have come first"
    assert tower.values("t2i")["nDCG@10"][0] == pytest.approx(100 * (1 / np.log2(3) + 2 / 2) / (2 + 1 / np.log2(3)), rel=1e-5)
    assert tower.values("t2i")["MRR@10"].tolist() == [50, 100]
    assert record.scores["recall@100"] == 100
    assert "i2t_r1" not in record.scores
    summary = summarise([tower], "t2i", 200)
    assert summary.columns == ("R@1", "R@5", "R@10", "nDCG@10", "MRR@10", "recall@100")
    assert summary.headline == "nDCG@10"
    assert all(value is not None for value in summary.chance)


def test_the_measures_are_those_of_ir_measures_on_the_same_run_file(tmp_path: Path) -> None:
    """Folder, ranking, run file and judgements are handmade and share no code with the tested functions."""
    draw = np.random.default_rng(7)
    documents, queries = [f"d{n}" for n in range(150)], [f"q{n}" for n in range(8)]
    folder = tmp_path / "made"
    write_lines(folder / CORPUS_FILE, as_lines([{"_id": name, "title": "", "text": f"Text {name}."} for name in documents]))
    write_lines(folder / "queries.jsonl", as_lines([{"_id": name, "text": f"Frage {name}?"} for name in queries]))
    grades = [0, 1, 1, 1, 2, 2, 3, 3, 1]
    judged = {(q, d): grade for q in queries for d, grade in zip(draw.choice(documents, 9, False), grades, strict=True)}
    judged |= {("q0", "lost"): 2}
    write_lines(
        folder / "qrels" / "test.tsv", ["query-id\tcorpus-id\tscore", *(f"{q}\t{d}\t{g}" for (q, d), g in judged.items())]
    )
    rows = {("de", name): draw.normal(size=6).tolist() for name in queries}
    rows |= {("en", name): draw.normal(size=6).tolist() for name in documents}
    choices = {"task": "clir", "lang": "de", "data": str(folder), "encoder": features_of(tmp_path, rows)}
    ours = {"nDCG@10": "nDCG@10", "nDCG": "nDCG", "MRR@10": "RR@10", "AP": "AP", "recall@100": "R@100", "P@5": "P@5"}
    ours |= {"success@3": "Success@3"}
    ((tower,), _) = measured(tmp_path, measures=tuple(ours), **choices)

    def unit(lang: str, name: str) -> Any:
        return np.array(rows[lang, name]) / np.linalg.norm(rows[lang, name])

    run_file, qrels_file = tmp_path / "x.run", tmp_path / "x.qrels"
    cosines = {(q, d): float(unit("de", q) @ unit("en", d)) for q in queries for d in documents}
    write_lines(run_file, [f"{q} Q0 {d} 0 {cosine!r} x" for (q, d), cosine in cosines.items()])
    write_lines(qrels_file, [f"{q} 0 {d} {g}" for (q, d), g in judged.items()])
    theirs = ir_measures.calc_aggregate(
        [ir_measures.parse_measure(name) for name in (*ours.values(), "Success@1")],
        list(ir_measures.read_trec_qrels(str(qrels_file))),
        list(ir_measures.read_trec_run(str(run_file))),
    )
    of = {str(measure): 100 * value for measure, value in theirs.items()}
    found = {name: tower.record.scores[name] for name in (*ours, "t2i_r1")}
    assert found == pytest.approx({name: of[theirs] for name, theirs in (ours | {"t2i_r1": "Success@1"}).items()}, rel=1e-5)
    assert tower.record.headline == "nDCG@10"


def test_other_measures_are_another_cell_over_the_same_queries(collection: Path, tmp_path: Path) -> None:
    choices = {"task": "clir", "lang": "de", "data": str(collection), "encoder": "random", "objectives": ()}
    ((own,), _), ((other,), _) = measured(tmp_path, **choices), measured(tmp_path, measures=("ap", "P@5"), **choices)
    assert own.record.cell != other.record.cell
    assert own.record.texts_digest == other.record.texts_digest
    assert (own.record.headline, other.record.headline) == ("nDCG@10", "AP")
    assert list(other.values("t2i")) == ["R@1", "R@5", "R@10", "AP", "P@5"]
    with pytest.raises(HarnessError, match=r"unknown measure 'nDGC@10': did you mean nDCG\?"):
        measured(tmp_path, measures=("nDGC@10",), **choices)


def test_damaged_pictures_do_not_matter_to_text_retrieval(flickr30k_folder: Path, tmp_path: Path) -> None:
    choices = {"task": "flickr30k-clir", "lang": "de", "data": str(flickr30k_folder), "encoder": "random"}
    with pytest.raises(HarnessError, match="--skip-broken is for images, and flickr30k-clir opens none"):
        measured(tmp_path, skip_broken=True, **choices)


def test_text_measures_are_refused_for_images(flickr30k_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="--measures is for text-to-text retrieval, and flickr30k has its own"):
        measured(tmp_path, lang="de", data=str(flickr30k_folder), encoder="random", objectives=(), measures=("nDCG@10",))


def test_towers_are_compared_by_the_measure_of_the_task(collection: Path, tmp_path: Path) -> None:
    write_lines(
        collection / "queries.jsonl", as_lines([{"_id": "q1", "text": "What runs?"}, {"_id": "q2", "text": "What sits?"}])
    )
    write_lines(collection / "queries.de.jsonl", as_lines(QUERY_LINES))
    towers, store = measured(tmp_path, task="clir", lang="de", data=str(collection), encoder="random", objectives=())
    assert [tower.label for tower in towers] == ["English tower on German", "English tower, same queries"]
    folder = store.root / "records"
    (other,) = measured(tmp_path, task="clir", lang="de", data=str(collection), encoder="random:1", objectives=())[0][:1]
    pair = [str(folder / tower.record.cell) for tower in (towers[0], other)]
    (setting,) = compare_records(*pair, folder, ComparisonOptions(resamples=200)).settings
    assert (setting.metric, setting.sought) == ("nDCG@10", "texts")
    (line,) = setting.sections[0].lines
    assert line.only_a is None, "McNemar counts hits, and this is none"
    assert line.a.estimate == pytest.approx(towers[0].record.scores["nDCG@10"], rel=1e-5)
    (setting,) = compare_records(*pair, folder, ComparisonOptions(resamples=200, metric="mrr@10")).settings
    assert setting.metric == "MRR@10"
    with pytest.raises(HarnessError, match="--metric map: the records of clir have R@1, R@5, R@10, nDCG@10, MRR@10, recall@100"):
        compare_records(*pair, folder, ComparisonOptions(metric="map"))


def test_text_retrieval_has_its_own_boards_and_submissions(collection: Path, tmp_path: Path) -> None:
    write_lines(
        collection / "queries.jsonl", as_lines([{"_id": "q1", "text": "What runs?"}, {"_id": "q2", "text": "What sits?"}])
    )
    write_lines(collection / "queries.de.jsonl", as_lines(QUERY_LINES))
    towers, store = measured(tmp_path, task="clir", lang="de", data=str(collection), encoder="random", objectives=())
    (board,) = make_boards(
        load_board_configs(["clir"])[0], find_records([store.root / "records"]), TASKS.load("clir")().languages(), resamples=200
    )
    assert board.config.metric == "nDCG@10 query → English text"
    assert board.title.endswith(" · 2 queries")
    of_precision = load_board_configs(["clir"])[0].model_copy(update={"measure": "AP"})
    assert not make_boards(of_precision, find_records([store.root / "records"]), {}, resamples=200)
    ((row,), (ceiling,)) = board.rows, board.ceilings
    assert row.cells["de"].score.estimate == pytest.approx(towers[0].record.scores["nDCG@10"], rel=1e-5)
    assert ceiling.cells["de"].estimate == pytest.approx(towers[1].record.scores["nDCG@10"], rel=1e-5)
    for tower in towers:
        folder = store.record(tower.record.cell)
        assert check_record(folder) == tower.record
        record = folder / "record.json"
        record.write_text(record.read_text().replace('"nDCG@10": ', '"nDCG@10": 1', 1))
        reseal(folder)
        with pytest.raises(HarnessError, match=r"its scores do not reproduce: nDCG@10 is"):
            check_record(folder)


def shown_as_ranked(page: Path, folders: dict[str, Path]) -> None:
    """The browser marks relevant texts at the ranks of the records, with either scorer."""
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert data
    payload = json.loads(data[1])
    (part,) = payload["parts"]
    assert part["texts"]
    assert not any(query["places"] for query in part["queries"]), "nothing is drawn where there is no picture"
    for place, (name, _) in enumerate(payload["towers"]):
        ranks = load_ranks(folders["maxsim" if "maxsim" in name else "plain"])[0].t2i.tolist()
        assert len(ranks) == len(part["queries"])
        for query, rank in zip(part["queries"], ranks, strict=True):
            said, texts, right = query["finds"][place]
            assert said == (0 if rank == MISSED else rank)
            assert len(texts) == len(right) == 5
            assert (right.index(True) + 1 if any(right) else None) == (rank if rank <= 5 else None)


@pytest.mark.slow
def test_a_run_on_the_sample(tmp_path: Path) -> None:
    small = ("--objectives", "kd-mse", "--pairs", "100", "--steps", "2", "--resamples", "200", "--split", "val")
    done = harness("run", "--task", "flickr30k-clir", "--lang", "de,cy", *small, "--scorer", "maxsim", store=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "150 queries, 750 English texts: sample-translations (sample grammar)" in done.stdout
    for label in (
        "chance",
        "English tower on German",
        "kd-mse",
        "kd-mse + maxsim",
        "English tower, same queries",
        "all queries + maxsim",
    ):
        assert f" {label} " in done.stdout, label
    assert "query → English text: kd-mse + maxsim − kd-mse = " in done.stdout
    assert "query → English text, R@1 in percent" in done.stdout
    said = [line for line in done.stdout.splitlines() if "image" in line]
    about = ("leakage guard", "resamples of images", "shared by several images")
    assert all(any(words in line for words in about) for line in said), said
    assert done.stderr.count("embeds documents") == 1, "documents are embedded once for all languages and towers"
    folders = [path.parent for path in (tmp_path / "records").glob("*/record.json")]
    records = {folder: load_record(folder) for folder in folders}
    assert {(record.text_tower, record.scorer) for record in records.values()} == {
        (tower, scorer) for tower in ("english", "kd-mse") for scorer in ("plain", "maxsim")
    }
    for folder, record in records.items():
        ranks, owner = load_ranks(folder)
        assert len(ranks.t2i) == len(owner) == record.captions
        assert record.scores["MRR"] == pytest.approx(np.mean(100 / ranks.t2i), rel=1e-4)
        assert load_measures(folder).keys() == {"MRR", "nDCG@10"}
        assert check_record(folder) == record
    german = {record.scorer: folder for folder, record in records.items() if (record.lang, record.text_tower) == ("de", "kd-mse")}
    browsed = harness("browse", *(folder.name for folder in german.values()), "--out", str(tmp_path / "page"), store=tmp_path)
    assert browsed.returncode == 0, browsed.stderr
    assert [path.name for path in (tmp_path / "page").rglob("*")] == ["index.html"], "no pictures"
    shown_as_ranked(tmp_path / "page" / "index.html", german)
    refused = harness("run", "--task", "flickr30k-clir", "--lang", "de", "--scorer", "entities", "--split", "val", store=tmp_path)
    assert "error: --scorer entities needs images as candidates, and flickr30k-clir has texts" in refused.stderr
