//! Commands of a conversation: lines that begin with `/`.

use std::path::PathBuf;

use super::super::failure::usage;

/// What the commands do.
pub const HELP: &str = "\
/help              this list
/clear             forget the conversation, but not the system prompt
/system TEXT       set the system prompt; without a text, remove it
/set NAME VALUE    temperature, top_k, top_p, min_p, … of the sampling; seed, tokens, thinking on|off, speed on|off
/save FILE         write the conversation as JSON; /save --overwrite FILE replaces a file
/load FILE         read a conversation
/regen             answer the latest question again
/stats             tokens, room and speed so far
/profile           measure where the time of this model goes
/quit              end, as Ctrl-D does
A line that ends with \\ goes on in the next one; \"\"\" begins and ends a text of several lines.
A question that begins with / is written with //. Ctrl-C stops an answer.";

/// A command.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// `/help`
    Help,
    /// `/clear`
    Clear,
    /// `/system`
    System(Option<String>),
    /// `/set`; without a name all settings are shown.
    Set(Option<(String, String)>),
    /// `/save`
    Save {
        /// The file.
        file: PathBuf,
        /// Whether it may replace another.
        overwrite: bool,
    },
    /// `/load`
    Load(PathBuf),
    /// `/regen`
    Regenerate,
    /// `/stats`
    Stats,
    /// `/profile`
    Profile,
    /// `/quit`
    Quit,
}

impl Command {
    /// The command in a text; `None` for a question.
    ///
    /// # Errors
    /// An unknown command, and one that lacks what it needs.
    pub fn parse(text: &str) -> anyhow::Result<Option<Self>> {
        let Some(command) = text.strip_prefix('/').filter(|rest| !rest.starts_with('/')) else { return Ok(None) };
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        let file = |rest: &str| match rest {
            "" => Err(usage(format!("/{name} takes the name of a file"))),
            file => Ok(PathBuf::from(file)),
        };
        let parsed = match name {
            "system" => Self::System(Some(rest).filter(|text| !text.is_empty()).map(str::to_owned)),
            "set" if rest.is_empty() => Self::Set(None),
            "set" => {
                let pair = rest.split_once(char::is_whitespace);
                let (name, value) = pair.ok_or_else(|| usage("/set takes a name and a value"))?;
                Self::Set(Some((name.to_owned(), value.trim().to_owned())))
            }
            "save" => {
                let flagged = rest.strip_prefix("--overwrite").filter(|rest| rest.is_empty() || rest.starts_with(' '));
                Self::Save { file: file(flagged.unwrap_or(rest).trim())?, overwrite: flagged.is_some() }
            }
            "load" => Self::Load(file(rest)?),
            _ if !rest.is_empty() => {
                return Err(usage(format!("/{name} is no command that takes something; see /help")));
            }
            "help" | "?" => Self::Help,
            "clear" => Self::Clear,
            "regen" => Self::Regenerate,
            "stats" => Self::Stats,
            "profile" => Self::Profile,
            "quit" | "exit" | "bye" => Self::Quit,
            _ => return Err(usage(format!("there is no command /{name}; see /help"))),
        };
        Ok(Some(parsed))
    }
}

/// The question in a text that is no command.
pub fn question(text: &str) -> &str {
    if text.starts_with("//") { &text[1..] } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_questions() {
        let parse = |text: &str| Command::parse(text).map_err(|error| error.to_string());
        assert_eq!(parse("what is /help?"), Ok(None));
        assert_eq!((parse("//usr/bin"), question("//usr/bin"), question("a")), (Ok(None), "/usr/bin", "a"));
        assert_eq!(parse("/help"), Ok(Some(Command::Help)));
        assert_eq!(parse("/system  Be brief.\nVery. "), Ok(Some(Command::System(Some("Be brief.\nVery.".into())))));
        assert_eq!(parse("/system"), Ok(Some(Command::System(None))));
        assert_eq!(parse("/set temp  0.5"), Ok(Some(Command::Set(Some(("temp".into(), "0.5".into()))))));
        assert_eq!(parse("/set"), Ok(Some(Command::Set(None))));
        let save = |file: &str, overwrite| Ok(Some(Command::Save { file: file.into(), overwrite }));
        assert_eq!(parse("/save my talk.json"), save("my talk.json", false));
        assert_eq!(parse("/save --overwrite  my talk.json"), save("my talk.json", true));
        assert_eq!(parse("/save --overwrites"), save("--overwrites", false));
        for (text, word) in [
            ("/nothing", "/nothing"),
            ("/save", "file"),
            ("/save --overwrite", "file"),
            ("/set temp", "value"),
            ("/clear all", "/clear"),
        ] {
            assert!(parse(text).unwrap_err().contains(word), "{text}");
        }
    }
}
