//! The nearest name to one that was not found.

/// How many candidates are looked at, so that a file of many names can't make an error message slow.
const CANDIDATES: usize = 8192;

/// The candidate that `name` most likely stands for, if any is near enough.
///
/// A candidate wins if it ends with `name` after a dot, or `name` with it (`wte.weight` and `transformer.wte.weight`).
/// Otherwise the candidate with the smallest edit distance wins, up to a third of the name's length.
///
/// ```
/// use smallmind_checkpoint::did_you_mean;
/// assert_eq!(did_you_mean("n_heads", ["n_layer", "n_head"]), Some("n_head"));
/// assert_eq!(did_you_mean("wte.weight", ["transformer.wte.weight"]), Some("transformer.wte.weight"));
/// assert_eq!(did_you_mean("banana", ["n_layer", "n_head"]), None);
/// ```
pub fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut limit = name.chars().count() / 3;
    let mut best = None;
    for candidate in candidates.into_iter().take(CANDIDATES) {
        if is_dotted_tail(name, candidate) || is_dotted_tail(candidate, name) {
            return Some(candidate);
        }
        if let Some(distance) = distance_within(name, candidate, limit)
            && (best.is_none() || distance < limit)
        {
            best = Some(candidate);
            limit = distance;
        }
    }
    best
}

fn is_dotted_tail(tail: &str, whole: &str) -> bool {
    !tail.is_empty() && whole.strip_suffix(tail).is_some_and(|head| head.ends_with('.'))
}

/// Levenshtein's distance, if it is at most `limit`. Only one row of the table is kept at a time.
fn distance_within(a: &str, b: &str, limit: usize) -> Option<usize> {
    let b: Vec<char> = b.chars().collect();
    if a.chars().count().abs_diff(b.len()) > limit {
        return None;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        let mut smallest = row[0];
        for (j, &to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
            smallest = smallest.min(row[j + 1]);
        }
        if smallest > limit {
            return None;
        }
    }
    row.last().copied().filter(|&distance| distance <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_levenshteins() {
        for (a, b, distance) in
            [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("äöü", "äoü", 1)]
        {
            assert_eq!(distance_within(a, b, 9), Some(distance), "{a} {b}");
            assert_eq!(distance_within(b, a, distance), Some(distance), "{b} {a}");
            if distance > 0 {
                assert_eq!(distance_within(a, b, distance - 1), None, "{a} {b}");
            }
        }
    }

    #[test]
    fn the_nearest_wins_and_the_far_are_silent() {
        let names = ["layers.0.attn.weight", "layers.1.attn.weight", "layers.10.attn.weight"];
        assert_eq!(did_you_mean("layers.1.attn.wieght", names), Some("layers.1.attn.weight"));
        assert_eq!(did_you_mean("layer.10.attn.weight", names), Some("layers.10.attn.weight"));
        assert_eq!(did_you_mean("lm_head.bias", names), None);
        assert_eq!(did_you_mean("", names), None);
        assert_eq!(did_you_mean("model.layers.1.attn.weight", names), Some(names[1]));
    }
}
