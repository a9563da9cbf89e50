//! Sets of characters that a regular expression names, as they are written between brackets in the syntax of our
//! engine.

/// Parts of words, without the joiners that our engine's `\w` includes.
pub(super) const WORD: &str = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
/// Hexadecimal digits.
pub(super) const HEX: &str = "0-9a-fA-F";

/// A property of Unicode with a name that both engines know, as it is written between brackets. Case, spaces, `-` and
/// `_` in a name are ignored.
pub(super) fn property(name: &str) -> Option<String> {
    let plain: String = name.chars().filter(|c| !" -_".contains(*c)).map(|c| c.to_ascii_lowercase()).collect();
    if let Some((_, category)) =
        CATEGORIES.iter().find(|(long, short)| *long == plain || short.to_ascii_lowercase() == plain)
    {
        return Some(format!("\\p{{{category}}}"));
    }
    if let Some(script) = SCRIPTS.iter().find(|script| script.to_ascii_lowercase() == plain) {
        return Some(format!("\\p{{Script={script}}}"));
    }
    let items = match plain.as_str() {
        "alpha" | "alphabetic" => "\\p{Alphabetic}",
        "upper" | "uppercase" => "\\p{Uppercase}",
        "lower" | "lowercase" => "\\p{Lowercase}",
        "digit" => "\\p{Nd}",
        "alnum" => "\\p{Alphabetic}\\p{Nd}",
        "punct" => "\\p{P}",
        "space" | "whitespace" => "\\s",
        "cntrl" => "\\p{Cc}",
        "word" => WORD,
        "xdigit" => HEX,
        _ => return None,
    };
    Some(items.to_owned())
}

/// General categories: the long name without spaces, and the short one.
const CATEGORIES: &[(&str, &str)] = &[
    ("letter", "L"),
    ("uppercaseletter", "Lu"),
    ("lowercaseletter", "Ll"),
    ("titlecaseletter", "Lt"),
    ("casedletter", "LC"),
    ("modifierletter", "Lm"),
    ("otherletter", "Lo"),
    ("mark", "M"),
    ("nonspacingmark", "Mn"),
    ("spacingmark", "Mc"),
    ("enclosingmark", "Me"),
    ("number", "N"),
    ("decimalnumber", "Nd"),
    ("letternumber", "Nl"),
    ("othernumber", "No"),
    ("punctuation", "P"),
    ("connectorpunctuation", "Pc"),
    ("dashpunctuation", "Pd"),
    ("openpunctuation", "Ps"),
    ("closepunctuation", "Pe"),
    ("initialpunctuation", "Pi"),
    ("finalpunctuation", "Pf"),
    ("otherpunctuation", "Po"),
    ("symbol", "S"),
    ("mathsymbol", "Sm"),
    ("currencysymbol", "Sc"),
    ("modifiersymbol", "Sk"),
    ("othersymbol", "So"),
    ("separator", "Z"),
    ("spaceseparator", "Zs"),
    ("lineseparator", "Zl"),
    ("paragraphseparator", "Zp"),
    ("other", "C"),
    ("control", "Cc"),
    ("format", "Cf"),
    ("privateuse", "Co"),
    ("unassigned", "Cn"),
];

/// The scripts with the most text.
const SCRIPTS: &[&str] = &[
    "Arabic",
    "Armenian",
    "Bengali",
    "Bopomofo",
    "Cherokee",
    "Common",
    "Cyrillic",
    "Devanagari",
    "Ethiopic",
    "Georgian",
    "Greek",
    "Gujarati",
    "Gurmukhi",
    "Han",
    "Hangul",
    "Hebrew",
    "Hiragana",
    "Inherited",
    "Kannada",
    "Katakana",
    "Khmer",
    "Lao",
    "Latin",
    "Malayalam",
    "Mongolian",
    "Myanmar",
    "Sinhala",
    "Tamil",
    "Telugu",
    "Thaana",
    "Thai",
    "Tibetan",
];
