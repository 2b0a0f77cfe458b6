"""LLaVA at the guide's real size on one GPU: InternLM2-chat-1.8B behind CLIP-L/14 at 336, random weights.

    python tests/benchmarks/bench_vision.py --stage finetune --rows 512
    python tests/benchmarks/bench_vision.py --stage finetune --rows 512 --original

Speed and memory do not depend on the values of weights. Cards are drawn, the tower looks at each once, and
the stage's own config (``configs/see_internlm2_chat_1_8b_*.py``) trains for two epochs. One JSON line:
pictures/s of the tower alone, pictures/s of the training with kept features, peak memory in GB, and
the seconds that looking again in every step would add. Needs some 20 GB.
``--original``: XTuner's config of the guide (LoRA r=512, another on the tower, which looks in every step)
trains on the same rows.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from bench_gpu import make_model
from transformers import CLIPVisionConfig, CLIPVisionModel

from tianji_helpers import records
from tianji_helpers.seeing import material, rows, tower
from tianji_helpers.training import configs, launch, models


def save_models(folder: Path) -> tuple[Path, Path]:
    """Write both models with random weights, in their real shapes, with the embedded model's tokenizer."""
    llm, clip = folder / "internlm2-chat-1_8b", folder / "clip-vit-large-patch14-336"
    if (clip / "preprocessor_config.json").is_file():  # written last
        return llm, clip
    make_model(llm.name, llm, models.prepare(), layers=0)
    shape = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    }
    CLIPVisionModel(CLIPVisionConfig(**shape, image_size=336, patch_size=14)).bfloat16().save_pretrained(clip)
    pixels = {"crop_size": {"height": 336, "width": 336}, "image_mean": [0.48, 0.46, 0.41]}
    records.write_json(clip / "preprocessor_config.json", {**pixels, "image_std": [0.27, 0.26, 0.28]})
    return llm, clip


def original(stage: str, llm: Path, clip: Path, folder: Path) -> dict:
    """Train with the guide's config; return pictures/s and peak memory."""
    from xtuner.configs import cfgs_name_path

    lora = {"pretrain": "", "finetune": "qlora_"}[stage], {"pretrain": "", "finetune": "_lora"}[stage]
    name = f"llava_internlm2_chat_1_8b_{lora[0]}clip_vit_large_p14_336{lora[1]}_e1_gpu8_{stage}"
    cfg = configs.load_config(cfgs_name_path[name])
    dataset = cfg.train_dataloader.dataset
    for part in (cfg.tokenizer, cfg.model.llm, dataset.tokenizer):
        part.pretrained_model_name_or_path = str(llm)
    for part in (cfg.model.visual_encoder, dataset.image_processor):
        part.pretrained_model_name_or_path = str(clip)
    dataset.update(data_path=str(folder / "rows.json"), image_folder=str(folder / "cards"))
    cfg.model.pretrained_pth = None
    cfg.custom_hooks = []
    cfg.param_scheduler = []  # its warm-up of so few steps is none, which mmengine refuses
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.checkpoint.update(interval=10**6, save_last=False)
    cfg.dump(str(folder / "config.py"))
    work = folder / f"original_{stage}"
    work.mkdir(exist_ok=True)
    launch.run_tool("train", [str(folder / "config.py"), "--work-dir", str(work)], log=work / "train.log")
    newest = max(work.glob("*/vis_data/scalars.json"))  # a run's folder is named by its time
    lines = newest.read_text(encoding="utf-8").splitlines()
    points = [json.loads(line) for line in lines][3:]
    seconds = statistics.median(point["time"] for point in points)
    memory = max(point["memory"] for point in points) * 2**20 / 1e9
    return {"trained_per_s": cfg.train_dataloader.batch_size / seconds, "memory_gb": memory}


def main() -> None:
    """Measure one stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", choices=("pretrain", "finetune"), default="pretrain")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--original", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("outputs/bench_vision"))
    args = parser.parse_args()
    folder = args.folder.resolve()
    llm, clip = save_models(folder)
    drawn = material.draw_all(folder / "cards", per_scene=-(-args.rows // 18), test_per_scene=1)[: args.rows]
    records.write_json(folder / "rows.json", material.captions(drawn))
    line: dict = {"stage": args.stage, "original": args.original}
    if args.original:
        say(line | original(args.stage, llm, clip, folder))
        return
    seen = tower.load(clip, torch_dtype=torch.bfloat16).cuda()
    began = time.perf_counter()
    names = [one["image"] for one in drawn]
    features = folder / "features.safetensors"
    rows.compute_features(seen, clip, folder / "cards", names, features, select_layer=-2, report=str)
    looking = time.perf_counter() - began
    del seen
    torch.cuda.empty_cache()
    options = {"model_dir": llm, "data_path": folder / "rows.json", "max_epochs": 2}
    options["train_dataloader.dataset.features"] = str(features)
    options["model.visual_encoder.pretrained_model_name_or_path"] = str(clip)
    cfg = configs.load_config(f"configs/see_internlm2_chat_1_8b_{args.stage}.py", options)
    cfg.model.projector_dir = ""  # a new one: its values do not matter here
    cfg.dump(str(folder / "config.py"))
    result = launch.train(folder / "config.py", folder / "work", report=str)
    points = result.curve[1:]  # the first has the kernels' preparation
    seconds = statistics.median(point["time"] for point in points)
    batch = cfg.train_dataloader.batch_size
    line |= {"tower_per_s": len(names) / looking, "trained_per_s": batch / seconds}
    line |= {"memory_gb": points[-1]["memory_gb"], "looking_again_s": batch * looking / len(names)}
    say(line)


def say(line: dict) -> None:
    """Print a line of figures."""
    print(json.dumps({key: round(one, 2) if type(one) is float else one for key, one in line.items()}))


if __name__ == "__main__":
    main()
