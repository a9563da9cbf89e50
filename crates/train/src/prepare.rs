//! From text to token shards: trains or reads the tokenizer, divides the text, and writes its tokens.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use smallmind_checkpoint::{TOKENIZER_FILE, write_file_atomic};
use smallmind_model::tokenizer::{BpeTraining, SpecialTokens, Tokenizer};

use crate::config::{DataSection, TrainConfig};
use crate::data::{
    Corpus, DataError, Dataset, DocumentTexts, Documents, MANIFEST_FILE, OpenOptions, ShardOptions, ShardWriter, Split,
};
use crate::initial::Initial;
use crate::stories::Stories;
use crate::{TrainError, Windows};

/// Name of the folder in a run that holds its token shards.
pub const DATA_FOLDER: &str = "data";

/// Where the text comes from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// Text files, divided into documents as [`DataSection`] says; the end of the text is for validation.
    Files(&'a [PathBuf]),
    /// The built-in stories, each a document. No story is in both splits.
    Stories {
        /// Seed of the stories.
        seed: u64,
        /// Bytes of training text.
        bytes: usize,
    },
}

/// A stage of [`prepare`], or a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A note about the text for the user.
    Note(String),
    /// Reading or writing the text.
    Text,
    /// Learning a vocabulary.
    Tokenizer,
    /// Turning text into tokens.
    Tokens,
}

/// Text that is ready for training.
#[derive(Debug)]
pub struct Prepared {
    /// The tokenizer that made the tokens.
    pub tokenizer: Arc<Tokenizer>,
    /// Tokens to train on.
    pub train: Arc<Dataset>,
    /// Tokens on which the model is measured.
    pub validation: Dataset,
}

/// The text of a source, before it is encoded.
struct Text {
    corpus: Corpus,
    /// The validation text, if it is separate.
    validation: Option<Corpus>,
    /// Share of `corpus` for training, if the rest is for validation.
    share: f64,
}

impl Text {
    /// The documents of the training split and of the validation split.
    fn parts(&self) -> (DocumentTexts<'_>, DocumentTexts<'_>) {
        match &self.validation {
            Some(validation) => (self.corpus.documents(), validation.documents()),
            None => self.corpus.split(self.share),
        }
    }
}

/// As [`prepare`](fn@prepare) for a run that begins with a model: with its tokenizer, which puts the tokens of its
/// prompts before each document. Writes the chat template and the settings of sampling of the model too.
///
/// # Errors
/// As [`prepare`](fn@prepare); text that the tokenizer lacks characters of.
pub fn prepare_initial(
    run: &Path,
    config: &TrainConfig,
    initial: &Initial,
    source: Source<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Prepared, TrainError> {
    progress(Progress::Text);
    let text = read(config, source, Some(&initial.tokenizer))?;
    note_marks(&text, progress);
    let folder = |source| TrainError::Write { path: run.to_owned(), source };
    std::fs::create_dir_all(run).map_err(folder)?;
    initial.write_companions(run)?;
    write_tokens(run, config, (&initial.tokenizer, initial.tokenizer.prompt_prefix()), &text, progress)?;
    open(run)
}

/// Reads the source, writes `tokenizer.json` and the shards into the folder `run`, a new run's
/// [staging folder](crate::RunDir::staging), and opens them.
///
/// # Errors
/// Files that are missing, empty or not UTF-8; text that is too short; a vocabulary that can't be made; a disk that is
/// full.
pub fn prepare(
    run: &Path,
    config: &TrainConfig,
    source: Source<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Prepared, TrainError> {
    progress(Progress::Text);
    let ready = config.tokenizer_file().map(Tokenizer::from_file).transpose()?;
    let why = ready.as_ref().and_then(Tokenizer::not_applied);
    if let (Some(file), Some(why)) = (config.tokenizer_file(), why) {
        progress(Progress::Note(format!("{}: {why}", file.display())));
    }
    let text = read(config, source, ready.as_ref())?;
    note_marks(&text, progress);
    progress(Progress::Tokenizer);
    let tokenizer = match ready {
        Some(ready) => ready,
        None => {
            let (train, validation) = text.parts();
            new_tokenizer(config, &train, &validation)?
        }
    };
    std::fs::create_dir_all(run).map_err(|source| TrainError::Write { path: run.to_owned(), source })?;
    write_tokens(run, config, (&tokenizer, &[]), &text, progress)?;
    open(run)
}

fn note_marks(text: &Text, progress: &mut dyn FnMut(Progress)) {
    for file in text.corpus.marks() {
        progress(Progress::Note(format!("{file}: a byte-order mark at the beginning is left out")));
    }
}

/// Writes the tokenizer and the tokens of the text; `prefix` stands before each document.
fn write_tokens(
    run: &Path,
    config: &TrainConfig,
    (tokenizer, prefix): (&Tokenizer, &[u32]),
    text: &Text,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), TrainError> {
    progress(Progress::Tokens);
    let (train, validation) = text.parts();
    let json = tokenizer.to_json()?;
    let vocab_size = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
    let options = ShardOptions { tokenizer_sha256: Some(sha256(json.as_bytes())), ..ShardOptions::new(vocab_size) };
    let mut writer = ShardWriter::create(run.join(DATA_FOLDER), options)?;
    // This comes after the writer, which refuses a folder with shards of another tokenizer.
    write_file_atomic(run.join(TOKENIZER_FILE), |out| out.write_all(json.as_bytes()))?;
    let context = config.batch_shape()?.context;
    for (split, documents) in [(Split::Train, &train), (Split::Validation, &validation)] {
        let mut tokens = 0;
        encode(documents, tokenizer, |ids, bytes| {
            tokens += prefix.len() + ids.len();
            writer.push(split, prefix, 0)?;
            Ok(writer.push(split, ids, bytes)?)
        })?;
        check_length(split, tokens, context)?;
    }
    writer.finish()?;
    Ok(())
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
    let open = |split| Dataset::open(&dir, split, OpenOptions::default()).map_err(missing_shards);
    let train = open(Split::Train)?;
    train.check_tokenizer(&sha256(&json))?;
    let validation = open(Split::Validation)?;
    Ok(Prepared { tokenizer: Arc::new(tokenizer), train: Arc::new(train), validation })
}

/// The error of a run whose shards are missing, for a user who has not named their files.
fn missing_shards(error: DataError) -> DataError {
    match error {
        DataError::Missing { path } => DataError::NoShards { path },
        DataError::NoManifest { dir } => DataError::NoShards { path: dir.join(MANIFEST_FILE) },
        other => other,
    }
}

/// Checks that a split has at least one window.
pub(crate) fn check_length(split: Split, tokens: usize, context: usize) -> Result<(), DataError> {
    if tokens > context {
        return Ok(());
    }
    Err(DataError::PartTooShort { part: split.name(), tokens, context, needed: context.saturating_add(1) })
}

/// Encodes documents. `sink` gets the tokens of each, followed by the token that ends it, and the number of its bytes.
/// Names of special tokens in a document are plain text.
pub(crate) fn encode(
    documents: &DocumentTexts<'_>,
    tokenizer: &Tokenizer,
    mut sink: impl FnMut(&[u32], u64) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let mut encoder = tokenizer.encoder(SpecialTokens::AsText);
    let mut ids = Vec::new();
    for (document, ends) in documents.iter() {
        ids.clear();
        encoder.encode(document, &mut ids)?;
        ids.extend(tokenizer.eos().filter(|_| ends));
        sink(&ids, document.len() as u64)?;
    }
    Ok(())
}

/// Reads text files as documents; `has_end`: whether the vocabulary has a token that ends documents.
///
/// # Errors
/// Files that can't be read as text, or documents that the vocabulary can't end.
pub fn read_corpus(paths: &[PathBuf], data: &DataSection, has_end: bool) -> Result<Corpus, DataError> {
    let corpus = Corpus::read(paths, data.division(has_end))?;
    if has_end || !corpus.is_divided() {
        return Ok(corpus);
    }
    let (why, instead) = match data.documents {
        Documents::Files => ("data.documents=files", "leave data.documents out"),
        Documents::Separated if data.separator.is_some() => ("data.separator", "leave data.separator out"),
        Documents::Separated => ("a .jsonl file", "give the text in another file"),
    };
    Err(DataError::NoEndToken { why, instead })
}

/// Reads the text. `ready`: the tokenizer, if it is not made from the text.
fn read(config: &TrainConfig, source: Source<'_>, ready: Option<&Tokenizer>) -> Result<Text, TrainError> {
    let share = 1.0 - config.data.validation;
    match source {
        Source::Files(paths) => {
            let has_end = ready.map_or(config.data.tokenizer != "characters", |ready| ready.eos().is_some());
            if config.data.windows == Windows::Documents && !has_end {
                return Err(WINDOWS_WITHOUT_END.into());
            }
            let corpus = read_corpus(paths, &config.data, has_end)?;
            check_divided(&corpus, &config.data, has_end)?;
            Ok(Text { corpus, validation: None, share })
        }
        Source::Stories { seed, bytes } => {
            let validation = (bytes as f64 * config.data.validation) as usize;
            Ok(Text {
                corpus: stories(seed, Split::Train, bytes),
                validation: Some(stories(seed, Split::Validation, validation)),
                share,
            })
        }
    }
}

/// The error for windows at documents with a vocabulary that has no token that ends documents.
pub(crate) const WINDOWS_WITHOUT_END: DataError =
    DataError::NoEndToken { why: "data.windows=documents", instead: "set data.windows=uniform" };

/// Refuses a text of a single document if the settings ask for several.
fn check_divided(corpus: &Corpus, data: &DataSection, has_end: bool) -> Result<(), DataError> {
    let asked = data.separator.is_some() || data.windows == Windows::Documents;
    match data.division(has_end).separator {
        // An empty text is refused later, since it is too short.
        Some(separator) if asked && !corpus.is_divided() && !corpus.is_empty() => {
            Err(DataError::NoSeparator { separator: separator.to_owned() })
        }
        _ => Ok(()),
    }
}

fn stories(seed: u64, split: Split, bytes: usize) -> Corpus {
    let mut sum = 0;
    let enough = |story: &String| {
        let more = sum < bytes;
        sum += story.len();
        more
    };
    Corpus::of_documents(Stories::of(seed, split).take_while(enough))
}

/// A tokenizer made from the text.
fn new_tokenizer(
    config: &TrainConfig,
    train: &DocumentTexts<'_>,
    validation: &DocumentTexts<'_>,
) -> Result<Tokenizer, TrainError> {
    Ok(match config.data.tokenizer.as_str() {
        "characters" => {
            Tokenizer::characters(&train.iter().chain(validation.iter()).map(|(text, _)| text).collect::<String>())?
        }
        _ => {
            let training = BpeTraining { vocab_size: config.data.vocab_size, ..BpeTraining::default() };
            Tokenizer::train_bpe(sample(train), &training)?
        }
    })
}

/// The first 8 MiB of the text, which are enough for training a vocabulary.
fn sample<'a>(documents: &DocumentTexts<'a>) -> impl Iterator<Item = &'a str> {
    const BYTES: usize = 8 << 20;
    let mut left = BYTES;
    documents.iter().map_while(move |(document, _)| {
        let cut = document.floor_char_boundary(left.min(document.len()));
        left -= cut;
        (cut > 0).then(|| &document[..cut])
    })
}

/// SHA-256 in hexadecimal.
fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
