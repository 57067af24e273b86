@cache
def load():
    from transformers import AutoModel, AutoProcessor

    return AutoModel.from_pretrained(FOLDER).eval(), AutoProcessor.from_pretrained(FOLDER)


def embed(modality, samples):
    """Return embeddings of length 1 of texts, or of the images at paths."""
    import torch
    from PIL import Image

    model, processor = load()
    rows = []
    with torch.no_grad():
        for sample in samples:
            if modality == "image":
                inputs = processor(images=Image.open(sample), return_tensors="pt")
                found = model.get_image_features(**inputs)
            else:
                inputs = processor(
                    text=[sample], padding="max_length", truncation=True, return_tensors="pt"
                )
                found = model.get_text_features(**inputs)
            rows.append(getattr(found, "pooler_output", found))
    return torch.nn.functional.normalize(torch.cat(rows), dim=-1).numpy()
