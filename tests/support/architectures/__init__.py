"""Tiny models of many architectures of transformers: class, settings, and the batch that it takes."""
