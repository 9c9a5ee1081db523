#!/usr/bin/env python3
"""The same work on fireside and on its peers, in turn, with the machine's limits probed beside it.

    benches/peers/setup.sh FOLDER
    cargo build --release
    python3 benches/peers/run.py FOLDER [--only decode,prefill] [--match gpt2] [--rounds 3] [--save FILE.json]

Every round goes through all the work; each piece of work is a fresh process per engine, the engines in another order each
round, with a probe of the machine's limits (roofs.c) just before each. Figures are medians over the rounds. A peer has the best of the
settings listed for it here (llama.cpp with and without repacked weights). The ratio is to the best peer and above 1 where
fireside is ahead, also for times and memory. The last column is fireside's share of the limit that the probe before it
found, the best peer's in brackets: for decoding, bytes of weights per token against the bandwidth; for prompts,
operations against the peak of f32, bf16 or int8. Bandwidth changes from minute to minute on shared machines, and small
models live partly in the cache: trust the ratios more than the percentages, and the percentages more than the rates.

The whole table takes long: 10 to 20 s per row and round. `--wrap` puts a command before each process.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
GROUPS = ["decode", "depth", "prefill", "batch", "first-token", "memory"]
PEERS = ["llama.cpp", "CTranslate2", "transformers", "candle"]
TEXT = "the king said that he would go to the old house by the sea and see"  # 16 tokens of GPT-2
PEAK = {"f32": "f32_gflop_s", "f16": "f32_gflop_s", "bf16": "bf16_gflop_s"}  # int8 for all other types
CARDS = {"mistral4": ["--random", "mistral-7b", "--layers", "4"], "smollm2": ["--random", "smollm2-135m"]}


class Failure(Exception):
    """An engine that gave no figure, and why."""


@dataclass
class Setting:
    """One way to have an engine do a piece of work."""

    command: list
    read: object  # from timed.py's report to the figure
    name: str = ""
    skip: int = 0  # bytes of stdout before the first token


@dataclass
class Work:
    group: str
    model: str
    kind: str  # the type of the weights
    threads: int
    new: int = 0
    prompt: int = 0
    batch: int = 1
    repeat: int = 2
    lower_is_better: bool = False
    unit: str = "tok/s"
    results: dict = field(default_factory=dict)  # engine -> setting -> (figure, limits probed before it) per round

    @property
    def stem(self) -> str:
        return f"{self.model}-{self.kind}"

    @property
    def probed(self) -> bool:
        return self.unit == "tok/s"

    @property
    def name(self) -> str:
        what = {
            "decode": f"decode {self.new}",
            "depth": f"decode {self.new} at depth {self.prompt}",
            "prefill": f"prefill {self.prompt}",
            "batch": f"{self.batch} sequences at once, in all",
            "first-token": "start to first token, s",
            "memory": "peak memory, MB",
        }[self.group]
        return f"{self.model} {self.kind.upper()}, {what}, {self.threads} thread{'s' * (self.threads > 1)}"


def all_work() -> list[Work]:
    work = []
    for threads in (2, 1):
        for kind in ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m"):
            work.append(Work("decode", "gpt2", kind, threads, new=128))
    work += [Work("decode", "mistral4", kind, 2, new=32) for kind in ("bf16", "q8_0", "q4_0", "q4_k_m")]
    work += [Work("decode", "smollm2", kind, 2, new=128) for kind in ("q8_0", "q4_0", "q5_0")]
    work += [Work("depth", "gpt2", kind, 2, new=32, prompt=900) for kind in ("f32", "q8_0", "q4_0")]
    work += [Work("prefill", "gpt2", kind, 2, prompt=512, repeat=3) for kind in ("f32", "bf16", "q8_0", "q4_0", "q4_k_m")]
    work += [Work("prefill", "mistral4", kind, 2, prompt=512, repeat=1) for kind in ("bf16", "q8_0", "q4_0", "q4_k_m")]
    work += [Work("batch", "gpt2", kind, 2, new=128, prompt=16, batch=8, repeat=1) for kind in ("f32", "bf16", "q8_0", "q4_0")]
    time_like = dict(lower_is_better=True, repeat=1)
    work += [Work("first-token", "gpt2", kind, 2, prompt=16, unit="s", **time_like) for kind in ("f32", "q4_0")]
    work += [
        Work("memory", model, kind, 2, prompt=16, new=128, unit="MB", **time_like)
        for model, kind in (("gpt2", "f32"), ("mistral4", "q4_k_m"))
    ]
    return work


# What each engine runs. A function gives the settings for a piece of work, none where the engine cannot do it.


def parsed(report: dict):
    """The JSON on stdout, which may follow other lines."""
    text = report["stdout"]
    for start in (i for i, letter in enumerate(text) if letter in "[{" and (i == 0 or text[i - 1] == "\n")):
        try:
            return json.loads(text[start:])
        except ValueError:
            continue
    raise Failure(f"no JSON on stdout: `{text[:80].strip()}`")


def look_up(value, *path):
    for depth, key in enumerate(path):
        if not isinstance(value, dict) or key not in value:
            there = ", ".join(value) if isinstance(value, dict) else type(value).__name__
            raise Failure(f"no `{'.'.join(path[: depth + 1])}` in the output, there is: {there}")
        value = value[key]
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise Failure(f"`{'.'.join(path)}` is not a number")
    return value


def seconds_to_first_output(report: dict) -> float:
    return report["first_output_s"]


def megabytes(report: dict) -> float:
    return report["peak_memory_bytes"] / 1e6


def fireside(work: Work, folder: Path, program: Path) -> list[Setting]:
    models = folder / "models"
    quantised = work.kind not in PEAK
    as_made = [] if not quantised else ["--quant", work.kind]
    if work.group == "first-token":
        command = [program, "generate", "--do-sample=false", "--ignore-eos", "-n", "1", "--threads", work.threads, "--model"]
        ask = lambda name, *model: Setting([*command, *model, TEXT], seconds_to_first_output, name, len(TEXT))
        if quantised:
            return [ask("file", models / f"{work.stem}.gguf"), ask("on load", models / work.model, *as_made)]
        return [ask("", models / work.model)]

    def rate(report):
        begins = "pp" if work.group == "prefill" else "tg"
        answer = parsed(report)
        tests = answer.get("tests") if isinstance(answer, dict) else None
        if not isinstance(tests, list):
            raise Failure("no list `tests` in fireside's JSON")
        for test in tests:
            if test.get("name", "").startswith(begins):
                return look_up(test, "tokens_per_s", "median")
        raise Failure(f"no test named {begins}… in fireside's JSON, there is: {[test.get('name') for test in tests]}")

    def memory(report):
        return look_up(parsed(report), "peak_memory_bytes") / 1e6  # the process's own peak would count the roof probe

    amount = ["-p", work.prompt, "-n", work.new]
    if work.group == "depth":
        amount = ["-p", 0, "-n", work.new, "-d", work.prompt]
    if work.group == "batch":
        amount += ["--batch", work.batch]
    read = memory if work.group == "memory" else rate

    def bench(name, *model):
        command = [program, "bench", *model, *amount, "-t", work.threads, "-r", work.repeat, "--output", "json"]
        return Setting(command, read, name)

    # The very file that llama.cpp gets, and the form in which such weights are published.
    settings = [bench("file", "--model", models / f"{work.stem}.gguf")]
    if not quantised:
        folder = models / (work.model if work.kind == "f32" else work.stem)
        model = CARDS.get(work.model) or ["--model", folder]
        settings.append(bench("safetensors", *model, "--dtype", work.kind))
    return settings


def llama_cpp(work: Work, folder: Path) -> list[Setting]:
    programs, model = folder / "llama.cpp/build/bin", folder / "models" / f"{work.stem}.gguf"
    if work.group == "first-token":
        command = [programs / "llama-completion", "-m", model, "-t", work.threads, "-n", 1, "-c", 64, "-no-cnv", "--no-warmup"]
        command += ["-fit", "off", "--no-display-prompt", "--ignore-eos", "--temp", 0, "-p", TEXT]
        simple = [programs / "llama-simple", "-m", model, "-n", 1, TEXT]
        return [
            Setting(command, seconds_to_first_output),
            Setting(command + ["--no-repack"], seconds_to_first_output, "no repack"),
            Setting(simple, seconds_to_first_output, "llama-simple", len(TEXT)),
        ]
    if work.group == "batch":
        command = [programs / "llama-batched-bench", "-m", model, "-c", 2048, "-t", work.threads, "-tb", work.threads]
        command += ["-npp", work.prompt, "-ntg", work.new, "-npl", work.batch, "--output-format", "jsonl"]
        return [Setting(command, lambda report: look_up(parsed(report), "speed_tg"))]

    def rate(report):
        tests = parsed(report)
        if not tests or not tests[-1].get("samples_ts"):
            raise Failure("no `samples_ts` in llama-bench's JSON")
        return statistics.median(tests[-1]["samples_ts"])

    amount = ["-p", work.prompt, "-n", work.new]
    if work.group == "depth":
        amount = ["-p", 0, "-n", work.new, "-d", work.prompt]
    command = [programs / "llama-bench", "-m", model, *amount, "-t", work.threads, "-r", work.repeat, "-o", "json"]
    read = megabytes if work.group == "memory" else rate
    settings = [Setting(command, read)]
    if work.kind.startswith("q4"):
        settings.append(Setting([*command, "--repack", 0], read, "no repack"))
    return settings


def python_peer(script: str, work: Work, folder: Path, model: str) -> list[Setting]:
    command = [folder / "venv/bin/python", HERE / script, folder / "models" / model, "--threads", work.threads]
    command += ["--prompt", work.prompt or 16, "--new", work.new, "--batch", work.batch, "--repeat", work.repeat]
    if work.group == "first-token":
        return [Setting([*command, "--first-token"], seconds_to_first_output)]
    return [Setting(command, megabytes if work.group == "memory" else lambda report: look_up(parsed(report), "tokens_per_s"))]


def ctranslate2(work: Work, folder: Path) -> list[Setting]:
    kind = {"f32": "float32", "q8_0": "int8"}.get(work.kind)
    if work.group == "prefill" and work.kind.startswith("q4"):
        kind = "int8"  # has no 4 bits, and its 8 are the fastest prompt of any quantised peer
    return python_peer("ct2.py", work, folder, f"ct2-gpt2-{kind}") if work.model == "gpt2" and kind else []


def transformers(work: Work, folder: Path) -> list[Setting]:
    model = {"gpt2-f32": "gpt2", "gpt2-f16": "gpt2-f16", "gpt2-bf16": "gpt2-bf16", "mistral4-bf16": "mistral4"}.get(work.stem)
    return python_peer("torch_peer.py", work, folder, model) if model else []


def candle(work: Work, folder: Path) -> list[Setting]:
    program, model = folder / "candle-peer", folder / "models" / f"{work.stem}.gguf"
    if work.model == "gpt2" or work.kind in PEAK or not program.exists():
        return []
    command = ["env", f"RAYON_NUM_THREADS={work.threads}", program, model, work.prompt or 16, work.new, work.repeat]
    return [Setting(command, megabytes if work.group == "memory" else lambda report: look_up(parsed(report), "tokens_per_s"))]


def measured(setting: Setting, work: Work, folder: Path, wrap: list[str]) -> tuple[float, dict | None]:
    """The figure, and the machine's limits just before."""
    probe = ["--probe", folder / "roofs", "--threads", work.threads] if work.probed else []
    command = [*wrap, sys.executable, HERE / "timed.py", *probe, "--skip", setting.skip, "--", *setting.command]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(last_line(done.stderr) or f"exit code {done.returncode}")
    report = json.loads(done.stdout)
    if report["exit"] != 0:
        raise Failure(f"exit code {report['exit']}: {last_line(report['stderr'])}")
    return setting.read(report), report["roofs"]


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if line.lower().startswith("error")]
    return (told or lines or [""])[-1][:200]


# From figures to the table.


def median(figures: list) -> float:
    return statistics.median(figure for figure, _ in figures)


def best(work: Work, settings: dict) -> tuple[str, list]:
    """An engine's best setting and its figures."""
    choose = min if work.lower_is_better else max
    return choose(settings.items(), key=lambda item: median(item[1]), default=("", []))


def share_of_roof(work: Work, figures: list, size: dict | None) -> float | None:
    """Percent of the limit beside each figure, then the median."""
    if work.group not in ("decode", "prefill") or size is None:
        return None
    if work.group == "prefill":
        per_token, key = size["ops_per_prompt_token"], PEAK.get(work.kind, "int8_gop_s")
    else:
        per_token, key = size["bytes_per_token"], "read_gb_s"
    if any(roofs[key] is None for _, roofs in figures):
        return None
    return statistics.median(figure * per_token / roofs[key] * 1e-7 for figure, roofs in figures)


def shown(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def row(work: Work, engines: list[str], sizes: dict) -> str:
    medians, shares, names = {}, {}, {}
    for engine in engines:
        setting, figures = best(work, work.results.get(engine, {}))
        if figures:
            medians[engine] = median(figures)
            shares[engine] = share_of_roof(work, figures, sizes.get(work.stem))
            names[engine] = f" ({setting})" if setting else ""
    cells = [work.name] + [shown(medians[e]) + names[e] if e in medians else "–" for e in engines]
    peers = {engine: median for engine, median in medians.items() if engine != "fireside"}
    leader = (min if work.lower_is_better else max)(peers, key=peers.get, default=None)
    ratio, roof = "–", "–"
    if leader and "fireside" in medians:
        ours, theirs = medians["fireside"], peers[leader]
        ratio = f"{theirs / ours if work.lower_is_better else ours / theirs:.2f} × {leader}"
    ours, theirs = shares.get("fireside"), shares.get(leader)
    if ours is not None or theirs is not None:
        roof = ("–" if ours is None else f"{ours:.0f} %") + ("" if theirs is None else f" ({theirs:.0f} %)")
    return "| " + " | ".join([*cells, ratio, roof]) + " |"


def machine() -> str:
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), model)
    return f"{os.cpu_count()} CPUs of {model}, {platform.system()} {platform.release()}"


def commit() -> str:
    done = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def table(work: list[Work], engines: list[str], sizes: dict, failures: dict, args) -> str:
    probes = [r for item in work for of in item.results.values() for figures in of.values() for _, r in figures if r]
    lines = [f"{time.strftime('%Y-%m-%d')}, {machine()}; fireside at commit {commit()}; {args.rounds} rounds.", ""]
    lines += [f"`{shlex.join(['python3', *sys.argv])}`", ""]
    for threads in sorted({roof["threads"] for roof in probes}):
        own = [roof for roof in probes if roof["threads"] == threads]
        limits = []
        for key, unit in (("read_gb_s", "GB/s read"), ("f32_gflop_s", "GFLOP/s f32"), ("bf16_gflop_s", "bf16"), ("int8_gop_s", "GOP/s int8")):
            values = sorted(roof[key] for roof in own if roof[key] is not None)
            if values:
                limits.append(f"{statistics.median(values):,.0f} {unit} ({values[0]:,.0f} to {values[-1]:,.0f})")
        lines.append(f"Limits with {threads} thread{'s' * (threads > 1)}, {len(own)} probes: {', '.join(limits)}.")
    lines += ["", f"| work | {' | '.join(engines)} | ratio to the best peer | of the limit |", "|---" * (len(engines) + 3) + "|"]
    lines += [row(item, engines, sizes) for item in work]
    if failures:
        lines += ["", "Without a figure:", ""]
        lines += [f"- {name}: {why}" for name, why in failures.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what setup.sh filled")
    parser.add_argument("--fireside", type=Path, help="our program [default: target/release/fireside]")
    parser.add_argument("--only", default=",".join(GROUPS), help=f"groups of work: {', '.join(GROUPS)}")
    parser.add_argument("--match", default="", help="only work with this in its row's name, such as `gpt2 q4`")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"which of {', '.join(PEERS)}; may be empty")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--wrap", default="", help="a command to put before each process, such as `taskset -c 0,1`")
    parser.add_argument("--save", type=Path, help="also write every figure as JSON")
    parser.add_argument("--list", action="store_true", help="show the commands, run nothing")
    args = parser.parse_args()

    groups, peers = args.only.split(","), [peer for peer in args.peers.split(",") if peer]
    for name, known in [(group, GROUPS) for group in groups] + [(peer, PEERS) for peer in peers]:
        if name not in known:
            parser.error(f"`{name}` is none of {', '.join(known)}")
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    folder, wrap = args.folder.resolve(), shlex.split(args.wrap)
    if not (folder / "models/sizes.json").exists() or not (folder / "roofs").exists():
        sys.exit(f"error: `{args.folder}` is not set up\n\nhint: run {HERE / 'setup.sh'} {args.folder}")
    program = (args.fireside or ROOT / "target/release/fireside").resolve()
    engines = ["fireside", *peers]
    if not program.exists():
        if args.fireside:
            sys.exit(f"error: there is no `{args.fireside}`")
        print(f"note: there is no `{program}`, only the peers are measured", file=sys.stderr)
        engines = peers
    if not engines:
        sys.exit("error: nothing to measure")
    sizes = json.loads((folder / "models/sizes.json").read_text())
    work = [item for item in all_work() if item.group in groups and args.match.lower() in item.name.lower()]
    if not work:
        sys.exit(f"error: no work matches `{args.match}` in {args.only}")
    does = {"llama.cpp": llama_cpp, "CTranslate2": ctranslate2, "transformers": transformers, "candle": candle}
    does["fireside"] = lambda item, folder: fireside(item, folder, program)
    if args.list:
        for item in work:
            for engine in engines:
                for setting in does[engine](item, folder):
                    print(shlex.join(str(part) for part in setting.command))
        return

    failures = {}
    for turn in range(args.rounds):
        for item in work:
            print(f"round {turn + 1} of {args.rounds}: {item.name}", file=sys.stderr, flush=True)
            shift = turn % len(engines)
            for engine in engines[shift:] + engines[:shift]:
                for setting in does[engine](item, folder):
                    label = f"{item.name}: {engine}" + (f" ({setting.name})" if setting.name else "")
                    if label in failures:
                        continue
                    try:
                        if item.group == "first-token" and turn == 0:
                            measured(setting, item, folder, wrap)  # brings the files into the cache
                        figure, roofs = measured(setting, item, folder, wrap)
                    except Failure as failure:
                        failures[label] = str(failure)
                        item.results.get(engine, {}).pop(setting.name, None)
                        print(f"  {engine}: {failure}", file=sys.stderr)
                        continue
                    item.results.setdefault(engine, {}).setdefault(setting.name, []).append((figure, roofs))
                    print(f"  {engine} {setting.name} {shown(figure)} {item.unit}", file=sys.stderr, flush=True)
        if args.save:  # after each round, so that a run that is stopped leaves something
            figures = [{"work": i.name, "unit": i.unit, "results": i.results} for i in work]
            args.save.write_text(json.dumps({"machine": machine(), "commit": commit(), "work": figures, "failures": failures}, indent=1))
    print(table(work, engines, sizes, failures, args))


if __name__ == "__main__":
    main()
