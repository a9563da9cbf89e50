//! Rivals that speak the protocol, and rivals that don't: small shell scripts.
#![cfg(unix)]

use std::time::Duration;

use smallmind_bench::{Bench, BenchError, Case, Cases, Findings, Problem, Product, Rival, Routes, Row, Sampling};
use smallmind_kernels::Format;
use smallmind_profile::roofs::Effort;
use smallmind_simd::IsaKind;

const HELLO: &str = r#"
printf '%s' '{"rival":"fake","version":"7","contenders":[{"name":"one","kernels":["matmul/f32"]},'
echo '{"name":"two","version":"8","kernels":["matmul/f32"]}]}'
"#;

/// Answers everything; an iteration takes a millisecond. `$prepare` is what comes of preparing.
const LOOP: &str = r#"
while read -r line; do
    id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
    case $line in
    *'"op":"quit"'*) exit 0 ;;
    *'"op":"prepare"'*) eval "$prepare" ;;
    *'"op":"sample"'*)
        n=$(printf '%s' "$line" | sed -n 's/.*"iterations":\([0-9]*\).*/\1/p')
        printf '{"id":%d,"seconds":[%d.%03d]}\n' "$id" $((n / 1000)) $((n % 1000)) ;;
    *) printf '{"id":%d,"ok":true}\n' "$id" ;;
    esac
done
"#;

fn script(prepare: &str) -> String {
    format!("{HELLO}\nprepare='{prepare}'\n{LOOP}")
}

const READY: &str = r#"printf "{\"id\":%d,\"ok\":true}\n" "$id""#;

fn case() -> Case {
    Case { problem: Problem::Matmul(Product::nn(8, 8, 8)), format: Format::F32, tags: vec![] }
}

fn run(mut rival: Rival) -> (Vec<Row>, Findings) {
    let bench = Bench {
        isa: IsaKind::best(),
        threads: vec![1],
        cases: Cases { cases: vec![case(), case()], left_out: vec![] },
        filters: vec!["matmul".into()],
        sampling: Sampling { runs: 3, sample: Duration::from_micros(50) },
        effort: Effort { samples: 1, sample: Duration::from_micros(100), memory_bytes: 0 },
        routes: Routes::Chosen,
        baseline: None,
        version: "0".into(),
    };
    let mut rows = vec![];
    let outcome = bench.run(std::slice::from_mut(&mut rival), |row| {
        rows.push(row.clone());
        Ok::<_, BenchError>(())
    });
    (rows, outcome.unwrap())
}

fn start(command: &str) -> Result<Rival, BenchError> {
    Rival::start_patiently(command, Duration::from_secs(5))
}

#[test]
fn contenders_are_rows_beside_ours() {
    let (rows, outcome) = run(start(&script(READY)).unwrap());
    assert!(outcome.errors.is_empty(), "{outcome:?}");
    let names: Vec<(&str, &str)> = rows.iter().map(|row| (&*row.contender, &*row.version)).collect();
    assert_eq!(names[..3], [("smallmind", "0"), ("one", "fake 7"), ("two", "8")]);
    assert_eq!(rows.len(), 6);
    for row in &rows[1..3] {
        assert!(
            (row.median_us.unwrap() - 1000.0).abs() < 1e-6 && row.isa == "-" && row.vs_smallmind > Some(0.0),
            "{row:?}"
        );
    }
}

#[test]
fn what_a_rival_cannot_do_has_no_row() {
    let (rows, outcome) = run(start(&script(r#"printf "{\"id\":%d,\"ok\":false,\"why\":\"no\"}\n" "$id""#)).unwrap());
    assert!(outcome.errors.is_empty() && rows.iter().all(|row| row.contender == "smallmind"), "{rows:?}");
}

#[test]
fn no_rival_is_asked_for_weights_in_another_format() {
    let hello =
        r#"echo '{"rival":"x","version":"1","contenders":[{"name":"one","kernels":["matmul/bf16"]}]}'; cat >&2"#;
    let rival = start(hello).unwrap();
    let asked = |problem| rival.contenders(&Case { problem, format: Format::Bf16, tags: vec![] }).len();
    assert_eq!(asked(Problem::Matmul(Product::nt(8, 8, 8))), 1);
    assert_eq!(asked(Problem::PackedMatmul { m: 8, n: 8, k: 8 }), 0);
}

#[test]
fn a_rival_that_fails_is_named_once_and_ours_goes_on() {
    for (prepare, why) in [
        ("exit 9", "ended at `prepare` (exit status: 9)"),
        ("echo hello", "answers `prepare` with `hello`"),
        (r#"echo "{\"id\":77,\"ok\":true}""#, "answers `prepare` number 1 with"),
        (r#"printf "{\"id\":%d}\n" "$id""#, "answers `prepare` with"),
        ("sleep 60", "is silent for 0.3 s at `prepare`"),
    ] {
        let patience = if why.contains("silent") { Duration::from_millis(300) } else { Duration::from_secs(5) };
        let (rows, outcome) = run(Rival::start_patiently(&script(prepare), patience).unwrap());
        assert!(outcome.errors.iter().any(|error| error.contains(why)), "{why}: {outcome:?}");
        let ours: Vec<&Row> = rows.iter().filter(|row| row.contender == "smallmind").collect();
        assert!(ours.len() == 2 && ours.iter().all(|row| row.median_us.is_some()), "{rows:?}");
    }
}

#[test]
fn a_bad_time_is_an_error() {
    for seconds in ["[]", "[-1]", "[0]", "3", "[1,2]", "[\"x\"]"] {
        let text =
            script(READY).replace("[%d.%03d]", seconds).replace(r#""$id" $((n / 1000)) $((n % 1000))"#, r#""$id""#);
        let (_, outcome) = run(start(&text).unwrap());
        assert!(outcome.errors.iter().any(|error| error.contains("answers `sample` with")), "{seconds}: {outcome:?}");
    }
}

#[test]
fn a_rival_that_does_not_introduce_itself_is_refused() {
    for (command, why) in [
        ("exit 3", "ended at `introducing itself` (exit status: 3)"),
        ("echo nonsense", "introduces itself by `nonsense`"),
        ("echo '{}'", "introduces itself by `{}`"),
        (r#"echo '{"rival":"x","version":"1","contenders":[]}'"#, "has no contenders"),
        ("this-command-is-nowhere 2>/dev/null", "ended at `introducing itself`"),
    ] {
        let error = start(command).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("rival `"), "{command}: {error}");
    }
}
