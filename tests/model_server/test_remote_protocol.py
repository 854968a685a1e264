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
from model_server.remote.listing import read_models
from model_server.remote.refusals import AWAY, BUSY, FILTERED, LOADING, refusal
from model_server.remote.request import optional_fields, request_body
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
    assert isinstance(refused.error, kind)
    assert str(refused.error).startswith(sentence)
    assert advice in refused.advice


def test_an_error_that_is_no_json_is_one_too() -> None:
    assert isinstance(refusal(500, b"<html>").error, EngineFailed)
    for body in (b"", b"7", b'{"data": [1]}', b'{"data": [{}]}', b"<html>"):
        with pytest.raises(ValueError, match=r".*"):
            read_models(body)


# How servers say that a chat is too long: status, their words, and the context length that can be read there.
TOO_LONG = [
    (
        400,
        "This model's maximum context length is 4096 tokens. However, you requested 5120 tokens (4608 in the messages, "
        "512 in the completion). Please reduce the length of the messages or completion.",
        4096,
    ),
    (
        400,
        "'max_tokens' or 'max_completion_tokens' is too large: 512. This model's maximum context length is 4096 tokens "
        "and your request has 4000 input tokens (512 > 4096 - 4000).",
        4096,
    ),
    (
        400,
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure that "
        "`max_model_len` is no smaller than the number of text tokens.",
        4096,
    ),
    (
        400,
        "You passed 5000 input tokens and requested 512 output tokens. However, the model's context length is only 4096 "
        "tokens, resulting in a maximum input length of 3584 tokens. Please reduce the length of the input prompt.",
        4096,
    ),
    (400, "request (14429 tokens) exceeds the available context size (8192 tokens), try increasing it", 8192),
    (500, "input is too large to process. increase the physical batch size", 0),
    (400, "The input (5000 tokens) is longer than the model's context length (4096 tokens).", 4096),
    (
        400,
        "Input length (5000 tokens) exceeds the maximum allowed length (4090 tokens). Use a shorter input or enable "
        "--allow-auto-truncate.",
        0,
    ),
    (
        422,
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens and "
        "512 `max_new_tokens`",
        0,
    ),
    (422, "Input validation error: `inputs` must have less than 4095 tokens. Given: 5000", 0),
    (
        400,
        "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with context "
        "length of only 4096 tokens, which is not enough.",
        4096,
    ),
    (400, "The number of tokens to keep from the initial prompt is greater than the context length.", 0),
    (400, "Context size has been exceeded.", 0),
    (400, "prompt is too long: 210000 tokens > 200000 maximum", 0),
    (400, "litellm.ContextWindowExceededError: litellm.BadRequestError: too many", 0),
    (400, "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).", 0),
    (400, "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length", 0),
    (413, "Request too large for model `x` on tokens per minute (TPM): Limit 6000, Requested 7000", 0),
    (400, "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 5000", 0),
    (400, "This model's maximum prompt length is 131072 but the request contains 537812 tokens.", 131072),
    (400, "Input is too long for requested model.", 0),
    (400, "Prompt length 5000 is greater than max_seq_len 4096", 4096),
    (400, "Invalid request: Your request exceeded model token limit: 8192", 0),
    (400, "Range of input length should be [1, 30720]", 0),
    (400, "Prompt exceeds max length", 0),
    (400, "prompt too long; exceeded max context length by 12 tokens", 0),
    (400, "the input length exceeds the context length", 0),
    (400, "Prompt 超长", 0),
    (400, "输入内容过长，请缩短后重试", 0),
]


@pytest.mark.parametrize(("status", "message", "context_length"), TOO_LONG)
def test_a_chat_that_is_too_long_is_told_in_many_wordings(status: int, message: str, context_length: int) -> None:
    for body in ({"error": {"message": message}}, {"error": message}, {"detail": message}):
        refused = refusal(status, json.dumps(body).encode())
        assert isinstance(refused.error, PromptTooLong)
        assert (refused.error.max_tokens, refused.is_temporary, refused.fields) == (context_length, False, frozenset())
    assert isinstance(refusal(status, message.encode()).error, PromptTooLong)  # in plain text


NO_MODEL = "The model server does not have the model"
NO_IMAGES = "The model behind me cannot look at this picture."
LOST = "The model server could not answer this."
RARE = {"stream_options", "top_k", "seed"}


@pytest.mark.parametrize(
    ("status", "message", "sentence", "is_temporary", "fields"),
    [
        (400, "max_tokens is too large: 100000. This model supports at most 16384 completion tokens.", LOST, False, {"max_tokens"}),
        (400, "Unsupported value: 'temperature' does not support 0.2 with this model.", LOST, False, {"temperature"}),
        (422, "Input validation error: `temperature` must be strictly positive", LOST, False, {"temperature"}),
        (400, "Bad Request", LOST, False, RARE),
        (400, "upstream_options top-k maximum", LOST, False, RARE),
        (501, "not implemented", LOST, False, set()),
        (429, "Rate limit reached on tokens per minute (TPM): Limit 6000, Used 5500, Requested 800. Try in 3s.", BUSY, True, set()),
        (503, "The engine is currently overloaded, please try again later", BUSY, True, set()),
        (504, "The request took too long to process.", AWAY, True, set()),
        (503, "The model llava is not available right now", AWAY, True, set()),
        (429, "Rate limit reached. Visit https://x/account/billing to add a payment method.", BUSY, True, set()),
        (503, "Model llava is currently loading", LOADING, True, set()),
        (500, "llm server loading model", LOADING, True, set()),
        (400, "Model Not Exist", NO_MODEL, False, set()),
        (400, "xyz is not a valid model ID", NO_MODEL, False, set()),
        (400, "/chat/completions: Invalid model name passed in model=x. Call `/v1/models`", NO_MODEL, False, set()),
        (404, "The model `llama-vision` does not exist.", NO_MODEL, False, set()),
        (404, "No models loaded. Please load a model in the developer page", NO_MODEL, False, set()),
        (405, "Method Not Allowed", NO_MODEL, False, set()),
        (404, "No endpoints found that support image input", NO_IMAGES, False, set()),
        (400, "xxx is not a multimodal model", NO_IMAGES, False, set()),
        (500, "this model is missing data required for image input", NO_IMAGES, False, set()),
        (400, "messages[0].content must be a string", NO_IMAGES, False, set()),
        (422, "messages[0]: unknown variant `image_url`, expected `text`", NO_IMAGES, False, set()),
        (400, "API key not valid. Please pass a valid API key.", "The model server does not let me in.", False, set()),
        (
            400,
            "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
            FILTERED,
            False,
            set(),
        ),
        (403, "Input requires moderation: flagged", FILTERED, False, set()),
        (400, "Input data may contain inappropriate content. (data_inspection_failed)", FILTERED, False, set()),
        (402, "Insufficient Balance", "The account at the model server has no credit left.", False, set()),
        (429, "您的账户已欠费，请充值后重试。", "The account at the model server has no credit left.", False, set()),
        (403, "insufficient_user_quota: 用户额度不足", "The account at the model server has no credit left.", False, set()),
        (400, "系统检测到输入或生成内容可能包含不安全或敏感内容", FILTERED, False, set()),
        (400, "模型不存在，请检查模型代码。", NO_MODEL, False, set()),
        (400, "无效的令牌", "The model server does not let me in.", False, set()),
        (429, "您当前使用该 API 的并发数过高，请降低并发", BUSY, True, set()),
        (503, "当前分组上游负载已饱和，请稍后再试", BUSY, True, set()),
        (504, "请求时间过长", AWAY, True, set()),
        (500, "Ein unbekannter Fehler ist aufgetreten.", LOST, False, set()),
        (401, "Неверный ключ", "The model server does not let me in.", False, set()),
        (429, "リクエストが多すぎます", BUSY, True, set()),
        (500, "CUDA error: out of memory", "The model server has run out of memory.", False, set()),
    ],
)
def test_what_is_known_of_an_error_is_told(status: int, message: str, sentence: str, is_temporary: bool, fields: set[str]) -> None:
    refused = refusal(status, json.dumps({"error": {"message": message}}).encode())
    assert str(refused.error).startswith(sentence)
    assert (refused.is_temporary, set(refused.fields)) == (is_temporary, fields)
    assert message not in f"{refused.error}{refused.advice}"


def test_what_a_server_quotes_of_the_question_is_no_reason() -> None:
    detail = [{"type": "extra_forbidden", "loc": ["body", "x"], "msg": "no", "input": {"image_url": "the prompt is too long"}}]
    refused = refusal(422, json.dumps({"detail": detail}).encode())
    assert str(refused.error).startswith(LOST)


def original(kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (6, 4), **options: Any) -> Image:
    buffer = io.BytesIO()
    PilImage.new(mode, size, "red" if mode.startswith("RGB") else 1000).save(buffer, kind, **options)
    return read_image(buffer.getvalue(), f"picture.{kind.lower()}")


def test_a_seed_is_sent_if_there_is_one() -> None:
    assert [optional_fields(SamplingParams(seed=seed)).get("seed") for seed in (None, 0)] == [None, 0]
    assert "seed" not in optional_fields(SamplingParams(seed=0), {"seed"})


def sent(image: Image) -> tuple[str, bytes]:
    [message] = json.loads(request_body("m", [Message(Role.USER, "?", (image,))], {}))["messages"]
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
