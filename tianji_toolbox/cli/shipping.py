"""After the training: talk, show, export, publish."""

from pathlib import Path

from tianji_helpers.errors import CourseError
from tianji_toolbox.cli import arguments as arg

_PLATFORMS = ("modelscope", "huggingface", "openxlab")


@arg.command(
    arg.folder("model_dir", "模型文件夹"),
    arg.words("--adapter", "[NAME=]DIR", "LoRA 适配器文件夹，可以写多次；对话中用 /use 名字 切换"),
    arg.word("--system", "TEXT", "系统提示词（默认用训练时的那一句）", None),
    arg.word("--style", "NAME", "祝福的风格，例如 小红书、严肃", "正常"),
    arg.file("--image", "一张图片：对话从它说起（第 7 课的模型）", None, metavar="IMAGE", action="append"),
    arg.DEVICE,
    arg.amount("--temperature", "0 = 每次都选最可能的词（默认）", 0.0, most=100),
    arg.whole("--max-new-tokens", "回答的最大长度，词元数", 200, least=1),
)
def chat(model_dir, adapter, system, image, **how) -> None:
    """和一个模型对话，可以带几个适配器"""
    from tianji_toolbox.shipping import terminal

    pictures = image or [None]
    if len(pictures) > 1:
        raise CourseError(f"写了 {len(pictures)} 张图片，一次对话只看一张。请只留一个 --image。")
    adapters = {}
    for text in adapter:
        name, equals, folder = text.partition("=")
        if not equals:
            path = Path(text).resolve()
            name, folder = (path.parent if path.name == "adapter" else path).name.replace(".", "_"), text
        if name in adapters:
            raise CourseError(f"有两个适配器都叫 {name}。请给它们不同的名字：--adapter 名字=文件夹。")
        adapters[name] = arg.read_path(folder)
    terminal.repl(model_dir, adapters, system, image=pictures[0], **how)


@arg.command(
    arg.folder("model_dir", "模型文件夹"),
    arg.words("--adapter", "NAME=DIR", "LoRA 适配器，可以写多次，在网页上切换；这时模型文件夹就是基座"),
    arg.folder("--base", "合并后的模型的基座，用来前后对比", None),
    arg.HOST,
    arg.PORT,
)
def web(model_dir, adapter, base, **address) -> None:
    """用网页和模型对话：挑选或自己写、前后对比、换适配器"""
    from tianji_toolbox.shipping import demo

    adapters = {name: arg.read_path(folder) for name, folder in arg.pairs(adapter).items()}
    demo.serve(model_dir, adapters, base, **address)


@arg.command(
    arg.folder("model_dir", "合并后的模型文件夹"),
    arg.new_folder("output_folder", "写到哪个新文件夹"),
    arg.choice("--to", _PLATFORMS, "给哪个平台"),
)
def app(model_dir, output_folder, to) -> None:
    """写出一个文件夹，让 OpenXLab、ModelScope 创空间或 HF Spaces 运行演示页"""
    from tianji_toolbox.shipping import app_folder

    folder = app_folder.write(model_dir, to, output_folder)
    print(f"已写好：{folder}\n先在本机试：python {folder / 'app.py'} --local\n{app_folder.STEPS[to]}")


@arg.command(
    arg.folder("model_dir", "合并后的模型文件夹"),
    arg.new_folder("output_dir", "写到哪个文件夹（新的，或上次导出的）"),
    arg.choice("--format", ("gguf",), "文件格式，只有 gguf", "gguf"),
    arg.choice(
        "--quantize",
        ("bf16", "f16", "q8_0", "q4_k_m"),
        "每个参数几位：16（bf16、f16）、8（q8_0，默认）或约 5（q4_k_m）",
        "q8_0",
    ),
    arg.file("--check", "用这个测试文件比较导出前后的回答", None),
)
def export(model_dir, output_dir, format, quantize, check) -> None:
    """把合并后的模型导出成一个 GGUF 文件，给 llama.cpp 和 Ollama 用"""
    from tianji_toolbox.shipping import export

    exported = export.export(model_dir, output_dir, quantize)
    print(f"{exported.gguf}（{exported.gguf.stat().st_size / 1e6:.0f} MB）\n{exported.modelfile}")
    if check:
        from tianji_helpers.training import evaluation

        requests = list(dict.fromkeys(turn["input"] for turn in evaluation.read_turns(check)))
        print(export.compare(exported.gguf, model_dir, requests))


@arg.command(
    arg.file("gguf_file", "GGUF 文件"),
    arg.HOST,
    arg.whole("--port", "端口，0 表示随便找一个空的", 8080, most=65535),
)
def serve(gguf_file, **address) -> None:
    """用 llama.cpp 把 GGUF 文件变成 OpenAI 兼容的服务（CPU 就行）"""
    from tianji_toolbox.shipping import door

    door.serve(gguf_file, **address)


@arg.command(
    arg.folder("model_dir", "合并后的模型、适配器，或 tianji export 的文件夹"),
    arg.choice("--to", _PLATFORMS, "发布到哪个平台", dest="platform"),
    arg.word("--repo", "OWNER/NAME", "仓库，写成“用户名/仓库名”"),
    arg.results("--run", "训练它的那次运行（默认是它所在的那次）", dest="run_dir"),
    arg.flag("--private", "新建的仓库只有自己能看（OpenXLab 在网页上选）"),
    arg.word("--endpoint", "URL", "平台的地址（默认就是平台自己的）", ""),
    arg.flag("--yes", "真的上传（不加就只列出文件）"),
)
def publish(model_dir, platform, repo, run_dir, yes, **where) -> None:
    """把模型发布到 ModelScope、Hugging Face 或 OpenXLab；不加 --yes 只列出会上传什么"""
    from tianji_toolbox.shipping import publish

    plan = publish.prepare(model_dir, platform, repo, run=run_dir)
    print(f"{plan}\n模型卡和全部文件在 {plan.folder}，请先看一遍（每次运行都重新生成）。")
    if yes:
        print(publish.upload(plan, **where))
    else:
        print("这次什么也没有上传。确认以后，在同样的命令后面加 --yes。")
