"""Textual Inversion for Stable Diffusion: learn one new word from a few pictures."""

__version__ = "0.1.0"
