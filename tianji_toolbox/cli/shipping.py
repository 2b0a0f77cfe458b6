"""After the training: talk, show, export, publish."""

import argparse
from pathlib import Path

from tianji_helpers.errors import CourseError
from tianji_toolbox.cli.parser import (
    READ,
    READ_FILE,
    READ_FOLDER,
    WRITE_FOLDER,
    add_address,
    amount,
    folder_or_default,
    pairs,
    whole,
)


def chat(args: argparse.Namespace) -> None:
    """和一个模型对话，可以带几个适配器"""
    from tianji_toolbox import terminal

    adapters = {}
    for text in args.adapter:
        name, equals, folder = text.partition("=")
        if not equals:
            path = Path(text).resolve()
            name, folder = (path.parent if path.name == "adapter" else path).name.replace(".", "_"), text
        if name in adapters:
            raise CourseError(f"有两个适配器都叫 {name}。请给它们不同的名字：--adapter 名字=文件夹。")
        adapters[name] = READ(folder)
    terminal.repl(
        args.model_dir,
        adapters,
        args.system,
        style=args.style,
        temperature=args.temperature,
        max_new_tokens=args.max_new_tokens,
        device=args.device,
    )


def web(args: argparse.Namespace) -> None:
    """用网页和模型对话：挑选或自己写、前后对比、换适配器"""
    from tianji_toolbox.shipping import web

    adapters = {name: READ(folder) for name, folder in pairs(args.adapter).items()}
    web.serve(args.model_dir, adapters, args.base, host=args.host, port=args.port)


def app(args: argparse.Namespace) -> None:
    """写出一个文件夹，让 OpenXLab、ModelScope 创空间或 HF Spaces 运行演示页"""
    from tianji_toolbox.shipping import app_folder

    folder = app_folder.write(args.model_dir, args.to, args.output_folder)
    print(f"已写好：{folder}\n先在本机试：python {folder / 'app.py'}\n{app_folder.STEPS[args.to]}")


def export(args: argparse.Namespace) -> None:
    """把合并后的模型导出成一个 GGUF 文件，给 llama.cpp 和 Ollama 用"""
    from tianji_toolbox.shipping import export

    exported = export.export(args.model_dir, args.output_dir, args.quantize)
    print(f"{exported.gguf}（{exported.gguf.stat().st_size / 1e6:.0f} MB）\n{exported.modelfile}")
    if args.check:
        from tianji_helpers.training import evaluation

        requests = [turn["input"] for turn in evaluation.read_turns(args.check)]
        print(export.compare(exported.gguf, args.model_dir, requests))


def serve(args: argparse.Namespace) -> None:
    """用 llama.cpp 把 GGUF 文件变成 OpenAI 兼容的服务（CPU 就行）"""
    from tianji_toolbox.shipping import export

    export.serve(args.gguf_file, args.host, args.port)


def publish(args: argparse.Namespace) -> None:
    """把模型发布到 ModelScope、Hugging Face 或 OpenXLab；不加 --yes 只列出会上传什么"""
    from tianji_toolbox.shipping import publish

    plan = publish.prepare(args.model_dir, args.platform, args.repo, run=args.run_dir)
    print(f"{plan}\n模型卡和全部文件在 {plan.folder}，请先看一遍（每次运行都重新生成）。")
    if args.yes:
        print(publish.upload(plan, private=args.private, endpoint=args.endpoint))
    else:
        print("这次什么也没有上传。确认以后，在同样的命令后面加 --yes。")


def add(command) -> None:
    """Add these commands; ``command`` makes the parser of one."""
    sub = command("chat", chat)
    sub.add_argument("model_dir", type=READ_FOLDER, help="模型文件夹")
    sub.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="LoRA 适配器文件夹，可以写多次；对话中用 /use 名字 切换",
    )
    sub.add_argument("--system", metavar="TEXT", help="系统提示词（默认用训练时的那一句）")
    sub.add_argument("--style", default="正常", metavar="NAME", help="祝福的风格，例如 小红书、严肃")
    sub.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="在哪里算（默认 %(default)s）")
    sub.add_argument(
        "--temperature",
        type=amount(most=100),
        default=0.0,
        metavar="T",
        help="0 = 每次都选最可能的词（默认）",
    )
    sub.add_argument(
        "--max-new-tokens",
        type=whole(1),
        default=200,
        metavar="N",
        help="回答的最大长度，词元数（默认 %(default)s）",
    )

    sub = command("web", web)
    sub.add_argument("model_dir", type=READ_FOLDER, help="模型文件夹")
    sub.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="LoRA 适配器，可以写多次，在网页上切换；这时模型文件夹就是底座",
    )
    sub.add_argument("--base", type=READ_FOLDER, metavar="DIR", help="合并后的模型的底座，用来前后对比")
    add_address(sub)

    sub = command("app", app)
    sub.add_argument("model_dir", type=READ_FOLDER, help="合并后的模型文件夹")
    sub.add_argument("output_folder", type=WRITE_FOLDER, help="写到哪个新文件夹")
    sub.add_argument(
        "--to",
        required=True,
        choices=("openxlab", "modelscope", "huggingface"),
        metavar="P",
        help="openxlab、modelscope 或 huggingface",
    )

    sub = command("export", export)
    sub.add_argument("model_dir", type=READ_FOLDER, help="合并后的模型文件夹")
    sub.add_argument("output_dir", type=WRITE_FOLDER, help="写到哪个文件夹（新的，或上次导出的）")
    sub.add_argument("--format", choices=["gguf"], default="gguf", help="文件格式，只有 gguf")
    sub.add_argument(
        "--quantize",
        choices=["bf16", "f16", "q8_0", "q4_k_m"],
        default="q8_0",
        help="每个参数几位：16（bf16、f16）、8（q8_0，默认）或约 5（q4_k_m）",
    )
    sub.add_argument("--check", type=READ_FILE, metavar="FILE", help="用这个测试文件比较导出前后的回答")

    sub = command("serve", serve)
    sub.add_argument("gguf_file", type=READ_FILE, help="GGUF 文件")
    add_address(sub, port=8080)

    sub = command("publish", publish)
    sub.add_argument("model_dir", type=READ_FOLDER, help="合并后的模型、适配器，或 tianji export 的文件夹")
    sub.add_argument(
        "--to",
        dest="platform",
        required=True,
        choices=["modelscope", "huggingface", "openxlab"],
        help="发布到哪个平台",
    )
    sub.add_argument("--repo", required=True, metavar="OWNER/NAME", help="仓库，写成“用户名/仓库名”")
    sub.add_argument(
        "--run",
        dest="run_dir",
        type=folder_or_default,
        default="",
        metavar="DIR",
        help="训练它的那次运行（默认是它所在的那次）",
    )
    sub.add_argument("--private", action="store_true", help="新建的仓库只有自己能看（OpenXLab 在网页上选）")
    sub.add_argument("--endpoint", default="", metavar="URL", help="平台的地址（默认就是平台自己的）")
    sub.add_argument("--yes", action="store_true", help="真的上传（不加就只列出文件）")
