"""Wordings of every kind of question, and variations in how people type them.

`{it}` is a noun phrase with its article ("the red circle"), `{its}` the same without ("red circle"), `{them}` its plural, `{place}`
a corner. Wordings in HELD_OUT are never used for training: the evaluation asks them to see whether the model has learned the
question or only its words.
"""

# ruff: noqa: E501 - wordings are easier to compare side by side

from __future__ import annotations

import random
import re

ASK: dict[str, tuple[str, ...]] = {
    "describe": (
        "describe the picture", "describe this picture", "describe the image", "describe this image", "describe it",
        "what do you see", "what can you see", "what is in the picture", "what is in this picture", "what is in the image",
        "what is this", "what is this picture of", "what does the picture show", "tell me what you see", "what is shown here",
        "please describe the picture in detail", "describe what you see", "what is on the picture", "what shapes are there",
        "what shapes do you see", "what things are in the picture", "list the things", "list the shapes", "what is here",
        "give me a description", "tell me about the picture", "caption this", "what is there", "describe",
    ),
    "colour": (
        "what colour is {it}", "what is the colour of {it}", "which colour is {it}", "tell me the colour of {it}",
        "what colour does {it} have", "colour of {it}", "{its} colour", "which colour does {it} have", "what colour {it}",
        "name the colour of {it}", "do you know what colour {it} is", "can you tell me what colour {it} is", "in what colour is {it}",
        "what is {it} coloured", "{it} is what colour", "what colour of {its} is there", "what colour are {themall}",
        "what colour is the {its} in the picture",
    ),
    "shape": (
        "what shape is the {hue} thing", "what is the {hue} thing", "which shape is {hue}", "what is {hue}", "what shape is {hue}",
        "what is the shape of the {hue} thing", "the {hue} one is what", "what shape does the {hue} thing have",
        "what kind of shape is the {hue} one", "what shape is the {hue} one", "tell me the shape of the {hue} one", "what is the {hue} one",
        "which shape does the {hue} object have", "what thing is {hue}", "what is the {hue} object", "what is the {hue} shape",
    ),
    "position": (
        "where is {it}", "where is {it} in the picture", "what is the position of {it}", "where do you see {it}", "where can i find {it}",
        "where in the picture is {it}", "location of {it}", "position of {it}", "in which part of the picture is {it}",
        "tell me where {it} is", "can you tell me where {it} is", "where are {themall}", "where about is {it}", "{it} is where",
    ),
    "size": (
        "how big is {it}", "what size is {it}", "is {it} big or small", "is {it} small or big", "size of {it}", "how large is {it}",
        "what is the size of {it}", "is {it} large or small", "tell me the size of {it}", "{it} is big or small",
    ),
    "count": (
        "how many {them} are there", "how many {them}", "how many {them} do you see", "how many {them} can you see", "count the {them}",
        "number of {them}", "how many {them} are in the picture", "how many {them} are in the image", "what is the number of {them}",
        "how many {them} are there in the picture", "how many {them} does the picture have", "tell me how many {them} there are",
        "can you count the {them}", "how many {them} is there",
    ),
    "existence": (
        "is there a {its}", "do you see a {its}", "are there any {them}", "is there any {its}", "can you see a {its}", "any {them}",
        "does the picture have a {its}", "is there a {its} in the picture", "is a {its} in the picture", "do you see any {them}",
        "is there one {its}", "are there {them}", "does it have a {its}", "can you find a {its}", "is there a {its} in the image",
    ),
    "colours": ("what colours do you see", "what colours are there", "which colours are in the picture", "what colours"),
    "is_it": ("is the {shape} {hue}", "are the {shapes} {hue}", "is one {shape} {hue}"),
    "what_at": (
        "what is {place}", "what do you see {place}", "what is there {place}", "which shape is {place}", "what shape is {place}",
        "what thing is {place}", "what can you see {place}", "is there something {place}", "is there anything {place}", "{place}",
        "tell me what is {place}", "which thing is {place}", "what is the thing {place}",
    ),
    "colour_again": (
        "what colour is it", "what colour was it", "which colour is it", "and what colour is it", "its colour", "what is its colour",
        "and its colour", "what colour", "which colour", "what colour are they", "what colour were they", "and the colour",
        "what is the colour", "tell me its colour", "what colour is that", "what colour is that one",
    ),
    "position_again": (
        "where is it", "where was it", "and where is it", "where", "where exactly", "where are they", "and where", "where is that",
        "where is it in the picture", "what is its position", "tell me where", "where is that one", "where in the picture", "where were they",
    ),
    "size_again": (
        "how big is it", "is it big or small", "what size is it", "and how big is it", "how large is it", "and its size", "how big",
        "is it small or big", "is it large or small", "what is its size", "was it big or small", "how big are they",
    ),
    "shape_again": (
        "what shape is it", "what is it", "and what shape is it", "which shape", "what shape", "and its shape", "what shape was it",
        "what is its shape", "what was it", "what are they", "what is that", "what shapes are they",
    ),
    "count_again": (
        "how many", "how many are there", "and how many are there", "how many of them", "how many of them are there", "and how many",
        "how many are they", "how many of those", "count them",
    ),
    "other_again": (
        "and the other one", "what about the other one", "and the other", "how about the other one", "the other one",
        "and what about the other one", "what about the other", "the other one too", "and the second one", "same for the other one",
    ),
    "switch": ("and {it}", "what about {it}", "how about {it}", "and what about {it}", "{it}", "and {it} then"),
    "switch_count": ("and {them}", "what about {them}", "how about {them}", "and how many {them}", "and what about {them}"),
    "switch_existence": ("and a {its}", "what about a {its}", "how about a {its}", "or a {its}", "and any {them}"),
}  # fmt: skip

HELD_OUT: dict[str, tuple[str, ...]] = {
    "describe": (
        "what is in the photo",
        "please tell me what you can see",
        "describe the image in detail",
        "what does this image show",
    ),
    "colour": ("can you tell me the colour of {it}", "do you know the colour of {it}", "tell me what colour {it} is"),
    "shape": (
        "tell me what the {hue} thing is",
        "can you tell me what shape the {hue} one is",
        "do you know what the {hue} object is",
    ),
    "position": ("do you know where {it} is", "what is the location of {it}", "where can you see {it}"),
    "size": ("can you tell me how big {it} is", "do you know the size of {it}", "tell me how large {it} is"),
    "count": ("do you know how many {them} there are", "can you tell me the number of {them}", "please count all the {them}"),
    "existence": ("does the image have a {its}", "can you see any {them}", "tell me if there is a {its}"),
    "colours": ("what colours can you see", "which colours do you see"),
    "is_it": ("is there one {shape} that is {hue}", "can you tell me if the {shape} is {hue}"),
    "what_at": ("can you tell me what is {place}", "do you know what is {place}", "which object do you see {place}"),
    "colour_again": ("and which colour is it", "can you tell me its colour", "and what colour was it"),
    "position_again": ("and where was it", "can you tell me where it is", "where exactly is it"),
    "size_again": ("and what size is it", "can you tell me how big it is"),
    "shape_again": ("and what is it", "can you tell me what it is", "tell me its shape"),
    "count_again": ("ok and how many", "so how many are there"),
    "other_again": ("ok and the other one", "so what about the other one"),
    "switch": ("ok and {it}", "so what about {it}"),
    "switch_count": ("ok and {them}", "so how many {them}"),
    "switch_existence": ("ok and a {its}", "so what about a {its}"),
}

# Corners and the middle: "at the top" alone could be a position or a row, so it is not asked.
PLACES: dict[int, tuple[str, ...]] = {
    0: ("at the top left", "in the top left", "in the top left corner", "top left", "in the upper left", "in the upper left corner"),
    2: ("at the top right", "in the top right", "in the top right corner", "top right", "in the upper right", "in the upper right corner"),
    4: ("in the middle", "in the centre", "at the centre", "in the center", "in the middle of the picture", "in the centre of the picture"),
    6: ("at the bottom left", "in the bottom left", "in the bottom left corner", "bottom left", "in the lower left", "in the lower left corner"),
    8: ("at the bottom right", "in the bottom right", "in the bottom right corner", "bottom right", "in the lower right", "in the lower right corner"),
}  # fmt: skip

_PREFIXES = (
    "please ",
    "hey ",
    "hi, ",
    "ok, ",
    "so ",
    "ok ",
    "um ",
    "hello, ",
    "now ",
    "hey, ",
    "and ",
    "thanks, ",
    "great, ",
    "well, ",
)
_SUFFIXES = (
    " please",
    " here",
    " in the picture",
    " in this picture",
    " in the image",
    " thanks",
    " then",
    ", please",
    " on the picture",
)


def typed(wording: str, rng: random.Random) -> str:
    """The wording as somebody might type it: case, punctuation, contractions, spelling."""
    text = wording
    if rng.random() < 0.5:
        text = text.replace("colour", "color")
    if rng.random() < 0.45:
        text = re.sub(r"\b(what|where) is\b", lambda m: m[1] + rng.choice(("s", "'s", "'s")), text)
    if rng.random() < 0.3:
        text = re.sub(r"\b(picture|image)\b", lambda _: rng.choice(("image", "picture", "photo", "drawing", "pic")), text)
    if rng.random() < 0.10:
        text = rng.choice(_PREFIXES) + text
    if rng.random() < 0.07:
        text += rng.choice(_SUFFIXES)
    if rng.random() < 0.04:
        text = _with_typo(text, rng)
    pick = rng.random()
    if pick < 0.42:
        text = text[0].upper() + text[1:]
    elif pick < 0.48:
        text = text.upper()
    elif pick < 0.52:
        text = text.title()
    return text + rng.choices(("?", "", ".", " ?", "??", "!"), (56, 34, 4, 2, 2, 2))[0]


def _with_typo(text: str, rng: random.Random) -> str:
    i = rng.randrange(len(text) - 1)
    if rng.random() < 0.5:
        return text[:i] + text[i + 1] + text[i] + text[i + 2 :]
    return text[:i] + text[i + 1 :]
