//! Models that other people publish: the caches in which tools keep them, and downloads from the Hugging Face hub.
//!
//! [`ModelName`] is a name such as `hf:owner/name:Q4_K_M`. [`Caches::find`] gives its path if it is on this machine, and
//! [`list_caches`] lists all that is. Only a [`Client`] opens connections; [`pull`] downloads with it into the cache of
//! Hugging Face's tools, as these tools would, so that they find the model too.
//!
//! ```no_run
//! use std::sync::atomic::AtomicBool;
//! use smallmind_hub::{Caches, Client, DEFAULT_ENDPOINT, HubSettings, ModelName, Patience, Proxies, pull};
//!
//! let caches = Caches { hugging_face: "cache/hub".into(), llama_cpp: "cache/llama.cpp".into() };
//! let name: ModelName = "hf:owner/name:Q4_K_M".parse()?;
//! let client = Client::new(HubSettings {
//!     endpoint: DEFAULT_ENDPOINT.to_owned(),
//!     token: None,
//!     proxies: Proxies::FromEnvironment,
//!     patience: Patience::default(),
//! })?;
//! let pulled = pull(&client, &caches.hugging_face, &name, &AtomicBool::new(false), &mut |event| println!("{event:?}"))?;
//! assert_eq!(caches.find(&name)?, pulled.path);
//! # Ok::<(), smallmind_hub::HubError>(())
//! ```
//!
//! # What it holds to
//!
//! * A server is trusted with nothing: names that lead out of the cache, wrong lengths and checksums, answers without
//!   an end, redirects without an end and silence end in a [`HubError`], in bounded time and memory.
//! * A file appears under its name when it is complete and its checksum is right, a branch when all its files are.
//! * The token is sent to the hub only, never to the servers that it redirects to.
//! * Nothing is read from the environment but the proxy, and that only if the caller wishes it.
//!
//! Not here: what is in the files.

#![forbid(unsafe_code)]

mod api;
mod cache;
mod checksum;
mod client;
mod download;
mod error;
mod list;
mod llama_cache;
mod name;
mod pull;
mod select;

pub use cache::Caches;
pub use client::{Client, DEFAULT_ENDPOINT, HubSettings, Patience, Proxies, Token};
pub use error::{HubError, SelectionFault};
pub use list::{Found, Kind, Listing, Unfinished, list_caches, list_folder};
pub use name::{Choice, ModelName, PREFIX};
pub use pull::{Event, Pulled, pull};

#[cfg(test)]
mod tests;
