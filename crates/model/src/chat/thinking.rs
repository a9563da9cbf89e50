//! The text of an answer, parted into what the model thinks and what it says.

/// The tags around what a model thinks before it answers.
const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// A piece of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// What the model thinks.
    Thought(&'a str),
    /// What it says.
    Said(&'a str),
}

/// Where in an answer the next character stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At the beginning, where [`OPEN`] may stand.
    Start,
    /// Behind [`OPEN`].
    Inside,
    /// Behind [`CLOSE`], before the first character that is no blank.
    Behind,
    /// In what the model says.
    Said,
}

/// Parts the pieces of one answer. The tags, and blanks between them and what is said, are left out.
#[derive(Debug)]
pub(super) struct Thinking {
    place: Place,
    /// The end of the text so far, which may become a tag.
    held: String,
}

impl Thinking {
    /// For the answer to a prompt, which may end within the thoughts that the answer continues.
    pub(super) fn after(prompt: &str) -> Self {
        let place = if prompt.trim_end().ends_with(OPEN) { Place::Inside } else { Place::Start };
        Self { place, held: String::new() }
    }

    /// Takes the next piece of the answer; gives what is certain.
    pub(super) fn push(&mut self, text: &str, mut give: impl FnMut(Piece<'_>)) {
        self.held.push_str(text);
        loop {
            let held = std::mem::take(&mut self.held);
            match self.place {
                Place::Start => {
                    let begun = held.trim_start();
                    if let Some(rest) = begun.strip_prefix(OPEN) {
                        self.place = Place::Inside;
                        self.held.push_str(rest);
                    } else if OPEN.starts_with(begun) {
                        self.held = held;
                        return;
                    } else {
                        self.place = Place::Said;
                        self.held = held;
                    }
                }
                Place::Inside => match held.split_once(CLOSE) {
                    Some((thought, rest)) => {
                        some(Piece::Thought(thought), &mut give);
                        self.place = Place::Behind;
                        self.held.push_str(rest);
                    }
                    None => {
                        let (certain, open) = held.split_at(held.len() - open_end(&held));
                        some(Piece::Thought(certain), &mut give);
                        self.held.push_str(open);
                        return;
                    }
                },
                Place::Behind => {
                    let rest = held.trim_start();
                    if rest.is_empty() {
                        return;
                    }
                    self.place = Place::Said;
                    self.held.push_str(rest);
                }
                Place::Said => {
                    some(Piece::Said(&held), &mut give);
                    return;
                }
            }
        }
    }

    /// Ends the answer: gives what was held back.
    pub(super) fn finish(&mut self, mut give: impl FnMut(Piece<'_>)) {
        let held = std::mem::take(&mut self.held);
        match self.place {
            Place::Inside => some(Piece::Thought(&held), &mut give),
            _ => some(Piece::Said(&held), &mut give),
        }
    }
}

/// Gives a piece that is not empty.
fn some(piece: Piece<'_>, give: &mut impl FnMut(Piece<'_>)) {
    let (Piece::Thought(text) | Piece::Said(text)) = piece;
    if !text.is_empty() {
        give(piece);
    }
}

/// Bytes at the end of `text` that may begin [`CLOSE`].
fn open_end(text: &str) -> usize {
    (1..CLOSE.len()).rev().find(|&len| text.ends_with(&CLOSE[..len])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The thoughts and the rest of an answer that comes in pieces of `size` characters.
    fn parted(prompt: &str, answer: &str, size: usize) -> (String, String) {
        let mut thinking = Thinking::after(prompt);
        let (mut thought, mut said) = (String::new(), String::new());
        let mut give = |piece: Piece<'_>| match piece {
            Piece::Thought(text) => thought.push_str(text),
            Piece::Said(text) => said.push_str(text),
        };
        let characters: Vec<char> = answer.chars().collect();
        for piece in characters.chunks(size) {
            thinking.push(&piece.iter().collect::<String>(), &mut give);
        }
        thinking.finish(&mut give);
        (thought, said)
    }

    #[test]
    fn thoughts_are_parted_in_pieces_of_any_size() {
        for (prompt, answer, thought, said) in [
            ("", "hello", "", "hello"),
            ("", "\n<think>\na</b></think>\n\nx </think>", "\na</b>", "x </think>"),
            ("", " <thin", "", " <thin"),
            ("", "<think>never ends </thi", "never ends </thi", ""),
            ("", "x <think>y</think>", "", "x <think>y</think>"),
            ("<think>\n", "a</think>b", "a", "b"),
            ("<think></think>", "b", "", "b"),
            ("<think>", "</think>", "", ""),
            ("", "", "", ""),
        ] {
            for size in 1..answer.len().max(2) {
                assert_eq!(parted(prompt, answer, size), (thought.to_owned(), said.to_owned()), "{answer:?}, {size}");
            }
        }
    }
}
