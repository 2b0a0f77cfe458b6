"""What a training learns from: rows of any kind as XTuner takes them, and a look at each before it starts.

The configs load their rows with ``load_rows``, so a file may be of any format that ``tianji_helpers.formats``
reads. A config of one's own may load them in another way and map them with XTuner's functions; ``look``
runs what the config says on every row, and names the row that XTuner would stumble over minutes later.
"""

import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as brief

from tianji_helpers import formats, paths
from tianji_helpers.errors import CourseError
from tianji_helpers.training import inspection

_AT_ONCE = 1_000  # rows that become Arrow at a time


def load_rows(data_files: dict, **_):
    """Return ``{"train": …}``, a ``datasets.DatasetDict`` of rows with a ``conversation``.

    It stands in for ``datasets.load_dataset``. data_files: ``{"train": path}``, so that the place where a
    config names its file is XTuner's usual one. What else that takes says nothing here: ``path``, which
    XTuner's own check of a data set (``check_custom_dataset``) asks for, and ``cache_dir``.
    Raises CourseError naming file, row and field.
    """
    import pyarrow
    from datasets import Dataset, DatasetDict

    turn = pyarrow.struct([(name, pyarrow.string()) for name in ("system", "input", "output")])
    schema = pyarrow.schema([("conversation", pyarrow.list_(turn))])
    tables, part = [], []
    for where, turns in formats.read(paths.resolve(data_files["train"])):
        part.append(formats.from_turns(turns, "xtuner", where))
        if len(part) == _AT_ONCE:
            tables.append(pyarrow.Table.from_pylist(part, schema))
            part = []
    tables.append(pyarrow.Table.from_pylist(part, schema))
    return DatasetDict(train=Dataset(pyarrow.concat_tables(tables)))


@dataclass(frozen=True)
class Rows:
    """The rows of one file as a training sees them.

    lengths: tokens of each row, with the template's. answers: those that the loss sees. seen: the same as
    far as the limit lets it see, ``max_length`` tokens. empty: numbers of the rows, from 1, with an answer
    without a letter: of that the template makes tokens, too, and the model learns to say nothing.
    """

    path: Path
    lengths: list[int]
    answers: list[int]
    seen: list[int]
    max_length: int
    empty: list[int] = field(default_factory=list)

    @property
    def too_long(self) -> int:
        """The rows that are cut off at the limit."""
        return sum(length > self.max_length for length in self.lengths)

    @property
    def unlearnt(self) -> int:
        """The rows that are left out: no token of an answer stands before the limit."""
        return self.seen.count(0)

    @property
    def silence(self) -> str:
        """A sentence about the rows with an empty answer; empty if there is none."""
        if not self.empty:
            return ""
        return f"有 {len(self.empty)} 条的答案是空的（第 {_listed(self.empty)} 条）；请补上答案，或删掉它们。"

    def __str__(self) -> str:
        text = (
            f"{paths.told(self.path)}：{len(self.lengths)} 条，{sum(self.lengths)} 个词元"
            f"（{sum(self.answers)} 个算损失），最长的一条 {max(self.lengths)} 个"
        )
        if not self.too_long:
            return f"{text}，都不超过上限 {self.max_length}。{self.silence}"
        lost = 1 - sum(self.seen) / max(1, sum(self.answers))
        return (
            f"{text}。{self.silence}"
            f"有 {self.too_long} 条超过上限 {self.max_length}，后面的会截掉（答案的 {lost:.1%}），"
            f"其中 {self.unlearnt} 条一个答案词元也不剩，用不上；"
            "要全部学到，请把 train_dataloader.dataset.max_length 调大，或先把长的拆短。"
        )


def _listed(numbers: list[int]) -> str:
    return "、".join(map(str, numbers[:5])) + ("……" if len(numbers) > 5 else "")


def count(dataset) -> int:
    """Return how many rows a config loads; none of them is looked at. Raises CourseError as ``look`` does."""
    (number,) = _loaded(dataset, paths.resolve(dataset.dataset.data_files.train), lambda rows: [len(rows)])
    return number


def look(dataset) -> Rows:
    """Run what a config does to its rows, without cutting or packing, and return what comes of it.

    dataset: a config's ``train_dataloader.dataset``, of XTuner's type ``process_hf_dataset``.
    Raises CourseError naming file and row (one whose picture has no features, too), if there is nothing that
    a loss could be computed of, and if all answers are empty.
    """
    from xtuner.dataset.utils import encode_fn
    from xtuner.registry import BUILDER

    path = paths.resolve(dataset.dataset.data_files.train)
    maps = []
    try:
        tokenizer = BUILDER.build(_from_here(dataset.tokenizer))
        for name in ("dataset_map_fn", "template_map_fn"):
            maps += [(name, _function(part))] if (part := dataset.get(name)) else []
    except CourseError:
        raise
    except Exception as error:  # what a config names may not be there
        raise CourseError(
            f"配置里的 train_dataloader.dataset 用不了：它的分词器或 map 函数建不出来（{_said(error)}）。"
        ) from error
    rows = Rows(path, [], [], [], dataset.max_length)
    features = dataset.get("features")  # of ``seeing.rows.SeenRows``
    shapes = inspection.read_shapes(paths.resolve(features)) if features else {}
    speaks = False
    for number, row in enumerate(_loaded(dataset, path), 1):
        if features and row.get("image") not in shapes:
            raise CourseError(
                f"{paths.told(path)} 第 {number} 条：视觉特征 {paths.told(features)} 里没有图片 "
                f"{row.get('image')}。请改正 image，"
                "或用这些图片重新算视觉特征（seeing.rows.compute_features）。"
            )
        try:
            learnt = None
            for name, function in maps:
                if name == "template_map_fn":  # its suffix makes a text even of nothing
                    learnt = _answers(row)
                row = row | function(row)
            learnt = _answers(row) if learnt is None else learnt
            encoded = encode_fn(row, tokenizer, 1 << 62)
        except Exception as error:  # a map function is a program: anything can go wrong in it
            raise CourseError(
                f"{paths.told(path)} 第 {number} 条不是这个配置认得的样子（{_said(error)}）。"
                f"这一条的字段：{'、'.join(row)}。请用 tianji convert 转换，并把配置里的 dataset_map_fn "
                "去掉、dataset 换成 load_rows 的（见 configs/_base_/qlora_gpu.py）。"
            ) from error
        labels = [label >= 0 for label in encoded["labels"]]
        rows.lengths.append(len(labels))
        rows.answers.append(sum(labels))
        rows.seen.append(sum(labels[: rows.max_length]))
        speaks = speaks or any(learnt)
        if not all(learnt):
            rows.empty.append(number)
    if rows.empty and not speaks:
        raise CourseError(
            f"{paths.told(path)} 的 {len(rows.seen)} 条里，答案全是空的（第 {_listed(rows.empty)} 条）："
            "这样训练，模型只会学到一言不发。请补上答案再训练，或换一个文件。"
        )
    if not any(rows.seen):
        raise CourseError(
            f"训练数据 {paths.told(path)} 的 {len(rows.seen)} 条里，没有一个词元能算损失："
            f"没有答案，或者答案全在上限 {rows.max_length} 个词元之后。请检查数据，或把 max_length 调大。"
        )
    return rows


def _answers(row: dict) -> list[str]:
    """Return the answers of a row that the loss sees, before the template adds to them."""
    turns = row.get("conversation") or ()
    return [(turn.get("output") or "").strip() for turn in turns if turn.get("output_with_loss", True)]


def _from_here(tokenizer):
    """Return a tokenizer's config whose folder is found from any current folder, as the training finds it.

    Raises CourseError for one that would never come to an end (see ``inspection.check_tokenizer``).
    """
    folder = paths.resolve(tokenizer.get("pretrained_model_name_or_path", ""))
    if not folder.is_dir():
        return tokenizer
    inspection.check_tokenizer(folder)
    return {**tokenizer, "pretrained_model_name_or_path": str(folder)}


def _loaded(dataset, path: Path, what: Callable[..., Iterable] = iter) -> Iterator:
    """Yield the rows as the config loads them; datasets' own cache may hold a file that has changed since.

    what: of them, instead.
    """
    import datasets
    from xtuner.dataset.huggingface import build_origin_dataset

    quiet = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        source = copy.deepcopy(dataset.dataset)
        source.data_files.train = str(path)
        if "path" in source:
            source["cache_dir"] = cache
        try:
            yield from what(build_origin_dataset(source, dataset.get("split", "train")))
        except (CourseError, GeneratorExit):
            raise
        except Exception as error:  # a loader is a program, too
            raise CourseError(
                f"训练数据 {paths.told(path)} 装不进来（{_said(error.__cause__ or error)}）。"
                "请用 tianji convert 转换成一种格式。"
            ) from error
        finally:
            if not quiet:
                datasets.enable_progress_bars()


def _function(part) -> Callable[[dict], dict]:
    """Return a map function that a config gives by itself, by name, or by what makes it."""
    from mmengine.utils import get_object_from_string
    from xtuner.registry import BUILDER, MAP_FUNC

    if not isinstance(part, str):
        return part if callable(part) else BUILDER.build(part)
    if found := MAP_FUNC.get(part) or get_object_from_string(part):
        return found
    raise CourseError(
        f"没有 {part} 这个函数；请把配置里的 dataset_map_fn 改成 None，数据用 tianji convert 转换。"
    )


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}：{brief(str(error))}" if str(error) else type(error).__name__
