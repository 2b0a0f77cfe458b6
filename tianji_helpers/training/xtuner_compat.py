"""The only place that knows XTuner's quirks: every work-around, with its upstream reason.

Run as ``python -m tianji_helpers.training.xtuner_compat TOOL ARGS…`` this module applies the
work-arounds and then hands over to XTuner's own program. It stands in for the ``xtuner`` command,
which exits 0 even when training crashed and starts whatever ``python`` comes first on PATH.
The classes here are XTuner's own with one method changed each; configs name them.

Everything holds for XTuner 0.2.0 with the versions in ``requirements.lock``.
"""

import copy
import functools
import inspect
import itertools
import json
import os
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

from tianji_helpers.training.fast import acceleration, four_bit  # before mmengine, which imports bitsandbytes

# isort: split
import mmengine.config.config
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.hooks import CheckpointHook, Hook
from mmengine.optim import OptimWrapper as _OptimWrapper
from mmengine.runner import load_checkpoint
from mmengine.runner import runner as mmengine_runner
from peft import PeftModel, get_peft_model
from psutil import Process
from safetensors.torch import load_file
from torch.distributed.elastic.multiprocessing.errors import record
from xtuner.dataset.collate_fns import default_collate_fn
from xtuner.engine.hooks import EvaluateChatHook as _EvaluateChatHook
from xtuner.model import LLaVAModel as _LLaVAModel
from xtuner.model import SupervisedFinetune as _SupervisedFinetune
from xtuner.model.utils import find_all_linear_names

from tianji_helpers import records
from tianji_helpers.training import inference, internlm2

TOOLS = {
    "train": "xtuner.tools.train",
    "pth_to_hf": "xtuner.tools.model_converters.pth_to_hf",
    "merge": "xtuner.tools.model_converters.merge",
}


def apply() -> None:
    """Apply all work-arounds to the loaded libraries. Doing it twice changes nothing."""
    define_cpu_bf16_check()
    start_processes_without_gpu()
    internlm2.forbid_code()
    internlm2.register()
    four_bit.keep_weights_trainable()
    write_checkpoints_whole()
    format_configs_once()


def define_cpu_bf16_check() -> None:
    """Give ``torch.cpu`` the ``is_bf16_supported`` that XTuner calls on every device module.

    Source: xtuner/model/sft.py and xtuner/tools/utils (0.2.0); ``torch.cpu`` has no such function.
    """
    if not hasattr(torch.cpu, "is_bf16_supported"):
        torch.cpu.is_bf16_supported = lambda: True


def start_processes_without_gpu() -> None:
    """Let several processes meet on a machine without a GPU.

    Source: mmengine/dist/utils.py (0.10.7) calls ``torch.cuda.set_device`` in every process that a
    launcher has started, also for gloo. DeepSpeed's ZeRO-2 (0.18.9) gathers weights in place, which
    gloo (torch 2.11) does through views that autograd refuses to have changed.
    """
    if not torch.cuda.is_available():
        torch.cuda.set_device = lambda device: None
        torch.distributed.all_gather_into_tensor = torch.no_grad()(torch.distributed.all_gather_into_tensor)


def format_configs_once() -> None:
    """Lay a config's text out once a training, not for its log, its copy, and again for every checkpoint.

    Source: mmengine 0.10.7 (config/config.py) has yapf do it, which takes up to a second where a path is
    longer than its lines.
    """
    format_code, done = mmengine.config.config.FormatCode, {}
    if hasattr(format_code, "__wrapped__"):
        return

    @functools.wraps(format_code)
    def once(text, **style):
        if text not in done:
            done[text] = format_code(text, **style)
        return done[text]

    mmengine.config.config.FormatCode = once


def write_checkpoints_whole() -> None:
    """Write a checkpoint whole or not at all, and let its predecessor go only when it stands.

    Source: mmengine 0.10.7 writes into the file that is to be replaced (runner/checkpoint.py), of which it
    makes two copies in memory before (1.8 GB for a model of 1.5B), and removes the oldest checkpoint, and
    the best so far, before it writes the new one (hooks/checkpoint_hook.py): a full disk then leaves neither.
    """
    mmengine_runner.save_checkpoint = _save_checkpoint
    for name in ("_save_checkpoint_with_step", "_save_best_checkpoint"):
        save = getattr(CheckpointHook, name)
        if not hasattr(save, "__wrapped__"):
            setattr(CheckpointHook, name, _removes_last(save))


def _save_checkpoint(checkpoint: dict, filename: str, **backend) -> None:
    with records.atomic_writer(filename, binary=True) as file:
        torch.save(checkpoint, file)


def _removes_last(save):
    @functools.wraps(save)
    def saved(hook, *args, **kwargs):
        backend, removals = hook.file_backend, []
        hook.file_backend = waiting = copy.copy(backend)  # which only notes down what it should remove
        waiting.remove = lambda path: removals.append((backend.remove, path))
        waiting.rmtree = lambda path: removals.append((backend.rmtree, path))
        try:
            save(hook, *args, **kwargs)
        finally:
            hook.file_backend = backend
        best = getattr(hook, "best_ckpt_path_dict", {"": getattr(hook, "best_ckpt_path", None)})
        for remove, path in removals:
            if path not in (hook.last_ckpt, *best.values()):  # a resumed training writes some names again
                remove(path)

    return saved


class _CourseLoss:
    """What our two models have in common: a cheaper loss, fast paths, and what is logged.

    fused: train through the fast paths of ``acceleration``, without autocast (mmengine's
    ``AmpOptimWrapper`` refuses to work on a CPU): what is not quantized stays in the type it was loaded
    in (PEFT's preparation turns it into float32), and the head gets no adapter (XTuner means to leave
    it out, but its list lacks the name of InternLM2's, ``output``). recompute_share: with ``fused``, in the
    place of ``use_activation_checkpointing``, see ``acceleration.accelerate``.
    """

    def __init__(self, *args, fused: bool = False, recompute_share: float = 0.0, **kwargs):
        apply()
        self.fused = fused  # asked for while XTuner's own __init__ runs
        super().__init__(*args, **kwargs)
        inference.multiply_head_once(self._causal_lm())
        if fused:
            self.answer_loss = acceleration.accelerate(self.llm, self._causal_lm(), recompute_share)

    def _add_adapters(self, lora) -> None:
        self.llm.requires_grad_(False)
        if lora.target_modules is None:
            head = self.llm.get_output_embeddings()
            heads = {name.split(".")[-1] for name, module in self.llm.named_modules() if module is head}
            lora.target_modules = sorted(set(find_all_linear_names(self.llm)) - heads)
        self.llm = get_peft_model(self.llm, lora)

    def compute_loss(self, data, data_samples=None):
        """Return ``{"loss": …, "tokens": …, "memory_gb": …}``; the last two are for the log.

        data: ``input_ids``, ``labels``, ``attention_mask``, each (batch, length), or a packed row. The loss
        is the mean negative log-likelihood of the answer tokens. tokens: without padding. memory_gb: in
        use by this process, on a GPU the most that was allocated so far.
        """
        tokens = data["attention_mask"].sum() if "attention_mask" in data else data["labels"].numel()
        used = torch.cuda.max_memory_allocated() if data["labels"].is_cuda else Process().memory_info().rss
        logged = {"tokens": torch.tensor(float(tokens)), "memory_gb": torch.tensor(used / 1e9)}
        loss = self.answer_loss(data) if self.fused else self._plain_loss(data, data_samples)
        return {"loss": loss, **logged}

    def _plain_loss(self, data, data_samples):
        """The loss by the model's own forward pass.

        Vocabulary scores are computed only at positions that some answer of the batch needs: for
        short answers behind a long prompt that is half of them. Models whose forward has no
        ``logits_to_keep`` (InternLM2) take XTuner's way. All ways give the same loss.
        """
        if "logits_to_keep" not in inspect.signature(self._causal_lm().forward).parameters:
            return super().compute_loss(data, data_samples)["loss"]
        inputs = {key: value for key, value in data.items() if key != "labels"}
        targets = torch.nn.functional.pad(data["labels"], (0, 1), value=-100)[:, 1:]
        positions = (targets != -100).any(dim=0).nonzero().squeeze(1)
        logits = self.llm(**inputs, logits_to_keep=positions).logits
        return torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), targets[:, positions].flatten(), ignore_index=-100
        )

    def predict(self, data, data_samples=None):
        """Return ``[{"loss", "tokens"}]`` of a batch, as ``ValidationLoss`` takes it (XTuner: all scores).

        The fast paths are for training only; they know no dropout, so they serve here too.
        """
        tokens = int((data["labels"][:, 1:] != -100).sum())
        self.train(self.fused)
        loss = self.compute_loss(data, data_samples)["loss"].item() if tokens else 0.0
        self.eval()
        return [{"loss": loss, "tokens": tokens}]

    def _causal_lm(self):
        return self.llm.get_base_model() if isinstance(self.llm, PeftModel) else self.llm


class SupervisedFinetune(_CourseLoss, _SupervisedFinetune):
    """XTuner's model for fine-tuning."""

    def _prepare_for_lora(self, peft_model=None, use_activation_checkpointing=True):
        if not self.fused:
            super()._prepare_for_lora(peft_model, use_activation_checkpointing)
            return
        self._add_adapters(self.lora)
        if peft_model is not None:
            load_checkpoint(self, peft_model)


class LLaVAModel(_CourseLoss, _LLaVAModel):
    """XTuner's model of a tower, a projector and a language model.

    projector_dir: the folder of a projector to go on from, as the conversion leaves it (``pretrained_pth``
    would be unpickled). Without one, a new projector starts at the scale of the text: what it says of
    standardized features has the mean length of the model's embeddings, of which PyTorch's own start makes a
    fraction (the model's norms make up for most of that). Its weights are
    float32 (XTuner: the tower's type, in which AdamW's small updates vanish).

    Source of what is changed (0.2.0, xtuner/model/llava.py): a frozen tower is run again in every step, and
    backwards too; here a batch may bring ``features``, computed once (``seeing.rows.compute_features``).
    """

    def __init__(self, *args, projector_dir: str = "", use_activation_checkpointing: bool = False, **kwargs):
        super().__init__(*args, use_activation_checkpointing=use_activation_checkpointing, **kwargs)
        self.projector.float()
        if projector_dir:
            self.projector.load_state_dict(load_file(Path(projector_dir) / "model.safetensors"))
        elif not self.projector.model[-1].weight.is_meta:
            self._set_volume()

    @torch.no_grad()
    def _set_volume(self) -> None:
        embedding = self._causal_lm().get_input_embeddings()
        ids = torch.arange(0, embedding.num_embeddings, 101, device=embedding.weight.device)
        first, last = self.projector.model[0], self.projector.model[-1]
        said = self.projector(torch.randn(256, first.in_features, device=first.weight.device))
        heard = embedding(ids).float().norm(dim=1).mean().item()  # a quantized model is on the GPU by now
        last.weight *= heard / said.norm(dim=1).mean()

    def _prepare_llm_for_lora(self, lora_config, use_activation_checkpointing=True):
        if not self.fused:
            super()._prepare_llm_for_lora(lora_config, use_activation_checkpointing)
            return
        self._add_adapters(self._parse_lora_config(lora_config))

    def forward(self, data, data_samples=None, mode="loss"):
        """Return the loss (see ``compute_loss``), or what else ``mode`` asks for.

        data: with ``features``, (pictures, tokens, the tower's width), ``input_ids`` has
        ``inference.PICTURE`` for each of their tokens; with ``pixel_values`` it goes XTuner's own way.
        """
        if (features := data.pop("features", None)) is not None:
            pictures = self.projector(features.float())
            embedding = self._causal_lm().get_input_embeddings()
            data["inputs_embeds"] = inference.splice(embedding, data["input_ids"], pictures)
        return super().forward(data, data_samples, mode)


class OptimWrapper(_OptimWrapper):
    """mmengine's, which leaves the clipping of gradients to PyTorch's fused optimizer: one walk less.

    ``clip_grad``: ``max_norm`` and ``error_if_nonfinite``, as in ``torch.nn.utils.clip_grad_norm_``.
    """

    def _clip_grad(self):
        parameters = itertools.chain.from_iterable(group["params"] for group in self.optimizer.param_groups)
        grads = [part.grad for part in parameters if part.grad is not None]
        if not grads:
            return
        limits = dict(self.clip_grad_kwargs)
        largest = limits.pop("max_norm")
        norm = torch.nn.utils.get_total_norm(grads, **limits)
        self.optimizer.grad_scale = (norm / largest).clamp(min=1)  # gradients are divided by it
        self.message_hub.update_scalar(f"train/{self.grad_name}", float(norm))


def join_samples(instances: list[dict]) -> dict:
    """Collate rows of one sample each (``input_ids``, ``labels``) as ``join_packed_rows`` does others."""
    rows = [
        item | {"position_ids": range(length := len(item["input_ids"])), "cumulative_len": [0, length]}
        for item in instances
    ]
    return join_packed_rows(rows)


def join_packed_rows(instances: list[dict]) -> dict:
    """Collate packed rows into one long row in which every sample still stands for itself.

    instances: rows of ``process_hf_dataset(use_varlen_attn=True)``. Returns XTuner's form of a batch,
    the tensors (1, tokens of all rows). XTuner's own function takes no more than one row, and a GPU
    waits for Python when it gets 2,048 tokens at a time. A sample cut by the end of a row stays cut.
    """
    rows = [default_collate_fn([instance], use_varlen_attn=True)["data"] for instance in instances]
    boundaries = [torch.zeros(1, dtype=torch.int32)]
    for row in rows:
        boundaries.append(row["cumulative_len"][0][1:] + boundaries[-1][-1])
        row["labels"][0, 0] = -100  # the row before does not predict it
    data = {key: torch.cat([row[key] for row in rows], 1) for key in ("input_ids", "labels", "position_ids")}
    data |= {"cumulative_len": [torch.cat(boundaries)], "max_seqlen": max(row["max_seqlen"] for row in rows)}
    return {"data": data, "data_samples": None}


class ValidationLoss(BaseMetric):
    """``validation_loss``: mean negative log-likelihood of an answer token, in nats, over these rows."""

    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        tokens = sum(result["tokens"] for result in results)
        return {"validation_loss": sum(result["loss"] * result["tokens"] for result in results) / tokens}


class ProgressHook(Hook):
    """Adds to mmengine's lines of JSON how many steps there will be, and whether the training ended early."""

    def before_train(self, runner):
        runner.visualizer.add_scalars({"total_steps": runner.max_iters}, step=runner.iter)

    def after_train(self, runner):
        early = {"stopped_early": runner.train_loop.stop_training}
        runner.visualizer.add_scalars(early, step=runner.iter)


class EvaluateChatHook(_EvaluateChatHook):
    """XTuner's sampling during training, in one batch, greedy, and kept as ``samples.jsonl``.

    XTuner generates one answer after the other and writes them only into the log, template tokens
    and all. A line of ``samples.jsonl`` in the work folder is ``{"iter", "input", "output"}``.
    """

    def __init__(self, *args, **kwargs):
        given = inference.GREEDY | kwargs.pop("generation_kwargs", {})
        super().__init__(*args, generation_kwargs=given, **kwargs)
        # XTuner's stop words look at the first answer only and would cut all others with it
        words = [criterion.stop_word for criterion in self.stop_criteria]
        stops = {self.tokenizer.eos_token_id, *self.tokenizer.convert_tokens_to_ids(words)}
        self.gen_config.eos_token_id = sorted(stops - {None, self.tokenizer.unk_token_id})
        self.step = None

    def before_train(self, runner):
        self.step = runner.iter
        super().before_train(runner)

    def after_train_iter(self, runner, *args, **kwargs):
        self.step = runner.iter + 1
        super().after_train_iter(runner, *args, **kwargs)

    def after_train(self, runner):
        """Do nothing: with a checkpoint, the last iteration has just been sampled."""

    def _eval_language(self, runner, model, device, max_new_tokens=None, save_eval_output=False):
        prompts = [
            self.system
            + self.instruction.format(input=text, round=1, bot_name=runner.cfg.get("bot_name", ""))
            for text in self.evaluation_inputs
        ]
        batch = self.tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left").to(device)
        with torch.no_grad():
            tokens = model.generate(**batch, max_new_tokens=max_new_tokens, generation_config=self.gen_config)
        if not is_main_process():  # every GPU has generated, as shared weights need it; one writes
            return
        answers = self.tokenizer.batch_decode(
            tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
        )
        with (Path(runner.work_dir) / "samples.jsonl").open("a", encoding="utf-8") as file:
            for text, answer in zip(self.evaluation_inputs, answers, strict=True):
                runner.logger.info(f"Sample output:\n{text} -> {answer}\n")
                line = {"iter": self.step, "input": text, "output": answer.strip()}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _pth_to_hf() -> None:
    """Run XTuner's conversion on checkpoints that are read as data (see ``pickles``), in 32 bit.

    Source: ``torch.load(…, weights_only=False)`` in xtuner/model/utils.py, and ``DEFAULT_DTYPE`` in
    xtuner/utils/zero_to_any_dtype.py, which rounds the weights to float16 (0.2.0).
    """
    from tianji_helpers.training import pickles

    pickles.read_as_data()
    from xtuner.tools.model_converters import pth_to_hf

    with pickles.deepspeed_constants():
        from xtuner.utils import zero_to_any_dtype as zero

    zero.get_state_dict_from_zero_checkpoint = functools.partial(
        zero.get_state_dict_from_zero_checkpoint, dtype=torch.float32
    )
    pth_to_hf.main()


def _merge(dtype: str) -> None:
    """Run XTuner's merge in ``dtype``, and not with a model's own code.

    Source: ``torch_dtype=torch.float16``, in which Gemma's activations overflow, and
    ``trust_remote_code=True`` in xtuner/tools/model_converters/merge.py (0.2.0).
    """
    from xtuner.tools.model_converters import merge

    def loader(auto_class, **fixed):
        return SimpleNamespace(
            from_pretrained=lambda name, **_: auto_class.from_pretrained(name, **_ | fixed)
        )

    merge.AutoTokenizer = loader(merge.AutoTokenizer, trust_remote_code=False, **inference.NOT_MISTRAL)
    merge.AutoModelForCausalLM = loader(
        merge.AutoModelForCausalLM,
        trust_remote_code=False,
        torch_dtype=getattr(torch, dtype),
        use_safetensors=True,
    )
    merge.main()


@record  # a launcher of several processes prints the traceback of the one that failed first
def main(arguments: list[str]) -> None:
    """Apply the work-arounds and run one of XTuner's programs: ``TOOL ARGS…``, or ``merge DTYPE ARGS…``."""
    tool, *rest = arguments
    apply()
    dtype = rest.pop(0) if tool == "merge" else ""
    sys.argv = [TOOLS[tool], *rest]
    if tool == "merge":
        _merge(dtype)
    elif tool == "pth_to_hf":
        _pth_to_hf()
    else:
        # mmengine's checkpoints hold Python objects (the log history), which PyTorch 2.6 and later
        # refuse to load by default (mmengine 0.10.7, XTuner's --resume); a checkpoint that one resumes
        # is one's own
        os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
        runpy.run_module(TOOLS[tool], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main(sys.argv[1:])
