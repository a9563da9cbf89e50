//! Models that are made, shown, measured and made to talk.

use std::fs::OpenOptions;
use std::ops::ControlFlow;
use std::sync::Arc;

use smallmind::kernels::Format;
use smallmind::kernels::attention::CacheFormat;
use smallmind::model::tokenizer::{SpecialTokens, Tokenizer};
use smallmind::{GenerateOptions, Generator, IsaKind, Model, SamplerConfig, Session, SessionOptions};

use crate::support::{Bench, Ran};

#[test]
fn a_new_model_is_shown() {
    let bench = Bench::with_text();
    bench.random_model();
    let shown = bench.run("inspect model --json --tensors --graph --plan").json();
    assert_eq!(shown["config"]["model_type"], "gpt2");
    assert_eq!(shown["parameters"], 65 * 128 + 64 * 128 + 4 * (12 * 128 * 128 + 2 * 128) + 128);
    assert!(
        shown["tensors"]
            .as_array()
            .unwrap()
            .iter()
            .any(|t| t["name"] == "transformer.wte.weight" && t["dtype"] == "F32")
    );
    assert!(shown["memory"]["weights_bytes"].as_u64() >= shown["parameters"].as_u64().map(|n| 4 * n));
    assert!(!shown["graph"].as_array().unwrap().is_empty() && !shown["plan"].as_array().unwrap().is_empty());
    let text = bench.run("inspect model --tensors --plan --for training").ok();
    assert!(text.contains("transformer.wte.weight") && text.contains("plan:") && text.contains("characters"), "{text}");

    let again = bench.run("new --preset nanogpt-cpu --out model");
    again.fails(2, &["model", "already"]);
    let same = bench.run("new --preset nanogpt-cpu --out same --json").json();
    assert_eq!(same["seed"], 1337);
    std::fs::create_dir(bench.path("other")).unwrap();
    bench.write("other/generation_config.json", r#"{"do_sample": false}"#);
    bench.run("new --preset nanogpt-cpu --out other").fails(2, &["other", "generation_config.json"]);
    std::fs::remove_file(bench.path("other/generation_config.json")).unwrap();
    let read = |name: &str| std::fs::read(bench.path(name)).unwrap();
    assert_eq!(read("same/model.safetensors"), read("model/model.safetensors"));
    bench.run("new --preset nanogpt-cpu --out other --seed 2").ok();
    assert_ne!(read("other/model.safetensors"), read("model/model.safetensors"));
}

/// The speed to expect follows from what was measured in the same second, and from the bytes of the weights.
#[test]
fn the_speed_to_expect_is_measured() {
    let bench = Bench::with_text();
    bench.random_model();
    assert!(bench.run("inspect model --json").json()["speed"].is_null());
    let speed_in =
        |format: &str| bench.run(&format!("inspect model --speed --weights {format} --threads 1 --json")).json();
    let [wide, narrow] = ["f32", "q4_0"].map(speed_in);
    let speed = &wide["speed"];
    assert_eq!((&speed["measured"]["threads"], &speed["measured"]["isa"]), (&1.into(), &IsaKind::best().name().into()));
    let number = |value: &serde_json::Value| value.as_f64().unwrap_or_else(|| panic!("a number: {value}"));
    let gbps = number(&speed["measured"]["weights_gbps"]);
    let parameters = number(&wide["parameters"]);
    let decode = speed["decode"].as_array().unwrap();
    assert_eq!(decode.iter().map(|one| one["past"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 63]);
    for one in decode {
        let bytes = number(&one["weight_bytes_per_token"]);
        // All weights but the tables of tokens and positions, of which a token reads a row; the head reads the first
        // as a whole.
        assert!(bytes > 4.0 * (parameters - 70.0 * 128.0) && bytes < 4.2 * parameters, "{bytes} of {parameters}");
        let (flops, rate) = (number(&one["flops_per_token"]), number(&one["tokens_per_second_at_most"]));
        assert!(flops > 1.9 * (parameters - 70.0 * 128.0) && flops < 3.0 * parameters, "{flops} of {parameters}");
        assert!(rate > 0.0 && rate <= 2.0 * gbps * 1e9 / bytes, "{rate} at {gbps} GB/s");
    }
    let prompt = &speed["prompt"];
    assert_eq!(prompt["tokens"], 64);
    assert!(number(&prompt["weight_bytes_per_token"]) * 32.0 < number(&decode[0]["weight_bytes_per_token"]));
    let peak = number(&speed["measured"]["roofs"]["f32_gflops"]);
    assert!(number(&prompt["tokens_per_second_at_most"]) <= 1.01 * peak * 1e9 / number(&prompt["flops_per_token"]));
    let bytes = |shown: &serde_json::Value| number(&shown["speed"]["decode"][0]["weight_bytes_per_token"]);
    assert!(bytes(&narrow) * 4.0 < bytes(&wide), "{narrow}");
    let text = bench.run("inspect model --speed --context 16").ok();
    for words in
        ["measured now, ", "GB/s", "decode       at most ", "after 15 tokens", "prompt       at most ", "for 16"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    bench.run("inspect model --speed --context 1").ok();
}

/// In every format `inspect --plan` shows the plans that a session runs, and the bytes of its weights.
#[test]
fn the_plan_of_a_format_is_shown() {
    let bench = Bench::with_text();
    bench.random_model();
    for format in Format::ALL {
        let model = Model::load(bench.path("model")).unwrap().pack_as(IsaKind::best(), format).unwrap();
        let bytes = model.storage().bytes();
        let options = SessionOptions { cache_format: CacheFormat::F16, ..SessionOptions::single(64, 2) };
        let session = Session::new(Arc::new(model), options).unwrap();
        for (used_for, plan) in [("prefill", session.plan(64)), ("decode", session.plan(1))] {
            let line = format!("inspect model --plan --for {used_for} --weights {format} --threads 2 --json");
            let shown = bench.run(&line).json();
            let lines: Vec<&str> =
                shown["plan"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
            assert_eq!(lines.join("\n"), plan.to_string().trim_end(), "{used_for} in {format}");
            assert_eq!(shown["memory"]["weights_bytes"], bytes, "{format}");
        }
    }
    bench.run("inspect model --plan --for evaluation --weights q8_0").ok();
    bench.run("inspect model --plan --for training --weights q8_0").fails(2, &["--weights", "f32"]);
}

/// Every verb with a session knows `--kv`; its text is that of a session with such a cache.
#[test]
fn the_key_value_cache_has_a_format() {
    let bench = Bench::with_text();
    bench.random_model();
    let model = Arc::new(Model::load(bench.path("model")).unwrap().pack(IsaKind::best()).unwrap());
    let tokenizer = Arc::new(Tokenizer::from_file(bench.path("model/tokenizer.json")).unwrap());
    let prompt = tokenizer.encode("the cat", SpecialTokens::AsText).unwrap();
    for cache_format in CacheFormat::ALL {
        let options = SessionOptions { cache_format, ..SessionOptions::single(64, 1) };
        let session = Session::new(model.clone(), options).unwrap();
        let bytes = session.working_bytes().0;
        let mut generator = Generator::new(session, tokenizer.clone()).unwrap();
        let options = GenerateOptions { max_tokens: 40, sampler: SamplerConfig::greedy(), stops: vec![] };
        let mut want = String::new();
        let keep = |piece: &str| {
            want.push_str(piece);
            ControlFlow::Continue(())
        };
        generator.generate(&prompt, &options, keep).unwrap();
        let line = format!("generate -m model -n 40 --temp 0 --no-echo --threads 1 --kv {cache_format} -p");
        let text = Ran::of(bench.command(&line).arg("the cat").output().unwrap()).ok();
        assert_eq!(text.trim_end_matches('\n'), want.trim_end_matches('\n'), "{cache_format}");

        let shown = bench.run(&format!("inspect model --json --kv {cache_format}")).json();
        assert_eq!(shown["memory"]["cache_bytes"], bytes, "{cache_format}");
        assert_eq!(shown["memory"]["cache_format"], cache_format.name());
        let line = format!("eval -m model --against model --data text.txt --json --kv {cache_format}");
        let told = bench.run(&line).json();
        let of = |name: &str| told["against"][name].as_f64().unwrap();
        let mean = of("kl_mean");
        assert_eq!(of("loss") + of("loss_difference"), of("own_loss"), "{cache_format}: {told}");
        bench.run(&format!("eval -m model --data text.txt --kv {cache_format}")).fails(2, &["--kv", "--against"]);
        assert_eq!(mean == 0.0, cache_format == CacheFormat::F32, "{cache_format}: {mean}");
        assert!(mean < 0.1, "{cache_format}: {mean}");
    }
    for verb in
        ["generate -p a", "chat", "eval --data text.txt", "bench inference", "bench batched", "profile generate"]
    {
        bench.run(&format!("{verb} -m model --kv q6_k")).fails(2, &["--kv", "q6_k", "f16", "q4_0"]);
    }
}

/// Rows of 60 elements are not whole blocks of 32; rows of 32 are.
#[test]
fn weights_that_fall_back_to_f16_are_named() {
    let bench = Bench::with_text();
    let sizes = "--model.d_model=60 --model.heads=3 --model.d_ff=32 --model.layers=1";
    bench.run(&format!("train --preset nanogpt-cpu --data text.txt --out run --train.steps=1 {sizes}")).ok();
    let stderr = |line: &str, format: &str| {
        let ran = bench.run(&format!("{line} --weights {format}"));
        let stderr = ran.stderr.clone();
        ran.ok();
        stderr
    };
    let lines = ["generate -m run -n 1 -p a", "eval -m run --data text.txt", "inspect run"];
    for line in lines {
        let few = stderr(line, "q8_0");
        let note = "note: 4 weights are in f16, as their rows are not whole blocks of q8_0: embed.tokens.weight [";
        assert!(few.contains(note), "{line}: {few}");
        assert!(!stderr(line, "bf16").contains("blocks"), "{line}");
    }
    for line in lines.into_iter().chain(["profile generate -m run --runs 1 -n 2"]) {
        let (few, many) =
            (stderr(line, "q4_k"), "note: 4 weights are in f16, as their rows are not whole blocks of q4_k: ");
        assert!(few.contains(many), "{line}: {few}");
        let smaller = " in q5_0, as their rows are not whole blocks of q4_k: ";
        assert!(few.contains(smaller), "{line}: {few}");
    }
}

#[test]
fn generate_prints_text_and_nothing_else() {
    let bench = Bench::with_text();
    bench.random_model();
    let ran = bench.command("generate -m model -n 20 --seed 5 --threads 1 -p").arg("the cat").output().unwrap();
    let ran = Ran::of(ran);
    assert!(ran.stderr.contains("tokens/s") && ran.stderr.contains("seed 5"), "{ran:#?}");
    let text = ran.ok();
    assert!(text.starts_with("the cat") && text.ends_with('\n'), "{text:?}");

    let told = bench.run("generate -m model -n 20 --seed 5 --threads 2 --json --prompt-file text.txt --context 64");
    told.fails(4, &["context of 64"]);
    bench.write("prompt.txt", "the cat");
    let told = bench.run("generate -m model -n 20 --seed 5 --threads 2 --json --prompt-file prompt.txt").json();
    assert_eq!(format!("the cat{}", told["text"].as_str().unwrap()), text.trim_end_matches('\n'));
    assert_eq!((told["tokens"].as_u64(), told["prompt_tokens"].as_u64()), (Some(20), Some(7)));
    assert_eq!((told["finish"].as_str(), told["seed"].as_u64()), (Some("length"), Some(5)));
    assert!(told["prefill_tokens_per_second"].as_f64() > Some(0.0));
    assert!(told["decode_tokens_per_second"].as_f64() > Some(0.0));
    assert_eq!(told["allocations_per_token"], 0.0);

    let only = bench.run_with_input("generate -m model -n 20 --seed 5 --threads 1 --no-echo -p -", b"the cat").ok();
    assert_eq!(format!("the cat{only}"), text);
}

#[test]
fn generation_stops_and_goes_past_the_context() {
    let bench = Bench::with_text();
    bench.random_model();
    let long = bench.run("generate -m model -n 100 --temp 0 --json --threads 1").json();
    // Full with 64 tokens, then with each 32 more; one token is the prompt's.
    assert_eq!((&long["tokens"], &long["context_shifts"]), (&100.into(), &2.into()));
    let ran = bench.run("generate -m model -n 100 --temp 0 --threads 1");
    let told = "note: the context of 64 tokens was full 2 times: the text went on from its latest half alone";
    assert_eq!(ran.stderr.matches(told).count(), 1, "{ran:#?}");
    let short = bench.run("generate -m model -n 50 --temp 0 --threads 1");
    assert!(!short.stderr.contains("note"), "{short:#?}");
    let text = long["text"].as_str().unwrap();
    let stop = text.chars().nth(5).unwrap().to_string();
    let before = text.split(&stop).next().unwrap();
    let stopped =
        bench.command("generate -m model -n 100 --temp 0 --json --threads 1 --stop").arg(&stop).output().unwrap();
    let stopped = Ran::of(stopped).json();
    assert_eq!((stopped["text"].as_str(), stopped["stop"].as_str()), (Some(before), Some(stop.as_str())));
    assert_eq!(bench.run("generate -m model -n 0 --json --threads 1").json()["text"], "");
}

#[test]
fn impossible_wishes_are_refused() {
    let bench = Bench::with_text();
    bench.random_model();
    for (wish, code, words) in [
        ("--temp -0.1", 2, &["--temp is -0.1;"] as &[&str]),
        ("--temp warm", 2, &["--temp", "it must be a number"]),
        ("-n 99999999999999999999", 2, &["--tokens", "it must be a whole number"]),
        ("--top-p 0", 2, &["--top-p is 0;"]),
        ("--min-p 2", 2, &["--min-p is 2;"]),
        ("--repeat-penalty 0", 2, &["--repeat-penalty is 0;"]),
        ("--repeat-window 1048577", 2, &["--repeat-window is 1048577;"]),
        ("--context 100000", 4, &["100000 tokens: the model's is 64; --context takes 1 to 64"]),
        ("--context 0", 2, &["--context takes 1 to 64"]),
        ("-p x --prompt-file text.txt", 2, &["--prompt-file"]),
        ("--prompt-file missing.txt", 3, &["missing.txt"]),
        ("-p \u{1F3A9}", 2, &["prompt", "U+1F3A9"]),
    ] {
        bench.run(&format!("generate -m model {wish}")).fails(code, words);
    }
    let empty_stop = bench.command("generate -m model --stop").arg("").output().unwrap();
    Ran::of(empty_stop).fails(2, &["empty"]);
    let ran = bench.run_with_input("generate -m model -p -", b"caf\xe9");
    ran.fails(3, &["standard input", "offset 3"]);
}

#[test]
fn advice_is_in_the_words_of_the_verb() {
    let bench = Bench::with_text();
    bench.random_model();
    for verb in ["inspect model", "inspect model --plan", "eval -m model --data text.txt"] {
        bench.run(&format!("{verb} --context 65")).fails(4, &["--context takes 1 to 64"]);
        bench.run(&format!("{verb} --context 0")).fails(2, &["--context"]);
        bench.run(&format!("{verb} --context 63 --threads 1")).ok();
    }
    let long = "x".repeat(70).replace('x', "a");
    let ran = bench.run(&format!("generate -m model -p {long} --context 64"));
    assert!(!ran.stderr.contains("--context"), "{ran:#?}");
    ran.fails(4, &["70 tokens", "64", "shorten the prompt"]);
    bench.run(&format!("generate -m model -p {long} --context 8")).fails(4, &["raise --context, to 64 at most"]);
    bench.write("empty.txt", "");
    let ran = bench.run("eval -m model --data empty.txt");
    assert!(!ran.stderr.contains("training"), "{ran:#?}");
    ran.fails(3, &["empty.txt: the file is empty"]);
}

#[test]
#[cfg(target_os = "linux")]
fn too_little_memory_is_told_in_the_words_of_the_verb() {
    let bench = Bench::new();
    let ran = |line: &str| {
        let mut shell = std::process::Command::new("sh");
        // KiB of address space.
        shell.args(["-c", "ulimit -v 600000; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_smallmind")]);
        Ran::of(shell.args(line.split_whitespace()).current_dir(bench.path("")).output().unwrap())
    };
    let told = ran("new --preset llama-3.2-1b --out big --threads 1");
    assert!(!told.stderr.contains("batch"), "{told:#?}");
    told.fails(4, &["choose a smaller preset"]);
    assert!(!bench.path("big").exists());
}

#[test]
fn eval_measures() {
    let bench = Bench::with_text();
    bench.random_model();
    let told = bench.run("eval -m model --data text.txt --json --threads 1").json();
    let loss = told["loss"].as_f64().unwrap();
    assert!((told["perplexity"].as_f64().unwrap() / loss.exp() - 1.0).abs() < 1e-9);
    // One token a byte, of which the first is not predicted.
    assert_eq!(told["tokens"].as_u64().unwrap() + 1, told["bytes"].as_u64().unwrap());
    assert!((told["bits_per_byte"].as_f64().unwrap() - loss / std::f64::consts::LN_2).abs() < 1e-6);
    assert!((loss - 65f64.ln()).abs() < 0.5, "random weights know nothing: {loss}");
    let text = bench.run("eval -m model --data text.txt --threads 2").ok();
    assert!(text.contains(&format!("{loss:.4}")), "{text}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_or_closed_standard_output() {
    let bench = Bench::with_text();
    bench.random_model();
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    for line in
        ["doctor", "doctor --json", "inspect model", "generate -m model -n 5", "tokenize -m model text.txt", "--help"]
    {
        let output = bench.command(line).stdout(full()).output().unwrap();
        Ran::of(output).fails(1, &["standard output", "No space left"]);
    }
    for line in ["generate -m model -n 2000 --threads 1", "tokenize -m model text.txt", "completions bash"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ran = Ran::of(bench.command(line).stdout(writer).output().unwrap());
        assert_eq!(ran.code, Some(0), "{ran:#?}");
        assert!(!ran.stderr.contains("error") && !ran.stderr.contains("panicked"), "{ran:#?}");
    }
}

/// Weights in other formats: a little less exact, with half and a quarter of the bytes, and the same text on any number
/// of threads.
#[test]
fn weights_are_converted_on_request() {
    let bench = Bench::with_text();
    bench.train("run", "--model.d_model=64 --model.heads=2 --train.steps=30").ok();
    let loss = |flags: &str| {
        bench.run(&format!("eval -m run --data text.txt --json {flags}")).json()["loss"].as_f64().unwrap()
    };
    let exact = loss("");
    assert_eq!(loss("--weights f32"), exact);
    for (format, off) in [("f16", 1e-3), ("bf16", 2e-2), ("q8_0", 2e-2)] {
        let other = loss(&format!("--weights {format}"));
        assert!(other != exact && (other - exact).abs() < off, "{format}: {other}, not {exact}");
        let text = |threads: usize| {
            let line =
                format!("generate -m run -n 40 --temp 0 --weights {format} --threads {threads} --no-echo -p the");
            bench.run(&line).ok()
        };
        assert_eq!(text(1), text(2), "{format}");
    }
    for verb in ["generate -m run", "eval -m run --data text.txt", "profile generate -m run"] {
        bench.run(&format!("{verb} --weights q9")).fails(2, &["q9", "f32", "bf16", "q8_0"]);
    }
}
