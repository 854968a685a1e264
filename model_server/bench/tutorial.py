"""The other side of the comparison: `generate` as every tutorial shows it."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from model_server.bench.conversation import Chat, Turn
from model_server.checkpoints.loading import Checkpoint
from model_server.detokenizer import decode
from model_server.types import Image, Message
from model_server.vision import HOLE


def never_end(checkpoint: Checkpoint) -> None:
    """Make the model never write a special token, so that it never ends an answer by itself. Costs both sides the same."""
    special = sorted({*checkpoint.tokenizer.added_tokens_decoder, *checkpoint.eos_ids})
    head: Any = checkpoint.model.get_output_embeddings()
    ids = torch.tensor(special, device=checkpoint.model.device)

    def without_special(module: torch.nn.Module, inputs: tuple[Any, ...], logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(-1, ids, -torch.inf)

    head.register_forward_hook(without_special)


class Tutorial:
    """A second model over the checkpoint's weights. Make it before an engine takes the checkpoint over."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        model = checkpoint.model
        tensors = itertools.chain(model.parameters(), model.buffers())
        twin: PreTrainedModel = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
        self._checkpoint = replace(checkpoint, model=twin)

    def converse(self, chat: Chat, num_turns: int, num_new_tokens: int) -> float:
        """Ask `num_turns` questions, one after another. Blocks. Returns the duration in seconds."""
        start = time.perf_counter()
        for _ in range(num_turns):
            messages = chat.ask()
            turn = self.answer(messages, num_new_tokens)
            chat.answer(decode(self._checkpoint.tokenizer, turn.token_ids), turn)
        return time.perf_counter() - start

    @torch.no_grad()
    def answer(self, messages: Sequence[Message], num_new_tokens: int) -> Turn:
        asked_at = time.perf_counter()
        model: Any = self._checkpoint.model
        embeddings = self._embeddings(messages)
        clock = _Clock()
        output = model.generate(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device),
            do_sample=False,
            max_new_tokens=num_new_tokens,
            pad_token_id=self._checkpoint.eos_ids[0],
            streamer=clock,
        )
        ids: list[int] = output[0].tolist()
        return Turn(asked_at, tuple(clock.times), tuple(ids), len(ids))

    def _embeddings(self, messages: Sequence[Message]) -> torch.Tensor:
        """(1, tokens, embedding size): the words' embeddings, and the pictures' features, computed again each time."""
        checkpoint = self._checkpoint
        prompt = checkpoint.template.encode(messages)
        is_several = checkpoint.forms.has_two_forms and len(prompt.images) > 1
        ids: list[int] = []
        features: list[torch.Tensor] = []
        for part in prompt.parts:
            if isinstance(part, Image):
                ids += checkpoint.forms.token_ids(part, is_several)
                features.append(checkpoint.forms.features(checkpoint.model, part, is_several))
            else:
                ids += part
        words: Any = checkpoint.model.get_input_embeddings()
        tensor = torch.tensor([ids], device=words.weight.device)
        is_image = tensor == HOLE
        embeddings: torch.Tensor = words(tensor.masked_fill(is_image, 0))
        if features:
            embeddings[is_image] = torch.cat(features).to(embeddings)
        return embeddings


class _Clock(BaseStreamer):
    """Records when each token came. The first `put` of `generate` is the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        if not self._is_prompt:
            self.times.append(time.perf_counter())
        self._is_prompt = False

    def end(self) -> None:
        pass
