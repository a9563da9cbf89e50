//! What a command reads is never replaced by what it writes, not even with `--overwrite`.

use std::fs;
use std::path::Path;

use crate::folders::tree;
use crate::support::{Bench, Ran, TINY};

const READ: &[&str] = &["this file is read for the new one", "choose another name"];

/// A folder `model` with random weights and all files that a model can have, and `model.gguf`.
fn bench() -> Bench {
    let bench = Bench::with_text();
    bench.random_model();
    bench.write("model/generation_config.json", "{}");
    bench.write("model/tokenizer_config.json", "{}");
    bench.write("model/chat_template.jinja", "{{ messages }}");
    fs::create_dir(bench.path("model/additional_chat_templates")).unwrap();
    bench.write("model/additional_chat_templates/tools.jinja", "{{ messages }}");
    bench.run("convert -m model --out model.gguf").ok();
    bench
}

#[test]
fn no_file_of_the_model_and_no_text_is_written_over() {
    let bench = bench();
    bench.run("imatrix -m model --data text.txt --out matrix.gguf --context 16 --chunks 1 --threads 1").ok();
    fs::create_dir(bench.path("only")).unwrap();
    fs::copy(bench.path("model/tokenizer.json"), bench.path("only/tokenizer.json")).unwrap();
    let before = tree(&bench.path(""));
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
        "additional_chat_templates/tools.jinja",
    ] {
        bench.run(&format!("imatrix -m model --data text.txt --out model/{name} --overwrite")).fails(2, READ);
    }
    for line in [
        "imatrix -m model --data text.txt --out text.txt",
        "imatrix -m model --data text.txt --out ./model/../text.txt",
        "imatrix -m model.gguf --data text.txt --out model.gguf",
        "quantize -m model.gguf --format q8_0 --out model.gguf",
        "quantize -m model --format q8_0 --data text.txt model.gguf --out model.gguf",
        "quantize -m model --format q8_0 --imatrix matrix.gguf --out matrix.gguf",
        "convert -m model.gguf --out model.gguf",
        "convert -m model --out model",
        "tokenizer train --kind characters --data text.txt --out text.txt",
        "new --preset nanogpt-cpu --tokenizer only/tokenizer.json --out only",
    ] {
        // Neither with the flag nor without it.
        bench.run(&format!("{line} --overwrite")).fails(2, READ);
        bench.run(line).fails(2, READ);
    }
    assert_eq!(tree(&bench.path("")), before);
    // What only lies beside the model may be replaced.
    bench.write("model/matrix.gguf", "old");
    bench.run("imatrix -m model --data text.txt --out model/matrix.gguf --context 16 --overwrite --threads 1").ok();
}

#[cfg(unix)]
#[test]
fn links_to_a_file_that_is_read_are_that_file() {
    let bench = bench();
    std::os::unix::fs::symlink("model.gguf", bench.path("link.gguf")).unwrap();
    fs::hard_link(bench.path("model.gguf"), bench.path("hard.gguf")).unwrap();
    std::os::unix::fs::symlink("model", bench.path("linked")).unwrap();
    let before = tree(&bench.path(""));
    for line in [
        "convert -m model.gguf --out link.gguf",
        "convert -m link.gguf --out model.gguf",
        "convert -m model.gguf --out hard.gguf",
        "quantize -m hard.gguf --format q8_0 --out link.gguf",
        "imatrix -m linked --data text.txt --out model/config.json",
    ] {
        bench.run(&format!("{line} --overwrite")).fails(2, READ);
    }
    assert_eq!(tree(&bench.path("")), before);
}

#[test]
fn a_new_run_does_not_replace_what_it_is_made_of() {
    let bench = Bench::with_text();
    bench.train("run", "").ok();
    fs::copy(bench.path("text.txt"), bench.path("run/log.csv")).unwrap();
    let before = tree(&bench.path("run"));
    for line in [
        format!("train --data run/log.csv --out run {TINY}"),
        format!("train --data text.txt run/../run/log.csv --out ./run {TINY}"),
        "train --data text.txt --init-from run --out run --max_iters=2 --threads 1".to_owned(),
    ] {
        bench.run(&format!("{line} --overwrite")).fails(2, &["is read for the new run", "choose another folder"]);
        assert_eq!(tree(&bench.path("run")), before, "{line}");
    }
    bench.train("run", "--overwrite").ok();
}

#[test]
fn a_report_does_not_replace_the_model() {
    let bench = bench();
    bench.train("run", "").ok();
    let before = ["model", "run"].map(|folder| tree(&bench.path(folder)));
    for (verb, folder) in [("generate", "model"), ("train", "run")] {
        let mut command = bench.command(&format!("profile {verb} -m {folder} --save-baseline config --overwrite"));
        command.env("SMALLMIND_BASELINES", bench.path(folder));
        Ran::of(command.output().unwrap()).fails(2, READ);
    }
    assert_eq!(["model", "run"].map(|folder| tree(&bench.path(folder))), before);
}

#[test]
fn a_conversation_is_not_saved_over_the_model_or_by_accident() {
    let bench = crate::chat::bench();
    bench.write("mine.jinja", fs::read(bench.path("model/chat_template.jinja")).unwrap());
    let chat = |more: &str, input: &str| {
        bench.run_with_input(&format!("chat -m model --threads 1 -n 2 {more}"), input.as_bytes())
    };
    for command in ["/save --overwrite", "/save"] {
        chat("", &format!("{command} model/config.json\n")).fails(2, READ);
    }
    chat("--template mine.jinja --overwrite", "/save mine.jinja\n").fails(2, READ);
    bench.write("a b.json", "old");
    chat("", "/save a b.json\n").fails(2, &["another name", "/save --overwrite a b.json"]);
    assert_eq!(fs::read(bench.path("a b.json")).unwrap(), b"old");
    chat("", "/save --overwrite a b.json\n").ok();
    assert!(fs::read_to_string(bench.path("a b.json")).unwrap().contains("messages"));
    chat("", "/save none/a.json\n").fails(2, &["the folder none does not exist"]);
    // What follows a mistake in a pipe is not done, and that is said.
    chat("", "/nothing\n/save b.json\n").fails(2, &["no command /nothing", "nothing more of standard input is read"]);
    assert!(!bench.path("b.json").exists());
}

#[test]
fn names_of_outputs_are_checked_first() {
    let bench = bench();
    let missing = &["none/x", "the folder none does not exist"];
    for line in [
        "convert -m model --out none/x.gguf",
        "quantize -m model --format q8_0 --out none/x.gguf",
        "imatrix -m model --data text.txt --out none/x.gguf",
        "tokenizer train --data text.txt --out none/x.json",
    ] {
        bench.run(line).fails(2, missing);
    }
    // A GGUF file has a name by which it is known again.
    for more in ["", "--data text.txt", "--dry-run"] {
        bench.run(&format!("quantize -m model --format q8_0 --out z3 {more}")).fails(2, &["z3", "end in .gguf"]);
    }
    fs::create_dir(bench.path("folder.gguf")).unwrap();
    bench.run("convert -m model --out folder.gguf").fails(2, &["folder.gguf", "this is a folder"]);
    bench.run("quantize -m model --format q8_0 --out folder.gguf").fails(2, &["folder.gguf", "this is a folder"]);
    assert!(tree(&bench.path("folder.gguf")).is_empty() && !bench.path("z3").exists());
}

#[test]
fn a_dry_run_refuses_what_the_run_refuses() {
    let bench = bench();
    bench.run("quantize -m model --format q8_0 --out small.gguf").ok();
    let again = "quantize -m small.gguf --format q4_0 --out smaller.gguf --dry-run";
    bench.run(again).fails(2, &["quantized already", "--allow-requantize"]);
    bench.run(&format!("{again} --allow-requantize")).ok();
    bench.run("quantize -m model --format q8_0 --out small.gguf --dry-run").fails(2, &["small.gguf", "--overwrite"]);
    bench.run("quantize -m model --format q8_0 --out model.gguf --dry-run --overwrite").ok();
    bench.run("quantize -m model.gguf --format q8_0 --out model.gguf --dry-run --overwrite").fails(2, READ);
    assert!(!bench.path("smaller.gguf").exists());
    // It neither makes nor removes a file, so that the folder need not take one.
    if cfg!(target_os = "linux") {
        bench.run("quantize -m model --format q8_0 --out /proc/other.gguf --dry-run").ok();
        bench.write(".tmp-new-4000000000.0-other.gguf", "half");
        bench.run("quantize -m model --format q8_0 --out other.gguf --dry-run").ok();
        assert!(bench.path(".tmp-new-4000000000.0-other.gguf").exists());
    }
    // A text of one token predicts nothing.
    bench.write("short.txt", "t");
    bench.run("quantize -m model --format q8_0 --out other.gguf --data short.txt").fails(3, &["1 token"]);
    assert!(!bench.path("other.gguf").exists());
}

#[test]
fn what_killed_programs_left_is_removed_by_the_next_run_to_that_name() {
    let bench = bench();
    let (dead, alive) = (".tmp-new-4000000000.0-small.gguf", format!(".tmp-new-{}.0-small.gguf", std::process::id()));
    let other = ".tmp-new-4000000000.0-other.gguf";
    for name in [dead, &alive, other] {
        bench.write(name, "half");
    }
    bench.run("quantize -m model --format q8_0 --out small.gguf").ok();
    let is_there = |name: &str| bench.path(Path::new(name)).exists();
    assert!(is_there(&alive) && is_there(other));
    // Only Linux shows which processes run.
    assert_eq!(is_there(dead), !cfg!(target_os = "linux"));
}
