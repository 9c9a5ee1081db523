#!/usr/bin/env python3
"""Train ember, the model inside the fireside binary, and write it in the Hub's GPT-2 format.

    pip install torch numpy tokenizers safetensors
    python models/ember/train.py --corpus ../shared/corpus

Read from top to bottom, this file follows the data: corpus, tokenizer, batches, model, loss and
schedule, checkpoint, evaluation, export, and last the loop that joins them.

It knows nothing of GPUs or of several machines: two CPU cores train these 5.8 million parameters.
The architecture is GPT-2's (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners");
the tensors are named and laid out as transformers' `GPT2LMHeadModel` loads them.
"""

import argparse
import csv
import json
import math
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn

HERE = Path(__file__).resolve().parent
SEPARATOR = "<|endoftext|>"  # stands alone on a line between two documents of the corpus
REPORT_EVERY = 20  # steps between two rows of the loss curve: about ten seconds
ESTIMATE_EVERY = 200  # steps between two looks at valid.txt
SAVE_EVERY = 120  # seconds between two checkpoints: what a kill can cost


class Failure(Exception):
    """Something that the user can put right: printed as one line, without a traceback."""


def read_documents(corpus, split):
    """The stories or chapters of `train.txt` or `valid.txt`, without the separator lines."""
    path = Path(corpus) / f"{split}.txt"
    if not path.is_file():
        raise Failure(f"cannot read `{path}`: --corpus must name a folder with train.txt and valid.txt")
    documents = path.read_text(encoding="utf-8").split(SEPARATOR)
    return [text for text in (document.strip("\n") for document in documents) if text]


def train_tokenizer(documents, vocab_size):
    """Byte-level BPE as in GPT-2, with fewer merges. All 256 bytes are tokens, so any string can be
    encoded and comes back as it was."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    special, alphabet = [SEPARATOR], pre_tokenizers.ByteLevel.alphabet()  # the separator gets id 0
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def encode(tokenizer, documents):
    """One flat array: a separator before every document and after the last."""
    tokens = [separator := tokenizer.token_to_id(SEPARATOR)]
    for encoding in tokenizer.encode_batch(documents):
        tokens += [*encoding.ids, separator]
    return np.array(tokens, dtype=np.int64)


def batch_at(step, tokens, args):
    """Inputs and targets of a step, both (batch, context). Every epoch cuts the tokens into windows
    at another offset and shuffles them. The result depends on seed and step alone, so a run that was
    killed continues with the batches that it would have seen."""
    per_epoch = (len(tokens) - 1 - args.context) // (args.context * args.batch)  # steps
    epoch, index = divmod(step, per_epoch)
    random = np.random.default_rng([args.seed, epoch])
    offset = random.integers(args.context)
    order = random.permutation(per_epoch * args.batch)[index * args.batch : (index + 1) * args.batch]
    rows = offset + order[:, None] * args.context + np.arange(args.context + 1)
    windows = torch.from_numpy(tokens[rows])
    return windows[:, :-1], windows[:, 1:]


@dataclass
class Shape:
    vocab: int
    context: int
    width: int
    layers: int
    heads: int


class Attention(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.heads = shape.heads
        self.c_attn = nn.Linear(shape.width, 3 * shape.width)
        self.c_proj = nn.Linear(shape.width, shape.width)

    def forward(self, x):  # (batch, time, width)
        batch, time, width = x.shape
        q, k, v = (
            part.view(batch, time, self.heads, width // self.heads).transpose(1, 2)
            for part in self.c_attn(x).split(width, dim=2)
        )  # each (batch, heads, time, head_dim)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(batch, time, width))


class MLP(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.c_fc = nn.Linear(shape.width, 4 * shape.width)
        self.c_proj = nn.Linear(4 * shape.width, shape.width)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))  # "gelu_new" in config.json


class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.ln_1 = nn.LayerNorm(shape.width, eps=1e-5)
        self.attn = Attention(shape)
        self.ln_2 = nn.LayerNorm(shape.width, eps=1e-5)
        self.mlp = MLP(shape)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT2(nn.Module):
    """Attributes, here and above, are called what the Hub's checkpoints call their tensors."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.wte = nn.Embedding(shape.vocab, shape.width)
        self.wpe = nn.Embedding(shape.context, shape.width)
        self.h = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.ln_f = nn.LayerNorm(shape.width, eps=1e-5)
        self.initialise()

    def initialise(self):
        """Normal(0, 0.02), biases 0. The two projections of a block that add to the residual stream
        start smaller, so that its variance does not grow with the number of layers."""
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                scale = math.sqrt(2 * self.shape.layers) if name.endswith("c_proj.weight") else 1
                nn.init.normal_(parameter, std=0.02 / scale)

    def forward(self, tokens):  # (batch, time) -> logits (batch, time, vocab)
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.h:
            x = block(x)
        return F.linear(self.ln_f(x), self.wte.weight)  # the head is the embedding, transposed


def loss_of(model, inputs, targets):
    """Mean negative log likelihood in nats: matrix products in bf16, softmax and logarithm in f32."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(inputs)
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def optimizers_of(model, args):
    """Weight decay pulls on the matrices of the blocks, not on embeddings, norms and biases. Muon
    (Jordan 2024) makes the update of a matrix orthogonal; README.md has its gain over AdamW. Its step
    is scaled to the size that AdamW's usually has, so that one learning rate serves both."""
    matrices = [p for p in model.h.parameters() if p.dim() == 2]
    others = [p for name, p in model.named_parameters() if p.dim() == 1 or not name.startswith("h.")]
    adamw = {"lr": args.lr, "betas": (0.9, 0.95), "fused": True}
    if args.optimizer == "muon":
        first = torch.optim.Muon(matrices, args.lr, args.weight_decay, 0.95, adjust_lr_fn="match_rms_adamw")
    else:
        first = torch.optim.AdamW(matrices, weight_decay=args.weight_decay, **adamw)
    return [first, torch.optim.AdamW(others, weight_decay=0.0, **adamw)]


def progress_of(run, args):
    """How much of the budget is used, 0 to 1: of the tokens, or of the minutes if those end first."""
    used = run.step * args.batch * args.context / args.tokens
    if args.minutes:
        used = max(used, (time.time() - run.started) / (60 * args.minutes))
    return min(used, 1.0)


def learning_rate_at(step, progress, args):
    """A linear rise over the first --warmup steps, under a line that falls to 0 at the end of the budget."""
    return args.lr * min(1.0, (step + 1) / args.warmup) * (1 - progress)


def train_step(loss_function, model, optimizers, batch, rate):
    loss = loss_function(model, *batch)
    model.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    return loss.item()


@dataclass
class Run:
    step: int
    started: float  # time.time() before the first step: --minutes counts pauses too
    seconds: float  # spent in steps
    history: list  # rows of the loss curve, as in CURVE


CURVE = ["step", "tokens", "seconds", "learning_rate", "train_nats_per_token", "valid_bits_per_byte"]


def recipe_of(args):
    """What may not change between a kill and the next start; the budget may."""
    fixed = "vocab context width layers heads batch lr warmup weight_decay optimizer seed".split()
    return {name: getattr(args, name) for name in fixed}


def save_checkpoint(args, run, tokenizer, model, optimizers):
    state = {
        "recipe": recipe_of(args),
        "run": asdict(run),
        "tokenizer": tokenizer.to_str(),
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "torch_rng": torch.get_rng_state(),  # no batch depends on it, but a dropout would
    }
    temporary = args.work / "checkpoint.tmp"
    torch.save(state, temporary)
    os.replace(temporary, args.work / "checkpoint.pt")  # so that there is always a whole one


def restore(state, args, model, optimizers):
    asked = recipe_of(args)
    changed = [f"--{name} {was} -> {asked[name]}" for name, was in state["recipe"].items() if was != asked[name]]
    if changed:
        raise Failure(f"`{args.work}` holds a run with another recipe ({', '.join(changed)}): give another --work")
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    torch.set_rng_state(state["torch_rng"])
    return Run(**state["run"])


@torch.no_grad()
def bits_of(model, windows, skip):
    """Bits for the targets of windows (n, time + 1), without the first `skip` targets of each; f32."""
    nats = 0.0
    for batch in windows.split(16):
        logits = model(batch[:, :-1])[:, skip:]
        nats += F.cross_entropy(logits.flatten(0, 1), batch[:, 1 + skip :].flatten(), reduction="sum").item()
    return nats / math.log(2)


def bits_per_byte(model, tokens, n_bytes):
    """Bits of every token after the first separator (later separators are predicted and counted), over
    the bytes of the documents. A window is one context long and starts half a context after the one
    before. The first counts all its targets, the others those that no window counted before: every
    token is counted once and, past the first window, has at least half a context before it."""
    context, last = model.shape.context, len(tokens) - 1
    windows = torch.from_numpy(tokens).unfold(0, context + 1, context // 2)
    bits = bits_of(model, windows[:1], 0) + bits_of(model, windows[1:], context - context // 2)
    left_over = last - context - (len(windows) - 1) * (context // 2)
    if left_over:
        bits += bits_of(model, torch.from_numpy(tokens)[None, -context - 1 :], context - left_over)
    return bits / n_bytes


def estimate_bits_per_byte(model, tokens, n_bytes):
    """For the loss curve: 64 windows spread over valid.txt, none overlapping another."""
    context = model.shape.context
    windows = torch.from_numpy(tokens).unfold(0, context + 1, (len(tokens) - context) // 64)[:64]
    return bits_of(model, windows, 0) / (64 * context) * len(tokens) / n_bytes


@torch.no_grad()
def continue_text(model, tokenizer, prompt, seed):
    """Sample as generation_config.json says, without a cache: the fireside binary is the fast way."""
    random = torch.Generator().manual_seed(seed)
    ids = [tokenizer.token_to_id(SEPARATOR)] + tokenizer.encode(prompt).ids
    for _ in range(GENERATION["max_new_tokens"]):
        logits = model(torch.tensor([ids[-model.shape.context :]]))[0, -1]
        best = (logits / GENERATION["temperature"]).topk(GENERATION["top_k"])
        ids.append(best.indices[torch.multinomial(best.values.softmax(0), 1, generator=random)].item())
        if ids[-1] == ids[0]:
            break
    return tokenizer.decode(ids)


GENERATION = {"do_sample": True, "max_new_tokens": 120, "temperature": 0.8, "top_k": 50}


def is_conv1d(name):
    """GPT-2's Conv1D stores these as (in, out), nn.Linear as (out, in)."""
    return name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))


def hub_config(shape, separator):
    """The keys of transformers' GPT2Config. The head is not stored: it is wte."""
    sizes = {"n_ctx": shape.context, "n_embd": shape.width, "n_head": shape.heads, "n_inner": None}
    sizes |= {"n_layer": shape.layers, "n_positions": shape.context, "vocab_size": shape.vocab}
    tokens = {"bos_token_id": separator, "eos_token_id": separator}
    training = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "initializer_range": 0.02}
    kind = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "torch_dtype": "float16"}
    maths = {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True}
    return dict(sorted((sizes | tokens | training | kind | maths | {"use_cache": True}).items()))


def export(model, tokenizer, history, out):
    separator = tokenizer.token_to_id(SEPARATOR)
    tensors = {
        "transformer." + name: (tensor.t() if is_conv1d(name) else tensor).to(torch.float16).contiguous()
        for name, tensor in model.state_dict().items()
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "model.safetensors").write_bytes(save(tensors, {"format": "pt"}))
    generation = {"bos_token_id": separator, "eos_token_id": separator, **GENERATION}
    for name, value in [("config", hub_config(model.shape, separator)), ("generation_config", generation)]:
        (out / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n")
    (out / "tokenizer.json").write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
    with open(out / "loss.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([CURVE, *history])
    (out / "loss.svg").write_text(curve_svg([(row[1] / 1e6, row[5]) for row in history if row[5] is not None]))


def load_exported(out):
    """The stored f16 model, widened to f32: what the figures of the card are about."""
    try:
        config = json.loads((out / "config.json").read_text())
        stored = load_file(out / "model.safetensors")
        tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    except Exception as reason:  # tokenizers raises nothing narrower
        raise Failure(f"cannot load the model in `{out}`: {reason}") from None
    model = GPT2(Shape(*(config[key] for key in "vocab_size n_positions n_embd n_layer n_head".split())))
    for name, tensor in stored.items():
        parameter = model.get_parameter(name.removeprefix("transformer."))
        parameter.data.copy_(tensor.t() if is_conv1d(name) else tensor)
    return model, tokenizer


def curve_svg(points):
    """(million tokens, bits per byte) as a line, in dark ink or, for a reader in dark mode, light."""
    points = [(x, y) for x, y in points if y <= 2.2] or [(1, 2.2)]
    x_max, y_min, y_max = points[-1][0], min(y for _, y in points) - 0.05, 2.2

    def place(x, y):  # in pixels
        return f"{56 + 568 * x / x_max:.1f} {16 + 240 * (y_max - y) / (y_max - y_min):.1f}"

    def label(x, y, text, shift):
        return f'<text transform="translate({place(x, y)})translate({shift})">{text}</text>'

    svg = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 308" font-family="sans-serif" font-size="12">']
    svg.append("<title>Bits per byte on valid.txt against tokens seen in training</title><style>svg{color:#1f2328}")
    svg.append("@media(prefers-color-scheme:dark){svg{color:#e6edf3}}text{fill:currentColor;text-anchor:middle}")
    svg.append("path{stroke:currentColor;fill:none}</style>")
    for y in np.arange(math.ceil(y_min * 10), 22.5) / 10:
        svg.append(f'<path d="M{place(0, y)}L{place(x_max, y)}" opacity=".2"/>' + label(0, y, f"{y:.1f}", "-18 4"))
    for x in range(0, int(x_max) + 1, max(1, round(x_max / 8))):
        svg.append(label(x, y_min, x, "0 18"))
    svg.append(f'<path d="M{"L".join(place(*point) for point in points)}" stroke-width="2"/>')
    svg.append(label(x_max / 2, y_min, "million tokens seen in training", "0 42"))
    svg.append(label(0, (y_min + y_max) / 2, "bits per byte", "-42 0)rotate(-90") + "</svg>\n")
    return "\n".join(svg)


def train(args):
    documents, unseen = read_documents(args.corpus, "train"), read_documents(args.corpus, "valid")
    args.work.mkdir(parents=True, exist_ok=True)
    checkpoint = args.work / "checkpoint.pt"
    state = torch.load(checkpoint, weights_only=True) if checkpoint.is_file() else None
    if args.export and not state:
        raise Failure(f"there is no `{checkpoint}`: train first")
    tokenizer = Tokenizer.from_str(state["tokenizer"]) if state else train_tokenizer(documents, args.vocab)
    tokens, valid = encode(tokenizer, documents), encode(tokenizer, unseen)
    valid_bytes = len("".join(unseen).encode())
    if len(tokens) < 2 * args.batch * args.context or len(valid) < 65 + args.context:
        raise Failure(f"`{args.corpus}` is too small: no whole batch in train.txt, or no window in valid.txt")

    torch.manual_seed(args.seed)
    model = GPT2(Shape(tokenizer.get_vocab_size(), args.context, args.width, args.layers, args.heads))
    optimizers = optimizers_of(model, args)
    run = restore(state, args, model, optimizers) if state else Run(0, time.time(), 0.0, [])
    print(f"{len(tokens):,} tokens an epoch, starting at step {run.step:,}", file=sys.stderr)

    stop = []  # a signal asks for an end; the step under way is finished first
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: stop.append(received))
    loss_function = torch.compile(loss_of) if args.compile else loss_of
    losses, saved = [], time.time()
    while not (args.export or stop) and (progress := progress_of(run, args)) < 1:
        before, rate = time.time(), learning_rate_at(run.step, progress, args)
        losses.append(train_step(loss_function, model, optimizers, batch_at(run.step, tokens, args), rate))
        run.step += 1
        run.seconds += time.time() - before
        if run.step % REPORT_EVERY == 0:
            bits = None
            if run.step % ESTIMATE_EVERY == 0:
                bits = round(estimate_bits_per_byte(model, valid, valid_bytes), 4)
            seen, loss = run.step * args.batch * args.context, round(sum(losses) / len(losses), 4)
            run.history.append([run.step, seen, round(run.seconds), round(rate, 7), loss, bits])
            show_progress(run, progress)
            losses = []
        if time.time() - saved > SAVE_EVERY:
            save_checkpoint(args, run, tokenizer, model, optimizers)
            saved = time.time()
    if not args.export:
        save_checkpoint(args, run, tokenizer, model, optimizers)
    if stop:
        print(f"\nstopped at step {run.step:,}; the same command continues from here", file=sys.stderr)
        return 128 + stop[0]  # 130 for Ctrl-C
    export(model, tokenizer, run.history, args.out)
    return evaluate(args)


def show_progress(run, progress):
    """A live line on a terminal; elsewhere one line per look at valid.txt."""
    step, seen, seconds, _, loss, bits = run.history[-1]
    minutes_left = (time.time() - run.started) * (1 - progress) / max(progress, 1e-9) / 60
    live = "\r\x1b[K" if sys.stderr.isatty() else ""  # back to the start of the line, and clear it
    line = f"{live}{progress:4.0%}  step {step:,}  {seen / max(seconds, 1):,.0f} tokens/s  loss {loss:.3f}"
    line += f"  {minutes_left:.0f} min left" + (f"  {bits:.3f} bits per byte\n" if bits else "")
    if live or bits:
        print(line, end="", file=sys.stderr, flush=True)


def evaluate(args):
    model, tokenizer = load_exported(args.out)
    documents = read_documents(args.corpus, "valid")
    bits = bits_per_byte(model, encode(tokenizer, documents), len("".join(documents).encode()))
    print(f"{bits:.4f} bits per byte on valid.txt")
    return 0


def parse_arguments():
    parser = argparse.ArgumentParser(
        description="Train ember and write it in the Hub's GPT-2 format. After Ctrl-C or a kill the same "
        "command continues from the last checkpoint.",
        epilog="example: python models/ember/train.py --corpus ../shared/corpus --minutes 90",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--corpus", default="../shared/corpus", help=f"folder with train.txt and valid.txt, parted by {SEPARATOR}")
    add("--work", type=Path, default=Path("target/ember"), help="folder for the checkpoint")
    add("--out", type=Path, default=HERE, help="folder for the finished model")
    add("--tokens", type=float, default=29.2e6, help="budget: the learning rate is 0 after so many tokens")
    add("--minutes", type=float, help="or so long after the first step, pauses included, if that comes first")
    for name, default, text in [
        ("--vocab", 4096, "tokens in the vocabulary"),
        ("--context", 256, "tokens that the model can see"),
        ("--width", 304, "size of the residual stream"),
        ("--layers", 4, "number of blocks"),
        ("--heads", 4, "attention heads of a block; must divide the width"),
        ("--batch", 16, "windows of one context per step"),
        ("--warmup", 200, "steps until the learning rate has risen"),
        ("--seed", 1, "of the first weights, of the batches, and of --sample"),
        ("--threads", os.cpu_count(), "CPU threads"),
    ]:
        add(name, type=int, default=default, help=text)
    add("--lr", type=float, default=4e-3, help="highest learning rate")
    add("--weight-decay", type=float, default=0.1, help="on the matrices of the blocks")
    add("--optimizer", choices=["muon", "adamw"], default="muon", help="for the matrices of the blocks")
    add("--compile", action="store_true", help="fuse operations with torch.compile; needs a C++ compiler")
    instead = parser.add_argument_group("instead of training").add_mutually_exclusive_group()
    instead.add_argument("--export", action="store_true", help="write and measure the last checkpoint in --work")
    instead.add_argument("--evaluate", action="store_true", help="measure the model in --out on valid.txt")
    instead.add_argument("--sample", metavar="PROMPT", help="continue PROMPT with the model in --out")
    args = parser.parse_args()
    if args.width % args.heads:
        parser.error(f"--heads {args.heads} does not divide --width {args.width}")
    return args


def main():
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    if args.sample is None:
        return evaluate(args) if args.evaluate else train(args)
    print(continue_text(*load_exported(args.out), args.sample, args.seed))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"error: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
