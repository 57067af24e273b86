"""Flickr30k and Flickr8k in the forms of their common copies."""
