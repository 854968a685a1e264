"""Train `tiny` from nothing, with one command: `python -m model_server.tiny.train`.

LLaVA's recipe (arXiv:2304.08485, 2310.03744), at a small scale:

    sight      the vision tower learns to see                             (instead of CLIP)
    language   the Llama learns the dialogues from scenes told in words   (instead of Vicuna)
    stage 1    the projector is aligned on captions, the rest frozen
    stage 2    projector and language model learn from instructions, the tower frozen

Each part's result is saved in the work folder; a finished part is not trained again, and an interrupted one continues from its last
checkpoint.
"""

from __future__ import annotations

import argparse
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from tqdm import tqdm
from transformers import (
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from .dialogue import KINDS
from .language import Row, RowMaker, attention_mask, llama_config, train_tokenizer
from .sight import (
    HELD_OUT,
    IMAGE_SIZE,
    MEAN,
    NUM_PATCHES,
    PATCH_SIZE,
    STD,
    drawn_images,
    held_out_seeds,
    optimizers,
    patch_features,
    scheduled,
    train_tower,
    vision_config,
)


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the training. `kind` None: all kinds of questions."""

    name: str
    num_steps: int
    learning_rate: float
    is_text_only: bool = False
    is_projector_only: bool = False
    kind: str | None = None


TOWER_STEPS = 3200
STAGES = (
    Stage("language", 500, 3e-3, is_text_only=True),
    Stage("stage1", 60, 3e-3, is_projector_only=True, kind="describe"),
    Stage("stage2", 4400, 2.5e-3),
)


def new_llava(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """A LLaVA of the bundled model's shape with random weights."""
    config = LlavaConfig(
        vision_config=vision_config(),
        text_config=llama_config(tokenizer),
        image_token_index=tokenizer.get_vocab()["<image>"],
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        image_seq_length=NUM_PATCHES,
        tie_word_embeddings=False,
    )
    return LlavaForConditionalGeneration(config)


def processor_for(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """The processor that pads pictures to a square and expands `<image>`."""
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    images = LlavaImageProcessorPil(
        do_pad=True, size={"shortest_edge": IMAGE_SIZE}, crop_size=side, image_mean=list(MEAN), image_std=list(STD)
    )
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


# For use with plain transformers; Threadsight itself builds the same prompt from ids.
CHAT_TEMPLATE = (
    "{{ bos_token }}A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. "
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    " ASSISTANT:"
    "{% else %} {% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}{{ eos_token }}{% endif %}{% endfor %}"
)


class Trainer:
    """One worker's part of a stage. Gradients are averaged over the workers, each with one thread."""

    def __init__(self, model: LlavaForConditionalGeneration, rows: RowMaker, features: Tensor | None) -> None:
        self._llama: nn.Module = model.model.language_model
        self._projector: nn.Module = model.model.multi_modal_projector
        self._head: nn.Module = model.lm_head
        self._rows = rows
        self._features = features

    def logits(self, rows: list[Row], first_seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Logits for the answer tokens [N, V], these tokens [N], and their positions (row, column) [N, 2]."""
        tokens = torch.from_numpy(np.stack([row.tokens for row in rows]))
        embed = self._llama.get_input_embeddings()  # type: ignore[operator]
        head = torch.tensor(self._rows.head).expand(len(rows), -1)
        if self._features is None:
            notes = torch.zeros(len(rows), NUM_PATCHES, dtype=torch.long)
            filled = torch.zeros(len(rows), NUM_PATCHES, dtype=torch.bool)
            for i, row in enumerate(rows):
                notes[i, : len(row.notes)] = torch.tensor(row.notes)
                filled[i, : len(row.notes)] = True
            image = embed(notes)
        else:
            image = self._projector(self._features[[row.seed - first_seed for row in rows]].float())
            filled = torch.ones(len(rows), NUM_PATCHES, dtype=torch.bool)
        prefix_mask = torch.cat([torch.ones(head.shape, dtype=torch.bool), filled], 1)
        num_prefix = prefix_mask.shape[1]
        position = num_prefix + torch.from_numpy(np.stack([row.position for row in rows]))
        hidden = self._llama(
            inputs_embeds=torch.cat([embed(head), image, embed(tokens)], 1),
            attention_mask=attention_mask(torch.from_numpy(np.stack([row.dialogue for row in rows])), prefix_mask),
            position_ids=torch.cat([torch.arange(num_prefix).expand(len(rows), -1), position], 1),
            use_cache=False,
        ).last_hidden_state[:, num_prefix:]
        places = torch.from_numpy(np.stack([row.is_answer for row in rows])).nonzero()
        before = places - torch.tensor([0, 1])
        return self._head(hidden[before[:, 0], before[:, 1]]), tokens[places[:, 0], places[:, 1]], places

    def loss(self, rows: list[Row]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits, targets, _ = self.logits(rows)
        return F.cross_entropy(logits.float(), targets)

    @torch.no_grad()
    def num_right(self, rows: list[Row], first_seed: int) -> dict[str, tuple[int, int]]:
        """By kind of turn: the numbers of right answers and of all answers. Greedy decoding writes exactly the right answer if each
        of its tokens is the most likely one after the true tokens before it."""
        counts = dict.fromkeys(KINDS, (0, 0))
        for start in range(0, len(rows), 16):
            block = rows[start : start + 16]
            logits, targets, places = self.logits(block, first_seed)
            wrong = {(int(r), int(c)) for r, c in places[logits.argmax(-1) != targets]}
            for r, row in enumerate(block):
                inside, is_right = False, True
                for c in range(len(row.tokens)):
                    if row.is_answer[c]:
                        is_right = (is_right or not inside) and (r, c) not in wrong
                        inside = True
                        if c + 1 == len(row.tokens) or not row.is_answer[c + 1]:
                            right, total = counts[KINDS[row.kind[c]]]
                            counts[KINDS[row.kind[c]]] = right + is_right, total + 1
                            inside = False
        return counts


def _average_gradients(parameters: list[nn.Parameter], num_workers: int) -> None:
    if num_workers == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= num_workers
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def _run_stage(rank: int, stage: Stage, work: Path, num_workers: int, num_images: int, batch_size: int, port: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    if num_workers > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=num_workers)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "tokenizer")
    torch.manual_seed(0)
    model = new_llava(tokenizer)
    path = work / f"{stage.name}.pt"
    earlier = [other.name for other in STAGES][: [other.name for other in STAGES].index(stage.name)]
    if earlier:
        model.load_state_dict(torch.load(work / f"{earlier[-1]}.pt", weights_only=True)["model"])
    for module, is_trained in (
        (model.model.vision_tower, False),
        (model.model.multi_modal_projector, not stage.is_text_only),
        (model.model.language_model, not stage.is_projector_only),
        (model.lm_head, not stage.is_projector_only),
    ):
        module.requires_grad_(is_trained)
    rows = RowMaker(tokenizer)
    features = None if stage.is_text_only else torch.load(work / "features.pt", weights_only=True, mmap=True)
    trainer = Trainer(model, rows, features)
    examiner = Trainer(model, rows, None if features is None else torch.load(work / "features-held-out.pt", weights_only=True))
    examination = [rows.row(HELD_OUT + i) for i in range(64)] if rank == 0 else []
    chosen = optimizers([model], stage.learning_rate)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    first_step = 0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["model"])
        first_step = saved["step"]
        for optimizer, state in zip(chosen, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
    share = batch_size // num_workers
    bar = tqdm(range(first_step, stage.num_steps), stage.name, stage.num_steps, initial=first_step, disable=rank > 0, unit="step")
    for step in bar:
        first = (step * num_workers + rank) * share
        batch = [rows.row(i % num_images, i // num_images, stage.kind) for i in range(first, first + share)]
        for optimizer in chosen:
            for group in optimizer.param_groups:
                group["lr"] = stage.learning_rate * scheduled(step, stage.num_steps, warmup=50)
        loss = trainer.loss(batch)
        loss.backward()
        _average_gradients(trained, num_workers)
        nn.utils.clip_grad_norm_(trained, 1.0)
        for optimizer in chosen:
            optimizer.step()
            optimizer.zero_grad()
        if rank > 0:
            continue
        bar.set_postfix_str(f"loss {loss.item():.3f}")
        if step % 100 == 99 or step == stage.num_steps - 1:
            counts = examiner.num_right(examination, HELD_OUT)
            share_right = sum(right for right, _ in counts.values()) / sum(total for _, total in counts.values())
            shares = ", ".join(f"{kind} {right / max(1, total):.2f}" for kind, (right, total) in counts.items())
            tqdm.write(f"{stage.name} {step + 1}: {share_right:.3f} ({shares})")
            state = {"model": model.state_dict(), "step": step + 1, "optimizers": [optimizer.state_dict() for optimizer in chosen]}
            torch.save(state, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)


def _prepare_features(work: Path, tower: CLIPVisionModel, num_images: int) -> None:
    """Compute the features of all pictures once, float16 [N, 64, 128]: the tower is frozen from here on."""
    for name, seeds in (("features", range(num_images)), ("features-held-out", held_out_seeds(num_images))):
        if not (work / f"{name}.pt").exists():
            images, _ = drawn_images(seeds, work)
            with torch.inference_mode():
                blocks = [patch_features(tower, block).half() for block in tqdm(images.split(500), name, unit="x500")]
            torch.save(torch.cat(blocks), work / f"{name}.pt")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train all stages, each from where an earlier run left it."""
    parser = argparse.ArgumentParser(description="Train the bundled model from nothing. Takes about three hours on two CPU cores.")
    parser.add_argument("--work", type=Path, default=Path(".work/tiny"), help="folder for drawings and checkpoints (3 GB)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "checkpoint", help="where the finished model goes")
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--effort", type=float, default=1.0, help="factor for the numbers of steps")
    args = parser.parse_args(arguments)
    work: Path = args.work
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "tokenizer").exists():
        train_tokenizer().save_pretrained(work / "tokenizer")
    if not (work / "tower-done.pt").exists():
        torch.set_num_threads(args.workers)
        num_steps = max(1, round(args.effort * TOWER_STEPS))
        torch.save(train_tower(work, args.pictures, num_steps).state_dict(), work / "tower-done.pt")
    tower = CLIPVisionModel(vision_config())
    tower.load_state_dict(torch.load(work / "tower-done.pt", weights_only=True))
    tower.eval()
    _prepare_features(work, tower, args.pictures)
    for stage in STAGES:
        shortened = replace(stage, num_steps=max(1, round(args.effort * stage.num_steps)))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        options = (shortened, work, args.workers, args.pictures, args.batch, port)
        if args.workers == 1:
            _run_stage(0, *options)
        else:
            spawn(_run_stage, options, nprocs=args.workers)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "tokenizer")
    save(work, tokenizer, tower, args.out)
    print(f"The model is in {args.out}. Examine it with: python -m model_server.tiny.evaluate")


def save(work: Path, tokenizer: PreTrainedTokenizerFast, tower: CLIPVisionModel, out: Path) -> None:
    """Write the finished model as a checkpoint in transformers' format."""
    model = new_llava(tokenizer)
    model.load_state_dict(torch.load(work / f"{STAGES[-1].name}.pt", weights_only=True)["model"])
    model.model.vision_tower.load_state_dict(tower.state_dict())
    if model.generation_config is not None:
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(out)
    processor_for(tokenizer).save_pretrained(out)


if __name__ == "__main__":
    main()
