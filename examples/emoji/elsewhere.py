"""Search the exported model with ONNX Runtime: without torch and without this package.

Run it as ``python examples/emoji/elsewhere.py FOLDER IMAGES QUERY...``; it needs numpy, Pillow,
onnxruntime and tokenizers.
"""

import sys
from pathlib import Path

folder, images, *queries = sys.argv[1:]
sys.path.insert(0, folder)
from embed import Model  # noqa: E402  # embed.py lies in the exported folder

model = Model(folder)
files = sorted(Path(images).glob("*.png"))
cosines = model.embed("text", queries) @ model.embed("image", files).T
for query, row in zip(queries, cosines, strict=True):
    best = row.argmax()
    print(f"{query}: {files[best].stem} ({row[best]:.3f})")
loaded = [name for name in ("torch", "transformers", "contrastive") if name in sys.modules]
print(f"loaded of torch, transformers and contrastive: {', '.join(loaded) or 'none'}")
