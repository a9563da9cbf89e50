//! The blocks of a template, `{{ … }}` and `{% … %}`, cut as the engine's lexer cuts them, and how much code they may
//! hold.
//!
//! The engine parses, compiles and drops an expression by functions that call themselves once for each link of a chain
//! such as `x.a.a.a` or `1+1+1`, and once more for each `elif`. It counts brackets and nested statements, but not
//! links, so a long chain would overflow its stack. [`check`] bounds the chains before the engine sees a template.
//!
//! Not here: a parser. What is no Jinja is cut somehow and left to the engine, which says what is wrong with it.

/// The most bytes of code in a block. What stands inside of string literals doesn't count. Each link of a chain takes a
/// byte or more, so no expression has more links than this.
///
/// Fitted to the templates that llama.cpp collects in `models/templates`: the longest block of one has 294 bytes.
pub(super) const MAX_BLOCK_CODE: usize = 4096;
/// The most tags `elif` of a template. Fitted to the same templates, which have up to 20.
pub(super) const MAX_ELIFS: usize = 256;

/// Bytes of a mark such as `{{`.
const MARK: usize = 2;

/// A block: `{{ … }}` or a tag `{% … %}`. Comments and raw blocks are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block<'s> {
    /// Where it begins in the template, in bytes.
    pub start: usize,
    /// The whole block with its marks. One that is never closed goes to the end of the template.
    pub text: &'s str,
    /// The first word of a tag; empty for `{{ … }}`.
    pub word: &'s str,
    /// Bytes between the marks, without those inside of string literals.
    pub code: usize,
}

/// The blocks of a template, in order.
pub(super) fn blocks(source: &str) -> Blocks<'_> {
    Blocks { source, at: 0 }
}

/// The iterator of [`blocks`].
#[derive(Clone, Debug)]
pub(super) struct Blocks<'s> {
    source: &'s str,
    /// Where to go on, in bytes.
    at: usize,
}

impl<'s> Iterator for Blocks<'s> {
    type Item = Block<'s>;

    fn next(&mut self) -> Option<Block<'s>> {
        loop {
            let start = self.at + self.source[self.at..].find('{')?;
            let rest = &self.source[start..];
            let cut = match rest.as_bytes().get(1) {
                Some(b'{') => Cut::of(rest, b"}}"),
                Some(b'%') => match raw_len(rest) {
                    None => Cut::of(rest, b"%}"),
                    Some(len) => {
                        self.at = start + len;
                        continue;
                    }
                },
                Some(b'#') => {
                    self.at = start + comment_len(rest);
                    continue;
                }
                _ => {
                    self.at = start + 1;
                    continue;
                }
            };
            self.at = if cut.is_closed { start + cut.len } else { self.source.len() };
            let text = &rest[..cut.len];
            return Some(Block { start, text, word: word_of(text), code: cut.code });
        }
    }
}

/// Where a block ends.
struct Cut {
    /// Bytes of the block with its marks.
    len: usize,
    /// [`Block::code`].
    code: usize,
    /// Whether the engine reads on behind it. It doesn't if there is no end, or at a bracket that closes none: there
    /// its parser stops with an error.
    is_closed: bool,
}

impl Cut {
    /// Cuts the block that `text` begins with. Its `end` stands outside of strings and brackets.
    fn of(text: &str, end: &[u8; MARK]) -> Self {
        let bytes = text.as_bytes();
        let (mut at, mut code, mut open) = (MARK, 0, 0_usize);
        while let Some(&byte) = bytes.get(at) {
            if open == 0 && bytes[at..].starts_with(end) {
                return Self { len: at + MARK, code, is_closed: true };
            }
            (at, code) = (at + 1, code + 1);
            match byte {
                b'\'' | b'"' => (at, code) = (at + string_len(&bytes[at..], byte), code + 1),
                b'(' | b'[' | b'{' => open += 1,
                b')' | b']' | b'}' if open > 0 => open -= 1,
                b')' | b']' | b'}' => return Self { len: at, code, is_closed: false },
                _ => {}
            }
        }
        Self { len: text.len(), code, is_closed: false }
    }
}

/// The length of a string literal from behind its first quote, with the last one; all bytes if there is none.
fn string_len(bytes: &[u8], quote: u8) -> usize {
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 2,
            _ if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The length of the comment that `text` begins with.
fn comment_len(text: &str) -> usize {
    text[MARK..].find("#}").map_or(text.len(), |at| MARK + at + MARK)
}

/// The length of the raw block that `text` begins with, if it begins with one.
fn raw_len(text: &str) -> Option<usize> {
    let mut at = bare_tag_len(text, "raw")?;
    while let Some(next) = text[at..].find("{%") {
        at += next;
        if let Some(len) = bare_tag_len(&text[at..], "endraw") {
            return Some(at + len);
        }
        at += MARK;
    }
    Some(text.len())
}

/// The length of the tag that `text` begins with, if it is `name` and nothing else.
fn bare_tag_len(text: &str, name: &str) -> Option<usize> {
    let rest = inside_of_tag(text)?.strip_prefix(name)?;
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace());
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest).strip_prefix("%}")?;
    Some(text.len() - rest.len())
}

/// The first word of a tag; empty if `text` is no tag or begins with no word.
fn word_of(text: &str) -> &str {
    let inside = inside_of_tag(text).unwrap_or_default();
    let end = inside.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inside.len());
    &inside[..end]
}

/// A tag from its first word on.
fn inside_of_tag(text: &str) -> Option<&str> {
    let inside = text.strip_prefix("{%")?;
    let inside = inside.strip_prefix(['-', '+']).unwrap_or(inside);
    Some(inside.trim_start_matches(|c: char| c.is_ascii_whitespace()))
}

/// Why a template is not given to the engine.
#[derive(Debug)]
pub(super) struct Excess {
    /// The line of the block, from 1.
    pub line: usize,
    /// What is too much.
    pub problem: String,
}

/// Refuses a template with a block of more than [`MAX_BLOCK_CODE`] bytes, or with more than [`MAX_ELIFS`] `elif`.
pub(super) fn check(source: &str) -> Result<(), Excess> {
    let (mut line, mut counted, mut elifs) = (1, 0, 0);
    for block in blocks(source) {
        line += source[counted..block.start].matches('\n').count();
        counted = block.start;
        elifs += usize::from(block.word == "elif");
        if block.code > MAX_BLOCK_CODE {
            let bytes = block.code;
            let problem = format!("a block has {bytes} bytes of code outside of strings; it may have {MAX_BLOCK_CODE}");
            return Err(Excess { line, problem });
        }
        if elifs > MAX_ELIFS {
            return Err(Excess { line, problem: format!("the template has more than {MAX_ELIFS} tags `elif`") });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts of the blocks and their bytes of code.
    fn cut(source: &str) -> Vec<(&str, usize)> {
        blocks(source).map(|block| (block.text, block.code)).collect()
    }

    #[test]
    fn blocks_end_where_the_engine_ends_them() {
        for (source, expected) in [
            ("a { b } {", &[][..]),
            ("{{x}}{{ y }}", &[("{{x}}", 1), ("{{ y }}", 3)]),
            ("{%- set x = 1 -%} {%+ if x +%}", &[("{%- set x = 1 -%}", 13), ("{%+ if x +%}", 8)]),
            // The end inside of strings, after escapes and inside of brackets is none.
            (r#"{{ 'a}}' }}{{ "%}" }}"#, &[("{{ 'a}}' }}", 4), (r#"{{ "%}" }}"#, 4)]),
            (r"{{ 'a\'}}\\' }}b", &[(r"{{ 'a\'}}\\' }}", 4)]),
            (r#"{% if '"' == "'" %}"#, &[(r#"{% if '"' == "'" %}"#, 13)]),
            ("{{{'a':{'b':1}}}}{{2}}", &[("{{{'a':{'b':1}}}}", 11), ("{{2}}", 1)]),
            ("{{ {'a': [1, (2)]}['a'] %}}}", &[("{{ {'a': [1, (2)]}['a'] %}}", 21)]),
            // Comments and raw blocks are none.
            ("{# {{ a }} #}{#-#}{#}{{ b }}#}{{c}}", &[("{{c}}", 1)]),
            ("{% raw %}{{ a }}{% endraw x %}{%-endraw+%}{{b}}", &[("{{b}}", 1)]),
            ("{%- raw -%}{% if '{%- endraw -%}{{b}}", &[("{{b}}", 1)]),
            ("{% raw x %}{{b}}", &[("{% raw x %}", 7), ("{{b}}", 1)]),
            // What has no end goes to the end; nothing is read behind a bracket that closes none.
            ("{{ 'a }}{{ b }}", &[("{{ 'a }}{{ b }}", 3)]),
            (r"{{ 'a\", &[(r"{{ 'a\", 3)]),
            ("{{ (a {{ é", &[("{{ (a {{ é", 9)]),
            ("{{ (a }}{{ b }}", &[("{{ (a }}", 6)]),
            ("{% if ) %}{{ b }}", &[("{% if )", 5)]),
            ("{# {{ b }}", &[]),
            ("{% raw %}{{ b }}", &[]),
            ("{{", &[("{{", 0)]),
        ] {
            assert_eq!(cut(source), expected, "{source}");
        }
    }

    #[test]
    fn tags_have_a_first_word() {
        let words = |source| blocks(source).map(|block| block.word).collect::<Vec<_>>();
        assert_eq!(
            words("{%if a%}{%-\n elif b%}{%+else+%}{{ elif }}{% (a) %}{%%}"),
            ["if", "elif", "else", "", "", ""]
        );
        assert_eq!(words("{% elif_ %}{% 'elif' %}{% elif"), ["elif_", "", "elif"]);
    }

    #[test]
    fn code_is_counted_without_strings() {
        let line_of = |source: &str| check(source).map_err(|excess| excess.line).err();
        let expression = |code: usize| format!("\n\n{{# \n #}}{{{{{}}}}}", "-".repeat(code));
        assert_eq!(line_of(&expression(MAX_BLOCK_CODE)), None);
        assert_eq!(line_of(&expression(MAX_BLOCK_CODE + 1)), Some(4));
        let tag = |code: usize| format!("{{%{}%}}", " ".repeat(code));
        assert_eq!([line_of(&tag(MAX_BLOCK_CODE)), line_of(&tag(MAX_BLOCK_CODE + 1))], [None, Some(1)]);
        // Many short blocks are no long one, and text is no code.
        assert_eq!(line_of(&"{{ x }} - ".repeat(50_000)), None);
        for around in
            [["{{ '", "' }}"], ["{% set x = \"", "\" %}"], ["{#", "#}"], ["{% raw %}", "{% endraw %}"], ["", ""]]
        {
            let [before, after] = around;
            for inside in ["-", "}} %} ", "\\'\\\"", "{{ -", "é"] {
                let inside = inside.repeat(100_000 / inside.len());
                // Each of these ends before it is long.
                let is_block = before.is_empty() && inside.starts_with("{{");
                assert_eq!(line_of(&format!("{before}{inside}{after}")).is_some(), is_block, "{around:?} {inside:.9}");
            }
        }
    }

    #[test]
    fn elifs_are_counted_over_all_blocks() {
        let line_of = |source: &str| check(source).map_err(|excess| excess.line).err();
        let ifs = |count: usize| "{% if 0 %}\n{%- elif 1 %}{% endif %}".repeat(count);
        assert_eq!([line_of(&ifs(MAX_ELIFS)), line_of(&ifs(MAX_ELIFS + 1))], [None, Some(MAX_ELIFS + 2)]);
        assert_eq!(line_of(&"{{ elif }}{# {% elif %} #}{% raw %}{% elif %}{% endraw %}elif".repeat(1000)), None);
    }
}
