"""The command line, run in a subprocess as users run it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.runtime.console import ASCII_FALLBACK, UnfailingFile
from tests.support.command_line import ROOT, SMALL_RUN, environment, harness, wait_for_file


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with the results of a small run over the sample."""
    folder = tmp_path_factory.mktemp("store")
    done = harness("run", "--lang", "de", *SMALL_RUN, store=folder)
    assert done.returncode == 0, done.stderr
    (folder / "stdout.txt").write_text(done.stdout)
    (folder / "stderr.txt").write_text(done.stderr)
    return folder


def scores_of(store: Path) -> dict[str, dict[str, float]]:
    records = [json.loads(path.read_text()) for path in store.glob("records/*/record.json")]
    return {f"{record['text_tower']} {record['lang']} {record['captions']}": record["scores"] for record in records}


def test_the_table_has_every_row_and_says_what_data_this_was(store: Path) -> None:
    table = (store / "stdout.txt").read_text()
    for row in (
        "chance",
        "English tower on German",
        "kd-mse@keep-tokenizer",
        "ot-token",
        "kd-mse@ot-teacher-tokens",
        "English tower, same captions",
        "all captions",
    ):
        assert table.count(f" {row}") >= 2, row
    assert "NOT Flickr30k" in table
    assert "the leakage guard dropped" in table
    assert re.search(r"ot-token − kd-mse@keep-tokenizer = [+-]\d+\.\d points of R@1: (differs|inconclusive)", table)


def test_piped_output_is_plain_text(store: Path) -> None:
    assert "\x1b" not in (store / "stdout.txt").read_text() + (store / "stderr.txt").read_text()


def test_english_is_measured_on_the_same_captions_and_on_all(store: Path) -> None:
    counts = sorted(json.loads(path.read_text())["captions"] for path in store.glob("records/*/record.json"))
    assert counts[:5] == [counts[0]] * 5
    assert counts[5] == 5 * counts[0]


def test_a_second_run_prints_the_same_without_loading_a_model(store: Path) -> None:
    code = "import sys; from harness.cli.app import app; app(standalone_mode=False); sys.exit('torch' in sys.modules)"
    again = harness("run", "--lang", "de", *SMALL_RUN, store=store, code=code)
    assert again.returncode == 0, again.stderr
    assert again.stdout == (store / "stdout.txt").read_text()
    assert again.stderr == ""


def test_the_same_seed_in_another_store_gives_the_same_scores_to_the_byte(store: Path, tmp_path: Path) -> None:
    assert harness("run", "--lang", "de", *SMALL_RUN, store=tmp_path).returncode == 0
    assert scores_of(tmp_path) == scores_of(store)


def test_the_scores_of_a_record_can_be_reproduced_from_its_ranks(store: Path) -> None:
    from harness.records.files import load_ranks, load_record
    from harness.retrieval.ranking import chance_rates, retrieval_scores

    for folder in (store / "records").iterdir():
        record, (ranks, owner) = load_record(folder), load_ranks(folder)
        assert retrieval_scores(ranks) == record.scores
        assert chance_rates(owner, record.images) == record.chance
        assert (len(ranks.i2t), len(ranks.t2i)) == (record.images, record.captions)


def test_records_hold_no_caption(store: Path) -> None:
    (data,) = (store / "samples").iterdir()
    caption = (data / "multi30k/data/task1/raw/test_2016_flickr.de").read_text(encoding="utf-8").splitlines()[0]
    for path in (store / "records").rglob("*.*"):
        assert caption.encode() not in path.read_bytes()


def test_dry_run_says_what_is_missing_and_makes_none_of_it(store: Path) -> None:
    before = sorted(store.rglob("*"))
    plan = harness("run", "--lang", "cy", *SMALL_RUN, "--dry-run", store=store)
    assert plan.returncode == 0, plan.stderr
    assert plan.stdout.count("to distil: 12 steps on 400 pairs") == 3
    assert sorted(store.rglob("*")) == before


def test_a_student_with_an_aligned_vocabulary_needs_no_training_to_be_measured(store: Path) -> None:
    words = ("--init", "ot-vocabulary", "--objectives", "none,ridge", "--pairs", "400", "--resamples", "200")
    done = harness("run", "--lang", "de", *words, store=store)
    assert done.returncode == 0, done.stderr
    assert "none@ot-vocabulary" in done.stdout
    assert "ridge@ot-vocabulary − none@ot-vocabulary = +" in done.stdout
    assert "students: not trained, seed 0" in done.stdout


def test_english_needs_no_distillation(store: Path) -> None:
    english = harness("run", "--lang", "en", *SMALL_RUN, store=store)
    assert english.returncode == 0, english.stderr
    assert "kd-mse" not in english.stdout
    assert "English tower on English" in english.stdout


@pytest.mark.parametrize(
    "words",
    [("--help",), ("run", "--help"), ("list", "languages"), ("list", "tasks"), ("list", "encoders"), ("list", "objectives")],
)
def test_help_and_lists_do_not_import_torch(words: tuple[str, ...], tmp_path: Path) -> None:
    code = "import sys; from harness.cli.app import app; app(standalone_mode=False); sys.exit('torch' in sys.modules)"
    done = harness(*words, store=tmp_path, code=code)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_towers_and_runs_are_listed(store: Path) -> None:
    towers, runs = (harness(*words, store=store) for words in (("towers", "list"), ("list", "runs")))
    assert towers.stdout.count(" de ") == 5
    assert runs.stdout.count("flickr30k (sample)") == 8


def test_data_check_reads_the_sample(store: Path) -> None:
    done = harness("data", "check", store=store)
    assert done.returncode == 0, done.stderr
    assert "the embedded sample" in done.stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--lang", "germn"), r"unknown language 'germn': did you mean German \(de\).*"),
        (("--lang", "de", "--data", "/nowhere"), r"/nowhere does not exist: give the folder of Flickr30k .*"),
        (("--lang", "de", "--objectives", "kd-msse"), r"no objective is called 'kd-msse': did you mean kd-mse.*"),
        (("--lang", "de", "--encoder", "opnclip:x"), r"no encoder is called 'opnclip': did you mean open_clip\?"),
        (("--lang", "de", "--task", "flickr"), r"no task is called 'flickr': did you mean flickr30k or .*"),
        (("--lang", "de", "--eps", "0.0001"), r"--eps 0\.0001: .*greater than or equal to 0\.001"),
        (("--lang", "de", "--seed", str(2**64)), rf"--seed {2**64}: .*less than or equal to {2**63 - 1}"),
        (("--lang", "de", "--seed", "-1"), r"--seed -1: .*greater than or equal to 0"),
        (("--lang", "de", "--learning-rate", "inf"), r"--learning-rate inf: .*finite number"),
        (("--lang", "de", "--weight-decay", "nan"), r"--weight-decay nan: .*finite number"),
        (("--lang", "de", "--resamples", str(10**30)), r"--resamples 10{30}: .*less than or equal to 1000000"),
        (("--lang", "de", "--pairs", "99999999"), r"--pairs 99,999,999 requested, but .* usable pairs in de"),
        (("--lang", "de", "--device", "tpu9"), r"device 'tpu9' is not available here.*"),
    ],
)
def test_a_mistake_is_one_line_and_a_non_zero_exit(words: tuple[str, ...], line: str, store: Path, tmp_path: Path) -> None:
    (tmp_path / "samples").symlink_to(store / "samples")
    done = harness("run", *words, store=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(f"error: {line}\n", done.stderr), done.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"samples", "locks"}


def test_a_truncated_picture_is_named_and_nothing_is_half_written(store: Path, tmp_path: Path) -> None:
    (data,) = (store / "samples").iterdir()
    copy = tmp_path / "data"
    subprocess.run(["cp", "-r", str(data), str(copy)], check=True)
    names = json.loads((copy / "dataset_flickr30k.json").read_text(encoding="utf-8"))["images"]
    broken = copy / "flickr30k-images" / next(image["filename"] for image in names if image["split"] == "test")
    broken.write_bytes(broken.read_bytes()[:500])
    done = harness("run", "--lang", "de", "--data", str(copy), *SMALL_RUN, store=tmp_path / "store")
    assert done.returncode == 1
    assert re.fullmatch(rf"error: {re.escape(str(broken))} cannot be decoded: .*\n", done.stderr), done.stderr
    assert not list((tmp_path / "store").rglob("record.json"))


def test_the_sample_encoder_refuses_real_photographs(flickr30k_folder: Path, tmp_path: Path) -> None:
    done = harness("run", "--lang", "de", "--data", str(flickr30k_folder), store=tmp_path)
    assert done.returncode == 1
    assert "the sample encoder knows only the embedded sample" in done.stderr


# A training can only be resumed after its first step, so the objective reports when a step has been made.
TELLING_OBJECTIVE = """
from pathlib import Path

from harness.distill.objectives import kd_mse


def telling(student, teacher, config):
    Path(__file__).with_name("started").touch()
    return kd_mse(student, teacher, config)
"""


def test_an_interrupted_training_goes_on_and_ends_as_if_undisturbed(store: Path, tmp_path: Path) -> None:
    (tmp_path / "samples").symlink_to(store / "samples")
    plugin = tmp_path / "objective.py"
    plugin.write_text(TELLING_OBJECTIVE, encoding="utf-8")
    words = ("run", "--lang", "de", "--objectives", f"{plugin}:telling", "--pairs", "400", "--steps", "150", "--batch", "64")
    with subprocess.Popen(
        [sys.executable, "-m", "harness", *words], cwd=ROOT, env=environment(tmp_path), stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for_file(tmp_path / "started", process)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 130, said
    assert "the same command resumes" in said
    assert not list(tmp_path.glob("towers/*"))
    assert list(tmp_path.glob("training/*.safetensors"))
    plan = harness(*words, "--dry-run", store=tmp_path)
    assert "resumes from a checkpoint" in plan.stdout
    resumed = harness(*words, store=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert not list(tmp_path.glob("training/*"))
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    (undisturbed / "samples").symlink_to(store / "samples")
    assert harness(*words, store=undisturbed).returncode == 0
    assert scores_of(undisturbed) == scores_of(tmp_path)


# standard streams

TABLE = "--lang en --encoder random --resamples 100"


def shell(words: str, store: Path, data: Path, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run the small table by a shell command, in which HARNESS stands for the program."""
    line = words.replace("HARNESS", f"{sys.executable} -m harness run {TABLE} --data {data}")
    told = environment(store) | variables
    return subprocess.run(["bash", "-c", line], cwd=ROOT, env=told, capture_output=True, timeout=300, check=False)


@pytest.fixture
def plain(flickr30k_folder: Path, tmp_path: Path) -> str:
    """Return the output of the small table."""
    done = shell("HARNESS", tmp_path, flickr30k_folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def test_nothing_is_lost_where_nobody_reads_on(plain: str, flickr30k_folder: Path, tmp_path: Path) -> None:
    done = shell("set -o pipefail; HARNESS | head -1", tmp_path, flickr30k_folder)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == plain.splitlines(keepends=True)[0]


def test_a_closed_output_is_said_and_the_table_goes_to_the_errors(plain: str, flickr30k_folder: Path, tmp_path: Path) -> None:
    done = shell("HARNESS >&-", tmp_path, flickr30k_folder)
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.decode() == f"note: standard output is closed: results go to standard error\n{plain}"
    silent = shell("HARNESS >&- 2>&- <&-", tmp_path / "another", flickr30k_folder)
    assert (silent.returncode, silent.stdout, silent.stderr) == (0, b"", b"")
    kept = [path.read_bytes() for path in (tmp_path / "another").rglob("*") if path.is_file()]
    assert kept
    assert not any(b"embeds images" in each for each in kept), "no file has taken the number of a stream"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_an_output_that_cannot_be_written_is_one_line(flickr30k_folder: Path, tmp_path: Path) -> None:
    done = shell("HARNESS > /dev/full", tmp_path, flickr30k_folder)
    assert done.returncode == 1
    *_, line = done.stderr.decode().splitlines()
    assert line == (
        "error: standard output cannot be written (No space left on device): the results are stored, and the same command "
        "shows them"
    )
    assert "Traceback" not in done.stderr.decode()
    deaf = shell("HARNESS 2> /dev/full", tmp_path / "another", flickr30k_folder)
    assert deaf.returncode == 0
    assert b"English tower on English" in deaf.stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_output_in_another_encoding_has_the_whole_table(
    plain: str, flickr30k_folder: Path, tmp_path: Path, encoding: str
) -> None:
    done = shell("HARNESS", tmp_path, flickr30k_folder, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    told = done.stdout.decode(encoding)
    assert "text -> image" in told
    figures = re.compile(r"\d+\.\d|\d+ images|English tower on English")
    assert figures.findall(told) == figures.findall(plain)


def test_what_an_encoding_lacks_is_written_in_ascii() -> None:
    assert "ot-token − kd-mse → \udcff中".encode("ascii", ASCII_FALLBACK) == rb"ot-token - kd-mse -> \udcff\u4e2d"
    assert "×·—".encode("latin-1", ASCII_FALLBACK) == "×·-".encode("latin-1")
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("ascii", ASCII_FALLBACK)


def test_a_steady_file_drops_what_cannot_be_written() -> None:
    ours, theirs = os.pipe()
    with UnfailingFile(theirs, "wb") as file:
        assert file.write(b"heard") == 5
        os.close(ours)
        assert (file.write(b"lost"), file.write(memoryview(b"as well"))) == (4, 7)
        assert isinstance(file.lost, BrokenPipeError)
