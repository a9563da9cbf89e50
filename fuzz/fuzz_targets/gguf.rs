#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| smallmind_fuzz::run(smallmind_fuzz::gguf, input));
