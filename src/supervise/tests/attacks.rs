//! The table of tests/attacks/supervise/broker.rs: each attack fails, and works without the guard
//! that stops it.

use bottle_policy::{Inject, Place, Route, Scheme, UntrustedText, parse_host};

use super::fixture;
use super::*;

#[path = "../../../tests/attacks/supervise/broker.rs"]
mod table;
use table::{BENIGN, Benign, CASES, Case};

#[test]
fn each_attack_on_the_broker_fails_and_works_without_its_check() {
    let wrong: Vec<String> = CASES
        .iter()
        .filter_map(|Case(name, guard, also, attack)| {
            let worked = |off: &[Check]| attack(&mut fixture::World::new(off));
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

#[test]
fn what_is_no_attack_needs_one_key() {
    let wrong: Vec<&str> = BENIGN
        .iter()
        .filter(|Benign(_, approve)| !approve(&mut fixture::World::new(&[])))
        .map(|Benign(name, _)| *name)
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    println!("{} benign cases", BENIGN.len());
}
