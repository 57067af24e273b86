# pyright: strict
"""A script that uses each function of ``contrastive``; the type checker must agree."""

import contrastive
from contrastive.datasets import Flickr30k, ImageFolder
from contrastive.encoders import CBOW, Timm
from contrastive.heads import Linear, Mlp
from contrastive.losses import InfoNCE

towers = {
    "image": contrastive.Tower(encoder=Timm(name="resnet18"), head=Mlp(), frozen="encoder"),
    "text": contrastive.Tower(encoder=CBOW(), head=Linear()),
}
run = contrastive.RunSpec(
    model=contrastive.ModelSpec(towers=towers, loss=InfoNCE()),
    data=Flickr30k(folder="flickr30k"),
    training=contrastive.TrainingSpec(epochs=1),
    output="runs/a",
)
longer = run.with_("training.epochs=5")
if __name__ == "__main__":
    model = contrastive.train(longer, "runs/b")
    contrastive.train("clip.yaml")
    again = contrastive.load_model("runs/b")
    fresh = contrastive.build_model(contrastive.load_spec("clip.yaml"))
    test = ImageFolder(folder="images").build("test")
    print(contrastive.evaluate(model, test).summary())
    print(contrastive.probe(model, test, test).to_pandas())
    print(contrastive.compare({"a": again, "b": fresh}, "photo.jpg", ["dog", "cat"]).agreed)
    print(contrastive.compositional(model, "sugarcrepe", images="val2017")[0].text.value)
    print(contrastive.classify(model, ["photo.jpg"], ("dog", "cat")).argmax(1))
    print(contrastive.caption(model, "photo.jpg", ["a dog", "a cat"])[0][0].text)
    print(contrastive.answer(model, "photo.jpg", "what is it?", ["dog", "cat"]))
    print(contrastive.search(model, "a dog", images="photos")[0].similarity)
    print(contrastive.generate(model, "a dog").cosine)
    print(contrastive.rerank(model, "a dog", ["a.png", "b.png"])[0].index)
    print(contrastive.diagnose([{"step": 1, "loss": 4.8}], batch=128))
    print(model.embed("text", "a dog").shape, model(image={}, text={})["loss"])
