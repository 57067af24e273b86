"""What a server allows."""

from __future__ import annotations

from dataclasses import dataclass, field

MB = 1_000_000


@dataclass(frozen=True)
class Limits:
    """Bounds of what clients may ask for; a request beyond one is refused with its name."""

    body_bytes: int = 20 * MB
    """Of a request."""
    pixels: int = 32_000_000
    """Of an image, before it is decoded."""
    all_pixels: int = 256_000_000
    """Of all images of a request: decoding as many takes seconds, and the others wait."""
    all_characters: int = 2_000_000
    """Of all texts of a request."""
    samples: int = 256
    """Texts and images in a request for embeddings."""
    text_characters: int = 20_000
    """Of a text."""
    classes: int = 1000
    """Names in a request for classes."""
    sentences: int = 2000
    """Of all classes in all templates."""
    conditions: int = 20
    """On columns, in a search."""
    condition_characters: int = 1000
    """Of one of them."""
    results: int = 1000
    """Of a search."""
    waiting: int = 2048
    """Samples of all clients that wait for the model."""
    per_minute: int = 6000
    """Requests of a client; 0 for any number."""
    seconds: float = 60.0
    """That a request may take."""


@dataclass(frozen=True)
class Access:
    """Who may ask."""

    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    """Names by which the server may be called: another one is that of somebody else's page, whose
    name was made to point here."""
    token: str | None = field(default=None, repr=False)
    """That requests have to bear; None where only this machine can ask."""
