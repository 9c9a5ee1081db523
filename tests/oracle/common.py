"""What the parts share: where fixtures live, how JSON is written, how random weights are drawn, how `tale` is loaded."""

import copy
import json
import math
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, GPT2LMHeadModel
from transformers.utils import logging

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
TALE = FIXTURES / "tale"

logging.disable_progress_bar()
torch.set_num_threads(1)
torch.set_grad_enabled(False)
torch.use_deterministic_algorithms(True)
warnings.filterwarnings("ignore")


def short(x: float) -> float | None:
    """An f32 as the f64 with the shortest decimal that reads back as that f32; -inf, which JSON lacks, as None."""
    if x == -math.inf:
        return None
    assert math.isfinite(x), x
    value = float(str(np.float32(x)))
    assert np.float32(value) == np.float32(x)
    return value


def shorts(row) -> list[float | None]:
    return [short(x) for x in row]


def write_json(name: str, head: dict, cases: list[dict]) -> None:
    """One case per line, so that a change shows as the lines of the cases that changed."""
    path = FIXTURES / name
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(case, ensure_ascii=True, allow_nan=False) for case in cases]
    opening = "".join(f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items())
    path.write_text("{\n" + opening + ' "cases": [\n' + ",\n".join(lines) + "\n]}\n", encoding="utf-8")
    again = json.loads(path.read_text(encoding="utf-8"))
    assert again["cases"] == cases, name


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors makes the file private


def fill(model: torch.nn.Module, seed: int, stds: dict[str, float]) -> None:
    """Random parameters, drawn in name order. `stds` maps the end of a name to a standard deviation; norm weights
    lie around 1, everything else around 0, so that no bias, norm or projection can be left out unnoticed."""
    rng = np.random.Generator(np.random.PCG64(seed))
    for name, parameter in sorted(model.named_parameters()):
        std = next((s for end, s in stds.items() if name.endswith(end)), None)
        if std is None:
            std = 0.2
        centre = 1.0 if (".ln_" in name or "norm" in name) and name.endswith("weight") else 0.0
        values = centre + std * rng.standard_normal(parameter.shape)
        parameter.copy_(torch.from_numpy(values.astype(np.float32)))


def load_tale() -> GPT2LMHeadModel:
    return GPT2LMHeadModel.from_pretrained(TALE, dtype=torch.float32, attn_implementation="eager").eval()


def load_tale_tokenizer():
    return AutoTokenizer.from_pretrained(TALE)


def disturbed(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """The same model with every weight off by about one part in a million. A result that this changes hangs on
    rounding, so it is not a fair expectation of another implementation, and the case is dropped."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for parameter in other.parameters():
        parameter.mul_(1 + 1e-6 * torch.randn(parameter.shape, generator=generator))
    return other
