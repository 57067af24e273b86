"""Make ``contrastive_emoji/data`` from three npm packages.

Fetch and unpack each with ``npm pack NAME@VERSION`` and ``tar -xzf``::

    emoji-datasource-google@16.0.0   images of Google Noto emoji, 64 px PNG
    @lobehub/fluent-emoji-3d@1.1.0   images of Microsoft Fluent emoji, 256 px WebP
    emojibase-data@17.0.0            CLDR names, keywords and groups, by language

    python make_data.py GOOGLE/package FLUENT/package EMOJIBASE/package

Two runs give the same bytes, with one version of Pillow (13.0.0 made the data here).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from PIL import Image, ImageOps

DATA = Path(__file__).parent / "contrastive_emoji" / "data"
LANGUAGES = ("en", "es", "de", "fr", "ja", "pt", "it", "nl", "pl", "ru", "zh", "ko")
TEST, VAL = 500, 150  # concepts
ENCODING = {  # side in pixels and WebP quality: the best that fits 12 MB with all captions
    "google": (64, 95),
    "fluent": (96, 85),
}

# What the Fluent package has beyond the set that Microsoft published under the MIT licence:
# national flags, couples and families, and (its README) trademarked designs.
UNPUBLISHED_SUBGROUPS = {"country-flag", "subdivision-flag", "family"}
UNPUBLISHED = {
    "1F46A",  # family
    "1F4CE",  # paperclip: Clippy
    "1F3AE",  # video game
    "1F9D1-200D-1F4BB",  # technologist, with a logo
    "1F468-200D-1F4BB",
    "1F469-200D-1F4BB",
}
WRONG = {
    "google": {"1F1E8-1F1F6"},  # Sark has the image of Saudi Arabia
    "fluent": {
        "1F431",  # cat face has the image of grinning cat
        "1F9CF-200D-2642",  # deaf man and deaf woman are exchanged
        "1F9CF-200D-2640",
    },
}

GENDER_SIGN_OR_DIRECTION = re.compile("-200D-(2640|2642|27A1)(?![0-9A-F])")
NEUTRAL = {  # emoji of a man, a woman, a boy or a girl that have a code point of their own
    "1F468": "1F9D1",  # man: person
    "1F469": "1F9D1",  # woman
    "1F466": "1F9D2",  # boy: child
    "1F467": "1F9D2",  # girl
    "1F474": "1F9D3",  # old man: older person
    "1F475": "1F9D3",  # old woman
    "1F934": "1FAC5",  # prince: person with crown
    "1F478": "1FAC5",  # princess
    "1F385": "1F9D1-200D-1F384",  # Santa Claus: Mx Claus
    "1F936": "1F9D1-200D-1F384",  # Mrs. Claus
    "1F930": "1FAC4",  # pregnant woman: pregnant person
    "1FAC3": "1FAC4",  # pregnant man
    "1F57A": "1F483",  # man dancing: woman dancing, as there is no person dancing
    "1F46B": "1F9D1-200D-1F91D-200D-1F9D1",  # woman and man holding hands: people holding hands
    "1F46C": "1F9D1-200D-1F91D-200D-1F9D1",
    "1F46D": "1F9D1-200D-1F91D-200D-1F9D1",
    "1F9D1-200D-2764-200D-1F48B-200D-1F9D1": "1F48F",  # kiss
    "1F9D1-200D-2764-200D-1F9D1": "1F491",  # couple with heart
}

Emoji = dict[str, Any]


def main() -> None:
    """Read the three folders, write the images, the captions and the list of emoji."""
    parser = argparse.ArgumentParser(description="Make the data of contrastive-emoji.")
    for name in ("google", "fluent", "emojibase"):
        parser.add_argument(name, type=Path, help="folder of the unpacked npm package")
    args = parser.parse_args()

    emoji = read_emoji(args.emojibase)
    images = {
        "google": read_google(args.google, emoji),
        "fluent": read_fluent(args.fluent, emoji),
    }
    emoji = [e for e in emoji if any(e["code"] in by_code for by_code in images.values())]
    for e, concept in zip(emoji, concepts(emoji, images), strict=True):
        e["concept"] = concept
    split = splits({e["concept"] for e in emoji})

    rows = [
        {
            "code": e["code"],
            "concept": e["concept"],
            "label": e["label"],
            "split": split[e["concept"]],
            "vendors": [vendor for vendor in images if e["code"] in images[vendor]],
        }
        for e in emoji
    ]
    write_lines(DATA / "emoji.json", "[]", [to_json(row) for row in rows])
    for vendor, by_code in images.items():
        write_zip(DATA / f"{vendor}.zip", {e["code"]: by_code.get(e["code"]) for e in emoji})
    for language in LANGUAGES:
        write_captions(args.emojibase, language, [e["code"] for e in emoji])


def read_emoji(folder: Path) -> list[Emoji]:
    """List all emoji in CLDR order, without hair, skin tones and regional indicators."""
    names = json.loads((folder / "meta" / "groups.json").read_text("utf-8"))
    return [
        {
            "code": plain(entry["hexcode"]),
            "name": entry["label"],
            "label": names["groups"][str(entry["group"])].replace("-", " and "),
            "subgroup": names["subgroups"][str(entry["subgroup"])],
        }
        for entry in read_language(folder, "en")
        if names["groups"].get(str(entry.get("group")), "component") != "component"
    ]


def read_language(folder: Path, language: str) -> list[dict[str, Any]]:
    """Read the entries of one language in CLDR order."""
    entries = json.loads((folder / language / "data.json").read_text("utf-8"))
    return sorted(entries, key=lambda entry: entry.get("order", 0))


def plain(code: str) -> str:
    """Drop variation selectors, on which the three packages do not agree."""
    return code.upper().replace("-FE0F", "")


def read_google(folder: Path, emoji: list[Emoji]) -> dict[str, Image.Image]:
    """Read the images that are Google's own."""
    entries = json.loads((folder / "emoji.json").read_text("utf-8"))
    files = {
        plain(entry["unified"]): folder / "img" / "google" / "64" / entry["image"]
        for entry in entries
        if entry["has_img_google"]
    }
    return read_images("google", files, emoji)


def read_fluent(folder: Path, emoji: list[Emoji]) -> dict[str, Image.Image]:
    """Read the images that Microsoft published."""
    files = {plain(file.stem): file for file in (folder / "assets").glob("*.webp")}
    published = [
        e
        for e in emoji
        if e["subgroup"] not in UNPUBLISHED_SUBGROUPS and e["code"] not in UNPUBLISHED
    ]
    return read_images("fluent", files, published)


def read_images(vendor: str, files: dict[str, Path], emoji: list[Emoji]) -> dict[str, Image.Image]:
    """Read the right ones of the existing files as square images with transparency."""
    side, _ = ENCODING[vendor]
    images: dict[str, Image.Image] = {}
    for code in (e["code"] for e in emoji):
        if code in files and files[code].exists() and code not in WRONG[vendor]:
            with Image.open(files[code]) as image:
                square = ImageOps.pad(image.convert("RGBA"), (max(image.size), max(image.size)))
            images[code] = square.resize((side, side), Image.Resampling.LANCZOS)
    return images


def concepts(emoji: list[Emoji], images: dict[str, dict[str, Image.Image]]) -> list[str]:
    """Give each emoji the code of its concept's base emoji.

    Two emoji are one concept if they differ by gender or by the direction someone faces, or if
    a vendor draws them alike (Norway and Bouvet Island). The base is the gender-neutral one;
    of several, the one with the shortest English name.
    """
    parent = {e["code"]: e["code"] for e in emoji}

    def root(code: str) -> str:
        while parent[code] != code:
            code = parent[code]
        return code

    alike: defaultdict[Any, list[str]] = defaultdict(list)
    for code in parent:
        alike[neutral(code)].append(code)
        for vendor, by_code in images.items():
            if code in by_code:
                alike[vendor, by_code[code].tobytes()].append(code)
    for first, *others in alike.values():
        for other in others:
            parent[root(other)] = root(first)

    members: defaultdict[str, list[Emoji]] = defaultdict(list)
    for e in emoji:
        members[root(e["code"])].append(e)
    base = {
        key: min(same, key=lambda e: (neutral(e["code"]) != e["code"], len(e["name"])))["code"]
        for key, same in members.items()
    }
    return [base[root(e["code"])] for e in emoji]


def neutral(code: str) -> str:
    """Take gender, and the direction someone faces, out of an emoji's code."""
    code = GENDER_SIGN_OR_DIRECTION.sub("", code)
    if code.split("-")[0] in NEUTRAL:
        code = "-".join(NEUTRAL.get(part, part) for part in code.split("-"))
    return NEUTRAL.get(code, code)


def splits(codes: set[str]) -> dict[str, str]:
    """Deal concepts out in the order of the SHA-256 of their codes: test, val, then train."""
    order = sorted(codes, key=lambda code: hashlib.sha256(code.encode()).digest())
    return {
        code: "test" if i < TEST else "val" if i < TEST + VAL else "train"
        for i, code in enumerate(order)
    }


def write_captions(folder: Path, language: str, codes: list[str]) -> None:
    """Write the name and the keywords of each emoji in one language."""
    entries = {plain(entry["hexcode"]): entry for entry in read_language(folder, language)}
    captions = {code: [entries[code]["label"], *entries[code].get("tags", [])] for code in codes}
    lines = [f"{to_json(code)}: {to_json(words)}" for code, words in captions.items()]
    write_lines(DATA / "captions" / f"{language}.json", "{}", lines)


def write_zip(file: Path, images: dict[str, Image.Image | None]) -> None:
    """Write an archive that does not depend on when and where it is made."""
    _, quality = ENCODING[file.stem]
    with ZipFile(file, "w", ZIP_STORED) as archive:
        for code, image in images.items():
            if image:
                encoded = io.BytesIO()
                image.save(encoded, "WEBP", quality=quality, method=5)
                archive.writestr(ZipInfo(f"{code}.webp"), encoded.getvalue())


def write_lines(file: Path, brackets: str, lines: list[str]) -> None:
    """Write a JSON array or object with one line for each member."""
    file.parent.mkdir(parents=True, exist_ok=True)
    opening, closing = brackets
    file.write_text(f"{opening}\n" + ",\n".join(lines) + f"\n{closing}\n", "utf-8", newline="\n")


def to_json(value: object) -> str:
    """Encode one value, readably."""
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    main()
