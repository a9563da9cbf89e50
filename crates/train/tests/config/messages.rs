//! What errors call a setting, and in which words they speak.

use smallmind_train::{Overlay, TrainConfig};

use super::{file_overlay, overlays, refused, with};

/// Words of Rust's that mean nothing to whoever trains a model.
const RUST_WORDS: &[&str] = &[
    "u8",
    "u16",
    "u32",
    "u64",
    "usize",
    "i64",
    "f32",
    "f64",
    "String",
    "bool",
    "boolean",
    "Option",
    "invalid type",
    "expected",
    "sequence",
    "target type",
    "TOML",
];

/// The message begins with what was typed, and speaks no Rust.
#[track_caller]
pub fn plain(message: &str, typed: &str) {
    assert!(message.starts_with(&format!("{typed}: ")), "{typed} in {message}");
    let words: Vec<&str> = message.split(|c: char| !c.is_alphanumeric()).collect();
    for word in RUST_WORDS {
        let found = if word.contains(' ') { message.contains(word) } else { words.contains(word) };
        assert!(!found, "{word:?} in {message}");
    }
    assert!(!message.contains("000000149"), "digits that nobody wrote: {message}");
}

/// The message without the names of precisions, of which one is that of a type too.
fn without_precisions(key: &str, message: &str) -> String {
    if key == "train.precision" { message.replace("one of f32, bf16", "one of these") } else { message.to_owned() }
}

#[test]
fn errors_name_the_setting_as_it_was_typed() {
    // Whatever a setting does not take, typed and from a file.
    let values =
        ["banana", "", "-1", "-0.1", "2.5", "nan", "+nan", "+inf", "True", "1e999", "99999999999999999999", "[1]"];
    let mut refusals = 0;
    for key in TrainConfig::keys() {
        let mut refused_values = 0;
        for value in values {
            let overlay = Overlay::assignment(&format!("{key}={value}")).unwrap();
            let Err(error) = TrainConfig::with_overlays(None, std::slice::from_ref(&overlay)) else { continue };
            plain(&without_precisions(key, &error.to_string()), &format!("{key}={value}"));
            let variable = Overlay { origin: "SMALLMIND_X".into(), ..overlay };
            let error = TrainConfig::with_overlays(None, &[variable]).unwrap_err();
            plain(&without_precisions(key, &error.to_string()), "SMALLMIND_X");
            refused_values += 1;
        }
        let (section, name) = key.split_once('.').unwrap();
        for value in ["[1]", "{ a = 1 }", "1979-05-27"] {
            let overlay = file_overlay(&format!("[{section}]\n{name} = {value}\n")).unwrap();
            let error = TrainConfig::with_overlays(None, std::slice::from_ref(&overlay)).unwrap_err();
            plain(&without_precisions(key, &error.to_string()), &overlay.origin);
        }
        assert!(refused_values > 0 || ["sample.prompt", "data.separator"].contains(&key), "{key} takes anything");
        refusals += refused_values;
    }
    assert!(refusals > 250, "{refusals}");
}

#[test]
fn settings_that_disagree_name_the_one_that_was_typed() {
    let cases: &[(&[&str], &str)] = &[
        (&["model.heads=3"], "model.heads=3"),
        (&["model.d_model=130"], "model.d_model=130"),
        (&["model.family=llama", "model.kv_heads=3"], "model.kv_heads=3"),
        // A GPT-2's files can't say it, nor can those of a LLaMA with the features of a GPT-2.
        (&["model.kv_heads=2"], "model.kv_heads=2"),
        (&["model.preset=smollm2-135m", "model.family=gpt2"], "model.family=gpt2"),
        (&["model.family=llama", "model.d_model=12"], "model.d_model=12"),
        (&["train.batch=5", "train.total_tokens=64"], "train.total_tokens=64"),
        (&["train.total_tokens=64"], "train.total_tokens=64"),
        (&["train.min_lr=0.5"], "train.min_lr=0.5"),
        (&["data.vocab_size=100"], "data.vocab_size=100"),
        (&["data.tokenizer=character"], "data.tokenizer=character"),
        (&["model.preset=nanogpt-cpo"], "model.preset=nanogpt-cpo"),
    ];
    for (assignments, typed) in cases {
        plain(&refused(assignments).to_string(), typed);
    }
    // In a file, the value stands beside it.
    let overlay = file_overlay("[model]\nheads = 3\n").unwrap();
    let message = TrainConfig::with_overlays(None, std::slice::from_ref(&overlay)).unwrap_err().to_string();
    plain(&message, &overlay.origin);
    assert!(message.contains("(model.heads = 3)"), "{message}");
}

#[test]
fn a_tokenizer_is_one_of_the_kinds_or_a_file() {
    for (word, says) in
        [("character", "did you mean characters"), ("words", "characters, bpe, or the path"), ("", "bpe")]
    {
        let message = refused(&[&format!("data.tokenizer={word}")]).to_string();
        assert!(message.contains(says) && message.contains("tokenizer.json"), "{message}");
    }
    // What looks like a path is one, and is looked for when it is read.
    for path in ["tok.json", "folder/tokenizer", "./x"] {
        assert_eq!(with(None, &[&format!("data.tokenizer={path}")]).data.tokenizer, path);
    }
}

#[test]
fn seeds_have_64_bits() {
    for seed in ["0", "9223372036854775807", "9223372036854775808", "18446744073709551615"] {
        let config = with(None, &[&format!("train.seed={seed}"), "model.layers=2", "model.dropout=0.1"]);
        assert_eq!(config.train.seed.to_string(), seed);
        let text = toml::to_string_pretty(&config).unwrap();
        assert_eq!(TrainConfig::with_overlays(None, &[file_overlay(&text).unwrap()]).unwrap(), config, "{text}");
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<TrainConfig>(&json).unwrap(), config);
        assert_eq!(config.resumed(&overlays(&[&format!("train.seed={seed}")])).unwrap(), config);
    }
    for seed in ["18446744073709551616", "-1", "1.5", "many"] {
        plain(&refused(&[&format!("train.seed={seed}")]).to_string(), &format!("train.seed={seed}"));
    }
    // What a file of a run holds may be anything.
    let mut config = with(None, &[]);
    config.train.steps = u64::MAX;
    let message = config.resumed(&overlays(&["log.interval=3"])).unwrap_err().to_string();
    assert!(message.contains("2^63") && !message.contains("u64"), "{message}");
    for number in ["9223372036854775808", "-9223372036854775809", "999999999999999999999999999999999999999999"] {
        let error = file_overlay(&format!("[train]\nseed = {number}\n")).unwrap_err().to_string();
        assert!(error.contains("seed = \"18446744073709551615\"") && !error.contains("u64"), "{error}");
    }
}
