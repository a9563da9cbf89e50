//! Tags of transformers that Jinja itself does not have.
//!
//! `{% generation %} … {% endgeneration %}` marks what the model wrote, for masks in training. For text it is a block
//! with a scope of its own, as `{% with %} … {% endwith %}` is, and is turned into that.

use std::borrow::Cow;

/// A template with each tag `generation` as `with`. Line numbers stay.
pub(super) fn translate(source: &str) -> Cow<'_, str> {
    if !source.contains("generation") {
        return source.into();
    }
    let (mut out, mut rest) = (String::with_capacity(source.len()), source);
    while let Some(at) = rest.find("{") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let end = match tag.as_bytes().get(1) {
            Some(b'#') => end_of_comment(tag),
            Some(b'{') => end_of_code(tag, "}}"),
            Some(b'%') => end_of_code(tag, "%}"),
            _ => 1,
        };
        let end = if tag.starts_with("{%") && word_of(tag) == "raw" { end_of_raw(tag, end) } else { end };
        let (tag, after) = tag.split_at(end);
        match word_of(tag) {
            "generation" => out.push_str(&tag.replacen("generation", "with", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endwith", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out.into()
}

/// The first word of a tag; empty if it is none.
fn word_of(tag: &str) -> &str {
    let Some(inside) = tag.strip_prefix("{%") else { return "" };
    let inside = inside.strip_prefix(['-', '+']).unwrap_or(inside).trim_start();
    inside.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

/// The length of the comment that `text` begins with.
fn end_of_comment(text: &str) -> usize {
    text.find("#}").map_or(text.len(), |at| at + 2)
}

/// The length of the tag that `text` begins with, whose strings may hold `mark`.
fn end_of_code(text: &str, mark: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if text[at..].starts_with(mark) => return at + mark.len(),
            None => {}
        }
    }
    text.len()
}

/// The length of a raw block, whose first tag has `first` bytes.
fn end_of_raw(text: &str, first: usize) -> usize {
    let mut at = first;
    while let Some(next) = text[at..].find("{%") {
        at += next;
        let end = at + end_of_code(&text[at..], "%}");
        if word_of(&text[at..]) == "endraw" {
            return end;
        }
        at += 2;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tags_are_translated() {
        for (source, expected) in [
            ("{% generation %}x{% endgeneration %}", "{% with %}x{% endwith %}"),
            ("{%- generation -%}\n{%+endgeneration\n%}", "{%- with -%}\n{%+endwith\n%}"),
            ("{{ 'a}}{% generation %}' }} generation", "{{ 'a}}{% generation %}' }} generation"),
            ("{# {% generation %} #}{% generation %}", "{# {% generation %} #}{% with %}"),
            (
                "{% raw %}{% generation %}{% endraw %}{% generation %}",
                "{% raw %}{% generation %}{% endraw %}{% with %}",
            ),
            ("{% if add_generation_prompt %}", "{% if add_generation_prompt %}"),
            ("{% set generation = 1 %}{%", "{% set generation = 1 %}{%"),
            ("{ generation {% generation", "{ generation {% with"),
            ("{% set x = \"\\\"%}{% generation %}\" %}", "{% set x = \"\\\"%}{% generation %}\" %}"),
        ] {
            assert_eq!(translate(source), expected);
        }
        assert!(matches!(translate("{{ x }}"), Cow::Borrowed(_)));
    }
}
