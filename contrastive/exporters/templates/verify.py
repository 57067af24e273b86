"""Embed the samples in this folder again and compare with what the trained model gave.

    python verify.py

Needs the program that this folder is for, numpy, Pillow and safetensors. The exit code is 1 where
a number differs by more than the tolerance in verify.json.
"""

import json
import sys
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PACKAGES = {"PIL": "pillow", "contrastive": "contrastive-kit"}  # by what is imported


def main():
    import numpy as np
    from safetensors.numpy import load_file

    about = json.loads((FOLDER / "verify.json").read_text(encoding="utf-8"))
    expected = load_file(FOLDER / "verify" / "embeddings.safetensors")
    if not expected or about["samples"].keys() != expected.keys():
        sys.exit("verify.json and verify/embeddings.safetensors are not of the same towers")
    differences = {}
    for modality, samples in about["samples"].items():
        if modality == "image":
            samples = [FOLDER / name for name in samples]
        found = np.asarray(embed(modality, samples), dtype=np.float32)
        if found.shape != expected[modality].shape:
            sys.exit(f"{modality}: shape {found.shape}, not {expected[modality].shape}")
        differences[modality] = float(np.abs(found - expected[modality]).max())
        print(f"{modality}: largest difference {differences[modality]:.2g}, {len(samples)} samples")
    if "--json" in sys.argv:
        print(json.dumps({"differences": differences}))
    return int(not all(x <= about["tolerance"] for x in differences.values()))


def run():
    """Return the exit code, or what is missing here."""
    try:
        return main()
    except ImportError as error:
        name = (error.name or "").partition(".")[0].replace("_", "-")
        remedy = f"; pip install {PACKAGES.get(name, name)}" if name else ""
        return f"verify.py: {str(error).strip()}{remedy}"
