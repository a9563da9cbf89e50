//! Encoding speed of a vocabulary, ours and the tokenizers library's on the same texts.
//!
//! ```sh
//! cargo run --release -p smallmind-model --example tokenizer_speed -- text.txt 2 tokenizer.json...
//! ```
//!
//! The text is divided into documents of about 64 KiB at line ends. Each of the threads (2 here) has an encoder of its
//! own and takes every second document; the library encodes the same documents on the same threads. The best of three
//! runs counts, after one that compares all ids. (Ids of SentencePiece's vocabularies in GGUF files may differ in long
//! runs of one character; make a tokenizer.json of them first.)

use std::error::Error;
use std::thread;
use std::time::Instant;

use smallmind_model::tokenizer::{SpecialTokens, Tokenizer};

const DOCUMENT_BYTES: usize = 64 << 10;
const RUNS: usize = 3;

fn documents(text: &str) -> Vec<&str> {
    let mut documents = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let line_end = rest.bytes().enumerate().skip(DOCUMENT_BYTES).find(|(_, byte)| *byte == b'\n');
        let (document, after) = rest.split_at(line_end.map_or(rest.len(), |(at, _)| at + 1));
        documents.push(document);
        rest = after;
    }
    documents
}

/// Seconds of the best run, in which each thread calls `encode` with its documents.
fn best(documents: &[&str], threads: usize, encode: impl Fn(&[&str]) + Sync) -> f64 {
    let shares: Vec<Vec<&str>> =
        (0..threads).map(|first| documents.iter().skip(first).step_by(threads).copied().collect()).collect();
    let run = || {
        let begun = Instant::now();
        thread::scope(|scope| shares.iter().for_each(|share| drop(scope.spawn(|| encode(share)))));
        begun.elapsed().as_secs_f64()
    };
    (0..RUNS).map(|_| run()).fold(f64::INFINITY, f64::min)
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: tokenizer_speed TEXT THREADS TOKENIZER...";
    let text = std::fs::read_to_string(arguments.next().ok_or(usage)?)?;
    let threads: usize = arguments.next().ok_or(usage)?.parse()?;
    let documents = documents(&text);
    for path in arguments {
        let ours = Tokenizer::from_file(&path)?;
        let library = tokenizers::Tokenizer::from_bytes(ours.to_json()?)?;
        for document in &documents {
            let ids = ours.encode(document, SpecialTokens::Parse)?;
            if ids != library.encode_fast(*document, false)?.get_ids() {
                return Err(format!("{path}: other ids than the library's").into());
            }
        }
        let megabytes = text.len() as f64 / 1e6;
        let seconds = best(&documents, threads, |share| {
            let mut encoder = ours.encoder(SpecialTokens::Parse);
            let mut ids = Vec::new();
            for document in share {
                ids.clear();
                // Compared above.
                let _ = encoder.encode(document, &mut ids);
            }
        });
        let rival = best(&documents, threads, |share| {
            for document in share {
                let _ = library.encode_fast(*document, false);
            }
        });
        println!(
            "{path}: {:.1} MB/s, library {:.1} MB/s, {:.2} times, {threads} threads",
            megabytes / seconds,
            megabytes / rival,
            rival / seconds
        );
    }
    Ok(())
}
