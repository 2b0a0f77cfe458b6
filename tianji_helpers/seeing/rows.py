"""Rows with a picture: LLaVA's JSON, checked, and as XTuner trains on them.

A file is a JSON array of ``{"id", "image", "conversations": [{"from": "human", "value": "<image>\\n…"},
{"from": "gpt", "value": "…"}]}``; ``image`` is a path inside the folder of pictures. A frozen tower says the
same of a picture in every step, so it is asked once (``compute_features``), and a row brings what it said.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tianji_helpers import paths, records
from tianji_helpers.errors import CourseError
from tianji_helpers.seeing import pictures

if TYPE_CHECKING:
    import torch

MARK = "<image>"  # where the picture comes in a text
_AT_ONCE = 8  # pictures; more of them don't fit the cache of a CPU


def row(number: str, image: str, request: str, answer: str) -> dict[str, Any]:
    """Return a row of one question about one picture."""
    said = [{"from": "human", "value": f"{MARK}\n{request}"}, {"from": "gpt", "value": answer}]
    return {"id": number, "image": image, "conversations": said}


def check(path: str | Path, image_folder: str | Path, open_images: bool = True) -> list[dict[str, Any]]:
    """Return the rows of a file. open_images: look at the pictures, too, not only where they are.

    Raises CourseError if there is none, and naming the first row that is wrong: no picture, or one that is
    missing, no picture at all or outside of the folder; a number of ``<image>`` other than one, in the first
    question; turns out of order.
    """
    path, folder = paths.resolve(path), paths.resolve(image_folder)
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for where, one in _read(path):
        image = one["image"]
        named = "\0" not in image and not Path(image).is_absolute()
        if not named or not (folder / image).resolve().is_relative_to(folder):
            raise CourseError(f"{where}：image 是 {image}，不在图片文件夹里。请写相对路径，把图片放进去。")
        if not (folder / image).is_file():
            raise CourseError(f"{where}：找不到图片 {image}（在 {paths.told(folder)} 里找）。")
        if open_images and image not in seen:
            seen.add(image)
            try:
                pictures.open_picture(folder / image)
            except CourseError as error:
                raise CourseError(f"{where}：{error}") from error
        rows.append(one)
    return rows


def _read(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (words that name the row, row): all that ``check`` asks for but the pictures themselves."""
    where = ""
    for number, one in enumerate(records.iter_json_array(path), 1):
        where = f"{paths.told(path)} 第 {number} 条"
        if not isinstance(one, dict):
            raise CourseError(f"{where}：应当是一个 {{…}}，现在是 {type(one).__name__}。")
        image, turns = one.get("image"), one.get("conversations")
        if not isinstance(image, str) or not image:
            raise CourseError(f"{where}：没有 image（图片相对于图片文件夹的路径）。")
        if not isinstance(turns, list) or not turns or len(turns) % 2:
            raise CourseError(f"{where}：conversations 应当是一问一答的列表。")
        for place, turn in enumerate(turns):
            speaker = ("human", "gpt")[place % 2]
            if (
                not isinstance(turn, dict)
                or turn.get("from") != speaker
                or not isinstance(turn.get("value"), str)
            ):
                raise CourseError(
                    f"{where}：conversations 的第 {place + 1} 句应当是 {speaker} 说的（from、value）。"
                )
            records.check_text(turn["value"], "value", where)
        marks = [turn["value"].count(MARK) for turn in turns]
        if marks[0] != 1 or sum(marks) != 1:
            raise CourseError(
                f"{where}：{MARK} 有 {sum(marks)} 个，应当只在第一个问题里有一个（一条一张图片）。"
            )
        yield where, one
    if not where:
        raise CourseError(f"{paths.told(path)} 里一条数据也没有。")


def compute_features(
    tower: Any,
    tower_dir: str | Path,
    image_folder: str | Path,
    images: Iterable[str],
    target: str | Path,
    *,
    select_layer: int = -1,
    report: Callable[[str], None] = print,
) -> Path:
    """Let a tower look at pictures, once, and keep what it says: (tokens, width) in float16 for each.

    tower, tower_dir: as ``tower.load`` gives it, and its folder. images: paths inside ``image_folder``.
    select_layer: of the tower, as XTuner's ``visual_select_layer``; the first token, CLIP's class, is
    dropped. Returns ``target``, a safetensors file. Raises CourseError for a picture that ``pictures``
    refuses.
    """
    import torch
    from safetensors.torch import save

    folder, found, names = paths.resolve(image_folder), {}, sorted(set(images))
    for start in range(0, len(names), _AT_ONCE):
        chosen = names[start : start + _AT_ONCE]
        opened = [pictures.open_picture(folder / name) for name in chosen]
        for name, tokens in zip(chosen, look(tower, tower_dir, opened, select_layer), strict=True):
            found[name] = tokens.to(torch.float16).cpu().contiguous()
        if start % 160 == 0:
            report(f"视觉塔看过 {start + len(chosen)}/{len(names)} 张")
    target = paths.resolve(target)
    with records.atomic_writer(target, binary=True) as file:
        file.write(save(found))
    return target


def look(tower: Any, tower_dir: str | Path, images: Sequence[Any], select_layer: int = -1) -> "torch.Tensor":
    """Return what a tower says of opened pictures: (pictures, tokens, width), without its first token."""
    import torch

    file = paths.resolve(tower_dir) / "preprocessor_config.json"
    said = records.read_json(file)
    try:
        size = said["crop_size"]["height"] if isinstance(said["crop_size"], dict) else said["crop_size"]
        mean, deviation = said["image_mean"], said["image_std"]
    except (KeyError, TypeError) as error:
        raise CourseError(
            f"{paths.told(file)} 里没有 crop_size、image_mean、image_std：不知道怎样给视觉塔看图。"
            "请删掉这个文件夹，重新准备。"
        ) from error
    pixels = pictures.to_pixels(images, size, mean, deviation).to(tower.device, tower.dtype)
    with torch.inference_mode():
        out = tower(pixels.contiguous(memory_format=torch.channels_last), output_hidden_states=True)
    return out.hidden_states[select_layer][:, 1:]


def load_llava(data_files: dict[str, Any], system: str = "", **_: Any) -> Any:
    """Return ``{"train": …}``, a ``datasets.DatasetDict`` of rows with ``conversation`` and ``image``.

    It stands in for ``datasets.load_dataset`` in a config, as ``data.load_rows`` does. system: of every row;
    LLaVA's JSON has none. Raises CourseError naming file and row, as ``check`` does; the pictures are not
    looked at: a training needs their features, not them.
    """
    from datasets import Dataset, DatasetDict

    said = [
        {
            "image": one["image"],
            "conversation": [
                {"system": "" if place else system, "input": asked["value"], "output": answer["value"]}
                for place, (asked, answer) in enumerate(
                    zip(one["conversations"][::2], one["conversations"][1::2], strict=True)
                )
            ],
        }
        for _, one in _read(paths.resolve(data_files["train"]))
    ]
    return DatasetDict(train=Dataset.from_list(said))


class SeenRows:
    """The rows of ``process_hf_dataset``, each with what the tower said of its picture (a config's data set).

    features: a file of ``compute_features``. XTuner's single ``<image>`` becomes a place for each of its
    tokens.
    """

    def __init__(self, features: str | Path, **options: Any):
        from safetensors import safe_open
        from xtuner.dataset import process_hf_dataset

        self.rows = process_hf_dataset(with_image_token=True, **options)
        self.file = safe_open(str(paths.resolve(features)), "pt")
        if missing := sorted(set(self.rows["image"]) - set(self.file.keys())):
            raise CourseError(
                f"视觉特征 {features} 里没有图片 {missing[0]}（缺 {len(missing)} 张）。请重新计算特征。"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        from tianji_helpers.training.inference import PICTURE

        one = self.rows[index]
        features = self.file.get_tensor(one["image"])
        place = one["input_ids"].index(PICTURE)
        more = len(features) - 1
        ids, labels = one["input_ids"], one["labels"]
        return {
            "input_ids": ids[:place] + [PICTURE] * more + ids[place:],
            "labels": labels[:place] + [-100] * more + labels[place:],
            "features": features,
        }


def join_seen(instances: list[dict[str, Any]]) -> dict[str, Any]:
    """Collate rows of ``SeenRows`` as ``xtuner_compat.join_samples`` does others, with their features."""
    import torch

    from tianji_helpers.training.xtuner_compat import join_samples

    batch = join_samples(instances)
    batch["data"]["features"] = torch.stack([one["features"] for one in instances])
    return batch
