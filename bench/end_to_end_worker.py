"""One run of one library, in its own environment: started by `end_to_end.py`.

    python end_to_end_worker.py SETTING.json [read]

With `read`, what the run saved is loaded by the same library and reads the vectors that it is judged on.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["WANDB_MODE"] = "disabled"
os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # it would ask for a GPU

Setting = dict[str, Any]
Reader = Callable[[Any], tuple[Any, Any]]
"""Activations and reconstruction of vectors."""


def recipe(s: Setting, *stages: str) -> Any:
    """Ours: everything that is not said is as the recipes leave it."""
    from thoughtlens.studies import pipeline

    dtype = "float32" if s["dtype"] == "float32" else "bfloat16"
    return pipeline.load({
        "name": "end to end",
        "stages": ["extract", *stages],
        "model": {"name": s["model"], "dtype": dtype},
        "problems": {
            "kind": "text", "source": str(Path(s["folder"]) / "text.jsonl"), "n_documents": s["n"],
            "validation": 0, "test": 0,
        },
        "extract": {
            "hook_names": [s["hook"]], "context_length": s["window"], "max_tokens": 0, "bos": "never",
            "batch_tokens": s["batch"], "store_dtype": dtype, "drop_special": False,
        },
        "sae": {"kind": "topk", "d_sae": s["d_sae"], "k": s["k"]},
        "train": {"batch_size": s["batch"], "epochs": s["epochs"], "dtype": dtype, "drop_outliers": False},
        "interpret": {"split": "train"},
        "lens": {"split": "train", "max_rows": 256},  # beside latents it reads rows
    })  # fmt: skip


def thoughtlens(s: Setting) -> None:
    """Extract and train; SAEs of several seeds are trained on one extraction."""
    from thoughtlens.core import validate_config
    from thoughtlens.sae.train.config import TrainConfig
    from thoughtlens.sae.train.stage import train
    from thoughtlens.studies import pipeline

    cfg, out = recipe(s, "train"), Path(s["out"])
    if len(s["seeds"]) == 1:
        pipeline.run(cfg, out)
        return
    pipeline.run(recipe(s), out)
    own = pipeline.stage_config(cfg, "train", out)
    for seed in s["seeds"]:
        train(validate_config(TrainConfig, own.model_dump() | {"seed": seed}), out / f"sae-{seed}")


def thoughtlens_saes(s: Setting) -> Iterator[Reader]:
    from thoughtlens import sae as saes

    for file in sorted(Path(s["out"]).glob("sae*")):
        sae = saes.load(file)
        yield lambda x, sae=sae: ((acts := sae.encode(x)), sae.decode(acts))


def thoughtlens_pages(s: Setting) -> None:
    """Tables of every latent, the tokens that it promotes, and its pages, of a store and an SAE."""
    from thoughtlens.studies import pipeline

    pipeline.run(recipe(s, "train", "interpret", "lens", "explorer"), Path(s["out"]), jobs=s["jobs"])


def sae_lens(s: Setting) -> None:
    """Its runner; of several seeds, its runner for many SAEs, which share one pass of the model."""
    import torch
    from datasets import Dataset
    from sae_lens import (
        LanguageModelSAERunnerConfig,
        LanguageModelSAETrainingRunner,
        TopKTrainingSAEConfig,
    )
    from sae_lens.config import LoggingConfig

    data = Dataset.from_dict({"input_ids": tokens(s).tolist()})
    bf16 = s["dtype"] == "bfloat16"
    common: dict[str, Any] = {
        "model_name": s["model"],
        "model_class_name": "AutoModelForCausalLM",
        "model_from_pretrained_kwargs": {} if s["dtype"] == "own" else {"dtype": s["dtype"]},
        "dataset_path": "",
        "context_size": s["window"],
        "prepend_bos": False,
        "sequence_separator_token": None,
        "streaming": False,
        "training_tokens": s["n"] * s["window"],
        "train_batch_size_tokens": s["batch"],
        "store_batch_size_prompts": s["batch"] // s["window"],
        "autocast": bf16,
        "checkpoint_path": None,
        "output_path": s["out"],
        "logger": LoggingConfig(log_to_wandb=False),
    }
    if s["lr"]:
        common["lr"] = s["lr"]
    hook = "model.layers.15"

    def sae() -> Any:
        return TopKTrainingSAEConfig(k=s["k"], d_in=576, d_sae=s["d_sae"], device="cpu")

    if len(s["seeds"]) == 1:
        cfg = LanguageModelSAERunnerConfig(sae=sae(), hook_name=hook, is_dataset_tokenized=True, **common)
        LanguageModelSAETrainingRunner(cfg, override_dataset=data).run()
        return
    from sae_lens.multi_sae_training_runner import MultiSAETrainingRunner, MultiSAETrainingRunnerConfig

    torch.manual_seed(0)
    many = MultiSAETrainingRunnerConfig(
        saes={f"sae-{seed}": sae() for seed in s["seeds"]}, hook_names=hook, **common
    )
    MultiSAETrainingRunner(many, override_dataset=data).run()


def sae_lens_saes(s: Setting) -> Iterator[Reader]:
    from sae_lens import SAE

    for file in sorted(Path(s["out"]).rglob("cfg.json")):
        sae: Any = SAE.load_from_disk(file.parent)
        yield lambda x, sae=sae: ((acts := sae.encode(x)), sae.decode(acts))


def sparsify(s: Setting) -> None:
    """Its trainer as its README calls it, on the model class of its command; it trains many seeds at once."""
    import torch
    from datasets import Dataset
    from sparsify import SaeConfig, Trainer
    from sparsify import TrainConfig as Settings
    from transformers import AutoModel

    cut = {"num_hidden_layers": 16} if s["cut"] else {}
    dtype = torch.float32 if s["dtype"] == "float32" else torch.bfloat16  # its README's
    model = AutoModel.from_pretrained(s["model"], dtype=dtype, **cut)
    data = Dataset.from_dict({"input_ids": tokens(s).tolist()}).with_format("torch")
    cfg = Settings(
        SaeConfig(num_latents=s["d_sae"], k=s["k"]),
        batch_size=s["batch"] // s["window"],
        hookpoints=["layers.15"],
        init_seeds=list(s["seeds"]),
        log_to_wandb=False,
        save_dir=s["out"],
        run_name="run",
    )
    products = contextlib.nullcontext()
    if s["dtype"] == "bfloat16":
        products = torch.autocast("cpu", torch.bfloat16)
    with products:
        Trainer(cfg, data, model).fit()


def sparsify_saes(s: Setting) -> Iterator[Reader]:
    from sparsify import Sae

    for file in sorted(Path(s["out"]).rglob("sae.safetensors")):
        sae = Sae.load_from_disk(file.parent)

        def read(x: Any, sae: Any = sae) -> tuple[Any, Any]:
            values, indices, _ = sae.encode(x)
            acts = x.new_zeros(len(x), s["d_sae"]).scatter(1, indices, values)
            return acts, sae.decode(values, indices)

        yield read


class _Ready:
    """What SAEDashboard asks of a model whose activations are all in its cache."""

    def __init__(self, s: Setting, hook: str) -> None:
        import torch
        from safetensors.torch import load_file
        from transformers import AutoTokenizer

        weights = load_file(Path(s["model"]) / "model.safetensors")
        self.W_U = weights.get("lm_head.weight", weights["model.embed_tokens.weight"]).float().T
        self.tokenizer = AutoTokenizer.from_pretrained(s["model"])
        self.hook_dict = {hook: None}
        self.device = torch.device("cpu")


def sae_dashboard(s: Setting) -> None:
    """Its runner with its defaults, over all latents, and its page of them."""
    import torch
    from sae_dashboard.data_writing_fns import save_feature_centric_vis
    from sae_dashboard.sae_vis_data import SaeVisConfig
    from sae_dashboard.sae_vis_runner import SaeVisRunner
    from sae_lens import SAE

    hook = "blocks.15.hook_resid_post"
    sae: Any = SAE.load_from_disk(Path(s["folder"]) / "pages" / "sae_lens")
    sae.fold_W_dec_norm = lambda: None  # refused for TopK; its rows have length 1
    cfg = SaeVisConfig(
        hook_point=hook,
        features=list(range(s["d_sae"])),
        cache_dir=Path(s["folder"]) / "pages" / "acts_of_dashboard",
    )
    model: Any = _Ready(s, hook)
    data = SaeVisRunner(cfg).run(encoder=sae, model=model, tokens=torch.from_numpy(tokens(s)))
    save_feature_centric_vis(data, Path(s["out"]) / "pages.html")


def tokens(s: Setting) -> Any:
    """The windows of this run."""
    import numpy as np

    return np.load(Path(s["folder"]) / "tokens.npy")[: s["n"]]


def read(s: Setting, saes: Iterator[Reader]) -> None:
    """What each SAE makes of the vectors that it is judged on."""
    import numpy as np
    import torch

    test = torch.from_numpy(np.load(Path(s["folder"]) / "test.npy"))
    with torch.no_grad():
        for i, one in enumerate(saes):
            parts = [one(part) for part in test.split(s["batch"])]
            x_hat = torch.cat([x_hat.float() for _, x_hat in parts])
            fires = sum((acts != 0).sum(0) for acts, _ in parts)
            np.savez(Path(s["out"]) / f"read-{i}.npz", x_hat=x_hat.numpy(), fires=np.asarray(fires))


RUNS = {f.__name__: f for f in (thoughtlens, sae_lens, sparsify, thoughtlens_pages, sae_dashboard)}
SAES = {"thoughtlens": thoughtlens_saes, "sae_lens": sae_lens_saes, "sparsify": sparsify_saes}


def main() -> None:
    s = json.loads(Path(sys.argv[1]).read_text())
    if sys.argv[2:] == ["read"]:
        read(s, SAES[s["library"]](s))
    else:
        RUNS[s["library"]](s)


if __name__ == "__main__":
    main()
