#!/usr/bin/env bash
# Compares steps of training with PyTorch, eager and compiled, in f32 and bf16, in turn on the same weights and tokens.
#
#     benchmarks/training.sh [OPTIONS OF training/compare.py]
#
# WORK names the folder for PyTorch and the models instead of benchmarks/training/work. torch.compile needs a C++
# compiler.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=${WORK:-$root/benchmarks/training/work}
mkdir -p "$work"

[ -x "$work/venv/bin/python" ] || python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --requirement "$root/benchmarks/training/requirements.txt"
cargo build --release --locked --manifest-path "$root/Cargo.toml"
exec "$work/venv/bin/python" "$root/benchmarks/training/compare.py" --work "$work" \
    --smallmind "$root/target/release/smallmind" "$@"
