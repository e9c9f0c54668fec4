//! What an agent, or an operator's program in a hurry, could bring to the desk. The bottle has a
//! route to a.pinned.test that is passthrough, and a repository x with the branches agent/*.

use super::world::{World, Yes, branch, plain, route};
use super::{Guard, Scope};

/// Name, the guard that stops it, guards that would stop it too, and the attack: whether it works.
pub struct Case(pub &'static str, pub Guard, pub &'static [Guard], pub fn(&mut World) -> bool);

fn against(digest: String) -> Yes {
    Yes { against: Some(digest), ..Yes::default() }
}

/// Asks for /v1/* of a.test and approves `edited`.
fn edited(w: &mut World, edited: super::RouteAsk) -> bool {
    let id = w.ask(route("a.test", "/v1/*"));
    w.yes_with(id, Yes { route: Some(edited), ..Yes::default() })
}

#[rustfmt::skip]
pub const CASES: &[Case] = &[
    // What is wide, by one key.
    Case("a wildcard", Guard::Typed, &[], |w| { let id = w.ask(route("*.a.test", "/x")); w.yes(id) }),
    Case("a public address", Guard::Typed, &[], |w| { let id = w.ask(route("93.184.216.34", "/x")); w.yes(id) }),
    Case("a private address", Guard::Typed, &[], |w| { let id = w.ask(route("192.168.1.1", "/x")); w.yes(id) }),
    Case("the cloud's metadata", Guard::Typed, &[], |w| { let id = w.ask(plain("169.254.169.254")); w.yes(id) }),
    Case("this machine, in IPv6's clothes", Guard::Typed, &[], |w| { let id = w.ask(route("::ffff:127.0.0.1", "/x")); w.yes(id) }),
    Case("a name of the local network", Guard::Typed, &[], |w| { let id = w.ask(route("vault.corp", "/x")); w.yes(id) }),
    Case("a name without a dot", Guard::Typed, &[], |w| { let id = w.ask(route("localhost", "/x")); w.yes(id) }),
    Case("plain http", Guard::Typed, &[], |w| { let id = w.ask(plain("a.test")); w.yes(id) }),
    Case("a main branch", Guard::Typed, &[], |w| { let id = w.ask(branch("main")); w.yes(id) }),
    Case("every branch", Guard::Typed, &[], |w| { let id = w.ask(branch("**")); w.yes(id) }),
    Case("releases", Guard::Typed, &[], |w| { let id = w.ask(branch("release/*")); w.yes(id) }),
    Case("a finding", Guard::Typed, &[], |w| {
        let id = w.ask(super::Ask::Finding { upstream: "x".parse().unwrap(), fingerprint: "0123456789abcdef".parse().unwrap() });
        w.yes(id)
    }),
    Case("another repository, and its main branch", Guard::Typed, &[], |w| {
        let id = w.ask(super::Ask::GitUpstream { url: "https://forge.test/y.git".parse().unwrap(), branches: vec!["main".parse().unwrap()] });
        w.yes_with(id, Yes { scope: Some(Scope::Save), ..Yes::default() })
    }),
    // Something else typed.
    Case("the domain typed for all below it", Guard::Typed, &[], |w| {
        let id = w.ask(route("*.a.test", "/x"));
        w.yes_with(id, Yes { typed: Some("a.test"), ..Yes::default() })
    }),
    Case("y typed for an address", Guard::Typed, &[], |w| {
        let id = w.ask(route("10.0.0.1", "/x"));
        w.yes_with(id, Yes { typed: Some("y"), ..Yes::default() })
    }),
    Case("nothing typed for plain http", Guard::Typed, &[], |w| {
        let id = w.ask(plain("a.test"));
        w.yes_with(id, Yes { typed: Some(""), ..Yes::default() })
    }),
    Case("the host typed, and a wider one edited in", Guard::Typed, &[Guard::Narrow], |w| {
        let id = w.ask(route("a.test", "/x"));
        w.yes_with(id, Yes { typed: Some("a.test"), route: Some(route("*.test.test", "/x")), ..Yes::default() })
    }),
    // An edit that lets more through than was shown.
    Case("another host edited in", Guard::Narrow, &[], |w| edited(w, route("evil.test", "/v1/x"))),
    Case("every path edited in", Guard::Narrow, &[], |w| edited(w, route("a.test", "/*"))),
    Case("the path above edited in", Guard::Narrow, &[], |w| edited(w, route("a.test", "/v1"))),
    Case("another method edited in", Guard::Narrow, &[], |w| edited(w, super::RouteAsk { methods: vec!["DELETE".parse().unwrap()], ..route("a.test", "/v1/x") })),
    Case("another port edited in", Guard::Narrow, &[], |w| edited(w, super::RouteAsk { port: 8443, ..route("a.test", "/v1/x") })),
    Case("plain http edited in", Guard::Narrow, &[Guard::Typed], |w| edited(w, super::RouteAsk { tls: false, ..route("a.test", "/v1/x") })),
    Case("a wildcard edited in", Guard::Narrow, &[Guard::Typed], |w| edited(w, route("*.a.test", "/v1/x"))),
    // A digest that is not the one of now.
    Case("a digest of before a reload", Guard::Shown, &[], |w| {
        let id = w.ask(route("a.test", "/x"));
        let shown = w.policies().routes.digest();
        w.reload("b.test");
        w.yes_with(id, against(shown))
    }),
    Case("a digest of before another approval", Guard::Shown, &[], |w| {
        let (one, two) = (w.ask(route("a.test", "/x")), w.ask(route("b.test", "/x")));
        let shown = w.policies().routes.digest();
        assert!(w.yes(one));
        w.yes_with(two, against(shown))
    }),
    Case("a digest of git-gate's before", Guard::Shown, &[], |w| {
        let id = w.ask(branch("topic/a"));
        let shown = w.policies().git.unwrap().digest();
        assert!(w.yes(id));
        let id = w.ask(branch("topic/b"));
        w.yes_with(id, against(shown))
    }),
    Case("a digest of egress' for a branch", Guard::Shown, &[], |w| {
        let (id, other) = (w.ask(branch("topic/a")), w.policies().routes.digest());
        w.yes_with(id, against(other))
    }),
    Case("a digest of another bottle's", Guard::Shown, &[], |w| {
        let mut other = World::new(&[]);
        other.reload("theirs.test");
        let id = w.ask(route("a.test", "/x"));
        w.yes_with(id, against(other.policies().routes.digest()))
    }),
    Case("no digest", Guard::Shown, &[], |w| { let id = w.ask(route("a.test", "/x")); w.yes_with(id, against(String::new())) }),
    Case("the beginning of a digest", Guard::Shown, &[], |w| {
        let (id, digest) = (w.ask(route("a.test", "/x")), w.policies().routes.digest());
        w.yes_with(id, against(digest[..12].to_owned()))
    }),
    // Twice.
    Case("two operators, a no and then a yes", Guard::Decided, &[], |w| {
        let id = w.ask(route("a.test", "/x"));
        w.no(id) && w.yes(id)
    }),
    Case("two operators, a yes and then a no", Guard::Decided, &[], |w| {
        let id = w.ask(route("a.test", "/x"));
        w.yes(id) && w.no(id) && w.on_disk(id).state == super::ProposalState::Denied
    }),
    Case("a time that is over, approved once more", Guard::Decided, &[], |w| {
        let id = w.ask(route("a.test", "/x"));
        assert!(w.yes_with(id, Yes { scope: Some(Scope::For(60)), ..Yes::default() }));
        let mut work = w.work.take().unwrap();
        assert!(w.runtime.block_on(work.take_back(id)).is_ok());
        w.work = Some(work);
        w.yes(id)
    }),
    Case("what another took the place of", Guard::Decided, &[], |w| {
        let small = w.ask(route("a.test", "/x"));
        w.ask(route("a.test", "/*"));
        w.yes(small)
    }),
    Case("a question, answered twice", Guard::Decided, &[], |w| {
        let id = w.ask(super::Ask::Question { text: super::UntrustedText::new("?", 9), choices: Vec::new() });
        let answer = |w: &mut World, text| matches!(w.decide(id, w.verdict(id, Yes { answer: Some(text), ..Yes::default() })), Ok(super::Answer::Done { .. }));
        answer(w, "no") && answer(w, "yes")
    }),
    // Too late.
    Case("what has expired", Guard::Expired, &[], |w| { let id = w.ask(route("a.test", "/x")); w.expire(id); w.yes(id) }),
    Case("what an earlier launch asked", Guard::Expired, &[], |w| {
        let id = w.ask(route("a.test", "/x"));
        let guards = w.work().guards.clone();
        w.die();
        w.launch(guards);
        w.yes(id)
    }),
    // Fatigue.
    Case("a ninth that waits", Guard::Pending, &[], |w| (0..9).filter(|n| w.asks(route(&format!("h{n}.test"), "/x"))).count() == 9),
    Case("a ninth question", Guard::Pending, &[], |w| {
        (0..9).filter(|n| w.asks(super::Ask::Question { text: super::UntrustedText::new(&n.to_string(), 9), choices: Vec::new() })).count() == 9
    }),
    Case("an eleventh in ten minutes", Guard::Rate, &[], |w| {
        (0..11).filter(|n| w.try_ask(route(&format!("h{n}.test"), "/x")).is_ok_and(|id| w.no(id))).count() == 11
    }),
    Case("one host, described anew again and again", Guard::Rate, &[], |w| (0..11).filter(|n| w.asks(route("a.test", &format!("/{n}")))).count() == 11),
    Case("the same, until somebody gives in", Guard::Same, &[Guard::Replaced], |w| { (0..5).for_each(|_| drop(w.try_ask(route("a.test", "/x")))); w.pending() == 5 }),
    Case("one host, in five small pieces", Guard::Replaced, &[], |w| { (0..5).for_each(|n| drop(w.try_ask(route("a.test", &format!("/{n}"))))); w.pending() == 5 }),
    Case("the same after a no", Guard::Denied, &[], |w| { let id = w.ask(route("a.test", "/x")); w.no(id) && w.asks(route("a.test", "/x")) }),
    Case("more after a no", Guard::Denied, &[], |w| { let id = w.ask(route("a.test", "/x")); w.no(id) && w.asks(route("a.test", "/*")) }),
    Case("all below it after a no", Guard::Denied, &[], |w| { let id = w.ask(route("b.a.test", "/x")); w.no(id) && w.asks(route("*.a.test", "/x")) }),
    Case("a question after a no", Guard::Denied, &[], |w| {
        let ask = || super::Ask::Question { text: super::UntrustedText::new("may I?", 99), choices: Vec::new() };
        let id = w.ask(ask());
        w.no(id) && w.asks(ask())
    }),
    Case("what is allowed already", Guard::Allowed, &[], |w| { let id = w.ask(route("a.test", "/*")); w.yes(id) && w.asks(route("a.test", "/x")) }),
    Case("a second route beside one without interception", Guard::Passthrough, &[], |w| w.asks(route("a.pinned.test", "/x"))),
    Case("all names around one without interception", Guard::Passthrough, &[], |w| w.asks(route("*.pinned.test", "/x"))),
    Case("a branch of a repository that there is not", Guard::Known, &[], |w| w.asks(super::Ask::Ref { upstream: "y".parse().unwrap(), branches: vec!["a".parse().unwrap()] })),
    // Documents that are not of this queue.
    Case("another bottle's document in this queue", Guard::Own, &[Guard::Expired], |w| smuggled(w, |p| p.bottle = "other".into())),
    Case("a document under another number", Guard::Own, &[Guard::Expired], |w| smuggled(w, |p| p.id = 8)),
];

/// A document that somebody put into the queue's directory before the launch: whether it can be
/// approved.
fn smuggled(w: &mut World, change: fn(&mut super::Proposal)) -> bool {
    let mut document = {
        let id = w.ask(route("theirs.test", "/x"));
        w.on_disk(id)
    };
    (document.expires_ms, document.state) = (u64::MAX, super::ProposalState::Denied);
    change(&mut document);
    std::fs::write(w.dir.proposals().join("7.json"), serde_json::to_vec(&document).unwrap())
        .unwrap();
    let guards = w.work().guards.clone();
    w.die();
    w.launch(guards);
    w.yes(7)
}
