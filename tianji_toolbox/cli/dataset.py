"""Notebooks 02 to 04: from raw rounds to training files."""

import itertools
import sys

from tianji_helpers.errors import CourseError
from tianji_toolbox.cli import arguments as arg

_FORMATS = ("xtuner", "openai", "alpaca", "sharegpt")
_RULES = (  # a review must see the rows as the cleaning does
    arg.words("--off", "RULE", "关掉一条规则，可以写多次"),
    arg.amount("--threshold", "相似度达到多少算重复", 0.9),
)
# what rows of one's own may need
_SYSTEM = arg.word("--system", "TEXT", "给没有系统提示的记录加上这一句", "")
_EMPTY = arg.flag("--allow-empty", "一条也没有时照样写出空文件，而不是报错")


@arg.command(
    arg.folder("folder", "装着各轮文件（或自己的数据）的文件夹"),
    arg.new_json("output_file", "合并后的文件"),
    arg.flag("--skip-bad", "跳过不能用的记录（另存到 …_rejects.jsonl），而不是停下"),
    _SYSTEM,
    _EMPTY,
)
def merge(folder, output_file, **how) -> None:
    """把各轮文件合并成一个训练文件（第 2 课）"""
    from tianji_helpers.dataset.merge import SUFFIXES, merge_rounds

    merged = merge_rounds(folder, output_file, **how)
    print(f"{len(merged.files)} 个文件，写出 {merged.rows} 条：{output_file}")
    if unread := [file.name for file in merged.unread]:
        more = f" 等 {len(unread)} 个" if len(unread) > 5 else ""
        print(f"没有读 {'、'.join(unread[:5])}{more}（只认 {'、'.join(SUFFIXES)}）")
    if merged.rejects:
        print(f"弃用 {merged.rejected} 条，连原因一起写在：{merged.rejects}")


@arg.command(
    arg.file("source", "合并后的文件，或自己的数据（同 tianji convert）"),
    arg.new_rows("--output", "清洗后的文件"),
    arg.new_lines("--rejects", "弃用的记录和原因（.jsonl）"),
    arg.new_json("--report", "每条规则的条数和例子（.json）"),
    arg.choice(
        "--suitability",
        ("absurd", "matrix", "off"),
        "不合适的组合：只丢荒唐的（默认）、课程矩阵不要的都丢、都留",
        "absurd",
    ),
    *_RULES,
    arg.path("--decisions", "照着人工的决定处理（.jsonl）", None, metavar="FILE", dest="decisions_file"),
    arg.whole("--variety", "把请求换成 N 种说法（默认 %(default)s：不换）", 1, least=1, dest="variants"),
    arg.SEED,
    arg.choice(
        "--kind",
        ("wishes", "other"),
        "是祝福，还是别的数据：后者只查空的、乱码、模板词元、思考过程、太长和重复（默认看数据）",
        "",
    ),
    _SYSTEM,
    _EMPTY,
)
def clean(source, output, rejects, report, decisions_file, **how) -> None:
    """清洗合并后的文件，弃用的连原因一起留下（第 2 课）"""
    from tianji_helpers.dataset.clean import clean_file

    if decisions_file and not decisions_file.is_file():
        raise CourseError(f"找不到决定文件 {decisions_file}。请先用 tianji review 作决定，或检查路径。")
    found = clean_file(source, output, rejects=rejects, report=report, decisions_file=decisions_file, **how)
    print(found["why"] + "。")
    print(
        f"读入 {found['rows_in']} 条，保留 {found['rows_out']} 条"
        f"（修补过 {found['mended']} 条），弃用 {found['rejected']} 条：{output}"
    )
    for rule in found["rules"]:
        if rule["rows"]:
            print(f"  {'修' if rule['kind'] == 'mend' else '丢'} {rule['rows']:>7} 条  {rule['title']}")
    if found["misfits"]:
        print(f"留下的有 {found['misfits']} 条不在课程的矩阵里（谁适合什么是一家之言，见 --suitability）")
    if found["rejected"]:
        print(f"弃用的每一条和理由：{rejects}；不想要的规则用 --off 关掉，名字见 {report}")


@arg.command(
    arg.file("source", "合并后的文件"),
    arg.new_folder("folder", "分片写到哪个新文件夹"),
    arg.whole("--rows", "一个分片最多几条", 100_000, least=1),
)
def shard(source, folder, rows) -> None:
    """把合并后的文件切成分片，给 configs/data_juicer/ 的多机清洗（第 2 课）"""
    from tianji_toolbox.dataset.juicer import write_shards

    print(f"{write_shards(source, folder, rows)} 个分片：{folder}")


@arg.command(
    arg.folder("folder", "留下的分片，即配方里的 export_path"),
    arg.new_rows("output_file", "训练文件"),
)
def unshard(folder, output_file) -> None:
    """把多机清洗留下的条目合成一个训练文件（第 2 课）"""
    from tianji_toolbox.dataset.juicer import join_shards

    print(f"写出 {join_shards(folder, output_file)} 条：{output_file}")


@arg.command(
    arg.RUN_DIR,
    arg.file("--source", "合并后的文件，代替 RUN_DIR 里的那个", None),
    arg.new_lines("--decisions", "决定记在哪里（默认在合并后的文件旁边的 decisions.jsonl）", None),
    *_RULES,
    arg.HOST,
    arg.PORT,
)
def review(run_dir, source, decisions, off, threshold, host, port) -> None:
    """在网页里逐条复核修补过和弃用的记录；下一次清洗照您的决定办（第 2 课）"""
    from tianji_helpers import paths
    from tianji_helpers.dataset.clean import STAGE
    from tianji_helpers.dataset.decisions import FILE, read
    from tianji_toolbox import pages

    source = source or paths.run_dir(run_dir) / STAGE / "merged.json"
    path = decisions or source.with_name(FILE)
    if not source.is_file():
        raise CourseError(
            f"找不到合并后的文件 {source}。请先运行第 2 课或 tianji merge，或用 --source 指明它。"
        )
    count = len(read(path))
    print(f"决定记在 {path}（已有 {count} 条）；再跑第 2 课，或 tianji clean --decisions {path}，就照着办。")
    script = paths.ROOT / "tianji_toolbox" / "classroom" / "review_page.py"
    pages.serve(script, [source, path, threshold, *off], host, port)


@arg.command(
    arg.new_rows("--output", "训练文件；F_validation、F_test 和考泄漏的 F_probe 写在它旁边", metavar="F"),
    arg.word("--owner", "NAME", "主人是谁"),
    arg.word("--assistant", "NAME", "助手叫什么"),
    arg.word("--model", "NAME", "基座模型的名字", "Gemma 3 270M"),
    arg.whole("--max-questions", "只用前几种问法来训练（默认全部）", 0),
    arg.whole("--wordings", "每个问题几种答法", 2, least=1),
    arg.amount("--general-ratio", "每条人设问答混进几条通用问答，0 表示不混", 0.3, most=100),
    arg.file("--general-file", "自己的通用问答（.yaml，默认用自带的）", None),
    arg.whole("--repeat", "整套重复几遍（默认 %(default)s）；不带来新东西，只让训练变慢", 1, least=1),
    arg.SEED,
)
def self_cognition(output, owner, assistant, model, general_file, repeat, **how) -> None:
    """写出自我认知的训练、验证和测试文件（第 3 课）"""
    from tianji_helpers.dataset.self_cognition import Persona, write

    counts = write(
        output,
        Persona(owner, assistant, model),
        repeat=repeat,
        **how | ({"general_file": general_file} if general_file else {}),
    )
    print(
        f"训练 {counts['train']} 条，验证 {counts['validation']} 条，测试 {counts['test']} 条，"
        f"考泄漏 {counts['probe']} 条：{output}"
    )
    if repeat > 1:
        once = counts["train"] // repeat
        print(
            f"重复了 {repeat} 遍：训练一轮要 {repeat} 倍的时间，不同的句子仍是 {once} 条；"
            "想多看几遍，增加训练轮数（epoch）就行。",
            file=sys.stderr,
        )


@arg.command(
    arg.file("source", "COIG-CQIA 的 .jsonl 或 .json 文件"),
    arg.new_rows("--train", "训练集写到哪里"),
    arg.new_rows("--test", "测试集写到哪里"),
    arg.new_rows("--validation", "验证集写到哪里（默认不分验证集）", None),
    arg.new_rows("--format-output", "划分之前的全部对话写到哪里（默认不写）", None),
    arg.amount("--ratio", "训练集的比例", 0.7),
    arg.whole("--shuffle-seed", "随机种子：打乱再分，相似的问题不拆开（默认按顺序分）", None),
)
def ruozhiba(source, train, test, validation, format_output, ratio, shuffle_seed) -> None:
    """把 COIG-CQIA 记录转成对话并划分（第 4 课）"""
    from tianji_helpers.dataset.ruozhiba import convert_file

    counts = convert_file(
        source,
        train,
        test,
        validation_path=validation,
        format_path=format_output,
        ratio=ratio,
        seed=shuffle_seed,
    )
    validation = f"验证 {counts['validation']} 条，" if validation else ""
    print(f"读入 {counts['source']} 条：训练 {counts['train']} 条，{validation}测试 {counts['test']} 条")


@arg.command(
    arg.file("source", "要分的文件，四种格式都行；至少要有 3 个不同的问题"),
    arg.path(
        "--output-dir",
        "…_train、…_validation、…_test 三个文件写到哪里（默认在原文件旁边）",
        None,
        metavar="DIR",
    ),
    arg.choice(
        "--by",
        ("pair", "question", "row"),
        "什么算一组：（对象, 场景）相同的；问题相似的；每条自成一组",
        "pair",
    ),
    arg.amount("--validation", "验证集的比例", 0.05),
    arg.amount("--test", "测试集的比例", 0.08),
    arg.SEED,
)
def split(source, output_dir, **how) -> None:
    """把数据分成训练、验证、测试三个文件，相似的不拆开（第 2 课）"""
    from tianji_helpers.dataset.splits import write_split

    counts = write_split(source, output_dir, **how)
    print(
        f"训练 {counts['train']} 条，验证 {counts['validation']} 条，测试 {counts['test']} 条"
        f"（一共 {counts['groups']} 组，同组的不拆开）：{output_dir or source.parent}"
    )


@arg.command(
    arg.file("files", "训练集、验证集、测试集；每个文件都和它前面的每一个比", nargs="+"),
    arg.choice("--by", ("question", "answer", "both"), "比问题、比答案，或两样都比", "question"),
    arg.amount("--threshold", "相似度达到多少算漏题", 0.9),
    arg.flag("--repair", "把漏题从后面的文件里去掉，另存一份（不加则只报告，有漏题时退出码是 1）"),
)
def leakage(files, by, threshold, repair) -> int:
    """查验证集、测试集里有没有前面的文件见过的题，可以顺手去掉"""
    from tianji_helpers.dataset.splits import file_leakage, repair_test

    if len(files) < 2:
        raise CourseError(f"只给了一个文件 {files[0]}；请依次写训练集、（验证集、）测试集。")
    left = 0
    for earlier, later in itertools.combinations(files, 2):
        found = file_leakage(earlier, later, by=by, threshold=threshold)
        print(
            f"{later} 对 {earlier}：漏题 {len(found)} 条："
            f"一字不差 {len(found.exact)} 条，几乎一样 {len(found.near)} 条"
        )
        for position, twin, similarity in found.pairs()[:20]:
            print(f"  后者第 {position + 1} 条 ≈ 前者第 {twin + 1} 条，相似度 {similarity:.2f}")
        if len(found) > 20:
            print(f"  ……另有 {len(found) - 20} 条")
        if found and repair:
            print(f"已从 {later} 里去掉，放在 {repair_test(later, earlier, found)}")
        else:
            left += len(found)
    return 1 if left else 0


@arg.command(
    arg.word("name", "NAME", "数据集的名字（不写就列出来）", ""),
    arg.word("--source", "NAME", "从哪里下载：huggingface（默认）或 modelscope", ""),
    arg.word("--endpoint", "URL", "镜像站的地址", ""),
    arg.word("--revision", "REV", "版本（默认见 tianji dataset）", ""),
    arg.results("--output", "放在哪里（默认 outputs/datasets）"),
)
def dataset(name, output, **origin) -> None:
    """下载公开的数据集；不写名字就列出有哪些"""
    from tianji_toolbox.dataset import download

    if not name:
        print(download.table())
        return
    download.fetch(name, output, **origin)


@arg.command(
    arg.file("source", "要转换的文件：JSON、JSON Lines、CSV、TSV（可以是 .gz）或 parquet"),
    arg.new_rows("target", "结果文件：.json（数组）或 .jsonl（一行一条）"),
    arg.choice("--to", _FORMATS, "换成哪种格式"),
    arg.choice("--from", _FORMATS, "原来是哪种格式（默认看第一条的字段）", "", dest="source_format"),
    _SYSTEM,
)
def convert(source, target, to, source_format, system) -> None:
    """把对话数据换一种格式"""
    from tianji_helpers.formats import convert_file

    done = convert_file(source, target, to, source_format, system=system)
    print(f"{done.source} → {to}：{done.rows} 条，{done.turns} 轮：{target}")
    if done.joined:
        print(f"有 {done.joined} 条的 input 接在了 instruction 后面，两者的界线换不回来。", file=sys.stderr)
    for field, count in sorted(done.left_out.items()):
        print(f"没有带走的字段：{field}（{count} 处），它不是对话的一部分。", file=sys.stderr)
