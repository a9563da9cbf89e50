//! The flags of `generate` for sampling: what they change, and what is refused in their words.

use crate::support::Bench;

fn bench() -> Bench {
    let bench = Bench::with_text();
    bench.random_model();
    bench
}

#[test]
fn each_flag_of_the_sampling_changes_the_text() {
    let bench = bench();
    let text = |flags: &str| {
        let ran = bench.run(&format!("generate -m model -n 60 --seed 5 --threads 1 --json -p the {flags}"));
        ran.json()["text"].as_str().unwrap().to_owned()
    };
    let usual = text("");
    assert_eq!(text("--samplers penalties;dry;top_n_sigma;top_k;temperature;top_p;min_p;typical_p;xtc"), usual);
    // A temperature of 1 may stand anywhere.
    assert_eq!(text("--temp 1 --samplers llama.cpp"), text("--temp 1"));
    for flags in [
        "--typical 0.3",
        "--top-nsigma 0.5",
        "--xtc-probability 1 --xtc-threshold 0.02",
        "--frequency-penalty 2",
        "--presence-penalty -2",
        "--dry-multiplier 5 --dry-allowed-length 0",
        "--dynatemp-range 0.8",
        "--mirostat 2 --mirostat-ent 1",
        "--logit-bias 3+20",
        "--samplers temperature",
    ] {
        assert_ne!(text(flags), usual, "{flags}");
        assert_eq!(text(flags), text(flags), "{flags}");
    }
    for flags in [
        "--typical-p 1",
        "--top-n-sigma 0",
        "--xtc-probability 0",
        "--repeat-last-n 64 --frequency-penalty 0",
        "--dry-multiplier 0",
        "--dynatemp-range 0",
        "--mirostat 0",
        "--logit-bias 3+0",
        "--min-keep 1",
    ] {
        assert_eq!(text(flags), usual, "{flags}");
    }
    // What is forbidden does not come, and 20 more than the others comes always.
    let forbidden = usual.chars().find(|c| c.is_alphabetic()).unwrap();
    let ids = bench.run_with_input("tokenize -m model - --json", forbidden.to_string().as_bytes());
    let ids = ids.json();
    let id = ids["ids"][0].as_u64().unwrap();
    assert!(!text(&format!("--logit-bias {id}-inf")).contains(forbidden));
    assert_eq!(text(&format!("-l {id}+100")), forbidden.to_string().repeat(60));
    // The whole text is one repetition then, unless a breaker ends it.
    let repeated = text(&format!("-l {id}+100 --dry-multiplier 1"));
    assert_ne!(repeated, forbidden.to_string().repeat(60));
    let broken = format!("-l {id}+100 --dry-multiplier 1 --dry-sequence-breaker {forbidden}");
    assert_eq!(text(&broken), forbidden.to_string().repeat(60));
}

#[test]
fn flags_of_the_sampling_are_refused_in_their_words() {
    let bench = bench();
    for (flags, words) in [
        ("--typical 0", &["--typical is 0", "above 0"] as &[&str]),
        ("--top-nsigma nan", &["--top-nsigma is NaN", "0 or more"]),
        ("--xtc-probability 2", &["--xtc-probability is 2", "from 0 to 1"]),
        ("--xtc-threshold 0.2", &["--xtc-probability"]),
        ("--frequency-penalty -1e9", &["--frequency-penalty is -1000000000", "from -1000 to 1000"]),
        ("--presence-penalty much", &["--presence-penalty", "must be a number"]),
        ("--dry-base 2", &["--dry-multiplier"]),
        ("--dry-multiplier 1 --dry-base 0.5", &["--dry-base is 0.5", "1 or more"]),
        ("--dry-multiplier 1 --dry-penalty-last-n -2", &["--dry-penalty-last-n", "or -1"]),
        ("--dry-multiplier 1 --dry-penalty-last-n 9999999", &["--dry-penalty-last-n is 9999999", "1048576"]),
        ("--dynatemp-range=-1", &["--dynatemp-range is -1", "0 or more"]),
        ("--mirostat 1", &["--mirostat", "version 1 is not supported"]),
        ("--mirostat 2 --mirostat-lr 101", &["--mirostat-lr is 101", "from 0 to 100"]),
        ("--mirostat 2 --top-k 5", &["--top-k does nothing", "--mirostat 2 replaces top_k"]),
        ("--logit-bias 3", &["--logit-bias", "42+1.5"]),
        ("--logit-bias 3+inf", &["--logit-bias is inf", "forbids the token"]),
        ("--logit-bias 3+nan", &["--logit-bias", "42-inf"]),
        ("--logit-bias 99999-inf", &["token 99999", "the model has"]),
        ("--samplers top_k;topp", &["--samplers", "\"topp\" is none of penalties, dry"]),
        ("--samplers top_k;dry", &["--samplers is dry", "before all other"]),
        ("--samplers top_k;top-k", &["--samplers is top_k", "once"]),
        ("--samplers top_k --top-p 0.5", &["--top-p does nothing", "--samplers leaves top_p out"]),
    ] {
        bench.run(&format!("generate -m model -n 3 {flags}")).fails(2, words);
    }
    let long = "a".repeat(41);
    let flags = format!("--dry-multiplier 1 --dry-sequence-breaker {long}");
    bench.run(&format!("generate -m model -n 3 {flags}")).fails(2, &["--dry-sequence-breaker is", "1 to 40 bytes"]);
}
