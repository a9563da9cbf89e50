#!/usr/bin/env bash
# Measures every kernel beside its rivals and writes the record benchmarks/record/<cpu>/<date>-kernels.csv.
# Arguments go to `smallmind bench kernels`: benchmarks/kernels.sh --threads 1 --filter matmul
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { printf 'kernels.sh: %s\n' "$*" >&2; exit 1; }

# The CPU's name in lower case with dashes. Virtual machines may hide the model of an EPYC: its generation is told by family and model.
cpu_name() {
    local name family model generation=""
    if [ ! -r /proc/cpuinfo ]; then
        name=$(sysctl -n machdep.cpu.brand_string 2>/dev/null || uname -m)
    else
        name=$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)
        [ -n "$name" ] || name=$(uname -m)
    fi
    name=$(printf '%s' "$name" | sed -E 's/\((R|TM)\)//g; s/ @.*//; s/[0-9]+-Core//; s/\b(CPU|Processor)\b//g' |
        tr '[:upper:]' '[:lower:]' | sed -E 's/[^a-z0-9]+/-/g; s/^-//; s/-$//')
    if [ "$name" = amd-epyc ]; then
        family=$(sed -n 's/^cpu family[[:space:]]*: //p' /proc/cpuinfo | head -n 1)
        model=$(sed -n 's/^model[[:space:]]*: //p' /proc/cpuinfo | head -n 1)
        case $family in
            23) if [ "$model" -lt 48 ]; then generation=zen1; else generation=zen2; fi ;;
            25) case $((model / 16)) in 1 | 6 | 7 | 10) generation=zen4 ;; *) generation=zen3 ;; esac ;;
            26) generation=zen5 ;;
        esac
        name=$name${generation:+-$generation}-$(nproc --all)core
    fi
    printf '%s' "$name"
}

python=${VENV:-benchmarks/venv}/bin/python
rust=benchmarks/rivals/target/release/rivals
[ -x "$python" ] && [ -x "$rust" ] || fail "the rivals are not there: run benchmarks/setup.sh first"

folder=benchmarks/record/$(cpu_name)
day=$(date +%F)
record=$folder/$day-kernels.csv
# Records are added, never changed.
for ((n = 2; ; n++)); do
    [ -e "$record" ] || break
    record=$folder/$day-kernels-$n.csv
done

mkdir -p "$folder"
unfinished=$record.unfinished
trap 'rm -f "$unfinished"' EXIT
code=0
cargo run --release --quiet -- bench kernels -o csv \
    --rival "$rust" \
    --rival "'$python' benchmarks/kernels/pytorch.py" \
    --rival "'$python' benchmarks/kernels/openblas.py" \
    "$@" >"$unfinished" || code=$?
# With 5 everything has been measured, and something is slower than it should be.
case $code in
    0 | 5) mv "$unfinished" "$record" && printf '%s\n' "$record" ;;
    *) printf 'kernels.sh: no record, as smallmind ended with %d\n' "$code" >&2 ;;
esac
exit "$code"
