def embed(modality, samples):
    """Return embeddings of length 1 of texts, or of the images at paths, in batches of 1, 2 and 7."""
    import numpy as np

    sys.path.insert(0, str(FOLDER))
    from embed import Model

    model = Model(FOLDER)
    rows, sizes = [], [1, 2, 7]
    while samples:
        rows.append(model.embed(modality, samples[: sizes[0]]))
        samples, sizes = samples[sizes[0] :], sizes[1:] + sizes[:1]
    return np.concatenate(rows)
