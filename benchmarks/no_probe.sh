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
    RUSTFLAGS=-Awarnings cargo rustc --quiet --release --lib -p smallmind-model --manifest-path "$work/Cargo.toml" --target-dir "$work/target" \
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

# The comparison sees a probe: one that does next to nothing gives other instructions.
cp "$work/before.rs" "$source"
sed -i -e 's/const ENABLED: bool = false;//' -e 's/(&self, _: usize, _: usize) {}/(\&self, _: usize, _: usize) { std::hint::black_box(self); }/' \
    "$work/crates/graph/src/probe.rs"
assembly control
if cmp -s "$work/with.s" "$work/control.s"; then
    echo "a probe that does something makes no difference: this comparison shows nothing" >&2
    exit 1
fi

instructions() { grep -c '^[[:space:]][a-z]' "$work/$1.s"; }
if cmp -s "$work/with.s" "$work/without.s"; then
    echo "the same: $(instructions with) instructions ($(instructions control) with a probe that does next to nothing)"
else
    echo "different:" >&2
    diff "$work/with.s" "$work/without.s" | head -40 >&2
    exit 1
fi
