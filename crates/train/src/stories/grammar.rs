//! The story grammar: plots written as plain text (`plots/*.txt`), parsed once into templates.
//!
//! The format is described at the beginning of `plots/shared.txt` (phrases, slots) and `plots/friends.txt` (plots).
//! Parsing is strict: an unknown slot, a missing value of a frame or an open bracket is an error with file and line.

use super::cast::World;
use std::fmt;

/// All plots and the phrases that they share.
#[derive(Debug)]
pub(super) struct Grammar {
    pub(super) plots: Vec<Plot>,
    /// Wordings of each `@phrase`.
    pub(super) phrases: Vec<Vec<Template>>,
}

/// A course of events.
#[derive(Debug)]
pub(super) struct Plot {
    pub(super) title: &'static str,
    pub(super) frames: Vec<Frame>,
    pub(super) passages: Vec<Passage>,
}

/// Values of a plot's keys that fit together.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) worlds: Vec<World>,
    pub(super) values: Vec<Template>,
}

#[derive(Debug)]
pub(super) enum Passage {
    /// A new paragraph.
    Break,
    /// One of these wordings.
    Say(Vec<Template>),
}

/// A text with holes, which are called slots.
#[derive(Clone, Debug, Default)]
pub(super) struct Template(pub(super) Vec<Node>);

#[derive(Clone, Debug)]
pub(super) enum Node {
    Text(&'static str),
    Hole { slot: Slot, article: bool, capital: bool },
    Choice(Vec<Template>),
}

/// What fills a hole.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slot {
    /// A value of the frame.
    Key(usize),
    /// A phrase of `shared.txt`.
    Phrase(usize),
    /// Something of the cast.
    Cast(CastSlot),
}

/// The holes that the cast fills. Names as in the grammar files: `{n}`, `{he}`, `{fk}` …
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CastSlot {
    /// `{n}`: the hero's name.
    Name,
    He,
    Him,
    His,
    Himself,
    /// `{kind}`: "girl", "fox".
    Kind,
    Trait,
    Home,
    /// `{f}`: the friend's name.
    Friend,
    /// `{fk}`: "his friend Mia" or "her friend Tom the duck" at the first mention, the name alone from then on.
    FriendKnown,
    FriendKind,
    /// `{e}`: "Mom", "Old Owl".
    Elder,
    At,
    To,
    /// `{s1}`, `{s2}`, `{s3}`: spots of the place where a thing can be searched.
    Spot(usize),
    Hobby(usize),
    Trail(usize),
    Goal,
    Tiny,
    Color,
    Weather,
}

impl CastSlot {
    fn of_name(name: &str) -> Option<Self> {
        Some(match name {
            "n" => Self::Name,
            "he" => Self::He,
            "him" => Self::Him,
            "his" => Self::His,
            "himself" => Self::Himself,
            "kind" => Self::Kind,
            "trait" => Self::Trait,
            "home" => Self::Home,
            "f" => Self::Friend,
            "fk" => Self::FriendKnown,
            "fkind" => Self::FriendKind,
            "e" => Self::Elder,
            "at" => Self::At,
            "to" => Self::To,
            "s1" => Self::Spot(0),
            "s2" => Self::Spot(1),
            "s3" => Self::Spot(2),
            "hobby" => Self::Hobby(0),
            "hobby2" => Self::Hobby(1),
            "trail" => Self::Trail(0),
            "trail2" => Self::Trail(1),
            "goal" => Self::Goal,
            "tiny" => Self::Tiny,
            "color" => Self::Color,
            "weather" => Self::Weather,
            _ => return None,
        })
    }
}

/// A mistake in a grammar file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GrammarError {
    file: &'static str,
    line: usize,
    reason: String,
}

impl fmt::Display for GrammarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.reason)
    }
}

/// Parses grammar files, given as (name, text) in an order in which phrases come before the plots that use them.
pub(super) fn parse(files: &[(&'static str, &'static str)]) -> Result<Grammar, GrammarError> {
    let mut parser = Parser::default();
    for &(file, text) in files {
        parser.section = Section::Nothing;
        for (number, line) in text.lines().enumerate() {
            parser.line(line).map_err(|reason| GrammarError { file, line: number + 1, reason })?;
        }
        parser.finish().map_err(|reason| GrammarError { file, line: text.lines().count(), reason })?;
    }
    Ok(Grammar { plots: parser.plots, phrases: parser.phrases })
}

/// The section to which lines belong.
#[derive(Default, PartialEq)]
enum Section {
    #[default]
    Nothing,
    Phrase,
    Plot,
}

#[derive(Default)]
struct Parser {
    plots: Vec<Plot>,
    phrases: Vec<Vec<Template>>,
    phrase_names: Vec<&'static str>,
    keys: Vec<&'static str>,
    section: Section,
}

impl Parser {
    fn line(&mut self, line: &'static str) -> Result<(), String> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        if let Some(name) = line.strip_prefix('@') {
            self.finish()?;
            // A phrase becomes known when it is complete, so it cannot use itself.
            self.section = Section::Phrase;
            self.phrases.push(Vec::new());
            self.keys.clear();
            self.phrase_names.push(name);
            return Ok(());
        }
        if let Some(title) = line.strip_prefix("== ") {
            self.finish()?;
            self.section = Section::Plot;
            self.keys.clear();
            self.plots.push(Plot { title, frames: Vec::new(), passages: Vec::new() });
            return Ok(());
        }
        match self.section {
            Section::Nothing => Err(String::from("a line before the first @phrase or == plot")),
            Section::Phrase => {
                let text = line.strip_prefix('|').ok_or("a wording must begin with |")?;
                let template = self.template(text.trim())?;
                self.phrases.last_mut().ok_or("no phrase")?.push(template);
                Ok(())
            }
            Section::Plot => self.plot_line(line),
        }
    }

    fn plot_line(&mut self, line: &'static str) -> Result<(), String> {
        if let Some(keys) = line.strip_prefix("keys: ") {
            self.keys = keys.split_whitespace().collect();
            return Ok(());
        }
        let passage = if line == "---" {
            Passage::Break
        } else if let Some(text) = line.strip_prefix('-') {
            Passage::Say(vec![self.template(text.trim())?])
        } else if let Some(text) = line.strip_prefix('|') {
            let template = self.template(text.trim())?;
            return match self.plots.last_mut().and_then(|plot| plot.passages.last_mut()) {
                Some(Passage::Say(wordings)) => {
                    wordings.push(template);
                    Ok(())
                }
                _ => Err(String::from("| without a step before it")),
            };
        } else {
            let frame = self.frame(line)?;
            self.plots.last_mut().ok_or("no plot")?.frames.push(frame);
            return Ok(());
        };
        self.plots.last_mut().ok_or("no plot")?.passages.push(passage);
        Ok(())
    }

    fn frame(&self, line: &'static str) -> Result<Frame, String> {
        let (letters, values) = line.split_once(": ").ok_or("neither a step nor a frame")?;
        let worlds: Option<Vec<World>> = letters.chars().map(World::of_letter).collect();
        let worlds = worlds.filter(|w| !w.is_empty()).ok_or_else(|| format!("unknown world in {letters:?}"))?;
        // Values are parsed without keys: a frame cannot refer to itself.
        let values =
            values.split(';').map(|text| self.template_with(text.trim(), &[])).collect::<Result<Vec<_>, _>>()?;
        if values.len() != self.keys.len() {
            return Err(format!("{} values for {} keys", values.len(), self.keys.len()));
        }
        Ok(Frame { worlds, values })
    }

    /// Checks that the section that ends here is complete.
    fn finish(&mut self) -> Result<(), String> {
        match self.section {
            Section::Nothing => Ok(()),
            Section::Phrase if self.phrases.last().is_some_and(|p| p.is_empty()) => {
                Err(String::from("a phrase without wordings"))
            }
            Section::Plot if self.plots.last().is_some_and(|p| p.frames.is_empty() || p.passages.is_empty()) => {
                Err(String::from("a plot without frames or steps"))
            }
            Section::Phrase | Section::Plot => Ok(()),
        }
    }

    fn template(&self, text: &'static str) -> Result<Template, String> {
        self.template_with(text, &self.keys)
    }

    fn template_with(&self, text: &'static str, keys: &[&str]) -> Result<Template, String> {
        let mut rest = text;
        let template = self.sequence(&mut rest, keys)?;
        if rest.is_empty() { Ok(template) } else { Err(format!("unexpected {rest:?}")) }
    }

    /// Nodes up to the end of the text, or up to a `|` or `]` without an opening `[`, which stays in `rest`.
    fn sequence(&self, rest: &mut &'static str, keys: &[&str]) -> Result<Template, String> {
        let mut nodes = Vec::new();
        while let Some(next) = rest.chars().next() {
            match next {
                '|' | ']' => break,
                '{' => {
                    let (hole, tail) = rest[1..].split_once('}').ok_or("an open {")?;
                    nodes.push(self.hole(hole, keys)?);
                    *rest = tail;
                }
                '[' => {
                    let mut choices = Vec::new();
                    loop {
                        *rest = &rest[1..];
                        choices.push(self.sequence(rest, keys)?);
                        match rest.chars().next() {
                            Some('|') => {}
                            Some(_) => break,
                            None => return Err(String::from("an open [")),
                        }
                    }
                    *rest = &rest[1..];
                    nodes.push(Node::Choice(choices));
                }
                _ => {
                    let end = rest.find(['{', '[', '|', ']']).unwrap_or(rest.len());
                    let (text, tail) = rest.split_at(end);
                    nodes.push(Node::Text(text));
                    *rest = tail;
                }
            }
        }
        Ok(Template(nodes))
    }

    fn hole(&self, name: &str, keys: &[&str]) -> Result<Node, String> {
        let (article, name) = match name.strip_prefix("a ") {
            Some(noun) => (true, noun),
            None => (false, name),
        };
        let lower = name.to_ascii_lowercase();
        let capital = lower != name;
        // The last phrase is still being parsed and can't be used yet.
        let complete = self.phrase_names.len() - usize::from(self.section == Section::Phrase);
        let phrases = self.phrase_names.get(..complete).unwrap_or_default();
        let slot = if let Some(key) = keys.iter().position(|&key| key == lower) {
            Slot::Key(key)
        } else if let Some(phrase) = phrases.iter().position(|&phrase| phrase == lower) {
            Slot::Phrase(phrase)
        } else {
            Slot::Cast(CastSlot::of_name(&lower).ok_or_else(|| format!("nothing fills {{{name}}}"))?)
        };
        Ok(Node::Hole { slot, article, capital })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(text: &'static str) -> String {
        parse(&[("t", text)]).unwrap_err().to_string()
    }

    #[test]
    fn mistakes_are_reported_with_their_line() {
        assert_eq!(reason("hello"), "t:1: a line before the first @phrase or == plot");
        assert_eq!(reason("@p\n| {nobody}"), "t:2: nothing fills {nobody}");
        assert_eq!(reason("@p\n| {p}"), "t:2: nothing fills {p}");
        assert_eq!(reason("@p\n| [one|two"), "t:2: an open [");
        assert_eq!(reason("@p\n| {n"), "t:2: an open {");
        assert_eq!(reason("@p\n| one]"), "t:2: unexpected \"]\"");
        assert_eq!(reason("@p\n== a\nkeys: x\nc: 1\n- {x}"), "t:2: a phrase without wordings");
        assert_eq!(reason("== a\nkeys: x y\nc: 1"), "t:3: 1 values for 2 keys");
        assert_eq!(reason("== a\nkeys: x\nq: 1"), "t:3: unknown world in \"q\"");
        assert_eq!(reason("== a\nkeys: x\nc: {x}"), "t:3: nothing fills {x}");
        assert_eq!(reason("== a\n| text"), "t:2: | without a step before it");
        assert_eq!(reason("== a\nkeys: x\nc: 1\n"), "t:3: a plot without frames or steps");
    }

    #[test]
    fn a_plot_is_read() {
        let grammar =
            parse(&[("t", "@p\n| so\n|\n== a\nkeys: x\ncf: 1 {p}\n- {X} [a|{n} b|]\n| two\n---\n- end")]).unwrap();
        assert_eq!(grammar.phrases[0].len(), 2);
        let plot = &grammar.plots[0];
        assert_eq!((plot.title, plot.frames[0].worlds.len(), plot.passages.len()), ("a", 2, 3));
        let Passage::Say(wordings) = &plot.passages[0] else { panic!("a passage of text expected") };
        assert!(matches!(wordings[0].0[0], Node::Hole { slot: Slot::Key(0), article: false, capital: true }));
        assert!(matches!(&wordings[0].0[2], Node::Choice(c) if c.len() == 3 && c[2].0.is_empty()));
    }
}
