"""A source of pretrained models."""

from contrastive.pretrained import HF, Pretrained


class Zoo(Pretrained):
    """Models from elsewhere, by the names that the Hub has for them."""

    def spec(self):
        return HF(name=self.name).spec()
