"""Emoji and their names: an image-text dataset that ships with its package."""

from contrastive_emoji.dataset import CLASSES, Emoji, EmojiSamples

__all__ = ["CLASSES", "Emoji", "EmojiSamples"]
