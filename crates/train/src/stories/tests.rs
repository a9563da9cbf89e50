//! The consistency of stories. These tests know the cast, which the text alone doesn't tell.

use super::cast::{Gender, World};
use super::outline::Outline;
use super::{built_in, inconsistencies, plots, story};
use crate::random::SplitMix64;
use std::collections::HashSet;

/// Calls `check` with the draw and the text of the first `count` stories of a seed.
fn each(seed: u64, count: u64, mut check: impl FnMut(&Outline, &str)) {
    for index in 0..count {
        let mut rng = SplitMix64::of_item(seed, index);
        let outline = Outline::draw(built_in(), &mut rng).unwrap();
        let text = outline.text(built_in(), &mut rng);
        assert_eq!(text, story(seed, index));
        check(&outline, &text);
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty())
}

#[test]
fn there_are_many_different_plots() {
    let titles: HashSet<_> = plots().collect();
    assert_eq!(titles.len(), built_in().plots.len());
    assert!(titles.len() >= 12, "{} plots", titles.len());
}

#[test]
fn every_plot_and_world_is_told() {
    let mut seen = HashSet::new();
    let mut worlds = [0_u32; 3];
    each(5, 5000, |outline, _| {
        seen.insert(outline.plot.title);
        worlds[outline.cast.world as usize] += 1;
    });
    assert_eq!(seen.len(), plots().count());
    assert!(worlds.iter().all(|&n| n > 250), "{worlds:?}");
}

/// "He" and "she" always mean the hero.
#[test]
fn pronouns_agree() {
    each(11, 20_000, |outline, text| {
        let wrong: &[&str] = match outline.cast.gender {
            Gender::Female => &["he", "him", "his", "himself"],
            Gender::Male => &["she", "her", "hers", "herself"],
        };
        let found = words(text).find(|word| wrong.contains(&word.to_ascii_lowercase().as_str()));
        assert_eq!(found, None, "{}: {text}", outline.plot.title);
    });
}

/// Only names of the cast occur, and the hero is named in every paragraph except perhaps the last.
#[test]
fn only_the_cast_is_named() {
    let mut names = HashSet::new();
    each(1, 5000, |outline, _| {
        names.extend([outline.cast.hero.name, outline.cast.friend.name]);
    });
    assert_eq!(names.len(), 8, "{names:?}");
    each(3, 5000, |outline, text| {
        let cast = &outline.cast;
        for word in words(text).filter(|word| names.contains(word)) {
            assert!(word == cast.hero.name || word == cast.friend.name, "{word}: {text}");
        }
        let first = text.lines().next().unwrap();
        assert!(first.contains(cast.hero.name) && first.contains(cast.hero.kind), "{text}");
    });
}

/// [`inconsistencies`] finds nothing in the corpus.
#[test]
fn every_story_is_consistent() {
    each(23, 20_000, |outline, text| assert_eq!(inconsistencies(text), [], "{}: {text}", outline.plot.title));
}

/// The first mention of the friend says who the friend is.
#[test]
fn a_friend_is_introduced() {
    each(17, 20_000, |outline, text| {
        let friend = &outline.cast.friend;
        let Some(at) = words_at(text, friend.name) else { return };
        let (before, after) = text.split_at(at);
        let sentence = &before[before.len().saturating_sub(100)..];
        let introduced = after[friend.name.len()..].starts_with(&format!(" the {}", friend.kind))
            || sentence.contains("friend")
            || sentence.contains(friend.kind);
        assert!(introduced, "{}: {text}", outline.plot.title);
        if outline.cast.world == World::Children {
            assert!(!text.contains(&format!("{} the ", friend.name)), "{text}");
        }
    });
}

/// Where `name` first occurs as a whole word.
fn words_at(text: &str, name: &str) -> Option<usize> {
    text.match_indices(name)
        .map(|(at, _)| at)
        .find(|&at| !text[at + name.len()..].starts_with(|c: char| c.is_ascii_alphabetic()))
}
