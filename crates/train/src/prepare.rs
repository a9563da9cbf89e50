//! From text to token shards: the tokenizer is trained or read, the text divided, encoded and written.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use smallmind_checkpoint::{TOKENIZER_FILE, write_file_atomic};
use smallmind_model::tokenizer::{BpeTraining, SpecialTokens, Tokenizer};

use crate::TrainError;
use crate::config::TrainConfig;
use crate::data::{DataError, Dataset, OpenOptions, ShardOptions, ShardWriter, Split, read_texts, split};
use crate::stories::{Part, Stories};

/// The folder of a run that holds its token shards.
pub const DATA_FOLDER: &str = "data";

/// Where the text comes from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// Files, joined end to end; their last part is for validation.
    Files(&'a [PathBuf]),
    /// The built-in stories, each of them a document; validation never repeats one that is trained on.
    Stories {
        /// Which stories.
        seed: u64,
        /// Of text to train on.
        bytes: usize,
    },
}

/// What [`prepare`] is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Reading or writing the text.
    Text,
    /// Learning a vocabulary.
    Tokenizer,
    /// Turning text into tokens.
    Tokens,
}

/// Text that is ready to be trained on.
#[derive(Debug)]
pub struct Prepared {
    /// The vocabulary.
    pub tokenizer: Tokenizer,
    /// To train on.
    pub train: Dataset,
    /// To be measured on.
    pub validation: Dataset,
}

/// The text of a source, in the two parts, as documents.
struct Text {
    train: Vec<String>,
    validation: Vec<String>,
    separated: bool,
}

/// Reads the source, makes `tokenizer.json` and the shards in `data` in the folder `run`, which is a new run's
/// [staging folder](crate::RunDir::staging), and opens them.
///
/// # Errors
/// Files that are missing, empty or no UTF-8; text that is too short; a vocabulary that can't be made; a disk that is full.
pub fn prepare(
    run: &Path,
    config: &TrainConfig,
    source: Source<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Prepared, TrainError> {
    progress(Progress::Text);
    let text = read(config, source)?;
    progress(Progress::Tokenizer);
    let tokenizer = tokenizer(config, &text)?;
    progress(Progress::Tokens);
    std::fs::create_dir_all(run).map_err(|source| TrainError::Write { path: run.to_owned(), source })?;
    let json = tokenizer.to_json()?;
    let vocab_size = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
    let options = ShardOptions { tokenizer_sha256: Some(sha256(json.as_bytes())), ..ShardOptions::new(vocab_size) };
    let mut writer = ShardWriter::create(run.join(DATA_FOLDER), options)?;
    // Not before it is certain that no shards of another tokenizer are there.
    write_file_atomic(run.join(TOKENIZER_FILE), |out| out.write_all(json.as_bytes()))?;
    let context = config.batch_shape()?.context;
    let end = if text.separated { tokenizer.eos() } else { None };
    for (split, documents) in [(Split::Train, &text.train), (Split::Validation, &text.validation)] {
        let mut encoder = tokenizer.encoder(SpecialTokens::AsText);
        let mut ids = Vec::new();
        let mut tokens = 0;
        for document in documents {
            ids.clear();
            encoder.encode(document, &mut ids)?;
            ids.extend(end);
            tokens += ids.len();
            writer.push(split, &ids, document.len() as u64)?;
        }
        check_length(split, tokens, context)?;
    }
    writer.finish()?;
    open(run)
}

/// Opens what an earlier [`prepare`] made.
///
/// # Errors
/// Files that are missing or damaged, or shards of another tokenizer.
pub fn open(run: &Path) -> Result<Prepared, TrainError> {
    let path = run.join(TOKENIZER_FILE);
    let json = std::fs::read(&path).map_err(|source| TrainError::Read { path: path.clone(), source })?;
    let tokenizer = Tokenizer::from_file(&path)?;
    let dir = run.join(DATA_FOLDER);
    let train = Dataset::open(&dir, Split::Train, OpenOptions::default())?;
    train.check_tokenizer(&sha256(&json))?;
    let validation = Dataset::open(&dir, Split::Validation, OpenOptions::default())?;
    Ok(Prepared { tokenizer, train, validation })
}

/// Whether a part of the text holds at least one window.
pub(crate) fn check_length(split: Split, tokens: usize, context: usize) -> Result<(), DataError> {
    if tokens > context {
        return Ok(());
    }
    Err(DataError::PartTooShort { part: split.name(), tokens, context, needed: context.saturating_add(1) })
}

fn read(config: &TrainConfig, source: Source<'_>) -> Result<Text, TrainError> {
    match source {
        Source::Files(paths) => {
            let text = read_texts(paths)?;
            let (train, validation) = split(&text, 1.0 - config.data.validation);
            Ok(Text { train: vec![train.to_owned()], validation: vec![validation.to_owned()], separated: false })
        }
        Source::Stories { seed, bytes } => {
            let validation = (bytes as f64 * config.data.validation) as usize;
            Ok(Text {
                train: stories(seed, Part::Train, bytes),
                validation: stories(seed, Part::Validation, validation),
                separated: true,
            })
        }
    }
}

fn stories(seed: u64, part: Part, bytes: usize) -> Vec<String> {
    let mut sum = 0;
    let enough = |story: &String| {
        let more = sum < bytes;
        sum += story.len();
        more
    };
    Stories::of(seed, part).take_while(enough).collect()
}

fn tokenizer(config: &TrainConfig, text: &Text) -> Result<Tokenizer, TrainError> {
    if let Some(path) = config.tokenizer_file() {
        return Ok(Tokenizer::from_file(path)?);
    }
    let documents = || text.train.iter().chain(&text.validation).map(String::as_str);
    Ok(match config.data.tokenizer.as_str() {
        "characters" => Tokenizer::characters(&documents().collect::<String>())?,
        _ => {
            let training = BpeTraining { vocab_size: config.data.vocab_size, ..BpeTraining::default() };
            Tokenizer::train_bpe(sample(&text.train), &training)?
        }
    })
}

/// Enough of the text to learn a vocabulary from.
fn sample(documents: &[String]) -> impl Iterator<Item = &str> {
    const BYTES: usize = 8 << 20;
    let mut left = BYTES;
    documents.iter().map_while(move |document| {
        let cut = document.floor_char_boundary(left.min(document.len()));
        left -= cut;
        (cut > 0).then(|| &document[..cut])
    })
}

/// In hexadecimal.
fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
