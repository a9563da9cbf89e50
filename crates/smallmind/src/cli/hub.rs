//! Downloaded models: where they are and how to reach the hub, from the environment.
//!
//! The variables are those of Hugging Face's tools and of llama.cpp, with the same meaning.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use smallmind::hub::{Caches, DEFAULT_ENDPOINT, HubSettings, ModelName, PREFIX, Patience, Proxies, Token};

use super::failure::usage;
use super::settings::variable;

/// The longest file with a token, in bytes.
const MAX_TOKEN_BYTES: u64 = 4096;

/// The path that a user names as a model: a name on the hub is looked up in the caches.
///
/// # Errors
/// A model that is not in the caches. No connection is opened.
pub fn resolve(model: &Path) -> anyhow::Result<Cow<'_, Path>> {
    match model.to_str().filter(|text| text.starts_with(PREFIX)) {
        Some(text) => Ok(caches()?.find(&text.parse::<ModelName>()?)?.into()),
        None => Ok(model.into()),
    }
}

/// The caches of downloaded models: `HF_HUB_CACHE`, `HF_HOME`, `LLAMA_CACHE`.
pub fn caches() -> anyhow::Result<Caches> {
    let hugging_face = match folder("HF_HUB_CACHE") {
        Some(folder) => folder,
        None => hugging_face_home()?.join("hub"),
    };
    let llama_cpp = match folder("LLAMA_CACHE") {
        Some(folder) => folder,
        None => system_cache()?.join("llama.cpp"),
    };
    Ok(Caches { hugging_face, llama_cpp })
}

/// How to reach the hub: `HF_ENDPOINT`, and `HF_TOKEN` or the file `token` in `HF_HOME`.
pub fn connection() -> anyhow::Result<HubSettings> {
    if variable("HF_HUB_OFFLINE").is_some_and(|value| is_on(&value.to_string_lossy())) {
        return Err(usage("HF_HUB_OFFLINE is set: no connection is opened; unset it to download"));
    }
    let endpoint = text("HF_ENDPOINT")?.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
    let token = match text("HF_TOKEN")? {
        Some(token) => Some(token),
        None => read_token(&hugging_face_home()?.join("token"))?,
    };
    let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
    let token = token.map(|token| Token::new(&token)).transpose()?;
    Ok(HubSettings { endpoint, token, proxies: Proxies::FromEnvironment, patience: Patience::default() })
}

fn is_on(value: &str) -> bool {
    ["1", "on", "yes", "true"].iter().any(|on| value.eq_ignore_ascii_case(on))
}

fn hugging_face_home() -> anyhow::Result<PathBuf> {
    match (folder("HF_HOME"), folder("XDG_CACHE_HOME")) {
        (Some(folder), _) => Ok(folder),
        (None, Some(cache)) => Ok(cache.join("huggingface")),
        (None, None) => Ok(home()?.join(".cache/huggingface")),
    }
}

/// The folder for caches of the system.
fn system_cache() -> anyhow::Result<PathBuf> {
    if cfg!(target_os = "macos") {
        return Ok(home()?.join("Library/Caches"));
    }
    match folder(if cfg!(windows) { "LOCALAPPDATA" } else { "XDG_CACHE_HOME" }) {
        Some(folder) => Ok(folder),
        None => Ok(home()?.join(".cache")),
    }
}

fn home() -> anyhow::Result<PathBuf> {
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    home.ok_or_else(|| usage("there is no home folder; name the caches with HF_HOME and LLAMA_CACHE"))
}

/// The folder that a variable names; `~` is the home folder.
fn folder(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(variable(name)?);
    match path.strip_prefix("~") {
        Ok(rest) => home().ok().map(|home| home.join(rest)),
        Err(_) => Some(path),
    }
}

/// The text of a variable.
fn text(name: &str) -> anyhow::Result<Option<String>> {
    let text = variable(name).map(|value| value.into_string());
    text.transpose().map_err(|_| usage(format!("{name} is not UTF-8 text")))
}

/// The content of a file with a token, if there is one.
fn read_token(path: &Path) -> anyhow::Result<Option<String>> {
    let mut text = String::new();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("{}: the token can't be read", path.display())),
    };
    let read = file.take(MAX_TOKEN_BYTES).read_to_string(&mut text);
    read.with_context(|| format!("{}: the token can't be read", path.display()))?;
    Ok(Some(text))
}
