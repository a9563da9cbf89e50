//! Generating a story: draws plot, frame and cast, then a wording for each passage of the plot.

use super::cast::{Cast, World};
use super::grammar::{CastSlot, Frame, Grammar, Node, Passage, Plot, Slot, Template};
use crate::random::SplitMix64;

/// A story without its wording: plot, frame and cast.
pub(super) struct Outline<'a> {
    pub(super) plot: &'a Plot,
    pub(super) frame: &'a Frame,
    pub(super) cast: Cast,
}

impl<'a> Outline<'a> {
    /// Draws plot, frame, world and cast; `None` only for a grammar without plots.
    pub(super) fn draw(grammar: &'a Grammar, rng: &mut SplitMix64) -> Option<Self> {
        let plot = rng.pick(&grammar.plots)?;
        let frame = rng.pick(&plot.frames)?;
        let world = *rng.pick(&frame.worlds)?;
        Some(Self { plot, frame, cast: Cast::draw(world, rng) })
    }

    /// The text of the story. A space separates sentences, a line feed separates paragraphs.
    pub(super) fn text(&self, grammar: &Grammar, rng: &mut SplitMix64) -> String {
        let mut writer = Writer { outline: self, grammar, rng, out: String::with_capacity(1024), friend_known: false };
        let mut separator = "";
        for passage in &self.plot.passages {
            match passage {
                Passage::Break => separator = "\n",
                Passage::Say(wordings) => {
                    let before = writer.out.len();
                    writer.out.push_str(separator);
                    let start = writer.out.len();
                    writer.one_of(wordings);
                    let end = writer.out.trim_end_matches(' ').len();
                    writer.out.truncate(end);
                    if writer.out.len() <= start {
                        writer.out.truncate(before);
                    } else {
                        separator = " ";
                    }
                }
            }
        }
        writer.out
    }
}

struct Writer<'a> {
    outline: &'a Outline<'a>,
    grammar: &'a Grammar,
    rng: &'a mut SplitMix64,
    out: String,
    /// Whether the friend has been introduced.
    friend_known: bool,
}

impl Writer<'_> {
    /// Writes one of the wordings. The recursion ends, since values of frames have no keys and phrases use only earlier
    /// phrases.
    fn one_of(&mut self, wordings: &[Template]) {
        if let Some(template) = self.rng.pick(wordings) {
            self.write(template);
        }
    }

    fn write(&mut self, template: &Template) {
        for node in &template.0 {
            match node {
                Node::Text(text) => self.push(text),
                Node::Choice(wordings) => self.one_of(wordings),
                &Node::Hole { slot, article, capital } => {
                    let start = self.out.len();
                    self.fill(slot);
                    if article {
                        self.put_article(start);
                    }
                    if capital && let Some(first) = self.out.get_mut(start..start + 1) {
                        first.make_ascii_uppercase();
                    }
                }
            }
        }
    }

    /// Appends text without doubling a space.
    fn push(&mut self, text: &str) {
        let doubled = self.out.is_empty() || self.out.ends_with([' ', '\n']);
        self.out.push_str(if doubled { text.trim_start_matches(' ') } else { text });
    }

    /// Puts "a" or "an" before the word at `start`, by its first letter. A test checks that the grammar has no word
    /// whose first sound differs from its letter ("hour", "unicorn").
    fn put_article(&mut self, start: usize) {
        let vowel = self.out.get(start..).is_some_and(|noun| noun.starts_with(['a', 'e', 'i', 'o', 'u']));
        self.out.insert_str(start, if vowel { "an " } else { "a " });
    }

    fn fill(&mut self, slot: Slot) {
        // References with the lifetimes of the grammar and the plot, not of `self`.
        let (outline, grammar) = (self.outline, self.grammar);
        match slot {
            Slot::Key(key) => {
                if let Some(value) = outline.frame.values.get(key) {
                    self.write(value);
                }
            }
            Slot::Phrase(phrase) => {
                if let Some(wordings) = grammar.phrases.get(phrase) {
                    self.one_of(wordings);
                }
            }
            Slot::Cast(CastSlot::FriendKnown) => self.known_friend(),
            Slot::Cast(slot) => {
                self.friend_known |= slot == CastSlot::Friend;
                self.push(cast_text(&outline.cast, slot));
            }
        }
    }

    fn known_friend(&mut self) {
        let Cast { world, gender, friend, .. } = &self.outline.cast;
        if !self.friend_known {
            self.push(gender.his());
            self.push(" friend ");
        }
        self.push(friend.name);
        if !self.friend_known && *world != World::Children {
            self.push(" the ");
            self.push(friend.kind);
        }
        self.friend_known = true;
    }
}

fn cast_text(cast: &Cast, slot: CastSlot) -> &'static str {
    match slot {
        CastSlot::Name => cast.hero.name,
        CastSlot::He => cast.gender.he(),
        CastSlot::Him => cast.gender.him(),
        CastSlot::His => cast.gender.his(),
        CastSlot::Himself => cast.gender.himself(),
        CastSlot::Kind => cast.hero.kind,
        CastSlot::Trait => cast.trait_,
        CastSlot::Home => cast.home,
        CastSlot::Friend | CastSlot::FriendKnown => cast.friend.name,
        CastSlot::FriendKind => cast.friend.kind,
        CastSlot::Elder => cast.elder,
        CastSlot::At => cast.place.at,
        CastSlot::To => cast.place.to,
        CastSlot::Spot(i) => cast.spots.get(i).copied().unwrap_or_default(),
        CastSlot::Hobby(i) => cast.hobbies.get(i).copied().unwrap_or_default(),
        CastSlot::Trail(i) => cast.trails.get(i).copied().unwrap_or_default(),
        CastSlot::Goal => cast.goal,
        CastSlot::Tiny => cast.tiny,
        CastSlot::Color => cast.color,
        CastSlot::Weather => cast.weather,
    }
}
