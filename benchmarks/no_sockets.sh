#!/bin/sh
# Shows that no verb but `pull` opens a socket: runs each verb under strace and looks for the system calls that make, connect or bind one.
# (`socketpair` is none of them: it is how a process wakes its own thread for signals.) Takes some seconds and needs strace. `benchmarks/no_sockets.sh [PROGRAM]`; without PROGRAM the release build is made and taken.
set -eu
command -v strace >/dev/null || { echo "strace is missing: install the package of that name" >&2; exit 1; }
if [ $# -gt 0 ]; then
    program=$(realpath "$1")
else
    cd "$(dirname "$0")/.."
    cargo build --quiet --release
    program=$(cargo metadata --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')/release/smallmind
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HOME="$work" HF_HOME="$work/cache" LLAMA_CACHE="$work/llama"
# Nothing listens there: `pull` fails when it has tried.
export HF_ENDPOINT=http://127.0.0.1:9 NO_PROXY=127.0.0.1
i=0
while [ "$i" -lt 200 ]; do
    echo "Line $i: the cat saw the dog, and the dog saw $((i % 7)) birds."
    i=$((i + 1))
done >text.txt

echo "the cat" >question

tried=
# Runs the program with the given arguments; `calls` is the number of its system calls for sockets.
traced() {
    tried="$tried $1"
    code=0
    strace -f -qq -e trace=socket,connect,bind,listen,accept,accept4 -o trace "$program" "$@" <question >out 2>err || code=$?
    calls=$(grep -c '(' trace || true)
}
quiet() {
    traced "$@"
    if [ "$code" -ne 0 ]; then
        echo "smallmind $*: ended with $code" >&2
        cat err >&2
        exit 1
    fi
    if [ "$calls" -ne 0 ]; then
        echo "smallmind $*: $calls calls for sockets" >&2
        cat trace >&2
        exit 1
    fi
    echo "no socket: smallmind $*"
}

tiny="--n_layer=1 --n_head=2 --n_embd=16 --block_size=16 --batch_size=2 --eval_iters=1 --max_iters=4 --data.tokenizer=characters"
quiet quickstart --steps 5 --text 20000 --out quick
# shellcheck disable=SC2086
quiet train --data text.txt --out run $tiny
quiet eval -m run --data text.txt
quiet generate -m run -n 5
printf '{%% for message in messages %%}{{ message.content }}{%% endfor %%}' >template.jinja
quiet chat -m run --template template.jinja
quiet tokenize -m run text.txt
quiet tokenizer train --kind characters --data text.txt --out tokenizer.json
quiet new --preset nanogpt-cpu --out model --tokenizer tokenizer.json
quiet inspect model
quiet convert -m run --out model.gguf
quiet quantize -m run --out quantized.gguf --format q8_0
quiet imatrix -m run --data text.txt --out imatrix.gguf
quiet models .
quiet bench kernels --list
quiet bench inference -m run -p 4 -n 2 -r 1
quiet bench train -m run --batch 2 -n 1 --warmup 0
quiet profile generate -m model --runs 1 -n 2
quiet doctor
quiet completions bash

# A name on the hub is looked up in the caches only.
mkdir -p cache/hub/models--o--n/refs cache/hub/models--o--n/snapshots
commit=0123456789abcdef0123456789abcdef01234567
printf %s "$commit" >cache/hub/models--o--n/refs/main
cp -r model "cache/hub/models--o--n/snapshots/$commit"
quiet generate -m hf:o/n -n 5
traced generate -m hf:o/absent -n 5
{ [ "$code" -eq 3 ] && [ "$calls" -eq 0 ]; } || { echo "a name that is not in the caches: code $code, $calls calls" >&2; exit 1; }
echo "no socket: smallmind generate -m hf:o/absent"

# The check sees sockets: `pull` opens one.
traced pull hf:o/absent
[ "$calls" -gt 0 ] || { echo "pull: no call was seen, so this check shows nothing" >&2; exit 1; }
echo "a socket: smallmind pull"

# Every verb was tried.
"$program" --help | sed -n '/^Commands:/,/^$/s/^  \([a-z]\{1,\}\) .*/\1/p' | while read -r verb; do
    case " $tried help " in *" $verb "*) ;; *) echo "$verb: not tried" >&2; exit 1 ;; esac
done
