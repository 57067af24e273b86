def embed(modality, samples):
    """Return embeddings of length 1 of texts, or of the images at paths."""
    from PIL import Image
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(FOLDER), device="cpu")
    inputs = [Image.open(path) for path in samples] if modality == "image" else samples
    return model.encode(inputs, normalize_embeddings=False)
