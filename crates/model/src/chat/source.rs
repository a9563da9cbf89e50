//! Where the chat templates of a model stand.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value, json};
use smallmind_checkpoint::{
    CheckpointError, GgufArray, GgufMetadata, GgufStrings, GgufValue, GgufWriter, read_json, without_byte_order_mark,
};

use super::template::MAX_TEMPLATE_BYTES;
use super::{ChatError, ChatTemplate};
use crate::ModelFiles;
use crate::tokenizer::Tokenizer;

/// The template of a model in a file of its own.
pub const TEMPLATE_FILE: &str = "chat_template.jinja";
/// More templates, each in a file `NAME.jinja`.
pub const MORE_TEMPLATES: &str = "additional_chat_templates";
/// Special tokens, and the template of models without [`TEMPLATE_FILE`].
pub const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";

/// The template that is taken unless another is asked for.
const DEFAULT: &str = "default";
/// The template that is taken if there are tools.
const TOOL_USE: &str = "tool_use";
/// The key of the default template in GGUF files. Those of named ones go on with `.NAME`.
const KEY: &str = "tokenizer.chat_template";
/// The key of their names.
const NAMES_KEY: &str = "tokenizer.chat_templates";
/// The most templates of a model.
const MAX_TEMPLATES: usize = 64;
/// The special tokens that templates know by name.
const TOKEN_NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The same in the keys of GGUF files.
const TOKEN_KEYS: [&str; 7] = ["bos", "eos", "unknown", "seperator", "padding", "cls", "mask"];

/// The chat templates of a model, by name, and its special tokens. They are not checked before one is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatTemplates {
    templates: Vec<Named>,
    tokens: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    name: String,
    origin: String,
    source: String,
}

impl ChatTemplates {
    /// No templates and no tokens.
    pub fn new() -> Self {
        Self::default()
    }

    /// The templates of a model folder: [`TEMPLATE_FILE`] and [`MORE_TEMPLATES`], or else `chat_template` of
    /// [`TOKENIZER_CONFIG_FILE`], which also names the special tokens. A folder without these files has none.
    ///
    /// # Errors
    /// Files that can't be read, are too large, no UTF-8 or no JSON; fields of the wrong kind.
    pub fn from_folder(folder: &Path) -> Result<Self, ChatError> {
        let mut found = Self::new();
        found.read_files(folder)?;
        let path = folder.join(TOKENIZER_CONFIG_FILE);
        if path.is_file() {
            found.read_tokenizer_config(&path)?;
        }
        Ok(found)
    }

    /// The templates of a model whose files are open: those of a folder, or `tokenizer.chat_template` and
    /// `tokenizer.chat_template.NAME` of a GGUF file, which names the special tokens by their ids.
    ///
    /// # Errors
    /// As [`ChatTemplates::from_folder`]; metadata of another type.
    pub fn of_files(files: &ModelFiles) -> Result<Self, ChatError> {
        match files {
            ModelFiles::Folder(folder) => Self::from_folder(folder.dir()),
            ModelFiles::Gguf(file) => Self::from_gguf(file.metadata()),
        }
    }

    fn from_gguf(metadata: &GgufMetadata) -> Result<Self, ChatError> {
        let mut found = Self::new();
        let tokens = metadata.value::<&GgufStrings>("tokenizer.ggml.tokens")?;
        for (name, key) in TOKEN_NAMES.into_iter().zip(TOKEN_KEYS) {
            let id = metadata.value::<usize>(&format!("tokenizer.ggml.{key}_token_id"))?;
            if let Some(token) = id.zip(tokens).and_then(|(id, tokens)| tokens.get(id)) {
                found.set_token(name, token);
            }
        }
        for (key, _) in metadata.iter() {
            let Some(rest) = key.strip_prefix(KEY) else { continue };
            let name = if rest.is_empty() { Some(DEFAULT) } else { rest.strip_prefix('.') };
            if let Some(name) = name {
                let source: &str = metadata.required(key)?;
                if found.templates.len() == MAX_TEMPLATES {
                    return Err(too_many(format!("metadata keys {KEY}.NAME")));
                }
                found.add(name, format!("metadata key {key}"), source);
            }
        }
        Ok(found)
    }

    /// The source of the template that is taken unless another is asked for: that of the name `default`, or the only
    /// one.
    pub fn default_source(&self) -> Option<&str> {
        let default = match self.templates.as_slice() {
            [only] => Some(only),
            several => several.iter().find(|template| template.name == DEFAULT),
        };
        default.map(|template| template.source.as_str())
    }

    /// The templates that have names other than `default`, with their sources.
    fn named(&self) -> impl Iterator<Item = (&str, &str)> {
        let named = self.templates.iter().filter(|template| template.name != DEFAULT);
        named.map(|template| (template.name.as_str(), template.source.as_str()))
    }

    /// Writes the templates into the metadata of a GGUF file: `tokenizer.chat_template`, and for the named ones
    /// `tokenizer.chat_templates` and `tokenizer.chat_template.NAME`.
    pub(crate) fn write_gguf(&self, writer: &mut GgufWriter<'_>) -> Result<(), CheckpointError> {
        let text = |source: &str| GgufValue::String(source.to_owned());
        if let Some(source) = self.default_source() {
            writer.set(KEY, text(source))?;
        }
        let names: GgufStrings = self.named().map(|(name, _)| name).collect();
        if !names.is_empty() {
            writer.set(NAMES_KEY, GgufValue::Array(GgufArray::Strings(names)))?;
        }
        for (name, source) in self.named() {
            writer.set(&format!("{KEY}.{name}"), text(source))?;
        }
        Ok(())
    }

    /// The content of a [`TOKENIZER_CONFIG_FILE`] by which transformers knows the special tokens and the
    /// templates.
    pub fn tokenizer_config(&self, tokenizer: &Tokenizer) -> Value {
        let mut config = Map::from_iter([("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"))]);
        for (name, id) in [("bos_token", tokenizer.bos()), ("eos_token", tokenizer.eos())] {
            let bytes = id.and_then(|id| tokenizer.token_bytes(id));
            if let Some(text) = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok()) {
                config.insert(name.to_owned(), json!(text));
            }
        }
        let chat_template = match self.templates.as_slice() {
            [] => None,
            [only] if only.name == DEFAULT => Some(json!(only.source)),
            several => {
                let entry = |template: &Named| json!({ "name": template.name, "template": template.source });
                Some(several.iter().map(entry).collect())
            }
        };
        config.extend(chat_template.map(|template| ("chat_template".to_owned(), template)));
        Value::Object(config)
    }

    /// A template from a file that a user names, with the special tokens of these.
    ///
    /// # Errors
    /// As [`ChatTemplates::from_folder`] and [`ChatTemplate::new`].
    pub fn with_file(&self, path: &Path) -> Result<ChatTemplate, ChatError> {
        ChatTemplate::new(path.display().to_string(), &read_template(path)?, self.tokens.clone())
    }

    /// Adds a template; one of the same name is kept instead.
    pub fn add(&mut self, name: &str, origin: impl Into<String>, source: impl Into<String>) {
        if !self.templates.iter().any(|template| template.name == name) {
            self.templates.push(Named { name: name.to_owned(), origin: origin.into(), source: source.into() });
        }
    }

    /// Sets a special token by its name, such as `bos_token`.
    pub fn set_token(&mut self, name: &str, token: impl Into<String>) {
        self.tokens.retain(|(of, _)| of != name);
        self.tokens.push((name.to_owned(), token.into()));
    }

    /// Whether there is no template.
    pub fn is_empty(&self) -> bool {
        self.templates.is_empty()
    }

    /// Names of the templates.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.templates.iter().map(|template| template.name.as_str())
    }

    /// The template of a name; without a name `tool_use` if there are tools, else `default`, else the only one.
    ///
    /// # Errors
    /// [`ChatError::NoTemplate`]; [`ChatError::Name`]; [`ChatError::NoDefault`]; as [`ChatTemplate::new`].
    pub fn choose(&self, name: Option<&str>, has_tools: bool) -> Result<ChatTemplate, ChatError> {
        let known = || self.names().collect::<Vec<_>>().join(", ");
        let find = |name: &str| self.templates.iter().find(|template| template.name == name);
        let chosen = match (name, self.templates.as_slice()) {
            (_, []) => return Err(ChatError::NoTemplate),
            (Some(name), _) => find(name).ok_or_else(|| ChatError::Name { name: name.to_owned(), known: known() })?,
            (None, [only]) => only,
            (None, _) => find(TOOL_USE)
                .filter(|_| has_tools)
                .or_else(|| find(DEFAULT))
                .ok_or_else(|| ChatError::NoDefault { known: known() })?,
        };
        ChatTemplate::new(chosen.origin.clone(), &chosen.source, self.tokens.clone())
    }

    fn read_files(&mut self, folder: &Path) -> Result<(), ChatError> {
        let file = folder.join(TEMPLATE_FILE);
        if file.is_file() {
            self.add(DEFAULT, file.display().to_string(), read_template(&file)?);
        }
        let more = folder.join(MORE_TEMPLATES);
        if !more.is_dir() {
            return Ok(());
        }
        let failed = |source| ChatError::Read { path: more.clone(), source };
        let mut paths = Vec::new();
        for entry in fs::read_dir(&more).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|end| end == "jinja") {
                if paths.len() == MAX_TEMPLATES {
                    return Err(too_many(more.display().to_string()));
                }
                paths.push(path);
            }
        }
        paths.sort();
        for path in paths {
            if let Some(name) = path.file_stem().and_then(|name| name.to_str()) {
                self.add(name, path.display().to_string(), read_template(&path)?);
            }
        }
        Ok(())
    }

    fn read_tokenizer_config(&mut self, path: &Path) -> Result<(), ChatError> {
        let config = read_json(path)?;
        let wrong =
            |field: &str, expected| ChatError::Field { path: path.to_owned(), field: field.to_owned(), expected };
        for name in TOKEN_NAMES {
            match config.get(name) {
                None | Some(Value::Null) => {}
                Some(Value::String(token)) => self.set_token(name, token),
                Some(token) => {
                    let content = token.get("content").and_then(Value::as_str);
                    self.set_token(name, content.ok_or_else(|| wrong(name, "a text or an object with `content`"))?);
                }
            }
        }
        if !self.is_empty() {
            return Ok(());
        }
        let origin = |field: &str| format!("{}: {field}", path.display());
        match config.get("chat_template") {
            None | Some(Value::Null) => {}
            Some(Value::String(source)) => self.add(DEFAULT, origin("chat_template"), source),
            Some(Value::Array(named)) => {
                if named.len() > MAX_TEMPLATES {
                    return Err(too_many(origin("chat_template")));
                }
                for (i, template) in named.iter().enumerate() {
                    let text = |key: &str| {
                        let field = format!("chat_template[{i}].{key}");
                        template.get(key).and_then(Value::as_str).ok_or_else(|| wrong(&field, "a text"))
                    };
                    let name = text("name")?;
                    self.add(name, origin(&format!("chat_template[{i}], {name:?}")), text("template")?);
                }
            }
            Some(_) => {
                return Err(wrong("chat_template", "a text, or a list of objects with name and template"));
            }
        }
        Ok(())
    }
}

fn too_many(place: String) -> ChatError {
    ChatError::TooMany { place, max: MAX_TEMPLATES }
}

/// The text of a template file of at most [`MAX_TEMPLATE_BYTES`].
fn read_template(path: &Path) -> Result<String, ChatError> {
    let mut bytes = Vec::new();
    // One byte over the limit is enough to know that the file is too large.
    let read = File::open(path).and_then(|file| file.take(MAX_TEMPLATE_BYTES as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|source| ChatError::Read { path: path.to_owned(), source })?;
    if bytes.len() > MAX_TEMPLATE_BYTES {
        let origin = path.display().to_string();
        return Err(ChatError::TooLarge { origin, bytes: bytes.len(), max: MAX_TEMPLATE_BYTES });
    }
    let text = without_byte_order_mark(&bytes);
    let not_utf8 = |error: std::str::Utf8Error| {
        let offset = bytes.len() - text.len() + error.valid_up_to();
        ChatError::NotUtf8 { path: path.to_owned(), offset }
    };
    // Python opens text files so that every kind of line end becomes a line feed.
    Ok(std::str::from_utf8(text).map_err(not_utf8)?.replace("\r\n", "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::{ChatInput, Json};

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(MORE_TEMPLATES)).unwrap();
        files.iter().for_each(|(name, text)| fs::write(dir.path().join(name), text).unwrap());
        dir
    }

    fn render(templates: &ChatTemplates, name: Option<&str>, has_tools: bool) -> String {
        let messages = [Json::message("user", "hi")];
        let input = ChatInput { messages: &messages, ..ChatInput::default() };
        templates.choose(name, has_tools).unwrap().render(&input).unwrap()
    }

    #[test]
    fn templates_are_found_in_every_place() {
        let config = r#"{"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>", "pad_token": null,
            "chat_template": "{{ bos_token }}{{ pad_token }}config"}"#;
        let none = folder(&[(TOKENIZER_CONFIG_FILE, r#"{"model_max_length": 1e30}"#)]);
        let found = ChatTemplates::from_folder(none.path()).unwrap();
        assert!(found.is_empty() && matches!(found.choose(None, false), Err(ChatError::NoTemplate)));
        assert_eq!(ChatTemplates::from_folder(folder(&[]).path()).unwrap(), ChatTemplates::new());

        let plain = folder(&[(TOKENIZER_CONFIG_FILE, config)]);
        assert_eq!(render(&ChatTemplates::from_folder(plain.path()).unwrap(), None, true), "<s>config");

        let file = folder(&[(TOKENIZER_CONFIG_FILE, config), (TEMPLATE_FILE, "\u{feff}{{ eos_token }}\r\nfile\n")]);
        let found = ChatTemplates::from_folder(file.path()).unwrap();
        assert_eq!(render(&found, None, false), "</s>\nfile");
        assert_eq!(found.choose(None, false).unwrap().token("bos_token"), Some("<s>"));

        let list =
            r#"{"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]}"#;
        let named = folder(&[(TOKENIZER_CONFIG_FILE, list)]);
        let found = ChatTemplates::from_folder(named.path()).unwrap();
        assert_eq!(
            [(None, false), (None, true), (Some("tool_use"), false)].map(|(n, t)| render(&found, n, t)),
            ["d", "t", "t"]
        );
        let error = found.choose(Some("rag"), false).unwrap_err().to_string();
        assert!(error.contains("\"rag\"") && error.contains("default, tool_use"), "{error}");

        let more = folder(&[(TEMPLATE_FILE, "d"), ("additional_chat_templates/rag.jinja", "r")]);
        let found = ChatTemplates::from_folder(more.path()).unwrap();
        assert_eq!([render(&found, None, true), render(&found, Some("rag"), true)], ["d", "r"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, text, word) in [
            (TOKENIZER_CONFIG_FILE, r#"{"chat_template": 7}"#, "`chat_template` must be a text"),
            (TOKENIZER_CONFIG_FILE, r#"{"chat_template": [{"name": "x"}]}"#, "`chat_template[0].template`"),
            (TOKENIZER_CONFIG_FILE, r#"{"chat_template": ["x"]}"#, "`chat_template[0].name`"),
            (TOKENIZER_CONFIG_FILE, r#"{"bos_token": 1}"#, "`bos_token` must be"),
            (TOKENIZER_CONFIG_FILE, r#"{"bos_token": {"content": 1}}"#, "`bos_token` must be"),
            (TOKENIZER_CONFIG_FILE, "{\"a\": 1,\n\"a\": 2}", "line 2"),
            (TOKENIZER_CONFIG_FILE, &"[".repeat(1000), TOKENIZER_CONFIG_FILE),
            (TEMPLATE_FILE, &" ".repeat(MAX_TEMPLATE_BYTES + 1), "at most 1048576"),
            (TEMPLATE_FILE, "a\n{% if %}", "chat_template.jinja: line 2"),
            (TOKENIZER_CONFIG_FILE, r#"{"chat_template": "a\n\n{{ x "}"#, "chat_template: line 3"),
        ] {
            let dir = folder(&[(name, text)]);
            let error = ChatTemplates::from_folder(dir.path()).and_then(|found| found.choose(None, false));
            let error = error.unwrap_err().to_string();
            assert!(error.contains(word) && error.contains(name), "{error}");
        }
        let dir = folder(&[]);
        fs::write(dir.path().join(TEMPLATE_FILE), b"ab\xff").unwrap();
        let error = ChatTemplates::from_folder(dir.path()).unwrap_err().to_string();
        assert!(error.contains("byte offset 2"), "{error}");
        let mut found = ChatTemplates::new();
        found.add("a", "a", "");
        found.add("b", "b", "");
        assert!(found.choose(None, true).unwrap_err().to_string().contains("a, b"));
    }

    #[test]
    fn the_only_template_is_taken_whatever_its_name() {
        let mut found = ChatTemplates::new();
        found.add(TOOL_USE, "a", "t");
        assert_eq!([render(&found, None, false), render(&found, None, true)], ["t", "t"]);
        assert_eq!(found.default_source(), Some("t"));
    }

    #[test]
    fn there_are_as_many_templates_as_there_may_be_and_no_more() {
        for (count, fits) in [(MAX_TEMPLATES, true), (MAX_TEMPLATES + 1, false)] {
            let dir = folder(&[]);
            (0..count).for_each(|i| fs::write(dir.path().join(MORE_TEMPLATES).join(format!("{i}.jinja")), "").unwrap());
            // What is no template does not count.
            fs::write(dir.path().join(MORE_TEMPLATES).join("notes.txt"), "").unwrap();
            let of_files = ChatTemplates::from_folder(dir.path());

            let named: Vec<Value> = (0..count).map(|i| json!({ "name": i.to_string(), "template": "" })).collect();
            let list = folder(&[(TOKENIZER_CONFIG_FILE, &json!({ "chat_template": named }).to_string())]);
            let of_list = ChatTemplates::from_folder(list.path());

            let mut many = ChatTemplates::new();
            (0..count).for_each(|i| many.add(&i.to_string(), "", ""));
            let mut writer = GgufWriter::new();
            many.write_gguf(&mut writer).unwrap();
            let mut bytes = Vec::new();
            writer.write_to(&mut bytes).unwrap();
            let header = smallmind_checkpoint::parse_gguf_header(Path::new("x"), &bytes).unwrap();
            let of_metadata = ChatTemplates::from_gguf(&header.metadata);

            for (found, place) in [(of_files, MORE_TEMPLATES), (of_list, TOKENIZER_CONFIG_FILE), (of_metadata, KEY)] {
                match found {
                    Ok(found) => assert!(fits && found.names().count() == count, "{place}"),
                    Err(error) => {
                        let error = error.to_string();
                        assert!(!fits && error.contains("more than 64") && error.contains(place), "{error}");
                    }
                }
            }
        }
    }
}
