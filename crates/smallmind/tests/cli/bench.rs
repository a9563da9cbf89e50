//! `bench kernels`: rows of every form, comparison with a record, rivals; `bench seed`: its rows.

use serde_json::Value;

use smallmind::graph::Precision;
use smallmind::simd::IsaKind;

use crate::support::{Bench, Ran};

/// The smallest square products, in a hurry.
const SQUARES: &str = "bench kernels --quick --threads 1 --filter matmul/f32 --filter square --filter 64x64x64";

fn rows(ran: &Ran) -> Vec<Value> {
    let value: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:#?}"));
    value.as_array().expect("an array").clone()
}

#[test]
fn rows_are_an_array_of_objects() {
    let ran = Bench::new().run(&format!("{SQUARES} --json"));
    let rows = rows(&ran);
    ran.ok();
    assert_eq!(rows.len(), 3);
    for row in &rows {
        for key in ["median_us", "min_us", "gflops", "gbps", "peak_fraction"] {
            assert!(row[key].as_f64() > Some(0.0), "{key} in {row}");
        }
        assert_eq!((&row["kernel"], &row["dtype"], &row["threads"]), (&"matmul".into(), &"f32".into(), &1.into()));
        assert!(row["shape"].as_str().unwrap().ends_with(" 64x64x64") && row["isa"].is_string(), "{row}");
        assert_eq!(
            (&row["contender"], &row["runs"], &row["schema_version"]),
            (&"smallmind".into(), &5.into(), &1.into())
        );
    }
}

#[test]
fn every_kernel_can_be_measured() {
    let bench = Bench::new();
    let words = "softmax,rope,1048576,in-cache,512x2048,64x64x64,1000x1000,2359296,512x1536";
    let rows = rows(&bench.run(&format!("bench kernels --quick --threads 2 --runs 1 --filter {words} -o json")));
    for kernel in
        ["matmul", "attention", "layer_norm", "rms_norm", "gelu", "swiglu", "softmax", "rope", "cross_entropy", "adamw"]
    {
        assert!(rows.iter().any(|row| row["kernel"] == kernel), "{kernel} in {rows:#?}");
    }
    assert!(rows.iter().all(|row| row["error"].is_null() && row["median_us"].is_number()), "{rows:#?}");
}

#[test]
fn roofs_are_rows_when_they_are_asked_for() {
    let rows = rows(&Bench::new().run("bench kernels --quick --threads 1 --filter roof --json"));
    assert!(rows.len() >= 15 && rows.iter().all(|row| row["kernel"] == "roof"), "{rows:#?}");
}

#[test]
fn a_slower_kernel_ends_with_5() {
    let bench = Bench::new();
    let csv = bench.run(&format!("{SQUARES} -o csv")).ok();
    assert!(csv.starts_with("kernel,dtype,shape,") && csv.lines().count() == 4, "{csv}");
    // A record of a machine that is a hundred times as fast, and one of a slow machine.
    for (factor, code) in [(0.01, 5), (100.0, 0)] {
        let mut record = csv.lines().next().unwrap().to_owned();
        for line in csv.lines().skip(1) {
            let mut fields: Vec<String> = line.split(',').map(str::to_owned).collect();
            fields[9] = (fields[9].parse::<f64>().unwrap() * factor).to_string();
            record += &format!("\n{}", fields.join(","));
        }
        bench.write("before.csv", record);
        let ran = bench.run(&format!("{SQUARES} --against before.csv --json"));
        assert_eq!(ran.code, Some(code), "{ran:#?}");
        assert!(rows(&ran).iter().all(|row| row["ratio"].is_number()), "{ran:#?}");
        assert!(
            code == 0 || (ran.stderr.contains("slower than before") && ran.stderr.contains("nt 64x64x64")),
            "{ran:#?}"
        );
    }
}

#[test]
fn choices_are_marked() {
    let ran = Bench::new()
        .run("bench kernels --quick --threads 1 --assert-choice --filter few-rows --filter 1x512x128 --json");
    assert!(matches!(ran.code, Some(0 | 5)), "{ran:#?}");
    let rows = rows(&ran);
    assert!(rows.len() >= 2 && rows.iter().all(|row| row["chosen"].is_boolean()), "{rows:#?}");
    assert!(rows.iter().any(|row| row["contender"] == "smallmind/gemv" && row["chosen"] == true), "{rows:#?}");
}

#[test]
fn packed_weights_are_measured_in_the_format_asked_for() {
    let bench = Bench::new();
    let run = |weights: &str| {
        bench.run(&format!(
            "bench kernels --quick --threads 2 --runs 1 --filter packed --filter mlp.down --filter 8x768x3072 {weights}"
        ))
    };
    for format in ["f32", "f16", "bf16", "q8_0"] {
        let rows = rows(&run(&format!("--weights {format} --json")));
        assert!(!rows.is_empty());
        for row in rows {
            assert!(row["dtype"] == format && row["error"].is_null(), "{row}");
            assert!(row["shape"].as_str().unwrap().starts_with("packed ") && row["gbps"].as_f64() > Some(0.0), "{row}");
        }
    }
    run("--weights q9").fails(2, &["--weights", "q8_0"]);
}

#[cfg(unix)]
#[test]
fn rivals_take_part_and_one_that_dies_is_an_error() {
    let bench = Bench::new();
    let hello = r#"echo '{"rival":"fake","version":"1","contenders":[{"name":"fake","kernels":["matmul/f32"]}]}'"#;
    let answers = r#"
while read -r line; do
    id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
    case $line in
    *quit*) exit ;;
    *'"op":"sample"'*) echo "{\"id\":$id,\"seconds\":[0.001]}" ;;
    *) echo "{\"id\":$id,\"ok\":true}" ;;
    esac
done"#;
    bench.write("lives", format!("{hello}\n{answers}"));
    bench.write("dies", format!("{hello}\nread -r line\nexit 4\n"));
    let mut command = bench.command(SQUARES);
    let ran = Ran::of(command.args(["--json", "--rival", "sh lives"]).output().unwrap());
    let found = rows(&ran);
    ran.ok();
    assert_eq!(found.iter().filter(|row| row["contender"] == "fake" && row["vs_smallmind"].is_number()).count(), 3);

    let mut command = bench.command(SQUARES);
    let ran = Ran::of(command.args(["--json", "--rival", "sh dies"]).output().unwrap());
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.stderr.contains("rival `sh dies`: ended at `prepare`"), "{ran:#?}");
    assert_eq!(rows(&ran).iter().filter(|row| row["contender"] == "smallmind" && row["error"].is_null()).count(), 3);
}

#[test]
fn cases_are_listed() {
    let bench = Bench::new();
    let text = bench.run("bench kernels --list --all --filter matmul,attention").ok();
    assert!(
        ["llama-3.2-1b", "nt 2048x2304x768", "decode", "mlp.down"].iter().all(|word| text.contains(word)),
        "{text}"
    );
    let listed = bench.run("bench kernels --list --json --filter seed-deep").json();
    assert!(
        listed["cases"].as_array().unwrap().len() > 20 && listed["cases"][0]["params"]["layout"] == "nt",
        "{listed}"
    );
}

#[test]
fn wrong_usage_is_told() {
    let bench = Bench::new();
    bench.run("bench kernels --filter nothing-like-that").fails(2, &["nothing-like-that", "--list --all"]);
    bench.write("bad.csv", "what,is,this\n1,2,3\n");
    bench.run(&format!("{SQUARES} --against bad.csv")).fails(3, &["bad.csv", "kernel"]);
    bench.run(&format!("{SQUARES} --rival false")).fails(1, &["rival `false`", "ended"]);
    bench.run("bench kernels --fail-on 3 --list").fails(2, &["--against"]);
}

#[test]
fn the_ladder_of_the_first_workload_is_climbed() {
    let ran = Bench::new().run("bench seed --quick --threads 2 --seed 3 --json");
    let rows = rows(&ran);
    ran.ok();
    let of = |part: &str| rows.iter().filter(|row| row["part"] == part).collect::<Vec<_>>();
    let (ladder, workload) = (of("ladder"), of("workload"));
    assert_eq!((of("kernel").len(), of("without").len(), workload.len()), (7, 6, 4));
    assert!(rows.iter().all(|row| row["schema_version"] == 1 && row["error"].is_null()), "{rows:#?}");
    assert!(rows.iter().all(|row| row["now"].as_f64() > Some(0.0)), "{rows:#?}");
    assert_eq!((&ladder[0]["name"], &ladder[1]["name"]), (&"naive".into(), &"+ tensor pool".into()));
    let bytes = |row: &Value| row["bytes_per_token"].as_f64().expect("a number");
    assert!(bytes(ladder[0]) > 10_000.0, "a vector for each value: {}", ladder[0]);
    for row in ladder[1..].iter().chain(&workload) {
        assert_eq!(bytes(row), 0.0, "{row}");
    }
    assert!(ladder[1..].iter().all(|row| row["factor"].is_number() && row["over_naive"].is_number()), "{ladder:#?}");
}

#[test]
fn the_ladder_has_every_form() {
    let bench = Bench::new();
    let run = |output: &str| bench.run(&format!("bench seed --quick --threads 1 {output}")).ok();
    let text = run("");
    for word in ["matmul nn 128x128x128", "rung", "naive", "+ key-value cache", "x before", "training mode"] {
        assert!(text.contains(word), "{word} in {text}");
    }
    assert!(!text.contains("1 threads"), "one thread is no rung: {text}");
    assert_eq!(run("-o md").lines().filter(|line| line.starts_with("|---")).count(), 4);
    let csv = run("-o csv");
    assert!(csv.starts_with("part,name,threads,") && csv.contains("\nladder,naive,1,scalar,"), "{csv}");
    assert!(run("-o jsonl").lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    bench.run("bench seed --runs 0").fails(2, &["--runs"]);
}

#[test]
fn steps_of_training_are_timed() {
    let bench = Bench::with_text();
    bench.random_model();
    let line = "bench train -m model --batch 2 --context 8 -n 3 --warmup 2 --lr 0.01";
    bench.write("tokens", [0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0].repeat(9));
    let row = &rows(&bench.run(&format!("{line} --threads 1 --tokens tokens --json")))[0];
    let sizes = [&row["n_sequences"], &row["n_context"], &row["n_warmup"], &row["n_steps"], &row["n_threads"]];
    assert_eq!(sizes, [2, 8, 2, 3, 1]);
    assert_eq!((&row["model_filename"], &row["precision"]), (&"model".into(), &"f32".into()));
    assert_eq!(row["learning_rate"], 0.01);
    let losses: Vec<_> = row["losses"].as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect();
    assert_eq!((losses.len(), row["samples_ns"].as_array().map(Vec::len)), (5, Some(3)));
    assert!(losses[4] < losses[0] && row["first_loss"] == losses[0] && row["last_loss"] == losses[4], "{row}");
    assert!(row["ceiling_fraction"].as_f64() > Some(0.0) && row["median_ns"].as_u64() > Some(0), "{row}");
    // The same losses again, and with more threads.
    let again = &rows(&bench.run(&format!("{line} --tokens tokens --threads 2 --json")))[0];
    assert_eq!(again["losses"], row["losses"]);
    let in_bf16 = bench.run(&format!("{line} --threads 1 --tokens tokens --precision bf16 --json"));
    if Precision::Bf16.is_available(IsaKind::best()) {
        let row_in_bf16 = &rows(&in_bf16)[0];
        assert_ne!(row_in_bf16["losses"], row["losses"]);
        assert!((row_in_bf16["last_loss"].as_f64().unwrap() / losses[4] - 1.0).abs() < 0.02, "{row_in_bf16}");
    } else {
        in_bf16.fails(2, &["--precision bf16", "dot products"]);
    }
    let mut scalar = bench.command(&format!("{line} --precision bf16"));
    Ran::of(scalar.env("SMALLMIND_ISA", "scalar").output().unwrap()).fails(2, &["--precision bf16", "scalar"]);
    let table = bench.run(&format!("{line} -o md")).ok();
    assert!(table.lines().nth(2).is_some_and(|line| line.contains(" | f32 | 2x8 | ")), "{table}");

    bench.write("odd", [1, 0, 2]);
    bench.write("beyond", [0, 0, 255, 255]);
    bench.write("nothing", []);
    for (file, words) in [
        ("odd", ["odd", "3 bytes"]),
        ("beyond", ["token 1 is 65535", "vocabulary"]),
        ("nothing", ["nothing", "no token"]),
        ("nowhere", ["nowhere", "can't be read"]),
    ] {
        bench.run(&format!("{line} --tokens {file}")).fails(3, &words);
    }
    bench.run("bench train -m model --context 60000").fails(2, &["--context 60000", "tokens"]);
    bench.run("bench train -m model --preset quickstart").fails(2, &["--preset"]);
    bench.run("bench train --preset quickstrat").fails(2, &["quickstart"]);
    bench.run(&format!("{line} --lr -1")).fails(2, &["--lr"]);
}

#[test]
fn models_are_timed_with_the_tests_of_llama_bench() {
    let bench = Bench::with_text();
    bench.random_model();
    let line = "bench inference -m model --threads 1 -p 8 -n 4,0 -d 0,6 --pg 5,3 -b 4 -r 2";
    let rows = rows(&bench.run(&format!("{line} --json")));
    let tests: Vec<_> = rows.iter().map(|row| [&row["n_prompt"], &row["n_gen"], &row["n_depth"]]).collect();
    assert_eq!(tests, [[8, 0, 0], [0, 4, 0], [5, 3, 0], [8, 0, 6], [0, 4, 6], [5, 3, 6]]);
    for row in &rows {
        for key in ["avg_ts", "median_ts", "bytes_per_token", "bandwidth_fraction", "first_token_warm_ns", "avg_ns"] {
            assert!(row[key].as_f64() > Some(0.0), "{key} in {row}");
        }
        assert_eq!(
            (&row["model_filename"], &row["n_batch"], &row["n_threads"]),
            (&"model".into(), &4.into(), &1.into())
        );
        assert_eq!(row["samples_ts"].as_array().map(Vec::len), Some(2), "{row}");
    }
    let sql = bench.run(&format!("{line} -o sql -t 1,2")).ok();
    assert_eq!((sql.matches("CREATE TABLE").count(), sql.matches("INSERT INTO").count()), (1, 12), "{sql}");
    let table = bench.run("bench batched -m model --npp 4 --ntg 2 --npl 1,3 -r 1 -o md").ok();
    let lines: Vec<_> = table.lines().collect();
    assert!(
        lines[0].starts_with("| file | threads | n_batch | PP | TG | B | N_KV | T_PP s | S_PP t/s |")
            && lines.len() == 4,
        "{table}"
    );
    assert!(lines[3].starts_with("| model | ") && lines[3].contains(" | 4 | 2 | 3 | 18 | "), "{table}");

    bench.run("bench inference").fails(2, &["--model"]);
    bench.run("bench inference -m nowhere").fails(3, &["nowhere"]);
    bench.run("bench inference -m model -p 0 -n 0").fails(2, &["-p", "-n", "--pg"]);
    bench.run("bench inference -m model -n 1 -d 100000").fails(2, &["model", "pp512 @ d100000", "100512"]);
    bench.run("bench inference -m model --pg 0,0").fails(2, &["--pg", "512,128"]);
    bench.run("bench batched -m model --npp 100000 --ntg 0").fails(2, &["model", "100000"]);
}
