"""quant.safetensors: block formats, as the package `gguf` of llama.cpp's authors writes and reads them.

`x` is rows of 256 numbers: random ones of several spreads, with outliers, far from zero, all one number, ties, zeros.
For the formats that the package can write `<format>.written` has the blocks of `x`. For every format `<format>.blocks` are
random blocks, and `<format>.read` is what they stand for.
"""

import numpy as np
import torch
from common import FIXTURES, save_tensors
from gguf import GGMLQuantizationType, quants

FORMATS = ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "mxfp4", "iq4_nl", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k",
           "iq4_xs"]

# Where the f16 scales of a block lie; random bytes there would be infinite or not a number now and then.
SCALES = {
    "q8_0": [0], "q4_0": [0], "q4_1": [0, 2], "q5_0": [0], "q5_1": [0, 2], "mxfp4": [], "iq4_nl": [0],
    "q2_k": [80, 82], "q3_k": [108], "q4_k": [0, 2], "q5_k": [0, 2], "q6_k": [208], "iq4_xs": [0],
}  # fmt: skip

# Random blocks of each format, 8 of 32 numbers or 2 of 256.
NUMBERS = 512


def rows() -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64(20))
    x = [rng.standard_normal((4, 256)) * spread for spread in (0.02, 1.0, 1e-6, 3000.0)]
    x.append(rng.standard_t(3, (4, 256)) * 0.05)  # outliers
    x.append(rng.standard_normal((2, 256)) * 0.01 + np.array([[0.3], [-0.3]]))  # far from zero
    x.append(np.abs(rng.standard_normal((1, 256))))
    x.append(rng.integers(-3, 4, (2, 256)) * 0.5)  # ties, also between the largest and the smallest
    x.append(np.full((1, 256), -0.7))
    x.append(np.zeros((1, 256)))
    one = np.zeros((1, 256))
    one[0, 37] = 5.0
    x.append(one)
    return np.concatenate(x).astype(np.float32)


def make() -> None:
    x = rows()
    tensors = {"x": torch.from_numpy(x)}
    rng = np.random.Generator(np.random.PCG64(21))
    for name in FORMATS:
        kind = GGMLQuantizationType[name.upper()]
        try:
            written = quants.quantize(x, kind)
            tensors[f"{name}.written"] = torch.from_numpy(written.reshape(len(x), -1).copy())
        except NotImplementedError:
            pass
        block, size = quants.GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (NUMBERS // block, size)).astype(np.uint8)
        for at in SCALES[name]:
            scales = (rng.standard_normal(len(blocks)) * 0.01).astype(np.float16)
            blocks[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
        if name == "mxfp4":
            blocks[:, 0] = rng.integers(100, 140, len(blocks))
        read = quants.dequantize(blocks.reshape(1, -1), kind)
        assert np.isfinite(read).all(), name
        tensors[f"{name}.blocks"] = torch.from_numpy(blocks.reshape(-1).copy())
        tensors[f"{name}.read"] = torch.from_numpy(read.astype(np.float32).reshape(-1).copy())
    save_tensors(FIXTURES / "quant.safetensors", tensors)
