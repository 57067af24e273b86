"""How CBOW splits and hashes words."""

from contrastive.encoders import CBOW


def test_words_are_hashed_the_same_for_ever():
    preprocess = CBOW(width=8, buckets=1000).build().preprocess
    assert preprocess(["Two dogs, ZÜRICH!", "dogs"])["words"].tolist() == [
        [375, 180, 627],
        [180, 0, 0],
    ]


def test_letters_count_however_they_are_written():
    preprocess = CBOW(width=8).build().preprocess
    same = preprocess(["Café", "cafe\u0301", "CAFÉ"])["words"]
    assert same.unique().numel() == 1
