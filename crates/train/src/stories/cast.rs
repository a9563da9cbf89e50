//! The cast of a story: people, animals, toys and places, drawn once for the whole story.

use crate::random::SplitMix64;

/// The kinds of worlds in which a story can happen. A frame of a plot names the worlds that it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum World {
    Children,
    Forest,
    Toys,
}

impl World {
    pub(super) fn of_letter(letter: char) -> Option<Self> {
        match letter {
            'c' => Some(Self::Children),
            'f' => Some(Self::Forest),
            't' => Some(Self::Toys),
            _ => None,
        }
    }
}

/// The hero's pronouns. All others are called by name, so that "he" and "she" always mean the hero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gender {
    Female,
    Male,
}

impl Gender {
    fn choose(self, female: &'static str, male: &'static str) -> &'static str {
        match self {
            Self::Female => female,
            Self::Male => male,
        }
    }

    pub(super) fn he(self) -> &'static str {
        self.choose("she", "he")
    }

    pub(super) fn him(self) -> &'static str {
        self.choose("her", "him")
    }

    pub(super) fn his(self) -> &'static str {
        self.choose("her", "his")
    }

    pub(super) fn himself(self) -> &'static str {
        self.choose("herself", "himself")
    }
}

/// A hero or a friend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Character {
    pub(super) name: &'static str,
    /// "boy", "fox", "rag doll".
    pub(super) kind: &'static str,
}

/// Where a story happens, with its prepositions, and three spots where things can be searched.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) at: &'static str,
    pub(super) to: &'static str,
    spots: [&'static str; 3],
}

/// Everything that stays the same throughout one story.
#[derive(Debug)]
pub(super) struct Cast {
    pub(super) world: World,
    pub(super) hero: Character,
    pub(super) gender: Gender,
    pub(super) friend: Character,
    pub(super) elder: &'static str,
    pub(super) place: &'static Place,
    pub(super) spots: [&'static str; 3],
    pub(super) home: &'static str,
    pub(super) hobbies: [&'static str; 2],
    pub(super) trails: [&'static str; 2],
    pub(super) goal: &'static str,
    pub(super) tiny: &'static str,
    pub(super) color: &'static str,
    pub(super) weather: &'static str,
    pub(super) trait_: &'static str,
}

/// The lists from which the cast of a world is drawn.
struct Pool {
    girl_kinds: &'static [&'static str],
    boy_kinds: &'static [&'static str],
    /// The elders with whom heroes live: one for names with even indices in the lists, one for odd indices.
    elders: [&'static str; 2],
    places: &'static [Place],
    homes: &'static [&'static str],
    hobbies: &'static [&'static str],
    trails: &'static [&'static str],
}

/// The names in all worlds, each of one gender only. They are few, so that a model sees each often in a minute of
/// training. The girl and the boy with the same index in the lists are friends in all stories.
const GIRLS: [&str; 4] = ["Lily", "Mia", "Anna", "Ruby"];
const BOYS: [&str; 4] = ["Tom", "Ben", "Max", "Leo"];
const ELDERS: [&str; 2] = ["Mom", "Grandpa"];
pub(super) const COLORS: &[&str] = &["red", "blue", "green", "yellow", "orange", "purple", "white", "pink"];
const WEATHERS: &[&str] = &["sunny", "warm", "bright", "windy", "fine", "quiet"];
const TRAITS: &[&str] = &["kind", "brave", "clever", "cheerful", "gentle", "curious", "funny", "sweet"];
const TINY: &[&str] = &["ant", "beetle", "ladybug", "snail", "cricket"];
const GOALS: &[&str] = &["old oak tree", "bridge", "river", "big rock", "red barn"];
/// Animals that walk, have no wings and don't occur in frames.
const ANIMALS: &[&str] = &["rabbit", "fox", "bear", "mouse", "squirrel", "frog", "duck", "pig"];
const TOYS: &[&str] = &["toy robot", "rag doll", "tin soldier", "toy lion", "wooden duck", "toy monkey"];

const CHILDREN: Pool = Pool {
    girl_kinds: &["girl"],
    boy_kinds: &["boy"],
    elders: ELDERS,
    places: &[
        Place {
            at: "in the park",
            to: "to the park",
            spots: ["under the old tree", "behind a rock", "beside the big slide"],
        },
        Place {
            at: "in the garden",
            to: "to the garden",
            spots: ["between the flowers", "behind the house", "under a big leaf"],
        },
        Place { at: "at the beach", to: "to the beach", spots: ["behind a rock", "in a hole", "under an old boat"] },
        Place {
            at: "in the yard",
            to: "out to the yard",
            spots: ["behind the house", "in the tall grass", "under the old tree"],
        },
        Place {
            at: "at the farm",
            to: "to the farm",
            spots: ["behind the barn", "in the tall grass", "under the cart"],
        },
        Place {
            at: "at the lake",
            to: "to the lake",
            spots: ["beside a big stone", "in the tall grass", "under an old boat"],
        },
    ],
    homes: &[
        "in a small house by the sea",
        "in a little town",
        "near the woods",
        "near a farm",
        "at the end of a long street",
    ],
    hobbies: &["sing", "draw", "run", "tell stories", "look at the clouds", "pick flowers", "laugh"],
    trails: OUTDOORS,
};

const FOREST: Pool = Pool {
    girl_kinds: ANIMALS,
    boy_kinds: ANIMALS,
    elders: ELDERS,
    places: &[
        Place { at: "in the forest", to: "to the forest", spots: ["under a log", "behind an oak tree", "in a hole"] },
        Place {
            at: "in the meadow",
            to: "to the meadow",
            spots: ["in the tall grass", "behind a rock", "between the flowers"],
        },
        Place {
            at: "by the pond",
            to: "to the pond",
            spots: ["in the tall grass", "beside a big stone", "under the old tree"],
        },
        Place { at: "on the hill", to: "up the hill", spots: ["between the flowers", "in a hole", "under a big leaf"] },
        Place {
            at: "by the river",
            to: "to the river",
            spots: ["under the bridge", "in the tall grass", "behind a rock"],
        },
    ],
    homes: &[
        "in a warm hole under an oak tree",
        "near the river",
        "in a little house under the trees",
        "behind the hill",
        "at the end of the woods",
    ],
    hobbies: &["sing", "run", "jump", "tell stories", "look at the clouds", "pick flowers", "count the stars", "laugh"],
    trails: OUTDOORS,
};

const TOY_ROOM: Pool = Pool {
    girl_kinds: TOYS,
    boy_kinds: TOYS,
    elders: ["Old Doll", "Old Bear"],
    places: &[
        Place {
            at: "in the playroom",
            to: "to the playroom",
            spots: ["under the bed", "behind the door", "in a basket"],
        },
        Place {
            at: "in the kitchen",
            to: "to the kitchen",
            spots: ["under the table", "behind the door", "in a paper bag"],
        },
        Place {
            at: "under the roof",
            to: "up to the room under the roof",
            spots: ["behind a box", "under an old hat", "behind the books"],
        },
    ],
    homes: &["in a toy shop", "in an old toy box", "on a high shelf", "in a basket by the window"],
    hobbies: &["sing", "run", "jump", "tell stories", "look at the moon", "count the stars", "laugh"],
    trails: &[
        "climbed over the books",
        "went under the bed",
        "went past the cat, who was asleep",
        "went around the table",
        "counted twenty steps from the door",
    ],
};

const OUTDOORS: &[&str] = &[
    "walked over a small bridge",
    "went around the pond",
    "climbed up a hill",
    "went through a dark cave",
    "counted twenty steps from an oak tree",
    "followed the river",
];

impl Cast {
    /// Draws the cast of a story in `world`.
    pub(super) fn draw(world: World, rng: &mut SplitMix64) -> Self {
        let pool = match world {
            World::Children => &CHILDREN,
            World::Forest => &FOREST,
            World::Toys => &TOY_ROOM,
        };
        let gender = if rng.below(2) == 0 { Gender::Female } else { Gender::Male };
        // In all stories a name has the same friend and, within a world, the same elder, so that a small model can
        // learn them.
        let pair = rng.below(GIRLS.len());
        let elder = pool.elders[pair % 2];
        let [girl, boy] = [(GIRLS[pair], pool.girl_kinds), (BOYS[pair], pool.boy_kinds)];
        let (hero, friend) = if gender == Gender::Female { (girl, boy) } else { (boy, girl) };
        let hero = Character { name: hero.0, kind: draw(hero.1, rng) };
        let friend = Character { name: friend.0, kind: other_than(friend.1, Some(hero.kind), rng) };
        let place = &pool.places[rng.below(pool.places.len())];
        let mut spots = place.spots;
        spots.swap(0, rng.below(3));
        spots.swap(1, 1 + rng.below(2));
        Self {
            world,
            hero,
            gender,
            friend,
            elder,
            place,
            spots,
            home: draw(pool.homes, rng),
            hobbies: two(pool.hobbies, rng),
            trails: two(pool.trails, rng),
            goal: draw(GOALS, rng),
            tiny: draw(TINY, rng),
            color: draw(COLORS, rng),
            weather: draw(WEATHERS, rng),
            trait_: draw(TRAITS, rng),
        }
    }
}

/// The worlds' pools.
const POOLS: [&Pool; 3] = [&CHILDREN, &FOREST, &TOY_ROOM];

/// The gender of a name; `None` for a word that isn't a name.
pub(super) fn gender_of_name(word: &str) -> Option<Gender> {
    let female = GIRLS.contains(&word).then_some(Gender::Female);
    female.or_else(|| BOYS.contains(&word).then_some(Gender::Male))
}

/// All kinds of heroes and friends.
pub(super) fn kinds() -> impl Iterator<Item = &'static str> {
    POOLS.iter().flat_map(|pool| pool.girl_kinds.iter().chain(pool.boy_kinds)).copied()
}

/// The gender of a kind; `None` for kinds of both genders.
pub(super) fn gender_of_kind(kind: &str) -> Option<Gender> {
    match kind {
        "girl" => Some(Gender::Female),
        "boy" => Some(Gender::Male),
        _ => None,
    }
}

/// The kind with which `text` begins, as whole words.
pub(super) fn kind_at(text: &str) -> Option<&'static str> {
    kinds().find(|kind| begins_with(text, kind))
}

/// The elder with whom `text` begins, as whole words: the one with the longest name if several fit.
pub(super) fn elder_at(text: &str) -> Option<&'static str> {
    POOLS.iter().flat_map(|pool| pool.elders).filter(|name| begins_with(text, name)).max_by_key(|name| name.len())
}

fn begins_with(text: &str, words: &str) -> bool {
    text.strip_prefix(words).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphabetic()))
}

/// One of the items of a table of this file; no table is empty.
fn draw<T: Copy>(items: &[T], rng: &mut SplitMix64) -> T {
    items[rng.below(items.len())]
}

/// An item that isn't `taken`, if there is another.
fn other_than(items: &[&'static str], taken: Option<&str>, rng: &mut SplitMix64) -> &'static str {
    let at = rng.below(items.len());
    if taken == Some(items[at]) { items[(at + 1) % items.len()] } else { items[at] }
}

/// Two different items.
fn two(items: &[&'static str], rng: &mut SplitMix64) -> [&'static str; 2] {
    let first = draw(items, rng);
    [first, other_than(items, Some(first), rng)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hero_and_friend_differ() {
        for world in [World::Children, World::Forest, World::Toys] {
            for i in 0..2000 {
                let cast = Cast::draw(world, &mut SplitMix64::of_item(7, i));
                assert_ne!(cast.hero.name, cast.friend.name);
                if world == World::Children {
                    assert_eq!(cast.hero.kind == "girl", cast.gender == Gender::Female);
                } else {
                    assert_ne!(cast.hero.kind, cast.friend.kind);
                }
                assert_ne!(cast.hobbies[0], cast.hobbies[1]);
                assert_ne!(cast.trails[0], cast.trails[1]);
                let mut spots = cast.spots;
                spots.sort_unstable();
                assert!(spots[0] != spots[1] && spots[1] != spots[2]);
            }
        }
    }
}
