"""A model that sees: a language model's folder with ``projector/`` and ``tower/`` in it, and how it is asked.

``finish`` makes such a folder of what the two stages leave; ``Eyes`` turns a picture into what stands in its
place in a prompt, and ``encode`` a whole batch of chats, for ``inference.answer_all`` and
``inference.stream``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tianji_helpers import paths, records
from tianji_helpers.errors import CourseError
from tianji_helpers.seeing import rows, tower
from tianji_helpers.training import inference, launch, models


@dataclass
class Eyes:
    """A tower and a projector. size: tokens that a picture becomes are those of the tower."""

    tower: Any
    tower_dir: Path
    projector: Any
    select_layer: int

    @classmethod
    def load(cls, projector_dir: str | Path, tower_dir: str | Path, *, device: str = "cpu") -> "Eyes":
        """Load both. Raises CourseError if one is missing, or they are of different widths."""
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file
        from xtuner.model.modules import ProjectorConfig, ProjectorModel

        place = paths.resolve(projector_dir)
        if not (place / "config.json").is_file():
            raise CourseError(f"{paths.told(place)} 里没有投影层。要看图，请先做完第 7 课。")
        try:
            projector = ProjectorModel(ProjectorConfig(**records.read_json(place / "config.json")))
            projector.load_state_dict(load_file(place / "model.safetensors"))
        except (SafetensorError, OSError, TypeError, RuntimeError) as error:  # a file of it is missing or cut
            raise CourseError(
                f"{paths.told(place)} 不是完整的投影层：{str(error)[:200]}。请重新转换或重新拷贝。"
            ) from error
        seen = tower.load(tower_dir)
        width, wanted = seen.config.hidden_size, projector.model[0].in_features
        if width != wanted:
            raise CourseError(
                f"视觉塔每个词元 {width} 个数，投影层要 {wanted} 个："
                f"{paths.told(tower_dir)} 不是训练这个投影层时用的塔。"
            )
        layer = -1 if isinstance(seen, tower.LiteTower) else -2  # CLIP's last layer but one, as LLaVA
        seen = seen.to(memory_format=torch.channels_last).to(device)
        return cls(seen, paths.resolve(tower_dir), projector.to(device).eval(), layer)

    @classmethod
    def of(cls, model_dir: str | Path, *, device: str = "cpu") -> "Eyes":
        """Load those of a folder that ``finish`` made. Raises CourseError if it has none."""
        folder = paths.resolve(model_dir)
        return cls.load(folder / "projector", folder / "tower", device=device)

    def look(self, images: Sequence[Any]) -> Any:
        """Return what opened pictures become: (pictures, tokens, width of the language model)."""
        import torch

        with torch.inference_mode():
            features = rows.look(self.tower, self.tower_dir, images, self.select_layer)
            return self.projector(features.float())

    def encode(self, model: Any, tokenizer: Any, chats: Sequence[list[dict[str, Any]]]) -> dict[str, Any]:
        """Return ``inputs_embeds`` and ``attention_mask`` of chats, padded on the left.

        chats: as ``inference.messages`` makes them; a message with a picture has it as ``image``: a PIL
        picture, or what ``look`` returned of it, (tokens, width). Raises CourseError for ``<image>`` in a
        text, and unless each chat has exactly one picture.
        """
        import torch

        for chat in chats:
            if any(rows.MARK in message["content"] for message in chat):
                raise CourseError(f"这句话里有 {rows.MARK}，它是放图片的地方。请把它删掉。")
            count = sum("image" in message for message in chat)
            if count != 1:
                raise CourseError(f"这次对话里有 {count} 张图片，应当恰好一张（一次看一张）。")
        pictures = [message["image"] for chat in chats for message in chat if "image" in message]
        if not torch.is_tensor(pictures[0]):
            pictures = self.look(pictures)
        marked = [
            [{**m, "content": f"{rows.MARK}\n{m['content']}"} if "image" in m else m for m in chat]
            for chat in chats
        ]
        encoded = []
        for prompt, picture in zip(inference.checked_prompts(tokenizer, marked), pictures, strict=True):
            before, after = prompt.split(rows.MARK)
            first, second = (tokenizer(part, add_special_tokens=False).input_ids for part in (before, after))
            encoded.append([*first, *[inference.PICTURE] * len(picture), *second])
        longest = max(map(len, encoded))
        pad = tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(one)) + one for one in encoded], device=model.device)
        mask = torch.tensor(
            [[0] * (longest - len(one)) + [1] * len(one) for one in encoded], device=model.device
        )
        stacked = torch.stack([part.to(model.device) for part in pictures])
        embedding = model.get_input_embeddings()
        if (width := stacked.shape[-1]) != (wanted := embedding.embedding_dim):
            raise CourseError(
                f"投影层说出的词元有 {width} 个数，这个语言模型的有 {wanted} 个："
                "投影层是在别的语言模型前面训练的。请用它自己的那个。"
            )
        with torch.inference_mode():
            embeds = inference.splice(embedding, ids, stacked)
        return {"inputs_embeds": embeds, "attention_mask": mask}


def ask(request: str, image: Any, system: str = "") -> list[dict[str, Any]]:
    """Return a chat of one request with a picture."""
    chat = inference.messages(request, system)
    chat[-1]["image"] = image
    return chat


def answer_all(
    model: Any, tokenizer: Any, eyes: Eyes, chats: Sequence[list[dict[str, Any]]], **limits: int
) -> list[Any]:
    """Answer chats with pictures, as ``inference.answer_all`` does others."""
    return inference.answer_all(model, tokenizer, chats, encode=eyes.encode, **limits)


def convert(config: str | Path, checkpoint: str | Path, folder: str | Path) -> Path:
    """Convert a checkpoint of either stage to ``projector/``, and ``llm_adapter/`` where one was trained."""
    return launch.pth_to_hf(config, checkpoint, folder)


def finish(
    model_dir: str | Path,
    converted: str | Path,
    tower_dir: str | Path,
    target: str | Path,
    *,
    device: str = "cpu",
) -> Path:
    """Make one folder of all: the model with the adapter merged in, its projector and its tower.

    model_dir: what the second stage trained on. converted: of ``convert``. Raises CourseError as
    ``launch.merge``.
    """
    target, converted = paths.resolve(target), paths.resolve(converted)
    eyes = {"projector": converted / "projector", "tower": paths.resolve(tower_dir)}
    made = launch.merge(model_dir, converted / "llm_adapter", target, device=device, eyes=eyes)
    about = {**models.recorded(model_dir), **models.recorded(converted), **models.recorded(made)}
    about["sees"] = True
    records.write_provenance(made, stage="07_see_wish", parameters=about)
    return made
