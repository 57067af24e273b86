"""What a search finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Hit:
    """A sample that was found."""

    similarity: float
    """Cosine with the query."""
    found: str
    """Its path or text; of an image without a name, its caption."""
    source: str
    """Where it came from, such as ``captions.csv:17``."""
    sample: Any
    """The raw sample."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, without the sample."""
        return {"similarity": self.similarity, "found": self.found, "source": self.source}
