//! `profile`: reports in every form, their comparison, wrong usage.

use serde_json::Value;

use crate::support::Bench;

/// Few samples of a small model.
pub const QUICK: &str = "--threads 1 --runs 2 -n 3";
/// Few steps of a small training.
const TRAIN: &str = "profile train --preset nanogpt-cpu --batch 1 --threads 1 --runs 3 -n 2";

/// The program with baselines in the test's own folder.
fn run(bench: &Bench, line: &str) -> crate::support::Ran {
    let mut command = bench.command(line);
    command.env("SMALLMIND_BASELINES", bench.path("baselines"));
    crate::support::Ran::of(command.output().expect("the program starts"))
}

fn check_phase(phase: &Value) {
    for key in ["tokens_per_second", "ceiling", "share_of_ceiling", "coverage", "seconds", "profiled_seconds"] {
        assert!(phase[key].as_f64() > Some(0.0), "{key} in {phase}");
    }
    assert_eq!(phase["allocations"], 0.0, "{phase}");
    let operations = phase["operations"].as_array().expect("operations");
    let sum = |key: &str| operations.iter().map(|o| o[key].as_f64().expect("a number")).sum::<f64>();
    let covered = phase["coverage"].as_f64().unwrap() * phase["profiled_seconds"].as_f64().unwrap();
    assert!((sum("seconds") / covered - 1.0).abs() < 1e-6, "{phase}");
    for (i, operation) in operations.iter().enumerate() {
        assert_eq!(operation["rank"], i + 1);
        assert!(["memory", "compute", "latency", "waiting"].iter().any(|b| operation["bound"] == **b), "{operation}");
        assert_eq!(operation["allocations"], serde_json::json!([0.0, 0.0]), "{operation}");
    }
    let gains: Vec<f64> = operations.iter().map(|o| o["gain"].as_f64().unwrap()).collect();
    assert!(gains.is_sorted_by(|a, b| a >= b), "{gains:?}");
    assert!(operations.iter().take(10).all(|o| o["why"].as_str() > Some("")), "{phase}");
    assert!(!phase["what_ifs"].as_array().unwrap().is_empty() && phase["latency"]["p50"].as_f64() > Some(0.0));
}

#[test]
fn a_generation_is_profiled_without_a_model() {
    let report = Bench::new().run(&format!("profile generate {QUICK} --json")).json();
    assert_eq!(report["subject"]["model"], "quickstart");
    let phases = report["phases"].as_array().unwrap();
    assert_eq!((&phases[0]["name"], &phases[1]["name"]), (&"prefill".into(), &"decode".into()));
    phases.iter().for_each(check_phase);
    phases.iter().for_each(check_events);
    assert!(phases.iter().all(|phase| phase["barrier_ns"].as_f64() > Some(0.0)));
    // The printed roofs are the roofs of every operation.
    for operation in phases.iter().flat_map(|phase| phase["operations"].as_array().unwrap()) {
        assert_eq!(operation["peak_gflops"], report["roofs"]["f32_gflops"], "{operation}");
        assert_eq!(operation["exp_gops"], report["roofs"]["exp_gops"], "{operation}");
    }
    assert!(phases.iter().all(|phase| phase["beats"].as_array().unwrap().len() == 2), "one a repeat");
    assert_eq!(stages(&phases[0]), ["make weights up and pack", "plan", "prefill", "sample"]);
    assert!(stages(&phases[1]).is_empty());
    let linear = |phase: &Value| {
        let operations = phase["operations"].as_array().unwrap();
        operations.iter().filter(|o| o["operation"] == "linear").all(|o| o["kernel"] == "linear (packed)")
    };
    assert!(phases.iter().all(linear), "{report}");
    // Every weight is read once a token: the table of tokens is the head.
    let weights = phases[1]["traffic"]["weights"].as_f64().unwrap();
    let parameters = report["subject"]["parameters"].as_f64().unwrap();
    assert!((weights / (4.0 * parameters) - 1.0).abs() < 0.001, "{weights} bytes of {parameters} parameters");
}

/// In every format a decoded token reads all weights once: the bytes of the operations add up to the bytes of the
/// parameters in the subject.
#[test]
fn the_bytes_of_weights_add_up_in_each_kind_of_format() {
    for (format, bits) in [("bf16", 16.0), ("q8_0", 8.5)] {
        let report = Bench::new().run(&format!("profile generate {QUICK} --weights {format} --json")).json();
        let subject = &report["subject"];
        let bits_per_weight = subject["bits_per_weight"].as_f64().unwrap();
        assert!((bits_per_weight / bits - 1.0).abs() < 0.01, "norms stay f32: {subject}");
        let held = subject["parameters"].as_f64().unwrap() * bits_per_weight / 8.0;
        let operations = report["phases"][1]["operations"].as_array().unwrap();
        let weights = |o: &&Value| !o["weights"].is_null();
        let read: f64 = operations.iter().map(|o| o["traffic"]["weights"].as_f64().unwrap()).sum();
        assert!((read / held - 1.0).abs() < 0.001, "{format}: {read} of {held} bytes");
        for operation in operations.iter().filter(weights) {
            let name = operation["operation"].as_str().unwrap();
            let expected = if name.ends_with("norm") { "f32" } else { format };
            assert_eq!(operation["weights"], expected, "{operation}");
        }
    }
}

fn stages(phase: &Value) -> Vec<&str> {
    phase["stages"].as_array().unwrap().iter().map(|stage| stage[0].as_str().unwrap()).collect()
}

/// Each event is a number or null; if CPU time is counted, a sample takes some.
fn check_events(phase: &Value) {
    let events = phase["events"].as_object().expect("events");
    let names = ["instructions", "cycles", "cache_misses", "page_faults", "switches", "cpu_seconds"];
    assert!(names.iter().all(|name| events[*name].is_null() || events[*name].as_f64() >= Some(0.0)), "{events:?}");
    assert!(events["cpu_seconds"].as_f64().is_none_or(|seconds| seconds > 0.0), "{events:?}");
}

/// Checks the stages of a training's step: all are there, and the passes add up to the time inside runs.
fn check_step(report: &Value) -> &Value {
    let phase = &report["phases"][0];
    check_phase(phase);
    let stages = phase["stages"].as_array().unwrap();
    assert_eq!(self::stages(phase), ["data", "forward", "backward", "clip", "update", "checkpoint"]);
    check_events(phase);
    let seconds: Vec<f64> = stages.iter().map(|stage| stage[1].as_f64().unwrap()).collect();
    assert!(seconds.iter().all(|s| *s > 0.0), "{stages:?}");
    let a_step = |key: &str| phase[key].as_f64().unwrap() * phase["tokens"].as_f64().unwrap();
    let inside = a_step("coverage") * phase["profiled_seconds"].as_f64().unwrap();
    assert!((seconds[1..5].iter().sum::<f64>() / inside - 1.0).abs() < 1e-6, "{phase}");
    assert!(seconds[0] < seconds[1], "drawing copies tokens, and no more: {stages:?}");
    let (one, interval) = (&phase["checkpoint"]["seconds"], &phase["checkpoint"]["interval"]);
    assert!((one.as_f64().unwrap() / interval.as_f64().unwrap() / seconds[5] - 1.0).abs() < 1e-9, "{phase}");
    phase
}

#[test]
fn a_training_is_profiled() {
    let line = format!("profile train --preset nanogpt-cpu --batch 2 {QUICK} --json");
    let report = Bench::new().run(&line).json();
    let phase = check_step(&report);
    assert_eq!(phase["about"], "2 sequences of 64 tokens of random tokens");
    assert_eq!(phase["checkpoint"]["interval"], 250);
}

#[test]
fn a_training_on_a_text_is_profiled() {
    let line = format!("profile train --preset nanogpt-cpu --data text.txt --batch 2 {QUICK} --json");
    let report = Bench::with_text().run(&line).json();
    assert_eq!(check_step(&report)["about"], "2 sequences of 64 tokens of a text");
    // The vocabulary is the characters of the text.
    assert!(report["subject"]["shape"].as_str().unwrap().ends_with("vocabulary 17"), "{}", report["subject"]);
}

/// A run is profiled with its own model, text, accumulation and interval of checkpoints. Nothing is written to it.
#[test]
fn a_run_is_profiled_as_it_trains() {
    let bench = Bench::with_text();
    bench.train("run", "--train.total_tokens=96 --checkpoint.interval=3").ok();
    let files = || {
        let mut all = vec![];
        let mut folders = vec![bench.path("run")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
                let (path, about) = (entry.path(), entry.metadata().unwrap());
                all.push((path.clone(), about.len(), about.modified().unwrap()));
                folders.extend(about.is_dir().then_some(path));
            }
        }
        all.sort();
        all
    };
    let before = files();
    let report = bench.run(&format!("profile train -m run {QUICK} --json")).json();
    assert_eq!(files(), before);
    let phase = check_step(&report);
    assert_eq!(phase["about"], "3 micro-batches, 2 sequences of 16 tokens each, of the run's text");
    assert_eq!((&phase["tokens"], &phase["checkpoint"]["interval"]), (&96.0.into(), &3.into()));
    let head = phase["operations"].as_array().unwrap().iter().find(|o| o["path"] == "head").unwrap();
    assert_eq!((head["calls"].as_f64().unwrap() * 96.0).round(), 3.0, "one a micro-batch: {head}");
    let update = phase["operations"].as_array().unwrap().iter().find(|o| o["operation"] == "adamw").unwrap();
    assert_eq!((update["calls"].as_f64().unwrap() * 96.0).round(), 1.0, "one a step: {update}");
    // A training that is shorter than the interval has one checkpoint, at its end.
    bench.train("short", "--checkpoint.interval=250").ok();
    let short = bench.run(&format!("profile train -m short {QUICK} --json")).json();
    assert_eq!(check_step(&short)["checkpoint"]["interval"], 6);
    // If the newest checkpoint is damaged, the one before is profiled, with a warning.
    bench.write("run/checkpoints/step-00000006/model.safetensors", "cut short");
    let ran = bench.run(&format!("profile train -m run {QUICK}"));
    assert!(ran.stderr.contains("warning: ") && ran.stderr.contains("step-00000006"), "{ran:#?}");
    ran.ok();
    bench.run("profile train -m run --batch 5").fails(2, &["96 tokens", "5 sequences"]);
    bench.run("profile train -m run --preset quickstart").fails(2, &["--preset"]);
    bench.run("profile train -m text.txt").fails(3, &["text.txt"]);
    bench.run("profile train --data nothing.txt").fails(3, &["nothing.txt"]);
}

/// If the disk takes no checkpoint, the report lacks the figures of checkpoints only.
#[test]
#[cfg(unix)]
fn a_training_is_reported_without_room_for_checkpoints() {
    let bench = Bench::new();
    // Files of more than a hundred blocks can't be written.
    let limited = |line: &str| {
        let whole = bench.command(line);
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\""]).arg(whole.get_program());
        command.args(whole.get_args()).current_dir(bench.path(""));
        for (name, _) in whole.get_envs().filter(|(_, value)| value.is_none()) {
            command.env_remove(name);
        }
        crate::support::Ran::of(command.output().expect("a shell"))
    };
    let ran = limited(&format!("profile train --preset nanogpt-cpu --batch 2 {QUICK}"));
    assert!(ran.stderr.contains("warning: checkpoints can't be timed: "), "{ran:#?}");
    let text = ran.ok();
    assert!(text.contains("a step: data ") && !text.contains("first token") && !text.contains("checkpoint"), "{text}");
    let report = limited(&format!("profile train --preset nanogpt-cpu --batch 2 {QUICK} --json")).json();
    let phase = &report["phases"][0];
    check_phase(phase);
    assert_eq!(
        (stages(phase), &phase["checkpoint"]),
        (vec!["data", "forward", "backward", "clip", "update"], &Value::Null)
    );
}

/// Checkpoints are timed on the disk of the run, or of the report if there is no run. If nothing can be written there,
/// they are timed elsewhere, with a note.
#[test]
#[cfg(target_os = "linux")]
fn checkpoints_are_timed_where_the_run_lies() {
    let bench = Bench::with_text();
    bench.train("run", "").ok();
    // No folder can be made in the current folder.
    let run = |line: &str, temporary: &str| {
        let mut command = bench.command(&format!("profile train {line} {QUICK}"));
        command.current_dir("/proc").env("TMPDIR", bench.path(temporary));
        crate::support::Ran::of(command.output().expect("the program starts"))
    };
    let absolute = |name: &str| bench.path(name).display().to_string();
    let preset = "--preset nanogpt-cpu --batch 2";
    for line in [format!("-m {}", absolute("run")), format!("{preset} --out {}", absolute("new/report"))] {
        let ran = run(&line, "text.txt");
        assert!(!ran.stderr.contains("checkpoints"), "{ran:#?}");
        ran.ok();
    }
    let ran = run(preset, "");
    assert!(ran.stderr.contains("note: /proc takes no files, so that checkpoints are timed in "), "{ran:#?}");
    ran.ok();
    let names = std::fs::read_dir(bench.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.filter(|name| name.to_string_lossy().starts_with("smallmind-profile-")).count(), 0);
}

#[test]
fn a_folder_gets_all_forms() {
    let bench = Bench::with_text();
    bench.random_model();
    let text = bench.run(&format!("profile generate -m model {QUICK} --depth 8 --prompt-tokens 20 --out report")).ok();
    // The number of warnings depends on what else runs on the machine.
    let doubtful = text.lines().skip_while(|line| *line != "doubtful").take_while(|line| !line.is_empty()).count();
    let lines = text.lines().count() - doubtful;
    assert!(lines <= 55 && text.lines().all(|line| line.chars().count() <= 100), "{text}");
    for word in ["tokens/s of a ceiling of", "coverage", "operation", "what to do next", "code: make"] {
        assert!(text.contains(word), "{word} in {text}");
    }
    let read = |name: &str| std::fs::read_to_string(bench.path("report").join(name)).unwrap();
    assert!(read("report.md").contains("### Roadmap"));
    assert!(read("stacks.folded").lines().all(|line| line.rsplit(' ').next().unwrap().parse::<u64>().is_ok()));
    let report: Value = serde_json::from_str(&read("report.json")).unwrap();
    let trace: Value = serde_json::from_str(&read("trace.json")).unwrap();
    slices_are_the_report(&report, &trace);
    page_is_whole(&report, &read("report.html"));
}

/// The page refers to nothing outside of it. It has every section of every phase, a row and a dot for each operation,
/// and a row for each layer.
fn page_is_whole(report: &Value, html: &str) {
    for outside in ["http:", "https:", "src=", "@import", "url(", "<link rel=\"stylesheet"] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(html.contains("id=\"machine\"") && !html.contains("NaN"), "{html}");
    let phases = report["phases"].as_array().unwrap();
    for phase in phases {
        for section in ["roofline", "operations", "why", "what-if", "roadmap", "timeline", "latency", "arena"] {
            let id = format!("id=\"{}-{section}\"", phase["name"].as_str().unwrap());
            assert!(html.contains(&id), "{id}");
        }
    }
    let operations = || phases.iter().flat_map(|phase| phase["operations"].as_array().unwrap());
    let count = |text: &str| html.matches(text).count();
    assert_eq!(count("<tr class=\"row\">"), operations().count());
    assert_eq!(count("<circle"), operations().filter(|o| o["traffic"]["flops"].as_f64() > Some(0.0)).count());
    let layers = operations().map(|o| o["members"].as_array().unwrap().len()).filter(|n| *n > 1);
    assert_eq!(count("<tr class=\"member\" hidden>"), layers.sum::<usize>());
    let values = phases.iter().flat_map(|phase| phase["arenas"].as_array().unwrap());
    assert_eq!(count("<rect class=\"value\""), values.map(|a| a["values"].as_array().unwrap().len()).sum::<usize>());
    for picture in ["class=\"roofline\"", "class=\"arena\"", "class=\"latency\"", "aria-label=\"timeline\""] {
        assert_eq!(count(picture), phases.len(), "{picture}");
    }
}

#[test]
fn the_stages_up_to_the_first_token_are_listed() {
    let bench = Bench::with_text();
    bench.random_model();
    let line = format!("profile generate -m model {QUICK} --depth 8 --prompt=the,cat --out report");
    let text = bench.run(&line).ok();
    assert!(text.contains("first token after ") && text.contains(" · tokenize "), "{text}");
    let read = |name: &str| std::fs::read_to_string(bench.path("report").join(name)).unwrap();
    let report: Value = serde_json::from_str(&read("report.json")).unwrap();
    let prefill = &report["phases"][0];
    assert_eq!(stages(prefill), ["load and pack", "tokenize", "plan", "prefill", "sample"]);
    assert!(prefill["stages"].as_array().unwrap().iter().all(|stage| stage[1].as_f64() > Some(0.0)), "{prefill}");
    assert_eq!((&prefill["tokens"], &prefill["about"]), (&7.0.into(), &"7 tokens in chunks of 7".into()));
    for form in ["report.md", "report.html"] {
        assert!(
            ["load and pack", "tokenize", "plan", "sample"].iter().all(|stage| read(form).contains(stage)),
            "{form}"
        );
    }
    bench.run("profile generate -m model --prompt=the --prompt-tokens 3").fails(2, &["--prompt-tokens"]);
    bench.run("profile generate -m model --prompt=Ω").fails(2, &["the prompt can't be turned into tokens"]);
    bench.run("profile generate -m model --prompt=").fails(2, &["0 tokens", "1 to 64"]);
    let long = "the".repeat(30);
    bench.run(&format!("profile generate -m model -p {long}")).fails(2, &["90 tokens", "1 to 64"]);
    bench.run("profile generate --prompt=the").fails(2, &["tokenizer", "-m"]);
    // A missing or damaged tokenizer is an error only if there is a text to tokenize.
    bench.write("model/tokenizer.json", "{");
    bench.run("profile generate -m model --prompt=the").fails(3, &["tokenizer.json"]);
    std::fs::remove_file(bench.path("model/tokenizer.json")).unwrap();
    bench.run("profile generate -m model --prompt=the").fails(3, &["tokenizer"]);
    bench.run(&format!("profile generate -m model {QUICK} --depth 8 --prompt-tokens 7")).ok();
}

/// The slices of a trace add up to the work in the report within 1 %.
fn slices_are_the_report(report: &Value, trace: &Value) {
    for (process, phase) in report["phases"].as_array().unwrap().iter().enumerate() {
        let slices = trace["traceEvents"].as_array().unwrap().iter();
        let own = slices.filter(|e| e["ph"] == "X" && e["pid"] == process + 1 && e["name"] != "waiting");
        let micros: f64 = own.map(|e| e["dur"].as_f64().unwrap()).sum();
        let tokens = phase["tokens"].as_f64().unwrap() * phase["samples"].as_f64().unwrap();
        let work = |o: &Value| o["seconds"].as_f64().unwrap() - o["wait"].as_f64().unwrap();
        let expected: f64 = phase["operations"].as_array().unwrap().iter().map(work).sum();
        assert!((micros * 1e-6 / tokens / expected - 1.0).abs() < 0.01, "{} {micros} {expected}", phase["name"]);
    }
}

#[test]
fn reports_are_compared() {
    let bench = Bench::new();
    run(&bench, &format!("{TRAIN} --save-baseline before")).ok();
    let text = run(&bench, &format!("{TRAIN} --baseline before --out now")).ok();
    assert!(text.contains("over its time in the baseline before; 0.900 is"), "{text}");
    // A report that is compared with is not replaced by the one that is compared.
    for (line, file) in
        [("--baseline now --out now", "now/report.json"), ("--baseline before --save-baseline before", "before.json")]
    {
        run(&bench, &format!("{TRAIN} {line} --overwrite")).fails(2, &[file, "this file is read for the new one"]);
    }
    assert!(run(&bench, "profile diff before now").ok().starts_with("step: "));
    run(&bench, "profile diff before before --fail-on 3%").ok();

    // A report of a phase that is certainly half as fast.
    let mut slow: Value =
        serde_json::from_str(&std::fs::read_to_string(bench.path("now/report.json")).unwrap()).unwrap();
    let phase = &mut slow["phases"][0];
    phase["repeats"] = serde_json::json!([2.0, 2.01, 1.99, 2.0]);
    bench.write("slow.json", slow.to_string());
    slow["phases"][0]["repeats"] = serde_json::json!([1.0, 1.01, 0.99, 1.0]);
    bench.write("fast.json", slow.to_string());
    let ran = run(&bench, "profile diff fast.json slow.json --fail-on 3% --json");
    assert_eq!(ran.code, Some(5), "{ran:#?}");
    assert!(ran.stderr.contains("slower: step by 100.0 %"), "{ran:#?}");
    run(&bench, "profile diff slow.json fast.json --fail-on 3").ok();

    // The machine is half as fast too, which explains the difference.
    let mut beats = |factor: f64| {
        let beat = |noise: f64| serde_json::json!({ "arithmetic": factor * noise, "memory": factor * noise });
        slow["phases"][0]["beats"] = [1.0, 1.001, 0.999].into_iter().map(beat).collect();
        slow["phases"][0]["repeats"] = [1.0, 1.01, 0.99, 1.0].into_iter().map(|s: f64| factor * s).collect();
        bench.write(&format!("machine-{factor}.json"), slow.to_string());
    };
    beats(1.0);
    beats(2.0);
    let text = run(&bench, "profile diff machine-1.json machine-2.json --fail-on 3%").ok();
    assert!(text.contains("the machine itself: arithmetic +100.0 %, reading memory +100.0 %"), "{text}");

    // Barriers that differ much mean that the CPUs are placed on other cores.
    slow["subject"]["threads"] = 2.into();
    for barrier in [80.0, 120.0, 320.0] {
        slow["phases"][0]["barrier_ns"] = barrier.into();
        bench.write(&format!("barrier-{barrier}.json"), slow.to_string());
    }
    run(&bench, "profile diff barrier-80.json barrier-120.json").ok();
    run(&bench, "profile diff barrier-320.json barrier-80.json")
        .fails(2, &["step: a barrier took 320 ns, now 80.0", "--force"]);

    slow["subject"]["threads"] = 7.into();
    bench.write("other.json", slow.to_string());
    run(&bench, "profile diff fast.json other.json").fails(2, &["threads: 1, now 7", "--force"]);
    run(&bench, "profile diff fast.json other.json --force").ok();

    // --baseline refuses what `diff` refuses, before anything is measured.
    let mut shape = slow.clone();
    shape["subject"]["shape"] = "1 layer".into();
    bench.write("shape.json", shape.to_string());
    for (baseline, line, why) in [
        ("other.json", TRAIN, "threads: 7, now 1"),
        ("shape.json", TRAIN, "model: 1 layer, now 4 layers"),
        ("before", "profile train --preset nanogpt-cpu --batch 2 --threads 1 --runs 3 -n 2", "step: 1 sequences"),
        ("before", "profile generate --preset nanogpt-cpu --threads 1 --runs 3 -n 2", "verb: train, now generate"),
    ] {
        run(&bench, &format!("{line} --baseline {baseline}")).fails(2, &[baseline, why, "--force"]);
    }
    let text = run(&bench, &format!("{TRAIN} --baseline other.json --force")).ok();
    assert!(
        text.contains("in the baseline other.json") && text.contains("Not the same as there: threads: 7"),
        "{text}"
    );
    // If only the measurement shows a mismatch, the report has a warning instead of the column.
    slow["subject"]["threads"] = 2.into();
    slow["phases"][0]["barrier_ns"] = 1e9.into();
    bench.write("far.json", slow.to_string());
    let line = TRAIN.replace("--threads 1", "--threads 2");
    let text = run(&bench, &format!("{line} --baseline far.json --full")).ok();
    assert!(!text.contains(" ratio ") && text.contains("can't be compared") && text.contains("doubtful"), "{text}");
    run(&bench, &format!("{TRAIN} --force")).fails(2, &["--baseline"]);
}

#[test]
fn wrong_usage_is_refused() {
    let bench = Bench::new();
    bench.run("profile generate --preset nothing").fails(2, &["nothing"]);
    bench.run("profile generate -m nowhere").fails(3, &["nowhere"]);
    bench.run("profile generate -m x --preset quickstart").fails(2, &["--preset"]);
    bench.run("profile generate --depth 256").fails(2, &["--depth 256", "1 to 255"]);
    bench.run("profile generate --prompt-tokens 0").fails(2, &["--prompt-tokens 0"]);
    bench.run("profile generate --baseline not-kept").fails(3, &["not-kept"]);
    bench.run("profile generate --save-baseline ../up").fails(2, &["named by letters"]);
    bench.run("profile train --preset nanogpt-cpu --context 65").fails(2, &["--context 65"]);
    bench.run("profile diff a").fails(2, &["<NEW>"]);
    bench.write("bad.json", "{}");
    bench.run("profile diff bad.json bad.json").fails(3, &["bad.json", "schema_version"]);
    bench.write("typed.json", r#"{"schema_version":1,"subject":{"verb":"a","model":"b","shape":"c","parameters":-1}}"#);
    bench.run("profile diff typed.json typed.json").fails(3, &["expected a whole number, 0 or more"]);
    bench.run("profile diff bad.json bad.json --fail-on much").fails(2, &["--fail-on"]);
}
