# pyright: strict
"""Mistakes that the type checker must find, each on the line that says so."""

from typing import ClassVar

from contrastive import load_spec
from contrastive.datasets import Flickr30k
from contrastive.encoders import Encoder
from contrastive.heads import Head, Linear, Mlp, heads
from contrastive.losses import InfoNCE
from contrastive.spec import ModelSpec, Tower


class Eye(Encoder):
    modality: ClassVar[str] = "image"

    def build(self) -> str:  # wrong: an encoder builds an EncoderModule
        raise NotImplementedError


class Unfinished(Head):
    pass


Tower(encoder=Linear(), head=Linear())  # wrong: a head is no encoder
Tower(encoder=Eye(), head=InfoNCE())  # wrong: a loss is no head
Tower(encoder=Eye(), head=Linear(), frozen="heads")  # wrong: nothing of that name can be frozen
Tower(encoder=Eye())  # wrong: the head is missing
Mlp(hiden=3)  # wrong: a misspelt field
Flickr30k(source="web")  # wrong: no such source
Mlp(dropout="much")  # wrong: a word for a number
Unfinished()  # wrong: an abstract class
heads.register("three")(3)  # wrong: a number is no component
ModelSpec(towers=[], loss=InfoNCE())  # wrong: a list of towers
load_spec(Linear(), "head.yaml")  # wrong: an instance for a class
