//! Random strings with the ids that other tokenizers give them (`benchmarks/tokenizers/random_strings.py`).

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Instant;

use smallmind_checkpoint::{GgufFile, GgufValue, GgufWriter};

use super::*;

/// A folder with a folder for each vocabulary: `model` and `cases.jsonl`.
const FOLDER: &str = "SMALLMIND_TOKENIZER_CASES";
/// Differences that are shown for each vocabulary.
const SHOWN: usize = 5;

#[derive(serde::Deserialize)]
struct Case {
    text: Option<String>,
    ids: Vec<u32>,
    back: Option<String>,
}

/// Reads the vocabulary of a folder; one that is a tokenizer.json is also written as `written.gguf`.
fn open(folder: &Path) -> Tokenizer {
    let model = std::fs::canonicalize(folder.join("model")).unwrap();
    if model.extension().is_some_and(|extension| extension == "gguf") {
        return Tokenizer::from_gguf(GgufFile::open(&model).unwrap().metadata()).unwrap();
    }
    let tokenizer = Tokenizer::from_file(&model).unwrap();
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", GgufValue::String("llama".into())).unwrap();
    match tokenizer.write_gguf("a model", 0, &mut writer) {
        Ok(told) => {
            writer.write_file(folder.join("written.gguf")).unwrap();
            println!("{}: written.gguf; told: {told:?}", folder.display());
        }
        Err(error) => println!("{}: not written as GGUF: {error}", folder.display()),
    }
    tokenizer
}

#[test]
fn random_strings_give_the_ids_of_other_tokenizers() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let mut folders: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    let mut different = 0;
    for folder in folders {
        let begun = Instant::now();
        let tokenizer = open(&folder);
        let read = begun.elapsed();
        let (mut equal, mut wrong, mut same_text) = (0, 0, 0);
        for line in BufReader::new(File::open(folder.join("cases.jsonl")).unwrap()).lines() {
            let case: Case = serde_json::from_str(&line.unwrap()).unwrap();
            let ids = case.text.as_ref().map(|text| tokenizer.encode(text, SpecialTokens::Parse).unwrap());
            let back = tokenizer.decode(&case.ids, SpecialText::Show).unwrap();
            let same_ids = ids.as_ref().is_none_or(|ids| *ids == case.ids);
            if same_ids && case.back.as_ref().is_none_or(|expected| *expected == back) {
                equal += 1;
            } else {
                wrong += 1;
                if wrong <= SHOWN {
                    println!("{:?}: {ids:?} instead of {:?}; {back:?} instead of {:?}", case.text, case.ids, case.back);
                }
            }
            same_text += usize::from(case.text.is_some_and(|text| text == back));
        }
        let name = folder.file_name().unwrap().to_string_lossy();
        println!("{name}: {equal} equal, {wrong} different; {same_text} texts come back the same; read in {read:.2?}");
        different += wrong;
    }
    assert_eq!(different, 0);
}
