#!/bin/sh
# Shows that the executor without a probe costs nothing: its crate of sessions, which holds Executor::run::<NoProbe>, is compiled to the
# same instructions as with every call of a probe blanked out of the executor's source. Takes some minutes; needs git, and the committed tree.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git -C "$(dirname "$0")/.." archive --format=tar HEAD | tar -x -C "$work"
source="$work/crates/graph/src/executor.rs"

# Assembly without debugging information, so that nothing but code and data is compared.
assembly() {
    rm -f "$work"/target/release/deps/smallmind_model-*.s
    cargo rustc --quiet --release --lib -p smallmind-model --manifest-path "$work/Cargo.toml" --target-dir "$work/target" \
        -- --emit asm -C debuginfo=0 -C codegen-units=1
    cp "$work"/target/release/deps/smallmind_model-*.s "$work/$1.s"
}

assembly with
cp "$source" "$work/before.rs"
# Blank lines keep the numbers of the others, which stand in messages of panics.
sed -i -e '/if P::ENABLED {/,/}/s/.*//' -e 's/probe\.\(enter\|leave\)();//' "$source"
calls=$(diff "$work/before.rs" "$source" | grep -c '^< .*probe\.') || true
if [ "$calls" -ne 4 ] || grep -q 'probe\.' "$source"; then
    echo "$calls calls of the probe were found in executor.rs instead of 4: this script no longer fits it" >&2
    exit 1
fi
assembly without

instructions=$(grep -c '^[[:space:]][a-z]' "$work/with.s")
runs=$(grep -c '^_.*Executor3run.*NoProbe.*:$\|^_.*executor.*NoProbe.*:$' "$work/with.s") || true
if cmp -s "$work/with.s" "$work/without.s"; then
    echo "the same: $instructions instructions, $runs functions of the executor for NoProbe among them"
else
    echo "different: see below" >&2
    diff "$work/with.s" "$work/without.s" | head -40 >&2
    exit 1
fi
