//! The table of tests/attacks/supervise/desk.rs: each attack fails, and works without the guard
//! that stops it.

use bottle_policy::UntrustedText;

use super::world;
use super::*;

#[path = "../../../tests/attacks/supervise/desk.rs"]
mod table;
use table::{CASES, Case};

#[test]
fn each_attack_on_the_desk_fails_and_works_without_its_guard() {
    let wrong: Vec<String> = CASES
        .iter()
        .filter_map(|Case(name, guard, also, attack)| {
            let worked = |off: &[Guard]| attack(&mut world::World::new(off));
            match (
                worked(&[]),
                also.is_empty() || !worked(also),
                worked(&[&[*guard], *also].concat()),
            ) {
                (true, ..) => Some(format!("{name}: it works")),
                (_, false, _) => Some(format!("{name}: it is not {guard:?} that stops it")),
                (.., false) => Some(format!("{name}: it does not work without {guard:?} either")),
                _ => None,
            }
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), CASES.len(), wrong.join("\n"));
    println!("{} cases", CASES.len());
}
