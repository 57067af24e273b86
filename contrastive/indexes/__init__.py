"""Stored vectors, and what finds the nearest of them."""
