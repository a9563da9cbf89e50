//! The corpus of the fuzz targets, through the targets' functions: what a fuzzer has found stays found.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::damaged::in_memory;
use super::peak_bytes;

#[path = "../../../../fuzz/src/targets.rs"]
mod targets;

pub const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus");

fn inputs(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(CORPUS).join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn no_input_of_the_corpus_panics_or_takes_long_or_much() {
    for (name, target) in targets::TARGETS {
        let folder = in_memory();
        let paths = inputs(name);
        assert!(paths.len() >= 50, "{name}: {} inputs", paths.len());
        for path in paths {
            let input = fs::read(&path).unwrap();
            let (start, before) = (Instant::now(), peak_bytes());
            target(&input, folder.path());
            assert!(start.elapsed() < Duration::from_secs(1), "{}: {:?}", path.display(), start.elapsed());
            // Other tests run at the same time, but they are small.
            let grown = peak_bytes().saturating_sub(before);
            assert!(grown < input.len() as u64 + (64 << 20), "{}: {grown} bytes", path.display());
        }
    }
}
