"""The batches: one function for each kind of input."""

import torch

from tests.support.architectures.sizes import (
    BATCH,
    LENGTH,
)


def ids(length=LENGTH):
    return torch.zeros(BATCH, length, dtype=torch.long)


def classes():
    return torch.zeros(BATCH, dtype=torch.long)


def text():
    return {"input_ids": ids(), "attention_mask": torch.ones_like(ids()), "labels": ids()}


def unmasked_text():
    return {"input_ids": ids(), "labels": ids()}


def long_text():
    return {"input_ids": ids(64), "attention_mask": torch.ones_like(ids(64)), "labels": ids(64)}


def classified_text():
    return {"input_ids": ids(32), "attention_mask": torch.ones_like(ids(32)), "labels": classes()}


def image(size=32):
    return {"pixel_values": torch.zeros(BATCH, 3, size, size), "labels": classes()}


def large_image():
    return image(64)


def unlabelled_image():
    return {"pixel_values": torch.zeros(BATCH, 3, 32, 32)}


def segmented_image():
    labels = torch.zeros(BATCH, 64, 64, dtype=torch.long)
    return {"pixel_values": torch.zeros(BATCH, 3, 64, 64), "labels": labels}


def pair():
    return {**unlabelled_image(), "input_ids": ids(), "attention_mask": torch.ones_like(ids())} | {
        "return_loss": True
    }


def captioned_image():
    return {**unlabelled_image(), **unmasked_text()}


def image_in_text():
    """16 places for the patches, then words."""
    tokens = torch.cat([torch.full((BATCH, 16), 100), ids()], 1)
    labelled = {"input_ids": tokens, "labels": tokens, "attention_mask": torch.ones_like(tokens)}
    return {**unlabelled_image(), **labelled}


def answered_question():
    return {**unlabelled_image(), "input_ids": ids(), "labels": torch.zeros(BATCH, 4)}


def spectrum():
    return {"input_features": torch.zeros(BATCH, 16, 64), "labels": ids()}


def filter_banks():
    return {"input_features": torch.zeros(BATCH, 64, 16), "labels": ids()}


def transcribed_sound():
    return {"input_values": torch.zeros(BATCH, 1000), "labels": torch.ones(BATCH, 5, dtype=torch.long)}


def classified_sound():
    return {"input_values": torch.zeros(BATCH, 1000), "labels": classes()}


def classified_spectrum():
    return {"input_values": torch.zeros(BATCH, 64, 16), "labels": classes()}


def waveform():
    return {"input_values": torch.zeros(BATCH, 1, 800)}


def series():
    return {"past_values": torch.zeros(BATCH, 32, 2), "future_values": torch.zeros(BATCH, 8, 2)}


def trajectory():
    return {
        "states": torch.zeros(BATCH, 8, 4),
        "actions": torch.zeros(BATCH, 8, 2),
        "rewards": torch.zeros(BATCH, 8, 1),
        "returns_to_go": torch.zeros(BATCH, 8, 1),
        "timesteps": ids(8),
        "attention_mask": torch.ones(BATCH, 8),
    }


def byte_sequence():
    return {"inputs": ids(), "labels": classes()}
