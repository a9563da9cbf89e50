#!/usr/bin/env bash
# Prints hashes of what a smallmind binary computes: weights after 60 steps of four small trainings, greedy and sampled texts of
# three models, losses of eval. Two binaries that print the same lines compute the same bits.
#   benchmarks/same_bits.sh target/release/smallmind > before.txt
# A change that must not change results is checked by running this before and after it, on one machine with one instruction set
# (SMALLMIND_ISA chooses one).
set -eu
export LC_ALL=C.UTF-8
program=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
awk 'BEGIN { s = 7; split("the cat sat on a mat and saw two red birds sing near an old tree while rain fell", w, " ");
  for (i = 0; i < 6000; i++) { s = (s * 1103 + 12345) % 65536; printf "%s%s", w[s % 18 + 1], (s % 11 ? " " : ".\n") } }' > text.txt
hash() { sha256sum | cut -c1-16; }
say() { printf '%-44s %s\n' "$1" "$2"; }

common="--train.steps=60 --train.warmup=5 --eval.interval=20 --eval.batches=4 --sample.interval=0 --train.seed=11"
small="--model.layers=2 --model.heads=4 --model.d_model=64 --model.context=32 --train.batch=6"
train() { # NAME FLAGS: a training, its weights and its losses
    name=$1; shift
    "$program" train --data text.txt --out "$name" $common $small "$@" > "$name.out" 2> "$name.err"
    say "train $name: model.safetensors" "$(hash < "$name/model.safetensors")"
    say "train $name: losses" "$(grep -o '"[a-z_]*loss":[^,}]*' "$name/log.jsonl" | hash)"
}
train gpt2-dropout --preset nanogpt-cpu --model.dropout=0.2
train gpt2-accumulation --preset nanogpt-cpu --gradient_accumulation_steps=3 --data.tokenizer=bpe --data.vocab_size=400
train llama-dropout --model.family=llama --model.kv_heads=2 --model.d_ff=160 --model.dropout=0.1
train qwen2-accumulation --model.family=qwen2 --model.kv_heads=2 --model.d_ff=160 --gradient_accumulation_steps=2 --data.tokenizer=bpe \
    --data.vocab_size=400

text() { # NAME MODEL: a greedy and a sampled text, on one thread and on two
    for threads in 1 2; do
        for temp in 0 0.9; do
            flags="--temp $temp --seed 5 --threads $threads -n 100 --no-echo"
            out=$("$program" generate -m "$2" $flags -p "the cat sat on the mat and saw" 2> /dev/null | hash)
            say "text of $1, temperature $temp, $threads threads" "$out"
        done
    done
}
text gpt2-dropout gpt2-dropout
text qwen2-accumulation qwen2-accumulation
# A character for each entry of a random model's table, so that every token shows.
{ printf ' %s' the cat sat on mat and saw; for ((c = 0x100; c < 0x100 + 49000; c++)); do printf "\\u$(printf %04x $c)"; done; } > characters.txt
"$program" tokenizer train --data characters.txt --kind characters --out characters.json > /dev/null 2>&1
"$program" new --preset smollm2-135m --out smollm2 --tokenizer characters.json > /dev/null 2>&1
text smollm2-135m smollm2

for run in gpt2-dropout gpt2-accumulation llama-dropout qwen2-accumulation; do
    for context in 32 7; do
        loss=$("$program" eval -m "$run" --data text.txt --context "$context" --json 2> /dev/null | grep '"loss"')
        say "eval of $run, context $context" "$(echo "$loss" | tr -d ' ,"' | cut -d: -f2)"
    done
done
