#!/usr/bin/env bash
# Makes the rivals of `smallmind bench kernels` ready: a virtual environment with PyTorch and NumPy, and the program `rivals`.
# VENV names another environment than benchmarks/venv; one that is there already is gone on with.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${VENV:-benchmarks/venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
# A build of PyTorch for the CPU alone, installed before, is one of that version too and stays.
"$venv/bin/python" -m pip install --requirement benchmarks/requirements.txt
cargo build --release --locked --manifest-path benchmarks/rivals/Cargo.toml --target-dir benchmarks/rivals/target

# What speaks the protocol well here will do so under `smallmind bench kernels`.
for rival in benchmarks/rivals/target/release/rivals \
    "'$venv/bin/python' benchmarks/kernels/openblas.py" "'$venv/bin/python' benchmarks/kernels/pytorch.py"; do
    printf '%s: ' "$rival"
    "$venv/bin/python" benchmarks/protocol_check.py --quiet "$rival"
done
