"""Decode images to the pixels that a network gets."""
