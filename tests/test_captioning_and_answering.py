"""Captions by retrieval and answers by ranking, against slow, obvious references."""

# ruff: noqa: RUF001 (letters of other scripts)

from __future__ import annotations

import json
import random

import pytest
import torch

from contrastive import answer, build_model, caption, classify
from contrastive.errors import BadSample, DataError, SpecError
from contrastive.inference.captioning import POOL, mmr, scaled
from contrastive.inference.question_answering import sentences_of, statement_of
from tests.miniature import Picture
from tests.toys import toy_dict

pytestmark = pytest.mark.slow

CORPUS = [text for number in range(24) for text in Picture(number).captions]
QUESTION = "What color is the circle?"
ANSWERS = ["red", "blue", "green"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a saved model that has learned nothing, images and sentences."""
    folder = tmp_path_factory.mktemp("uses")
    spec = toy_dict(folder / "flickr30k", images=4)
    spec["model"]["loss"]["temperature"] = 0.01  # sharp enough that its opinions differ
    torch.manual_seed(0)
    build_model(spec).eval().save(folder / "model")
    for number in range(3):
        Picture(7 * number).draw().save(folder / f"{number}.png")
    (folder / "corpus.txt").write_text("\n\n".join(CORPUS))
    return folder


@pytest.fixture(scope="module")
def model(folder):
    from contrastive import load_model

    return load_model(folder / "model")


@pytest.fixture(scope="module")
def paths(folder):
    return sorted(folder.glob("*.png"))


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CONTRASTIVE_MODEL", "model")
    return folder


def result(ended):
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


def reference_mmr(relevance, redundancy, top, diversity) -> list[int]:
    """Equation 2 of Carbonell and Goldstein, restated with loops and Python's floats."""
    chosen: list[int] = []
    while len(chosen) < min(top, len(relevance)):
        best, best_score = -1, -float("inf")
        for i in range(len(relevance)):
            if i in chosen:
                continue
            if chosen:
                alike = max(redundancy[i][j] for j in chosen)
                score = (1 - diversity) * relevance[i] - diversity * alike
            else:
                score = relevance[i]
            if score > best_score:
                best, best_score = i, score
        chosen.append(best)
    return chosen


@pytest.mark.parametrize("diversity", [0, 0.1, 0.5, 0.9, 1])
@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_the_choice_is_that_of_the_reference(size, diversity):
    draw = random.Random(size)
    for _ in range(10):
        relevance = [draw.random() for _ in range(size)]
        redundancy = [[draw.random() for _ in range(size)] for _ in range(size)]
        for top in (1, 3, size, size + 2):
            found = mmr(
                torch.tensor(relevance, dtype=torch.float64),
                torch.tensor(redundancy, dtype=torch.float64),
                top,
                diversity=diversity,
            )
            assert found == reference_mmr(relevance, redundancy, top, diversity)


def test_of_equals_the_first_is_chosen():
    assert mmr(torch.ones(4), torch.ones(4, 4), 3, diversity=0.5) == [0, 1, 2]


def test_a_near_duplicate_is_passed_over_for_what_adds_something():
    relevance = torch.tensor([1.0, 0.99, 0.6])
    redundancy = torch.tensor([[1, 0.98, 0.1], [0.98, 1, 0.1], [0.1, 0.1, 1]])
    assert mmr(relevance, redundancy, 2, diversity=0) == [0, 1]
    assert mmr(relevance, redundancy, 2, diversity=0.5) == [0, 2]


def test_the_gap_between_pictures_and_texts_does_not_decide():
    """Cosines of 0.3 with the image and of 0.9 with each other weigh as much as any others."""
    relevance, redundancy = scaled(
        torch.tensor([0.30, 0.29, 0.20]),
        torch.tensor([[1, 0.99, 0.9], [0.99, 1, 0.9], [0.9, 0.9, 1]]),
    )
    torch.testing.assert_close(relevance, torch.tensor([1, 0.9, 0]))
    torch.testing.assert_close(redundancy[0], torch.tensor([1, 0.9, 0]))
    assert mmr(relevance, redundancy, 3, diversity=0.3) == [0, 1, 2]
    assert mmr(relevance, redundancy, 3, diversity=0.7) == [0, 2, 1]


@pytest.mark.parametrize("diversity", [0, 0.3, 0.5, 1])
def test_captions_are_those_of_a_slow_search(model, paths, diversity):
    found = caption(model, paths, CORPUS, top=4, diversity=diversity)
    texts = model.embed("text", CORPUS).double()
    for path, captions in zip(paths, found, strict=True):
        cosines = texts @ model.embed("image", [path])[0].double()
        pool = sorted(range(len(CORPUS)), key=lambda i: -float(cosines[i]))[:POOL]
        relevance, redundancy = scaled(cosines[pool], texts[pool] @ texts[pool].T)
        chosen = reference_mmr(relevance.tolist(), redundancy.tolist(), 4, diversity)
        assert [one.text for one in captions] == [CORPUS[pool[i]] for i in chosen]
        for one in captions:
            assert CORPUS[one.index] == one.text
            assert one.similarity == pytest.approx(float(cosines[one.index]), abs=1e-5)


def test_a_sentence_that_stands_twice_counts_once(model, paths):
    (once,) = caption(model, paths[0], CORPUS, top=5, diversity=0)
    (twice,) = caption(model, paths[0], CORPUS + CORPUS, top=5, diversity=0)
    assert once == twice
    assert len({one.text for one in twice}) == 5


def test_a_corpus_of_one_sentence_has_one_caption(model, paths):
    assert [[one.text for one in c] for c in caption(model, paths, ["a dog"])] == [["a dog"]] * 3
    assert caption(model, [], ["a dog"]) == []


@pytest.mark.parametrize(
    ("corpus", "settings", "said"),
    [
        ([], {}, "give at least one sentence"),
        ("a dog", {}, "in a list"),
        (CORPUS, {"top": 0}, "top is 0"),
        (CORPUS, {"diversity": 1.5}, "diversity is 1.5"),
        (CORPUS, {"diversity": float("nan")}, "diversity is nan"),
    ],
)
def test_what_cannot_be_captioned_with_is_refused(model, paths, corpus, settings, said):
    with pytest.raises((DataError, SpecError), match=said):
        caption(model, paths, corpus, **settings)


@pytest.mark.parametrize(
    ("question", "statement"),
    [
        ("What color is the car?", "the car is {}"),
        ("what is the colour of the car ?", "the colour of the car is {}"),
        ("What is the man holding?", "the man is holding {}"),
        ("what kind of food is the dog eating", "the dog is eating {}"),
        ("what is the dog doing?", "the dog is {}"),
        ("Who is riding the horse?", "{} is riding the horse"),
        ("where are the cats?", "the cats are {}"),
        ("how many dogs are there?", "there are {} dogs"),
        ("how many dogs are there on the beach?", "there are {} dogs on the beach"),
        ("how many cups are on the table?", "there are {} cups on the table"),
        ("what is on the table?", "{} is on the table"),
        ("what animal is this?", "this is {}"),
        ("how is the weather?", "the weather is {}"),
        ("the car is {}", "the car is {}"),
        ("is there a dog?", "there is {}"),
        ("are there dogs on the beach?", "there are {} on the beach"),
        ("¿De qué color es el gato?", "el gato es de color {}"),
        ("¿Cuántos perros hay en la playa?", "hay {} perros en la playa"),
        ("¿Qué es esto?", "esto es {}"),
        ("donde esta el gato", "el gato esta {}"),
        ("¿Hay un gato sobre la mesa?", "hay {} sobre la mesa"),
        ("Welche Farbe hat das Auto?", "das Auto hat die Farbe {}"),
        ("Was ist das?", "das ist {}"),
        ("Wie viele Hunde sind auf dem Bild?", "{} Hunde auf dem Bild"),
        ("Wo ist die Katze?", "die Katze ist {}"),
        ("Gibt es einen Hund?", "es gibt {}"),
        ("De quelle couleur est la voiture ?", "la voiture est de couleur {}"),
        ("Qu’est-ce que c’est ?", "c'est {}"),
        ("Combien de chiens y a-t-il sur la plage ?", "il y a {} chiens sur la plage"),
        ("Où est le chat ?", "le chat est {}"),
        ("Y a-t-il un chien ?", "il y a {}"),
        ("De que cor é o carro?", "o carro é de cor {}"),
        ("Quantos cães há na praia?", "há {} cães na praia"),
        ("O que é isto?", "isto é {}"),
        ("Onde está o gato?", "o gato está {}"),
        ("猫是什么颜色的？", "猫是{}的"),
        ("图中有几只狗？", "图中有{}只狗"),
        ("猫在哪里？", "猫在{}"),
        ("图中有狗吗？", "图中有{}"),
        ("這隻貓是什麼顏色的？", "這隻貓是{}的"),
        ("圖中有幾隻狗？", "圖中有{}隻狗"),
        ("貓在哪裡？", "貓在{}"),
        ("猫は何色ですか？", "猫は{}です"),
        ("犬は何匹いますか？", "犬は{}匹います"),
        ("猫はどこにいますか？", "猫は{}にいます"),
        ("写真に犬がいますか？", "写真に{}がいます"),
        ("WHAT COLOR IS THE CAR?!", "THE CAR IS {}"),
        ("“What's on the table?”", "{} is on the table"),
        ("What is the hat made of?", "the hat is made of {}"),
        ("Where is the cat sitting?", "the cat is sitting {}"),
        ("Is there a dog?", "there is {}"),
        ("¡¿De qué color es el gato?!", "el gato es de color {}"),
        ("他是几何老师吗", "the answer to '他是几何老师吗?' is {}"),
        ("is the car red?", "the answer to 'is the car red?' is {}"),
        (r"why \1 {x}?", r"the answer to 'why \1 {x}?' is {}"),
    ],
)
def test_a_question_becomes_what_a_caption_would_say(question, statement):
    assert statement_of(question) == statement


def test_templates_hold_the_statement_or_the_question():
    assert sentences_of("what  color is it?") == [
        "it is {}",
        "a photo where it is {}",
        "Q: what color is it? A: {}",
    ]
    assert sentences_of("¿De qué color es?  ", ["{question} {}"]) == ["¿De qué color es? {}"]
    assert sentences_of("¿Qué es esto?")[1:] == [
        "una foto en la que esto es {}",
        "Pregunta: ¿Qué es esto? Respuesta: {}",
    ]
    assert sentences_of("it is {}") == ["it is {}", "a photo where it is {}"]
    assert sentences_of("貓在哪裡？")[1:] == ["一張照片,貓在{}", "問題:貓在哪裡？答案:{}"]
    assert sentences_of("it is {}", ["Q: {question} A: {}"]) == ["it is {}"]
    assert sentences_of(r"why \1 {statement}?", ["{question} {}"]) == [r"why \1 {statement}? {}"]


OTHERS = {
    "Italian": ("Di che colore è la macchina?", "la macchina è {}"),
    "Dutch": ("Welke kleur heeft de auto?", "de auto is {}"),
    "Polish": ("Jakiego koloru jest samochód?", "samochód jest {}"),
    "Turkish": ("Araba ne renk?", "araba {}"),
    "Swedish": ("Vilken färg har bilen?", "bilen är {}"),
    "Danish": ("Hvor er katten?", "katten er {}"),
    "Finnish": ("Missä kissa on?", "kissa on {}"),
    "Romanian": ("Unde este pisica?", "pisica este {}"),
    "Catalan": ("De quin color és el cotxe?", "el cotxe és {}"),
    "Czech": ("Kde je kočka?", "kočka je {}"),
    "Indonesian": ("Di mana kucing itu?", "kucing itu di {}"),
    "Vietnamese": ("Xe màu gì?", "xe màu {}"),
    "Russian": ("Какого цвета машина?", "машина {}"),
    "Korean": ("차는 무슨 색입니까?", "차는 {}입니다"),
    "Arabic": ("ما لون السيارة؟", "لون السيارة {}"),
}


@pytest.mark.parametrize("language", OTHERS)
def test_a_language_without_forms_is_told_and_its_statements_stay_its_own(
    language, model, paths, capsys
):
    question, statement = OTHERS[language]
    answer(model, paths[:1], question, ["a", "b"])
    assert "no form fits the question" in capsys.readouterr().err
    assert sentences_of(statement) == [statement]
    answer(model, paths[:1], statement, ["a", "b"])
    assert not capsys.readouterr().err


def test_answers_are_ranked_as_classes_in_these_sentences(model, paths):
    sentences = [
        "the circle is {}",
        "a photo where the circle is {}",
        "Q: What color is the circle? A: {}",
    ]
    found = answer(model, paths, QUESTION, ANSWERS)
    expected = classify(model, paths, ANSWERS, templates=sentences)
    assert torch.equal(found, expected)
    torch.testing.assert_close(found.sum(1), torch.ones(3))
    torch.testing.assert_close(answer(model, paths[0], QUESTION, ANSWERS), found[:1])
    assert found.std() > 0.01, "all alike would agree with anything"


def test_a_question_that_fits_no_form_is_told(model, paths, capsys):
    answer(model, paths[0], "¿Llueve?", ["sí", "no"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("no form fits the question '¿Llueve?', which is quoted as it is; give ")
    answer(model, paths[0], line.split("such as: ")[1].strip("'"), ["red", "blue"])
    answer(model, paths[0], "¿Qué es esto?", ["un gato", "un perro"])
    assert not capsys.readouterr().err


def test_a_line_that_is_no_text_is_left_out_of_sentences_but_not_of_classes(here, command):
    (here / "latin.txt").write_bytes("a dog\n\nun caf\xe9\na cat\n".encode("latin1"))
    told = "latin.txt:3: the {} is not valid UTF-8; save the file as UTF-8"
    for verb in (("search", "0.png", "--texts"), ("caption", "0.png", "--corpus")):
        ended = command(*verb, "latin.txt", "--json")
        assert ended.code == 3
        assert f"{told.format('text')}; 1 of 3 lines are left out\n" in ended.err
        assert "a cat" in ended.out
    ended = command("classify", "0.png", "--classes-file", "latin.txt")
    assert ended.code == 2
    assert told.format("name") in ended.err


def test_the_nearest_sentences_are_the_captions_unless_others_are_asked_for(model, paths):
    (found,) = caption(model, paths[0], CORPUS, top=5)
    cosines = [one.similarity for one in found]
    assert cosines == sorted(cosines, reverse=True)


@pytest.mark.parametrize(
    ("question", "answers", "settings", "said"),
    [
        (" ", ANSWERS, {}, "the question is empty"),
        (QUESTION, [], {}, "at least one answer"),
        (QUESTION, "red", {}, "in a list"),
        (QUESTION, ["red", "red"], {}, "'red' is given twice"),
        (QUESTION, ANSWERS, {"templates": "{}"}, "template '{}' is not in a list"),
        (QUESTION, ANSWERS, {"templates": []}, "at least one template"),
        (QUESTION, ANSWERS, {"templates": ["{question}"]}, "neither {} nor {statement}"),
    ],
)
def test_what_cannot_be_answered_is_refused(model, paths, question, answers, settings, said):
    with pytest.raises(SpecError) as error:
        answer(model, paths, question, answers, **settings)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_the_command_captions_from_a_file(here, model, command):
    found = result(
        command(
            *("caption", "0.png", "1.png", "--corpus", "corpus.txt"),
            *("--top", 2, "--diversity", 0.3, "--json"),
        )
    )
    expected = caption(model, ["0.png", "1.png"], CORPUS, top=2, diversity=0.3)
    assert [one["image"] for one in found] == ["0.png", "1.png"]
    for one, captions in zip(found, expected, strict=True):
        assert [c["text"] for c in one["captions"]] == [c.text for c in captions]
        # every second line of the file is blank
        assert [c["source"] for c in one["captions"]] == [
            f"corpus.txt:{2 * c.index + 1}" for c in captions
        ]
    shown = command("caption", "0.png", "--corpus", "corpus.txt").out
    assert CORPUS[caption(model, "0.png", CORPUS)[0][0].index] in shown


def test_a_model_without_a_run_needs_a_corpus(here, command):
    ended = command("caption", "0.png")
    assert ended.code == 2
    assert ended.err == (
        "model: holds a model without a run, so without data; give --corpus or --data\n"
    )


def test_the_command_answers_and_says_in_which_sentences(here, model, command):
    asked = ("--question", QUESTION, "--answers", "red, blue,green")
    (found,) = result(command("answer", "0.png", *asked, "--json"))
    expected = answer(model, "0.png", QUESTION, ANSWERS)[0].tolist()
    assert list(found["probabilities"]) == ANSWERS
    assert list(found["probabilities"].values()) == pytest.approx(expected, abs=1e-6)
    assert found["sentences"] == sentences_of(QUESTION)
    shown = command("answer", "0.png", "1.png", *asked)
    assert "answer" in shown.out
    assert "yes or no" not in shown.err
    (own,) = result(command("answer", "0.png", *asked, "--template", "{statement} .", "--json"))
    assert own["sentences"] == ["the circle is {} ."]


@pytest.mark.parametrize(
    "answers", ["Yes,no", "sí,no", "Ja,Nein", "oui,non", "是,不是", "はい,いいえ"]
)
def test_yes_and_no_are_answered_with_a_warning(here, command, answers):
    ended = command("answer", "0.png", "--question", "is it red?", "--answers", answers)
    assert ended.code == 0
    assert "captions hardly say yes or no" in ended.err


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("answer", "--question", "is it red?", "--answers"), "one answer alone always has 100 %"),
        (("classify", "--classes"), "one class alone always has 100 %"),
    ],
)
def test_one_name_alone_is_ranked_with_a_warning(here, command, asked, said):
    verb, *options = asked
    ended = command(verb, "0.png", *options, "red")
    assert ended.code == 0
    assert said in ended.err
    assert said not in command(verb, "0.png", *options, "red,blue").err


def test_a_picture_that_is_not_there_is_named(here, model, command):
    with pytest.raises(BadSample, match=r"nonesuch\.png: no such file"):
        caption(model, "nonesuch.png", CORPUS)
    ended = command("answer", "nonesuch.png", "--question", "what is it?", "--answers", "a,b")
    assert ended.code == 2
    assert ended.err.splitlines()[-1].startswith("nonesuch.png: ")
