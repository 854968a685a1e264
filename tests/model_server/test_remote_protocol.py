"""What the errors of real servers mean, and pictures that every server can read."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image as PilImage

from model_server.errors import EngineFailed, PromptTooLong
from model_server.images import read_image
from model_server.remote.protocol import read_models, refusal, request_body
from model_server.types import Image, Message, Role, SamplingParams

# What servers say, in the words that their users have reported or close to them.
VLLM_TOO_LONG = {
    "object": "error",
    "message": "This model's maximum context length is 4096 tokens. However, you requested 5120 tokens (4608 in the messages, "
    "512 in the completion). Please reduce the length of the messages or completion.",
    "type": "BadRequestError",
    "param": None,
    "code": 400,
}
VLLM_IMAGES_TOO_LONG = {
    "message": "The prompt (total length 25938) is too long to fit into the model (context length 4096). Make sure that "
    "`max_model_len` is no smaller than the number of text tokens plus multimodal tokens. For image inputs, the number of image "
    "tokens depends on the number of images, and possibly their aspect ratios as well."
}
LLAMA_CPP_TOO_LONG = {
    "code": 400,
    "message": "the request exceeds the available context size. try increasing the context size or enable context shift",
    "type": "exceed_context_size_error",
    "n_prompt_tokens": 14429,
    "n_ctx": 8192,
}
OPENAI_TOO_LONG = {"message": "Too many.", "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}
LLAMA_CPP_NO_IMAGES = {"code": 500, "message": "image input is not supported by this server", "type": "server_error"}


@pytest.mark.parametrize(
    ("status", "body", "kind", "sentence", "advice"),
    [
        (400, VLLM_TOO_LONG, PromptTooLong, "This is too long for me. Please ask in fewer words.", "longer than"),
        (
            400,
            {"object": "error", "message": "max_tokens must be at least 1, got -186."},
            PromptTooLong,
            "This is too",
            "longer than",
        ),
        (400, {"error": VLLM_IMAGES_TOO_LONG}, PromptTooLong, "This is too long", "longer than"),
        (400, {"error": LLAMA_CPP_TOO_LONG}, PromptTooLong, "This is too long", "longer than"),
        (400, {"error": OPENAI_TOO_LONG}, PromptTooLong, "This is too long", "longer than"),
        (
            500,
            {"error": LLAMA_CPP_NO_IMAGES},
            EngineFailed,
            "The model behind me cannot look at this picture.",
            "takes no pictures",
        ),
        (
            400,
            {"error": {"message": "At most 0 image(s) may be provided in one prompt."}},
            EngineFailed,
            "The model behind",
            "fewer",
        ),
        (401, {"error": "no"}, EngineFailed, "The model server does not let me in.", "key"),
        (403, {}, EngineFailed, "The model server does not let me in.", "key"),
        (404, {"detail": "Not Found"}, EngineFailed, "The model server does not have the model", "/v1"),
        (400, {"detail": [{"msg": "Field required"}]}, EngineFailed, "The model server could not answer this.", "log"),
        (418, "tea", EngineFailed, "The model server could not answer this.", "log"),
    ],
)
def test_errors_become_sentences(status: int, body: object, kind: type[Exception], sentence: str, advice: str) -> None:
    refused = refusal(status, json.dumps(body).encode())
    assert type(refused.error) is kind
    assert str(refused.error).startswith(sentence)
    assert advice in refused.advice


def test_an_error_that_is_no_json_is_one_too() -> None:
    assert isinstance(refusal(500, b"<html>").error, EngineFailed)
    for body in (b"", b"[]", b'{"data": [1]}', b'{"data": [{}]}', b"<html>"):
        with pytest.raises(ValueError, match=r".*"):
            read_models(body)


def original(kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (6, 4), **options: Any) -> Image:
    buffer = io.BytesIO()
    PilImage.new(mode, size, "red" if mode.startswith("RGB") else 1000).save(buffer, kind, **options)
    return read_image(buffer.getvalue(), f"picture.{kind.lower()}")


def test_a_seed_is_sent_if_there_is_one() -> None:
    bodies = [json.loads(request_body("m", [Message(Role.USER, "?")], SamplingParams(seed=seed))) for seed in (None, 0)]
    assert [body.get("seed") for body in bodies] == [None, 0]


def sent(image: Image) -> tuple[str, bytes]:
    [message] = json.loads(request_body("m", [Message(Role.USER, "?", (image,))], SamplingParams()))["messages"]
    head, _, data = message["content"][0]["image_url"]["url"].partition(",")
    return head, base64.b64decode(data)


@pytest.mark.parametrize("image", [original("JPEG"), original("PNG"), original("PNG", "L")], ids=["jpeg", "png", "grey"])
def test_a_plain_picture_goes_as_it_came(image: Image) -> None:
    assert sent(image) == (f"data:{image.media_type};base64", image.data)


def turned() -> Image:
    exif = PilImage.Exif()
    exif[0x0112] = 6
    return original("JPEG", exif=exif)


@pytest.mark.parametrize(
    ("image", "media_type", "size"),
    [
        (turned(), "image/jpeg", (4, 6)),
        (original("WEBP"), "image/jpeg", (6, 4)),
        (original("HEIF"), "image/jpeg", (6, 4)),
        (original("AVIF"), "image/jpeg", (6, 4)),
        (original("PNG", "RGBA"), "image/png", (6, 4)),
        (original("PNG", "I;16"), "image/png", (6, 4)),
        (original("GIF"), "image/png", (6, 4)),
        (original("TIFF"), "image/png", (6, 4)),
    ],
    ids=["turned", "webp", "heic", "avif", "transparent", "16 bit", "gif", "tiff"],
)
def test_any_other_picture_is_sent_as_we_see_it(image: Image, media_type: str, size: tuple[int, int]) -> None:
    head, data = sent(image)
    assert head == f"data:{media_type};base64"
    pil = PilImage.open(io.BytesIO(data))
    assert (pil.size, pil.mode, PilImage.MIME[pil.format or ""]) == (size, "RGB", media_type)
    assert pil.getexif().get(0x0112, 1) == 1
