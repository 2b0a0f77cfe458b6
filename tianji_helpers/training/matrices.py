"""One weight matrix of a model, and what an adapter changes of it: for looking at, not for computing with.

Read from the safetensors files directly, so that nothing else of the model has to be loaded.
"""

import json
import math
from pathlib import Path

from tianji_helpers.errors import CourseError
from tianji_helpers.training import inspection

# of a larger matrix the corner is enough to look at, and its singular values take seconds, not minutes
LARGEST = 2048


def pick(model_dir: str | Path):
    """Return (name, weight) of one matrix in the middle of the list of a model's MLP layers.

    The weight is float32, of shape (out, in), both at most ``LARGEST``. Raises CourseError if the
    folder holds no safetensors file with such a layer.
    """
    from safetensors import safe_open

    for path in sorted(Path(model_dir).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            inner = sorted(
                name
                for name in file.keys()  # noqa: SIM118
                if ("mlp" in name or "feed_forward" in name) and name.endswith(".weight")
            )
            if inner:
                name = inner[len(inner) // 2]
                return name.removesuffix(".weight"), file.get_tensor(name)[:LARGEST, :LARGEST].float()
    raise CourseError(
        f"{Path(model_dir).name} 里没有 safetensors 权重文件，或其中没有 mlp、feed_forward 层。"
    )


def sizes(model_dir: str | Path) -> dict[str, int]:
    """Return how many numbers each weight of a model has, by name; only the files' headers are read."""
    return {
        name: math.prod(shape)
        for path in sorted(Path(model_dir).glob("*.safetensors"))
        for name, shape in inspection.read_shapes(path).items()
    }


def change(adapter_dir: str | Path, name: str):
    """Return what an adapter adds to the matrix ``name`` of its base model: ``alpha / r * B @ A``.

    name: as ``pick`` returns it; the shape is the same as there. Raises CourseError if the adapter
    does not change that matrix.
    """
    from safetensors import safe_open

    folder = Path(adapter_dir)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    parts = [f"base_model.model.{name}.lora_{part}.weight" for part in "BA"]
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        if not set(parts) <= set(file.keys()):
            raise CourseError(f"适配器 {folder.name} 没有改动 {name} 这一层。")
        b, a = (file.get_tensor(part).float() for part in parts)
    return config["lora_alpha"] / config["r"] * b[:LARGEST] @ a[:, :LARGEST]
