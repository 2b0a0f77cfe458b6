"""Notebooks 02 to 04: from raw rounds to training files."""

import argparse
import itertools
import sys

from tianji_helpers.errors import CourseError
from tianji_toolbox.cli.parser import (
    OUTPUT,
    READ,
    READ_FILE,
    READ_FOLDER,
    SEED,
    WRITE_FILE,
    WRITE_FOLDER,
    add_address,
    add_run_dir,
    amount,
    whole,
)


def merge(args: argparse.Namespace) -> None:
    """把各轮文件合并成一个训练文件（第 2 课）"""
    from tianji_helpers.dataset.merge import merge_rounds

    merged = merge_rounds(
        args.folder,
        args.output_file,
        skip_bad=args.skip_bad,
        system=args.system,
        allow_empty=args.allow_empty,
    )
    print(f"{len(merged.files)} 个文件，写出 {merged.rows} 条：{args.output_file}")
    if merged.rejects:
        print(f"弃用 {merged.rejected} 条，连原因一起写在：{merged.rejects}")


def clean(args: argparse.Namespace) -> None:
    """清洗合并后的文件，弃用的连原因一起留下（第 2 课）"""
    from tianji_helpers.dataset.clean import clean_file

    if args.decisions and not args.decisions.is_file():
        raise CourseError(f"找不到决定文件 {args.decisions}。请先用 tianji review 作决定，或检查路径。")
    report = clean_file(
        args.source,
        args.output_file,
        rejects=args.rejects,
        suitability=args.suitability,
        report=args.report,
        off=args.off,
        threshold=args.threshold,
        decisions_file=args.decisions,
        variants=args.variety,
        seed=args.seed,
        kind=args.kind,
        system=args.system,
        allow_empty=args.allow_empty,
    )
    print(report["why"] + "。")
    print(
        f"读入 {report['rows_in']} 条，保留 {report['rows_out']} 条"
        f"（修补过 {report['mended']} 条），弃用 {report['rejected']} 条：{args.output_file}"
    )
    for rule in report["rules"]:
        if rule["rows"]:
            print(f"  {'修' if rule['kind'] == 'mend' else '丢'} {rule['rows']:>7} 条  {rule['title']}")
    if report["misfits"]:
        print(f"留下的有 {report['misfits']} 条不在课程的矩阵里（谁适合什么是一家之言，见 --suitability）")
    if report["rejected"]:
        print(f"弃用的每一条和理由：{args.rejects}；不想要的规则用 --off 关掉，名字见 {args.report}")


def shard(args: argparse.Namespace) -> None:
    """把合并后的文件切成分片，给 configs/data_juicer/ 的多机清洗（第 2 课）"""
    from tianji_toolbox.dataset.juicer import write_shards

    print(f"{write_shards(args.source, args.folder, args.rows)} 个分片：{args.folder}")


def unshard(args: argparse.Namespace) -> None:
    """把多机清洗留下的条目合成一个训练文件（第 2 课）"""
    from tianji_toolbox.dataset.juicer import join_shards

    print(f"写出 {join_shards(args.folder, args.output_file)} 条：{args.output_file}")


def review(args: argparse.Namespace) -> None:
    """在网页里逐条复核修补过和弃用的记录；下一次清洗照您的决定办（第 2 课）"""
    from tianji_helpers import pages, paths
    from tianji_helpers.dataset import clean, decisions

    source = args.source or paths.run_dir(args.run_dir) / clean.STAGE / "merged.json"
    path = args.decisions or source.with_name(decisions.FILE)
    if not source.is_file():
        raise CourseError(
            f"找不到合并后的文件 {source}。请先运行第 2 课或 tianji merge，或用 --source 指明它。"
        )
    count = len(decisions.read(path))
    print(f"决定记在 {path}（已有 {count} 条）；再跑第 2 课，或 tianji clean --decisions {path}，就照着办。")
    script = paths.ROOT / "tianji_toolbox" / "classroom" / "review_page.py"
    pages.serve(script, [source, path, args.threshold, *args.off], args.host, args.port)


def self_cognition(args: argparse.Namespace) -> None:
    """写出自我认知的训练、验证和测试文件（第 3 课）"""
    from tianji_helpers.dataset.self_cognition import Persona, write

    counts = write(
        args.output,
        Persona(args.owner, args.assistant, args.model),
        max_questions=args.max_questions,
        wordings=args.wordings,
        general_ratio=args.general_ratio,
        repeat=args.repeat,
        seed=args.seed,
        **({"general_file": args.general_file} if args.general_file else {}),
    )
    print(
        f"训练 {counts['train']} 条，验证 {counts['validation']} 条，测试 {counts['test']} 条，"
        f"考泄漏 {counts['probe']} 条：{args.output}"
    )
    if args.repeat > 1:
        once = counts["train"] // args.repeat
        print(
            f"重复了 {args.repeat} 遍：训练一轮要 {args.repeat} 倍的时间，不同的句子仍是 {once} 条；"
            "想多看几遍，增加训练轮数（epoch）就行。",
            file=sys.stderr,
        )


def ruozhiba(args: argparse.Namespace) -> None:
    """把 COIG-CQIA 记录转成对话并划分（第 4 课）"""
    from tianji_helpers.dataset.ruozhiba import convert_file

    counts = convert_file(
        args.source,
        args.train,
        args.test,
        validation_path=args.validation,
        format_path=args.format_output,
        ratio=args.ratio,
        seed=args.shuffle_seed,
    )
    validation = f"验证 {counts['validation']} 条，" if args.validation else ""
    print(f"读入 {counts['source']} 条：训练 {counts['train']} 条，{validation}测试 {counts['test']} 条")


def split(args: argparse.Namespace) -> None:
    """把数据分成训练、验证、测试三个文件，相似的不拆开（第 2 课）"""
    from tianji_helpers.dataset.splits import write_split

    counts = write_split(
        args.source,
        args.output_dir,
        by=args.by,
        validation=args.validation,
        test=args.test,
        seed=args.seed,
    )
    print(
        f"训练 {counts['train']} 条，验证 {counts['validation']} 条，测试 {counts['test']} 条"
        f"（一共 {counts['groups']} 组，同组的不拆开）：{args.output_dir or args.source.parent}"
    )


def leakage(args: argparse.Namespace) -> int:
    """查验证集、测试集里有没有前面的文件见过的题，可以顺手去掉"""
    from tianji_helpers.dataset.splits import file_leakage, repair_test

    if len(args.files) < 2:
        raise CourseError(f"只给了一个文件 {args.files[0]}；请依次写训练集、（验证集、）测试集。")
    left = 0
    for earlier, later in itertools.combinations(args.files, 2):
        found = file_leakage(earlier, later, by=args.by, threshold=args.threshold)
        print(
            f"{later} 对 {earlier}：漏题 {len(found)} 条："
            f"一字不差 {len(found.exact)} 条，几乎一样 {len(found.near)} 条"
        )
        for position, twin, similarity in found.pairs()[:20]:
            print(f"  后者第 {position + 1} 条 ≈ 前者第 {twin + 1} 条，相似度 {similarity:.2f}")
        if len(found) > 20:
            print(f"  ……另有 {len(found) - 20} 条")
        if found and args.repair:
            print(f"已从 {later} 里去掉，放在 {repair_test(later, earlier, found)}")
        else:
            left += len(found)
    return 1 if left else 0


def dataset(args: argparse.Namespace) -> None:
    """下载公开的数据集；不写名字就列出有哪些"""
    from tianji_toolbox.dataset import download

    if not args.name:
        print(download.table())
        return
    download.fetch(args.name, args.output, source=args.source, endpoint=args.endpoint, revision=args.revision)


def convert(args: argparse.Namespace) -> None:
    """把对话数据换一种格式"""
    from tianji_helpers.formats import convert_file

    done = convert_file(args.source, args.target, args.to, args.source_format, system=args.system)
    print(f"{done.source} → {args.to}：{done.rows} 条，{done.turns} 轮：{args.target}")
    if done.joined:
        print(f"有 {done.joined} 条的 input 接在了 instruction 后面，两者的界线换不回来。", file=sys.stderr)
    for field, count in sorted(done.left_out.items()):
        print(f"没有带走的字段：{field}（{count} 处），它不是对话的一部分。", file=sys.stderr)


def add(command) -> None:
    """Add these commands; ``command`` makes the parser of one."""
    sub = command("merge", merge)
    sub.add_argument("folder", type=READ_FOLDER, help="装着各轮文件（或自己的数据）的文件夹")
    sub.add_argument("output_file", type=WRITE_FILE, help="合并后的文件")
    sub.add_argument(
        "--skip-bad", action="store_true", help="跳过不能用的记录（另存到 …_rejects.jsonl），而不是停下"
    )
    _add_own(sub)
    _add_empty(sub)

    sub = command("clean", clean)
    sub.add_argument("source", type=READ_FILE, help="合并后的文件，或自己的数据（同 tianji convert）")
    sub.add_argument(
        "--output", dest="output_file", required=True, type=WRITE_FILE, metavar="F", help="清洗后的文件"
    )
    sub.add_argument(
        "--rejects", required=True, type=WRITE_FILE, metavar="F", help="弃用的记录和原因（.jsonl）"
    )
    sub.add_argument(
        "--report", required=True, type=WRITE_FILE, metavar="F", help="每条规则的条数和例子（.json）"
    )
    sub.add_argument(
        "--suitability",
        choices=("absurd", "matrix", "off"),
        default="absurd",
        help="不合适的组合：只丢荒唐的（默认）、课程矩阵不要的都丢、都留",
    )
    _add_rules(sub)
    sub.add_argument("--decisions", type=READ, metavar="F", help="照着人工的决定处理（.jsonl）")
    sub.add_argument(
        "--variety",
        type=whole(1),
        default=1,
        metavar="N",
        help="把请求换成 N 种说法（默认 %(default)s：不换）",
    )
    sub.add_argument("--seed", **SEED)
    sub.add_argument(
        "--kind",
        choices=("wishes", "other"),
        default="",
        help="是祝福，还是别的数据：后者只查空的、乱码、模板词元、太长和重复（默认看数据）",
    )
    _add_own(sub)
    _add_empty(sub)

    sub = command("shard", shard)
    sub.add_argument("source", type=READ_FILE, help="合并后的文件")
    sub.add_argument("folder", type=WRITE_FOLDER, help="分片写到哪个新文件夹")
    sub.add_argument(
        "--rows", type=whole(1), default=100_000, metavar="N", help="一个分片最多几条（默认 %(default)s）"
    )

    sub = command("unshard", unshard)
    sub.add_argument("folder", type=READ_FOLDER, help="留下的分片，即配方里的 export_path")
    sub.add_argument("output_file", type=WRITE_FILE, help="训练文件")

    sub = command("review", review)
    add_run_dir(sub)
    sub.add_argument(
        "--source", type=READ_FILE, metavar="IN.json", help="合并后的文件，代替 RUN_DIR 里的那个"
    )
    sub.add_argument(
        "--decisions",
        type=WRITE_FILE,
        metavar="FILE",
        help="决定记在哪里（默认在合并后的文件旁边的 decisions.jsonl）",
    )
    _add_rules(sub)
    add_address(sub)

    sub = command("self-cognition", self_cognition)
    sub.add_argument(
        "--output",
        required=True,
        type=WRITE_FILE,
        metavar="F",
        help="训练文件；F_validation、F_test 和考泄漏的 F_probe 写在它旁边",
    )
    sub.add_argument("--owner", required=True, metavar="NAME", help="主人是谁")
    sub.add_argument("--assistant", required=True, metavar="NAME", help="助手叫什么")
    sub.add_argument(
        "--model", default="Gemma 3 270M", metavar="NAME", help="底座模型的名字（默认 %(default)s）"
    )
    sub.add_argument(
        "--max-questions", type=whole(), default=0, metavar="N", help="只用前几种问法来训练（默认全部）"
    )
    sub.add_argument(
        "--wordings", type=whole(1), default=2, metavar="N", help="每个问题几种答法（默认 %(default)s）"
    )
    sub.add_argument(
        "--general-ratio",
        type=amount(most=100),
        default=0.3,
        metavar="R",
        help="每条人设问答混进几条通用问答，0 表示不混（默认 %(default)s）",
    )
    sub.add_argument(
        "--general-file", type=READ_FILE, metavar="F", help="自己的通用问答（.yaml，默认用自带的）"
    )
    sub.add_argument(
        "--repeat",
        type=whole(1),
        default=1,
        metavar="N",
        help="整套重复几遍（默认 %(default)s）；不带来新东西，只让训练变慢",
    )
    sub.add_argument("--seed", **SEED)

    sub = command("ruozhiba", ruozhiba)
    sub.add_argument("source", type=READ_FILE, help="COIG-CQIA 的 .jsonl 或 .json 文件")
    sub.add_argument("--train", required=True, type=WRITE_FILE, metavar="A", help="训练集写到哪里")
    sub.add_argument("--test", required=True, type=WRITE_FILE, metavar="B", help="测试集写到哪里")
    sub.add_argument("--validation", type=WRITE_FILE, metavar="V", help="验证集写到哪里（默认不分验证集）")
    sub.add_argument(
        "--format-output", type=WRITE_FILE, metavar="F", help="划分之前的全部对话写到哪里（默认不写）"
    )
    sub.add_argument(
        "--ratio", type=amount(most=1), default=0.7, metavar="R", help="训练集的比例（默认 %(default)s）"
    )
    sub.add_argument(
        "--shuffle-seed",
        type=whole(),
        metavar="N",
        help="随机种子：打乱再分，相似的问题不拆开（默认按顺序分）",
    )

    sub = command("split", split)
    sub.add_argument("source", type=READ_FILE, help="要分的文件，四种格式都行；至少要有 3 个不同的问题")
    sub.add_argument(
        "--output-dir",
        type=READ,
        metavar="DIR",
        help="…_train、…_validation、…_test 三个文件写到哪里（默认在原文件旁边）",
    )
    sub.add_argument(
        "--by",
        choices=("pair", "question", "row"),
        default="pair",
        help="什么算一组：（对象, 场景）相同的；问题相似的；每条自成一组（默认 %(default)s）",
    )
    sub.add_argument(
        "--validation",
        type=amount(most=1),
        default=0.05,
        metavar="R",
        help="验证集的比例（默认 %(default)s）",
    )
    sub.add_argument(
        "--test", type=amount(most=1), default=0.08, metavar="R", help="测试集的比例（默认 %(default)s）"
    )
    sub.add_argument("--seed", **SEED)

    sub = command("leakage", leakage)
    sub.add_argument(
        "files", type=READ_FILE, nargs="+", help="训练集、验证集、测试集；每个文件都和它前面的每一个比"
    )
    sub.add_argument(
        "--by",
        choices=("question", "answer", "both"),
        default="question",
        help="比问题、比答案，或两样都比（默认 %(default)s）",
    )
    sub.add_argument(
        "--threshold",
        type=amount(most=1),
        default=0.9,
        metavar="S",
        help="相似度达到多少算漏题（默认 %(default)s）",
    )
    sub.add_argument(
        "--repair",
        action="store_true",
        help="把漏题从后面的文件里去掉，另存一份（不加则只报告，有漏题时退出码是 1）",
    )

    sub = command("dataset", dataset)
    sub.add_argument("name", nargs="?", default="", help="数据集的名字（不写就列出来）")
    sub.add_argument(
        "--source", default="", metavar="NAME", help="从哪里下载：huggingface（默认）或 modelscope"
    )
    sub.add_argument("--endpoint", default="", metavar="URL", help="镜像站的地址")
    sub.add_argument("--revision", default="", metavar="REV", help="版本（默认见 tianji dataset）")
    sub.add_argument("--output", **OUTPUT | {"help": "放在哪里（默认 outputs/datasets）"})

    sub = command("convert", convert)
    sub.add_argument(
        "source", type=READ_FILE, help="要转换的文件：JSON、JSON Lines、CSV、TSV（可以是 .gz）或 parquet"
    )
    sub.add_argument("target", type=WRITE_FILE, help="结果文件：.json（数组）或 .jsonl（一行一条）")
    formats = ("xtuner", "openai", "alpaca", "sharegpt")
    sub.add_argument("--to", required=True, choices=formats, help="换成哪种格式")
    sub.add_argument(
        "--from",
        dest="source_format",
        choices=formats,
        default="",
        help="原来是哪种格式（默认看第一条的字段）",
    )
    _add_own(sub)


def _add_rules(sub: argparse.ArgumentParser) -> None:
    """Add what changes the rules: a review must see the rows as the cleaning does."""
    sub.add_argument("--off", action="append", default=[], metavar="RULE", help="关掉一条规则，可以写多次")
    sub.add_argument(
        "--threshold",
        type=amount(most=1),
        default=0.9,
        metavar="S",
        help="相似度达到多少算重复（默认 %(default)s）",
    )


def _add_own(sub: argparse.ArgumentParser) -> None:
    """Add what rows of one's own may need."""
    sub.add_argument("--system", default="", metavar="TEXT", help="给没有系统提示的记录加上这一句")


def _add_empty(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--allow-empty", action="store_true", help="一条也没有时照样写出空文件，而不是报错")
