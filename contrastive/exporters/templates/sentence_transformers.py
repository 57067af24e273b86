@cache
def load():
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(FOLDER), device="cpu")


def embed(modality, samples):
    """Return embeddings of length 1 of texts, or of the images at paths."""
    from PIL import Image

    inputs = [Image.open(path) for path in samples] if modality == "image" else samples
    return load().encode(inputs)
