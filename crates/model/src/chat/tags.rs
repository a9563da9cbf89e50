//! Tags that the engine does not have, or that need a check.
//!
//! `{% generation %} … {% endgeneration %}` marks what the model wrote, for masks in training. For text it is a block
//! with a scope of its own, as `{% with %} … {% endwith %}` is, and is turned into that.
//!
//! `{% set n.x = value %}` keeps a value in a namespace, and so beyond the loop around it. Only so can a template make a
//! value that holds itself, or one that grows with each step of a loop. It is turned into `{% set n.x = (value)|kept %}`,
//! where the filter ([`kept`](super::kept)) bounds the value.

use std::borrow::Cow;

use super::blocks::{Block, blocks};
use super::kept;

/// A template with each tag `generation` as `with`, and with bounds on what its namespaces keep. Line numbers stay.
pub(super) fn translate(source: &str) -> Cow<'_, str> {
    if !source.contains("generation") && !source.contains("set") {
        return source.into();
    }
    let (mut out, mut copied) = (String::new(), 0);
    for block in blocks(source) {
        let translated = match block.word {
            "generation" => block.text.replacen(block.word, "with", 1),
            "endgeneration" => block.text.replacen(block.word, "endwith", 1),
            "set" => match bounded_set(&block) {
                Some(text) => text,
                None => continue,
            },
            _ => continue,
        };
        out.push_str(&source[copied..block.start]);
        out.push_str(&translated);
        copied = block.start + block.text.len();
    }
    if copied == 0 {
        return source.into();
    }
    out.push_str(&source[copied..]);
    out.into()
}

/// A tag `set` with the filter on its value; `None` if it sets no field of a namespace or is no whole tag.
fn bounded_set(block: &Block<'_>) -> Option<String> {
    let (target, value) = block.text.strip_suffix("%}")?.split_once('=')?;
    if !target.contains('.') || target.contains('|') || value.starts_with('=') {
        return None;
    }
    let (value, mark) = match value.strip_suffix(['-', '+']) {
        Some(rest) => (rest, &value[rest.len()..]),
        None => (value, ""),
    };
    Some(format!("{target}=({value})|{} {mark}%}}", kept::FILTER))
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
        assert!(matches!(translate("{{ x }}{% set x = 1 %}"), Cow::Borrowed(_)));
    }

    #[test]
    fn what_a_namespace_keeps_is_bounded() {
        for (source, expected) in [
            ("{% set n.x = 1 %}", "{% set n.x =( 1 )|smallmind_kept %}"),
            ("{%- set n.x = a == b -%}\n", "{%- set n.x =( a == b )|smallmind_kept -%}\n"),
            ("{%set n.x='%}'%}", "{%set n.x=('%}')|smallmind_kept %}"),
            ("{% set n.x = a, 2 +%}", "{% set n.x =( a, 2 )|smallmind_kept +%}"),
            ("{% set x = n.x %}", "{% set x = n.x %}"),
            ("{% set x = 1.5 %}", "{% set x = 1.5 %}"),
            ("{% set n.x | replace(a='b') %}y{% endset %}", "{% set n.x | replace(a='b') %}y{% endset %}"),
            ("{% raw %}{% set n.x = 1 %}{% endraw %}", "{% raw %}{% set n.x = 1 %}{% endraw %}"),
            ("{% set n.x = 1", "{% set n.x = 1"),
        ] {
            assert_eq!(translate(source), expected);
        }
    }
}
