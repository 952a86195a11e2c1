"""The embedded sample: its bytes, its layout, its captions in every language, and its teacher's folder."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image
from safetensors import safe_open
from tokenizers import Tokenizer

import harness.encoders.sample
from harness.tasks.sample.brush import PICTURE_HEIGHT, PICTURE_WIDTH
from harness.tasks.sample.caption_plans import TYPES, CaptionPlan, Clause, Mention
from harness.tasks.sample.dataset import IMAGES_BY_SPLIT, MULTI30K_SPLITS, SampleImage, compose_sample, write_sample
from harness.tasks.sample.grammar import REALISERS, TRANSLATIONS
from harness.tasks.sample.grammar.sentences import detokenized_text, tokenized_text
from harness.tasks.sample.scenes import ACTIONS, PLACES

# A change of these bytes changes every number measured on the sample: increase dataset.SAMPLE_VERSION with it.
TEXTS_DIGEST = "e3acc7d836e110a669ccf43003ea26161211feb3ef7bda5149435246087f001d"
PICTURES_DIGEST = "307fce1889c09519e2f171918fbf957fc906124b007e37b21d1b7a9410dc4b27"
TEACHER = Path(harness.encoders.sample.__file__).parent
TAG = re.compile(r"\[/EN#(\d+)/(\w+) ([^\]]+)\]")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write the sample twice: in this process and, at the same time, in one with another hash seed."""
    here, there = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there")
    root = str(Path(harness.__file__).parent.parent)
    command = [sys.executable, "-m", "harness.tasks.sample.dataset", str(there)]
    other = subprocess.Popen(command, env=os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": root}, cwd=there)
    write_sample(here)
    assert other.wait() == 0
    return here, there


@pytest.fixture(scope="module")
def world(worlds: tuple[Path, Path]) -> Path:
    return worlds[0]


@pytest.fixture(scope="module")
def items() -> list[SampleImage]:
    return compose_sample()


def digest(folder: Path, suffixes: set[str], but: bool = False) -> str:
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (path.suffix in suffixes) != but:
            total.update(path.relative_to(folder).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def test_texts_have_the_known_digest(world: Path) -> None:
    assert digest(world, {".jpg"}, but=True) == TEXTS_DIGEST


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="pictures are pinned where they were first drawn")
def test_pictures_have_the_known_digest(world: Path) -> None:
    assert digest(world, {".jpg"}) == PICTURES_DIGEST


def test_bytes_do_not_depend_on_the_hash_seed(worlds: tuple[Path, Path]) -> None:
    assert digest(worlds[0], set(), but=True) == digest(worlds[1], set(), but=True)


def karpathy(world: Path) -> list[dict[str, object]]:
    images: list[dict[str, object]] = json.loads((world / "dataset_flickr30k.json").read_text("utf-8"))["images"]
    return images


def test_counts(world: Path) -> None:
    splits = [image["split"] for image in karpathy(world)]
    assert {split: splits.count(split) for split in IMAGES_BY_SPLIT} == IMAGES_BY_SPLIT
    assert len(list((world / "flickr30k-images").iterdir())) == IMAGES_BY_SPLIT["val"] + IMAGES_BY_SPLIT["test"]
    raw = world / "multi30k/data/task1/raw"
    for split, name in MULTI30K_SPLITS.items():
        for lang in REALISERS:
            assert len((raw / f"{name}.{lang}").read_text("utf-8").splitlines()) == IMAGES_BY_SPLIT[split]


def test_pictures_decode(world: Path) -> None:
    for path in (world / "flickr30k-images").iterdir():
        with Image.open(path) as picture:
            picture.load()
            assert picture.size == (PICTURE_WIDTH, PICTURE_HEIGHT)


def test_english_captions_are_distinct_and_agree_everywhere(world: Path) -> None:
    token_file = (world / "results_20130124.token").read_text("utf-8").splitlines()
    spoken = dict(line.split("\t") for line in token_file)
    for image in karpathy(world):
        sentences = image["sentences"]
        assert isinstance(sentences, list)
        raw = [sentence["raw"] for sentence in sentences]
        assert len(set(raw)) == 5
        for number, sentence in enumerate(sentences):
            spaced_out = spoken[f"{image['filename']}#{number}"]
            assert spaced_out.replace(" ,", ",").replace(" .", ".") == sentence["raw"]
            assert sentence["tokens"] == [word for word in spaced_out.lower().split() if word not in {",", "."}]


def test_no_scene_repeats_and_no_evaluation_caption_is_in_the_bitext(items: list[SampleImage]) -> None:
    keys = [item.scene.key() for item in items]
    assert len(set(keys)) == len(keys)
    assert len({item.id for item in items}) == len(items)
    asked = {detokenized_text(caption) for item in items if item.split != "train" for caption in item.captions}
    assert asked.isdisjoint(detokenized_text(item.translation("en")) for item in items if item.split == "train")


def test_boxes_lie_inside_the_picture_and_have_an_area(world: Path) -> None:
    for path in (world / "Annotations").iterdir():
        boxes = list(ElementTree.parse(path).iter("bndbox"))
        assert boxes, path.name
        for box in boxes:
            left, top, right, bottom = (int(side.text or "0") for side in box)
            assert 1 <= left < right <= PICTURE_WIDTH, path.name
            assert 1 <= top < bottom <= PICTURE_HEIGHT, path.name


def tagged_lines(world: Path, lang: str) -> Iterator[tuple[str, list[str]]]:
    folder = world / ("Sentences" if lang == "en" else f"Sentences_{lang}")
    for path in folder.iterdir():
        yield path.stem, path.read_text("utf-8").splitlines()


@pytest.mark.parametrize("lang", REALISERS)
def test_tagged_sentences_reduce_to_the_plain_ones(world: Path, items: list[SampleImage], lang: str) -> None:
    by_id = {str(item.id): item for item in items}
    for stem, lines in tagged_lines(world, lang):
        item = by_id[stem]
        expected = item.captions if lang == "en" else [item.translation(lang)]
        assert [TAG.sub(r"\3", line) for line in lines] == [tokenized_text(sentence) for sentence in expected]
        tags = TAG.findall("\n".join(lines))
        assert {kind for _, kind, _ in tags} <= {*TYPES, "scene"}
        if item.split != "train":
            drawn = {name.text for name in ElementTree.parse(world / "Annotations" / f"{stem}.xml").iter("name")}
            assert {chain for chain, _, _ in tags} <= drawn
    assert lang != "en" or {stem for stem, _ in tagged_lines(world, lang)} == set(by_id)


@pytest.mark.parametrize("lang", TRANSLATIONS)
def test_a_translation_names_the_same_things_as_its_english(world: Path, items: list[SampleImage], lang: str) -> None:
    english = dict(tagged_lines(world, "en"))
    numbers = {str(item.id): item.translated for item in items}
    for stem, (line,) in tagged_lines(world, lang):
        named = sorted(chain for chain, _, _ in TAG.findall(line))
        assert named == sorted(chain for chain, _, _ in TAG.findall(english[stem][numbers[stem]]))


@pytest.mark.parametrize("lang", REALISERS)
def test_sentences_are_composed_text(world: Path, lang: str) -> None:
    for name in MULTI30K_SPLITS.values():
        for line in (world / f"multi30k/data/task1/raw/{name}.{lang}").read_text("utf-8").splitlines():
            assert line.endswith(".")
            assert line[0].isupper()
            assert "  " not in line
            assert " ." not in line
            assert line == unicodedata.normalize("NFC", line)


def clause(subject: str, action: str, **parts: str) -> Clause:
    """Return a clause from words such as `garment="red shirt"`."""
    mentions = {role: Mention(role, words.split()[-1], " ".join(words.split()[:-1])) for role, words in parts.items()}
    words = subject.split()
    return Clause(Mention("actor0", words[-1], " ".join(words[:-1])), action, **mentions)


def say(lang: str, *clauses: Clause, place: str = "") -> str:
    return detokenized_text(REALISERS[lang](CaptionPlan(clauses, Mention("place", place) if place else None, wording=2)))


GUITAR = (clause("man", "guitar", garment="red shirt", object="guitar"),)
HATTED = (clause("woman", "sit", garment="blue dress", hat="white hat", object="bench"),)
BESIDE = (clause("boy", "stand", garment="green jacket", beside="red car"),)
WALKED = (clause("girl", "walk dog", object="black dog"),)
HELD = (clause("person", "ball", object="yellow ball"),)
HORSE = (clause("man", "ride", object="brown horse", beside="white cow"),)
TWO = (clause("woman", "umbrella", hat="green hat", object="black umbrella"), clause("white cat", "sleep"))
CYCLE = (clause("girl", "cycle", garment="yellow jacket", object="green bicycle"),)
DRUM = (clause("boy", "drum", hat="black hat", object="drum", beside="blue boat"),)

# Checked word by word for agreement: gender, case, noun class, mutation, order.
SPOKEN: dict[str, dict[tuple[tuple[Clause, ...], str], str]] = {
    "en": {
        (GUITAR, "beach"): "A man wearing a red shirt plays a guitar on the beach.",
    },
    "de": {
        (CYCLE, "forest"): "Ein Mädchen in einer gelben Jacke fährt im Wald auf einem grünen Fahrrad.",
        (DRUM, "beach"): "Ein Junge mit einem schwarzen Hut spielt am Strand neben einem blauen Boot Trommel.",
        (GUITAR, "beach"): "Ein Mann in einem roten Hemd spielt am Strand Gitarre.",
        (HATTED, "park"): "Eine Frau in einem blauen Kleid und mit einem weißen Hut sitzt im Park auf einer Bank.",
        (BESIDE, "street"): "Ein Junge in einer grünen Jacke steht auf der Straße neben einem roten Auto.",
        (WALKED, "snow"): "Ein Mädchen geht im Schnee mit einem schwarzen Hund spazieren.",
        (HELD, "kitchen"): "Eine Person hält in der Küche einen gelben Ball.",
        (HORSE, "river"): "Ein Mann reitet am Fluss neben einer weißen Kuh auf einem braunen Pferd.",
        (TWO, "room"): "Im Zimmer hält eine Frau mit einem grünen Hut einen schwarzen Regenschirm und eine weiße Katze schläft.",
    },
    "fr": {
        (CYCLE, "forest"): "Une fille portant une veste jaune roule sur un vélo vert dans la forêt.",
        (DRUM, "beach"): "Un garçon portant un chapeau noir joue du tambour à côté d'un bateau bleu sur la plage.",
        (GUITAR, "beach"): "Un homme portant une chemise rouge joue de la guitare sur la plage.",
        (HATTED, "park"): "Une femme portant une robe bleue et un chapeau blanc est assise sur un banc dans le parc.",
        (BESIDE, "street"): "Un garçon portant une veste verte est debout à côté d'une voiture rouge dans la rue.",
        (WALKED, "snow"): "Une fille marche avec un chien noir dans la neige.",
        (HELD, "kitchen"): "Une personne tient un ballon jaune dans la cuisine.",
        (HORSE, "river"): "Un homme monte un cheval marron à côté d'une vache blanche au bord de la rivière.",
        (TWO, "room"): "Une femme portant un chapeau vert tient un parapluie noir et un chat blanc dort dans la pièce.",
    },
    "cs": {
        (CYCLE, "forest"): "Dívka v žluté bundě jede na zeleném kole v lese.",
        (DRUM, "beach"): "Chlapec s černým kloboukem hraje na buben vedle modrého člunu na pláži.",
        (GUITAR, "beach"): "Muž v červené košili hraje na kytaru na pláži.",
        (HATTED, "park"): "Žena v modrých šatech a s bílým kloboukem sedí na lavičce v parku.",
        (BESIDE, "street"): "Chlapec v zelené bundě stojí vedle červeného auta na ulici.",
        (WALKED, "snow"): "Dívka kráčí s černým psem ve sněhu.",
        (HELD, "kitchen"): "Člověk drží žlutý míč v kuchyni.",
        (HORSE, "river"): "Muž jede na hnědém koni vedle bílé krávy u řeky.",
        (TWO, "room"): "Žena se zeleným kloboukem drží černý deštník a bílá kočka spí v pokoji.",
    },
    "es": {
        (WALKED, "snow"): "Una niña camina con un perro negro en la nieve.",
        (HORSE, "river"): "Un hombre monta en un caballo marrón junto a una vaca blanca junto al río.",
        (TWO, "room"): "Una mujer con un sombrero verde sostiene un paraguas negro y un gato blanco duerme en la habitación.",
        (CYCLE, "forest"): "Una niña con una chaqueta amarilla monta en una bicicleta verde en el bosque.",
        (DRUM, "beach"): "Un niño con un sombrero negro toca el tambor junto a un barco azul en la playa.",
        (GUITAR, "beach"): "Un hombre con una camisa roja toca la guitarra en la playa.",
        (HATTED, "park"): "Una mujer con un vestido azul y un sombrero blanco está sentada en un banco en el parque.",
        (BESIDE, "street"): "Un niño con una chaqueta verde está de pie junto a un coche rojo en la calle.",
        (HELD, "kitchen"): "Una persona sostiene una pelota amarilla en la cocina.",
    },
    "id": {
        (HATTED, "park"): "Seorang wanita yang memakai gaun biru dan topi putih sedang duduk di sebuah bangku di taman.",
        (
            BESIDE,
            "street",
        ): "Seorang anak laki-laki yang memakai jaket hijau sedang berdiri di samping sebuah mobil merah di jalan.",
        (HELD, "kitchen"): "Seseorang sedang memegang sebuah bola kuning di dapur.",
        (HORSE, "river"): "Seorang pria sedang menunggang seekor kuda cokelat di samping seekor sapi putih di tepi sungai.",
        (CYCLE, "forest"): "Seorang anak perempuan yang memakai jaket kuning sedang mengendarai sebuah sepeda hijau di hutan.",
        (
            DRUM,
            "beach",
        ): "Seorang anak laki-laki yang memakai topi hitam sedang memainkan drum di samping sebuah perahu biru di pantai.",
        (GUITAR, "beach"): "Seorang pria yang memakai kemeja merah sedang memainkan gitar di pantai.",
        (WALKED, "snow"): "Seorang anak perempuan sedang berjalan bersama seekor anjing hitam di salju.",
    },
    "sw": {
        (CYCLE, "forest"): "Msichana aliyevaa koti la njano anaendesha baiskeli ya kijani msituni.",
        (DRUM, "beach"): "Mvulana aliyevaa kofia nyeusi anapiga ngoma kando ya mashua ya buluu ufukweni.",
        (GUITAR, "beach"): "Mwanaume aliyevaa shati jekundu anapiga gitaa ufukweni.",
        (HATTED, "park"): "Mwanamke aliyevaa gauni la buluu na kofia nyeupe ameketi kwenye benchi katika bustani.",
        (BESIDE, "street"): "Mvulana aliyevaa koti la kijani amesimama kando ya gari jekundu barabarani.",
        (WALKED, "snow"): "Msichana anatembea na mbwa mweusi kwenye theluji.",
        (HELD, "kitchen"): "Mtu ameshika mpira wa njano jikoni.",
        (HORSE, "river"): "Mwanaume amepanda farasi wa kahawia kando ya ng'ombe mweupe kando ya mto.",
        (TWO, "room"): "Mwanamke aliyevaa kofia ya kijani ameshika mwavuli mweusi na paka mweupe amelala chumbani.",
    },
    "cy": {
        (CYCLE, "forest"): "Mae merch mewn siaced felen yn reidio beic gwyrdd yn y goedwig.",
        (DRUM, "beach"): "Mae bachgen mewn het ddu yn chwarae drwm wrth ymyl cwch glas ar y traeth.",
        (GUITAR, "beach"): "Mae dyn mewn crys coch yn chwarae gitâr ar y traeth.",
        (HATTED, "park"): "Mae menyw mewn ffrog las a het wen yn eistedd ar fainc yn y parc.",
        (BESIDE, "street"): "Mae bachgen mewn siaced werdd yn sefyll wrth ymyl car coch ar y stryd.",
        (WALKED, "snow"): "Mae merch yn cerdded gyda chi du yn yr eira.",
        (HELD, "kitchen"): "Mae person yn dal pêl felen yn y gegin.",
        (HORSE, "river"): "Mae dyn yn marchogaeth ceffyl brown wrth ymyl buwch wen ar lan yr afon.",
        (TWO, "room"): "Mae menyw mewn het werdd yn dal ymbarél du ac mae cath wen yn cysgu yn yr ystafell.",
    },
    "eu": {
        (CYCLE, "forest"): "Basoan, jaka horidun neska bat bizikleta berde batean dabil.",
        (DRUM, "beach"): "Hondartzan, kapela beltzdun mutil bat txalupa urdin baten ondoan danborra jotzen ari da.",
        (HORSE, "river"): "Ibaiaren ondoan, gizon bat behi zuri baten ondoan zaldi marroi baten gainean dabil.",
        (GUITAR, "beach"): "Hondartzan, alkandora gorridun gizon bat gitarra jotzen ari da.",
        (HATTED, "park"): "Parkean, soineko urdindun eta kapela zuridun emakume bat banku batean eserita dago.",
        (BESIDE, "street"): "Kalean, jaka berdedun mutil bat auto gorri baten ondoan zutik dago.",
        (WALKED, "snow"): "Elurretan, neska bat txakur beltz batekin dabil oinez.",
        (HELD, "kitchen"): "Sukaldean, pertsona batek pilota hori bat dauka eskuan.",
        (TWO, "room"): "Gelan, kapela berdedun emakume batek aterki beltz bat dauka eskuan eta katu zuri bat lo dago.",
    },
    "yo": {
        (CYCLE, "forest"): "Ọmọbìnrin kan tó wọ jákẹ́ẹ̀tì aláwọ̀ ìyeyè ń gun kẹ̀kẹ́ aláwọ̀ ewé kan nínú igbó.",
        (DRUM, "beach"): "Ọmọkùnrin kan tó dé fìlà dúdú ń lu ìlù lẹ́gbẹ̀ẹ́ ọkọ̀ ojú omi aláwọ̀ búlúù kan ní etí òkun.",
        (BESIDE, "street"): "Ọmọkùnrin kan tó wọ jákẹ́ẹ̀tì aláwọ̀ ewé dúró lẹ́gbẹ̀ẹ́ ọkọ̀ ayọ́kẹ́lẹ́ pupa kan ní òpópónà.",
        (HELD, "kitchen"): "Ènìyàn kan mú bọ́ọ̀lù aláwọ̀ ìyeyè kan dání nínú ilé ìdáná.",
        (GUITAR, "beach"): "Ọkùnrin kan tó wọ ṣẹ́ẹ̀tì pupa ń ta gìtá ní etí òkun.",
        (HATTED, "park"): "Obìnrin kan tó wọ gáùn aláwọ̀ búlúù tó sì dé fìlà funfun jókòó sórí bẹ́ǹṣì kan nínú ọgbà ìgbafẹ́.",
        (WALKED, "snow"): "Ọmọbìnrin kan ń rìn pẹ̀lú ajá dúdú kan nínú yìnyín.",
        (TWO, "room"): "Obìnrin kan tó dé fìlà aláwọ̀ ewé mú agbòòrùn dúdú kan dání, ológbò funfun kan sì ń sùn nínú yàrá.",
    },
    "qu": {
        (CYCLE, "forest"): "Sach'a-sach'api q'illu kasakayuq warmi irqi q'umir bisikletapi purichkan.",
        (DRUM, "beach"): "Mama qucha patapi yana chukuyuq qhari irqi anqas wamp'up qayllanpi wankarta waqtachkan.",
        (HORSE, "river"): "Mayu patapi qhari yuraq wakap qayllanpi ch'umpi kawallupi purichkan.",
        (HATTED, "park"): "Parkipi anqas wistiduyuq yuraq chukuyuq warmi bankupi tiyachkan.",
        (GUITAR, "beach"): "Mama qucha patapi puka kamisayuq qhari gitarrata tukachkan.",
        (BESIDE, "street"): "K'ikllupi q'umir kasakayuq qhari irqi puka awtup qayllanpi sayachkan.",
        (WALKED, "snow"): "Rit'ipi warmi irqi yana allquwan purichkan.",
        (HELD, "kitchen"): "Wayk'una wasipi runa q'illu pilutata hap'ichkan.",
        (TWO, "room"): "Wasi ukhupi q'umir chukuyuq warmi yana parawata hap'ichkan, yuraq misitaq puñuchkan.",
    },
}


@pytest.mark.parametrize(("lang", "clauses", "place", "words"), [(k, *key, v) for k, m in SPOKEN.items() for key, v in m.items()])
def test_grammar(lang: str, clauses: tuple[Clause, ...], place: str, words: str) -> None:
    assert say(lang, *clauses, place=place) == unicodedata.normalize("NFC", words)


@pytest.mark.parametrize("lang", REALISERS)
def test_every_language_can_say_every_action_and_place(lang: str) -> None:
    said = {say(lang, clause("man", action, **({"object": kind} if kind else {}))) for action, kind in ACTIONS.items()}
    assert len(said) == len(ACTIONS)
    assert len({say(lang, clause("dog", "run"), place=place) for place in PLACES}) == len(PLACES)


def test_the_teacher_is_small_and_complete(items: list[SampleImage]) -> None:
    weights = TEACHER / "open_clip_model.safetensors"
    assert weights.stat().st_size <= 5_000_000
    config = json.loads((TEACHER / "open_clip_config.json").read_text("utf-8"))
    tokenizer = Tokenizer.from_file(str(TEACHER / "tokenizer.json"))
    text = config["model_cfg"]["text_cfg"]
    with safe_open(weights, framework="np") as tensors:
        assert tensors.get_slice("token_embedding.weight").get_shape() == [text["vocab_size"], text["width"]]
    assert tokenizer.get_vocab_size() == text["vocab_size"]
    # CLIP pools where the id is largest; id 0 pads.
    assert tokenizer.encode("").ids == [1, text["vocab_size"] - 1]
    assert tokenizer.token_to_id("<pad>") == 0
    for item in items:
        for caption in item.captions:
            assert len(tokenizer.encode(detokenized_text(caption)).ids) <= text["context_length"]
