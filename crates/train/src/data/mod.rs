//! Data of a training run: from text to token shards with a manifest, and from these to windows.
//!
//! ```
//! use smallmind_train::data::{Corpus, Dataset, RandomWindows, SequentialWindows};
//!
//! let corpus = Corpus::of_text("the cat sat on the mat, and the dog sat beside the cat".into(), None);
//! let (train, validation) = corpus.split(0.9);
//! // Any tokenizer does; here a token is a byte.
//! let tokens: Vec<u32> = train.iter().flat_map(|(text, _)| text.bytes()).map(u32::from).collect();
//! let data = Dataset::from_tokens(&tokens, 256, train.bytes() as u64)?;
//!
//! let windows = RandomWindows::new(data.tokens(), 8, 1337)?;
//! let (mut x, mut y) = ([0; 4 * 8], [0; 4 * 8]);
//! windows.fill(&data, /* step */ 0, /* first row */ 0, &mut x, &mut y)?;
//! assert_eq!(x[1..8], y[..7]);
//!
//! let all = SequentialWindows::new(data.tokens(), 8)?;
//! assert_eq!(all.iter().map(|window| window.len).sum::<usize>(), data.tokens() - 1);
//! # assert_eq!(validation.iter().collect::<Vec<_>>(), [("he cat", false)]);
//! # Ok::<(), smallmind_train::data::DataError>(())
//! ```
//!
//! Not here: tokenizers, which the model crate has. Text is not shuffled and epochs are not counted, since random
//! windows need neither.

mod corpus;
mod dataset;
mod documents;
mod error;
mod manifest;
mod text;
mod windows;
mod writer;

pub use corpus::{Corpus, Division, DocumentTexts, Documents};
pub use dataset::{Dataset, OpenOptions, Residence, Verify};
pub use documents::DocumentWindows;
pub use error::DataError;
pub use manifest::{Dtype, MANIFEST_FILE, Manifest, SCHEMA_VERSION, ShardManifest, Split, SplitManifest};
pub use text::read_text;
pub use windows::{Draw, RandomWindows, SequentialWindows, Window};
pub(crate) use writer::is_shard_name;
pub use writer::{ShardOptions, ShardWriter};
