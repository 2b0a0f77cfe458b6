"""LLaVA at the guide's real size on one GPU: InternLM2-chat-1.8B behind CLIP-L/14 at 336, random weights.

    python tests/benchmarks/bench_vision.py --stage finetune --rows 512

Speed and memory do not depend on the values of weights. Cards are drawn, the tower looks at each once, and
the stage's own config (``configs/see_internlm2_chat_1_8b_*.py``) trains for two epochs. One JSON line:
pictures/s of the tower alone, pictures/s of the training with kept features, peak memory in GB, and the
seconds that looking again in every step would add. Needs some 20 GB.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from bench_gpu import SHAPES
from transformers import CLIPVisionConfig, CLIPVisionModel

from tianji_helpers import records
from tianji_helpers.seeing import material, rows, tower
from tianji_helpers.training import configs, internlm2, launch, models


def save_models(folder: Path) -> tuple[Path, Path]:
    """Write both models with random weights, in their real shapes, with the embedded model's tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    internlm2.register()
    llm, clip = folder / "internlm2-chat-1_8b", folder / "clip-vit-large-patch14-336"
    llm.mkdir(parents=True, exist_ok=True)
    records.write_json(llm / "config.json", SHAPES["internlm2-chat-1_8b"])
    config = AutoConfig.from_pretrained(llm, trust_remote_code=False)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(llm)
    AutoTokenizer.from_pretrained(models.prepare()).save_pretrained(llm)
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


def main() -> None:
    """Measure one stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", choices=("pretrain", "finetune"), default="pretrain")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--folder", type=Path, default=Path("outputs/bench_vision"))
    args = parser.parse_args()
    folder = args.folder.resolve()
    llm, clip = save_models(folder)
    drawn = material.draw_all(folder / "cards", per_scene=-(-args.rows // 18), test_per_scene=1)[: args.rows]
    records.write_json(folder / "rows.json", material.captions(drawn))
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
    seconds = sum(point["time"] for point in points) / len(points)
    batch = cfg.train_dataloader.batch_size
    line = {"stage": args.stage, "tower_per_s": len(names) / looking, "trained_per_s": batch / seconds}
    line |= {"memory_gb": points[-1]["memory_gb"], "looking_again_s": batch * looking / len(names)}
    print(json.dumps({key: one if key == "stage" else round(one, 2) for key, one in line.items()}))


if __name__ == "__main__":
    main()
