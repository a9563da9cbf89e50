//! Names of models on the hub: `hf:owner/name[@revision][:file or format]`.

use std::fmt;
use std::str::FromStr;

use crate::HubError;
use crate::error::quote;

/// How a name begins.
pub const PREFIX: &str = "hf:";
/// The revision that is meant if a name has none.
pub const DEFAULT_REVISION: &str = "main";

/// The longest `owner/name`, in bytes: the hub's own limit.
const MAX_REPOSITORY: usize = 96;
/// The longest revision, in bytes.
const MAX_REVISION: usize = 200;
/// The longest file name with its folders, in bytes.
const MAX_FILE: usize = 1024;
/// The longest name of one folder or file, in bytes: the limit of file systems.
const MAX_COMPONENT: usize = 255;

/// The name of a model on the hub.
///
/// ```
/// use smallmind_hub::{Choice, ModelName};
/// let name: ModelName = "hf:owner/name@v1:Q4_K_M".parse()?;
/// assert_eq!((name.repository(), name.revision()), ("owner/name", "v1"));
/// assert_eq!(name.choice(), Some(&Choice::Format("Q4_K_M".to_owned())));
/// # Ok::<(), smallmind_hub::HubError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelName {
    repository: String,
    revision: Option<String>,
    choice: Option<Choice>,
}

/// Which of a repository's models is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// A `.gguf` file, with its folders.
    File(String),
    /// The `.gguf` file, or the parts of one, whose name holds this format. Case does not matter.
    Format(String),
}

impl ModelName {
    /// `owner/name`, or only `name` for the hub's oldest repositories.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The branch, tag or commit.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(DEFAULT_REVISION)
    }

    /// Whether the name has a revision.
    pub fn has_revision(&self) -> bool {
        self.revision.is_some()
    }

    /// The file or format.
    pub fn choice(&self) -> Option<&Choice> {
        self.choice.as_ref()
    }

    /// The same model at a revision.
    ///
    /// # Errors
    /// [`HubError::Name`] if that can't be a revision.
    pub fn at(self, revision: &str) -> Result<Self, HubError> {
        check_revision(revision).map_err(|why| HubError::Name { text: revision.to_owned(), why })?;
        Ok(Self { revision: Some(revision.to_owned()), ..self })
    }
}

impl FromStr for ModelName {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        parse(text).map_err(|why| HubError::Name { text: text.to_owned(), why })
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.repository)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        match &self.choice {
            Some(choice) => write!(f, ":{choice}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::File(text) | Self::Format(text)) = self;
        f.write_str(text)
    }
}

fn parse(text: &str) -> Result<ModelName, String> {
    let rest = text.strip_prefix(PREFIX).ok_or_else(|| format!("it must begin with {PREFIX}"))?;
    let (rest, choice) = match rest.split_once(':') {
        Some((rest, choice)) => (rest, Some(parse_choice(choice)?)),
        None => (rest, None),
    };
    let (repository, revision) = match rest.split_once('@') {
        Some((repository, revision)) => (repository, Some(revision)),
        None => (rest, None),
    };
    check_repository(repository)?;
    revision.map_or(Ok(()), check_revision)?;
    Ok(ModelName { repository: repository.to_owned(), revision: revision.map(str::to_owned), choice })
}

fn parse_choice(text: &str) -> Result<Choice, String> {
    if is_gguf(text) {
        check_file(text)?;
        return Ok(Choice::File(text.to_owned()));
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if text.is_empty() || text.len() > MAX_REPOSITORY || !text.chars().all(is_plain) {
        return Err("after the second colon comes a format, such as Q4_K_M, or the name of a .gguf file".to_owned());
    }
    Ok(Choice::Format(text.to_owned()))
}

/// Whether a file name ends with `.gguf`.
pub(crate) fn is_gguf(name: &str) -> bool {
    name.len().checked_sub(5).and_then(|at| name.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(".gguf"))
}

fn check_repository(text: &str) -> Result<(), String> {
    let parts: Vec<&str> = text.split('/').collect();
    let is_plain = |part: &&str| {
        let inner = part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        inner && !part.is_empty() && !part.starts_with(['-', '.']) && !part.ends_with(['-', '.'])
    };
    let is_valid = parts.len() <= 2
        && parts.iter().all(is_plain)
        && text.len() <= MAX_REPOSITORY
        && !text.contains("--")
        && !text.contains("..");
    if is_valid {
        Ok(())
    } else {
        Err(format!("{PREFIX} is followed by owner/name, of letters, digits and single - _ . between them"))
    }
}

/// Checks a branch, tag or commit. It becomes a path below `refs`.
fn check_revision(text: &str) -> Result<(), String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./+".contains(c);
    let is_part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with('.');
    if text.len() <= MAX_REVISION && text.chars().all(is_plain) && text.split('/').all(is_part) && !text.contains("..")
    {
        Ok(())
    } else {
        Err("a revision is a branch, a tag or a commit, of letters, digits and - _ . / + between them".to_owned())
    }
}

/// Checks that a file name of a repository, with folders, stays in the folder of the repository.
pub(crate) fn check_file(name: &str) -> Result<(), String> {
    let why = if name.is_empty() {
        "it is empty".to_owned()
    } else if name.len() > MAX_FILE || name.split('/').any(|part| part.len() > MAX_COMPONENT) {
        "it is too long".to_owned()
    } else if let Some(c) = name.chars().find(|c| *c == '\\' || c.is_control()) {
        format!("it has the character {c:?}")
    } else if let Some(part) = name.split('/').find(|part| matches!(*part, "" | "." | "..")) {
        format!("{} is no folder below the repository's", quote(part))
    } else {
        return Ok(());
    };
    Err(why)
}

/// Whether a revision is a whole commit id.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_hex(text)
}

/// Whether a text is of lower-case hexadecimal digits.
pub(crate) fn is_hex(text: &str) -> bool {
    text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_and_printed() {
        for (text, repository, revision, choice) in [
            ("hf:owner/name", "owner/name", "main", None),
            ("hf:gpt2", "gpt2", "main", None),
            ("hf:o/n@refs/pr/1", "o/n", "refs/pr/1", None),
            ("hf:o/n:Q4_K_M", "o/n", "main", Some(Choice::Format("Q4_K_M".into()))),
            ("hf:o/n-1.5_b@v1.0:sub/model.GGUF", "o/n-1.5_b", "v1.0", Some(Choice::File("sub/model.GGUF".into()))),
        ] {
            let name: ModelName = text.parse().unwrap();
            assert_eq!((name.repository(), name.revision(), name.choice()), (repository, revision, choice.as_ref()));
            assert_eq!(name.to_string(), text);
        }
        let name: ModelName = "hf:o/n:Q8_0".parse().unwrap();
        assert_eq!(name.at("v2").unwrap().to_string(), "hf:o/n@v2:Q8_0");
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for text in [
            "",
            "hf:",
            "hf:/",
            "o/n",
            "hf:o/",
            "hf:/n",
            "hf:a/b/c",
            "hf:../n",
            "hf:o/..",
            "hf:o/n--x",
            "hf:.o/n",
            "hf:o/n.",
            "hf:o\\n",
            "hf:o/n@",
            "hf:o/n@../x",
            "hf:o/n@a/../b",
            "hf:o/n@/a",
            "hf:o/n@a\0",
            "hf:o/n@.git",
            "hf:o/n:",
            "hf:o/n:a b",
            "hf:o/n:../x.gguf",
            "hf:o/n:/x.gguf",
            "hf:o/n:a\\x.gguf",
            "hf:o/n:x.safetensors",
            "hf:https://x/y",
            "hf:o/é",
        ] {
            assert!(matches!(text.parse::<ModelName>(), Err(HubError::Name { .. })), "{text:?}");
        }
        let long = format!("hf:o/{}", "n".repeat(200));
        assert!(long.parse::<ModelName>().is_err());
    }

    #[test]
    fn file_names_stay_in_their_folder() {
        for good in ["a", "a/b.gguf", "a..b", "...", "ü", ".gitattributes"] {
            assert_eq!(check_file(good), Ok(()), "{good:?}");
        }
        for bad in ["", "/a", "a//b", "a/", "../a", "a/../b", ".", "a\\b", "a\0b", "a\nb", "..\\a"] {
            assert!(check_file(bad).is_err(), "{bad:?}");
        }
        assert!(check_file(&"a/".repeat(600)).is_err() && check_file(&"a".repeat(300)).is_err());
    }
}
