"""The model: towers and a loss, frozen in parts, saved and loaded."""
