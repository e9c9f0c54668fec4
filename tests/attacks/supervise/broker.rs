//! Attacks on the proposal broker, by an agent or by a hasty operator. The bottle has a passthrough
//! route to a.pinned.test, and a repository x with the branches agent/*.

use super::fixture::{World, Yes, branch, plain, route};
use super::{Check, Scope};

/// Name, the check that stops it, others that would stop it too, and the attack; true: it works.
pub struct Case(pub &'static str, pub Check, pub &'static [Check], pub fn(&mut World) -> bool);

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
    Case("a wildcard", Check::Typed, &[], |w| { let id = w.ask(route("*.a.test", "/x")); w.yes(id) }),
    Case("a public address", Check::Typed, &[], |w| { let id = w.ask(route("93.184.216.34", "/x")); w.yes(id) }),
    Case("a private address", Check::Typed, &[], |w| { let id = w.ask(route("192.168.1.1", "/x")); w.yes(id) }),
    Case("the cloud's metadata", Check::Typed, &[], |w| { let id = w.ask(plain("169.254.169.254")); w.yes(id) }),
    Case("this machine, in IPv6's clothes", Check::Typed, &[], |w| { let id = w.ask(route("::ffff:127.0.0.1", "/x")); w.yes(id) }),
    Case("a name of the local network", Check::Typed, &[], |w| { let id = w.ask(route("vault.corp", "/x")); w.yes(id) }),
    Case("a name without a dot", Check::Typed, &[], |w| { let id = w.ask(route("localhost", "/x")); w.yes(id) }),
    Case("plain http", Check::Typed, &[], |w| { let id = w.ask(plain("a.test")); w.yes(id) }),
    Case("a main branch", Check::Typed, &[], |w| { let id = w.ask(branch("main")); w.yes(id) }),
    Case("every branch", Check::Typed, &[], |w| { let id = w.ask(branch("**")); w.yes(id) }),
    Case("releases", Check::Typed, &[], |w| { let id = w.ask(branch("release/*")); w.yes(id) }),
    Case("a finding", Check::Typed, &[], |w| {
        let id = w.ask(super::Ask::Finding { upstream: "x".parse().unwrap(), fingerprint: "0123456789abcdef".parse().unwrap() });
        w.yes(id)
    }),
    Case("another repository, and its main branch", Check::Typed, &[], |w| {
        let id = w.ask(super::Ask::GitUpstream { url: "https://forge.test/y.git".parse().unwrap(), branches: vec!["main".parse().unwrap()] });
        w.yes_with(id, Yes { scope: Some(Scope::Save), ..Yes::default() })
    }),
    // A name that looks like another one.
    Case("a Cyrillic letter in a Latin name", Check::Typed, &[], |w| { let id = w.ask(route("xn--gthub-n2e.com", "/x")); w.yes(id) }),
    Case("a Latin name in Cyrillic letters", Check::Typed, &[], |w| { let id = w.ask(route("xn--80ak6aa92e.com", "/x")); w.yes(id) }),
    Case("a Latin name in Greek letters", Check::Typed, &[], |w| { let id = w.ask(route("xn--0xaaa.com", "/x")); w.yes(id) }),
    Case("a Cyrillic letter below an honest name", Check::Typed, &[], |w| { let id = w.ask(route("xn--pi-6kc.docs.test", "/x")); w.yes(id) }),
    Case("Chinese with a Cyrillic letter", Check::Typed, &[], |w| { let id = w.ask(route("xn--80a9311cb2a.com", "/x")); w.yes(id) }),
    Case("punycode of nothing", Check::Typed, &[], |w| { let id = w.ask(route("xn--9999999999.com", "/x")); w.yes(id) }),
    Case("punycode of a letter that nobody sees", Check::Typed, &[], |w| { let id = w.ask(route("xn--github-df0c.com", "/x")); w.yes(id) }),
    Case("a digit for a letter of a host that it has", Check::Typed, &[], |w| beside_api(w, "ap1.vendor.test", "/x", &["GET"])),
    Case("an l for an i of a host that it has", Check::Typed, &[], |w| beside_api(w, "apl.vendor.test", "/x", &["GET"])),
    Case("an umlaut in a host that it has", Check::Typed, &[], |w| beside_api(w, "api.vend\u{f6}r.test", "/x", &["GET"])),
    Case("another name below a domain like its own", Check::Typed, &[], |w| beside_api(w, "cdn.vend0r.test", "/x", &["GET"])),
    Case("rn for an m of a host that it has", Check::Typed, &[], |w| { w.reload("example.test"); let id = w.ask(route("exarnple.test", "/x")); w.yes(id) }),
    Case("a repository of a host that looks like another", Check::Typed, &[], |w| {
        let url = format!("https://{}/y.git", route("xn--gthub-n2e.com", "/x").host);
        let id = w.ask(super::Ask::GitUpstream { url: url.parse().unwrap(), branches: Vec::new() });
        w.yes_with(id, Yes { scope: Some(Scope::Save), ..Yes::default() })
    }),
    Case("the name that it looks like, typed", Check::Typed, &[], |w| {
        let id = w.ask(route("xn--gthub-n2e.com", "/x"));
        w.yes_with(id, Yes { typed: Some("github.com"), ..Yes::default() })
    }),
    Case("the readable form, typed", Check::Typed, &[], |w| {
        let id = w.ask(route("xn--gthub-n2e.com", "/x"));
        w.yes_with(id, Yes { typed: Some("g\u{456}thub.com"), ..Yes::default() })
    }),
    // Breadth.
    Case("every path of a host with a credential", Check::Typed, &[], |w| beside_api(w, "api.vendor.test", "/*", &["GET"])),
    Case("every path of it in other words", Check::Typed, &[], |w| beside_api(w, "api.vendor.test", "/**", &["GET"])),
    Case("every path, to be changed and deleted", Check::Typed, &[], |w| { let id = w.ask(by(route("a.test", "/**"), &["GET", "POST", "DELETE"])); w.yes(id) }),
    Case("every path, to be replaced", Check::Typed, &[], |w| { let id = w.ask(by(route("a.test", "/*"), &["PUT", "PATCH"])); w.yes(id) }),
    Case("every path of a host that may only be read in part", Check::Typed, &[], |w| {
        limit(w, "limited.test", "/docs/*", false);
        let id = w.ask(route("limited.test", "/*"));
        w.yes(id)
    }),
    // Something else typed.
    Case("the domain typed for all below it", Check::Typed, &[], |w| {
        let id = w.ask(route("*.a.test", "/x"));
        w.yes_with(id, Yes { typed: Some("a.test"), ..Yes::default() })
    }),
    Case("y typed for an address", Check::Typed, &[], |w| {
        let id = w.ask(route("10.0.0.1", "/x"));
        w.yes_with(id, Yes { typed: Some("y"), ..Yes::default() })
    }),
    Case("nothing typed for plain http", Check::Typed, &[], |w| {
        let id = w.ask(plain("a.test"));
        w.yes_with(id, Yes { typed: Some(""), ..Yes::default() })
    }),
    Case("the host typed, and a wider one edited in", Check::Typed, &[Check::Narrow], |w| {
        let id = w.ask(route("a.test", "/x"));
        w.yes_with(id, Yes { typed: Some("a.test"), route: Some(route("*.test.test", "/x")), ..Yes::default() })
    }),
    // An edit that lets more through than was shown.
    Case("another host edited in", Check::Narrow, &[], |w| edited(w, route("evil.test", "/v1/x"))),
    Case("every path edited in", Check::Narrow, &[], |w| edited(w, route("a.test", "/*"))),
    Case("the path above edited in", Check::Narrow, &[], |w| edited(w, route("a.test", "/v1"))),
    Case("another method edited in", Check::Narrow, &[], |w| edited(w, super::RouteAsk { methods: vec!["DELETE".parse().unwrap()], ..route("a.test", "/v1/x") })),
    Case("another port edited in", Check::Narrow, &[], |w| edited(w, super::RouteAsk { port: 8443, ..route("a.test", "/v1/x") })),
    Case("plain http edited in", Check::Narrow, &[Check::Typed], |w| edited(w, super::RouteAsk { tls: false, ..route("a.test", "/v1/x") })),
    Case("a wildcard edited in", Check::Narrow, &[Check::Typed], |w| edited(w, route("*.a.test", "/v1/x"))),
    // A digest that is not the one of now.
    Case("a digest of before a reload", Check::Shown, &[], |w| {
        let id = w.ask(route("a.test", "/x"));
        let shown = w.policies().routes.digest();
        w.reload("b.test");
        w.yes_with(id, against(shown))
    }),
    Case("a digest of before another approval", Check::Shown, &[], |w| {
        let (one, two) = (w.ask(route("a.test", "/x")), w.ask(route("b.test", "/x")));
        let shown = w.policies().routes.digest();
        assert!(w.yes(one));
        w.yes_with(two, against(shown))
    }),
    Case("a digest of git-gate's before", Check::Shown, &[], |w| {
        let id = w.ask(branch("topic/a"));
        let shown = w.policies().git.unwrap().digest();
        assert!(w.yes(id));
        let id = w.ask(branch("topic/b"));
        w.yes_with(id, against(shown))
    }),
    Case("a digest of egress' for a branch", Check::Shown, &[], |w| {
        let (id, other) = (w.ask(branch("topic/a")), w.policies().routes.digest());
        w.yes_with(id, against(other))
    }),
    Case("a digest of another bottle's", Check::Shown, &[], |w| {
        let mut other = World::new(&[]);
        other.reload("theirs.test");
        let id = w.ask(route("a.test", "/x"));
        w.yes_with(id, against(other.policies().routes.digest()))
    }),
    Case("no digest", Check::Shown, &[], |w| { let id = w.ask(route("a.test", "/x")); w.yes_with(id, against(String::new())) }),
    Case("the beginning of a digest", Check::Shown, &[], |w| {
        let (id, digest) = (w.ask(route("a.test", "/x")), w.policies().routes.digest());
        w.yes_with(id, against(digest[..12].to_owned()))
    }),
    // Twice.
    Case("two operators, a no and then a yes", Check::Decided, &[], |w| {
        let id = w.ask(route("a.test", "/x"));
        w.deny(id) && w.yes(id)
    }),
    Case("two operators, a yes and then a no", Check::Decided, &[], |w| {
        let id = w.ask(route("a.test", "/x"));
        w.yes(id) && w.deny(id) && w.on_disk(id).state == super::ProposalState::Denied
    }),
    Case("a time that is over, approved once more", Check::Decided, &[], |w| {
        let id = w.ask(route("a.test", "/x"));
        assert!(w.yes_with(id, Yes { scope: Some(Scope::For(60)), ..Yes::default() }));
        let mut work = w.work.take().unwrap();
        assert!(w.runtime.block_on(work.revoke(id)).is_ok());
        w.work = Some(work);
        w.yes(id)
    }),
    Case("what another took the place of", Check::Decided, &[], |w| {
        let small = w.ask(route("a.test", "/x"));
        w.ask(route("a.test", "/*"));
        w.yes(small)
    }),
    Case("a question, answered twice", Check::Decided, &[], |w| {
        let id = w.ask(super::Ask::Question { text: super::UntrustedText::new("?", 9), choices: Vec::new() });
        let answer = |w: &mut World, text| matches!(w.decide(id, w.verdict(id, Yes { answer: Some(text), ..Yes::default() })), Ok(super::DecisionOutcome::Done { .. }));
        answer(w, "no") && answer(w, "yes")
    }),
    // Too late.
    Case("what has expired", Check::Expired, &[], |w| { let id = w.ask(route("a.test", "/x")); w.expire(id); w.yes(id) }),
    Case("what an earlier launch asked", Check::Expired, &[], |w| {
        let id = w.ask(route("a.test", "/x"));
        let checks = w.work().checks.clone();
        w.die();
        w.launch(checks);
        w.yes(id)
    }),
    // Fatigue.
    Case("a ninth that waits", Check::Pending, &[], |w| (0..9).filter(|n| w.asks(route(&format!("h{n}.test"), "/x"))).count() == 9),
    Case("a ninth question", Check::Pending, &[], |w| {
        (0..9).filter(|n| w.asks(super::Ask::Question { text: super::UntrustedText::new(&n.to_string(), 9), choices: Vec::new() })).count() == 9
    }),
    Case("an eleventh in ten minutes", Check::Rate, &[], |w| {
        (0..11).filter(|n| w.try_ask(route(&format!("h{n}.test"), "/x")).is_ok_and(|id| w.deny(id))).count() == 11
    }),
    Case("one host, described anew again and again", Check::Rate, &[], |w| (0..11).filter(|n| w.asks(route("a.test", &format!("/{n}")))).count() == 11),
    Case("the same, until somebody gives in", Check::Same, &[Check::Replaced], |w| { (0..5).for_each(|_| drop(w.try_ask(route("a.test", "/x")))); w.pending() == 5 }),
    Case("one host, in five small pieces", Check::Replaced, &[], |w| { (0..5).for_each(|n| drop(w.try_ask(route("a.test", &format!("/{n}"))))); w.pending() == 5 }),
    Case("the same after a no", Check::Denied, &[], |w| { let id = w.ask(route("a.test", "/x")); w.deny(id) && w.asks(route("a.test", "/x")) }),
    Case("more after a no", Check::Denied, &[], |w| { let id = w.ask(route("a.test", "/x")); w.deny(id) && w.asks(route("a.test", "/*")) }),
    Case("all below it after a no", Check::Denied, &[], |w| { let id = w.ask(route("b.a.test", "/x")); w.deny(id) && w.asks(route("*.a.test", "/x")) }),
    Case("a question after a no", Check::Denied, &[], |w| {
        let ask = || super::Ask::Question { text: super::UntrustedText::new("may I?", 99), choices: Vec::new() };
        let id = w.ask(ask());
        w.deny(id) && w.asks(ask())
    }),
    Case("what is allowed already", Check::Allowed, &[], |w| { let id = w.ask(route("a.test", "/*")); w.yes(id) && w.asks(route("a.test", "/x")) }),
    Case("a second route beside one without interception", Check::Passthrough, &[], |w| w.asks(route("a.pinned.test", "/x"))),
    Case("all names around one without interception", Check::Passthrough, &[], |w| w.asks(route("*.pinned.test", "/x"))),
    Case("a branch of a repository that there is not", Check::Known, &[], |w| w.asks(super::Ask::Ref { upstream: "y".parse().unwrap(), branches: vec!["a".parse().unwrap()] })),
    // Choices of a question that an operator could confuse.
    Case("two choices that differ in case", Check::Choices, &[], |w| w.asks(choices(&["Yes", "yes"]))),
    Case("two choices that differ in spaces", Check::Choices, &[], |w| w.asks(choices(&["drop it", " drop  it "]))),
    Case("two choices that differ in a full stop", Check::Choices, &[], |w| w.asks(choices(&["Stop", "stop."]))),
    Case("an empty choice", Check::Choices, &[], |w| w.asks(choices(&["yes", " "]))),
    Case("a choice that is another one's number", Check::Choices, &[], |w| w.asks(choices(&["2", "delete all"]))),
    Case("choices that are each other's numbers", Check::Choices, &[], |w| w.asks(choices(&["2", "1"]))),
    // Documents that are not of this queue.
    Case("another bottle's document in this queue", Check::Own, &[Check::Expired], |w| smuggled(w, |p| p.bottle = "other".into())),
    Case("a document under another number", Check::Own, &[Check::Expired], |w| smuggled(w, |p| p.id = 8)),
];

/// What is no attack, and needs one key.
#[rustfmt::skip]
pub const BENIGN: &[Benign] = &[
    Benign("an ordinary host", |w| { let id = w.ask(route("api.docs.test", "/v1/*")); w.yes(id) }),
    Benign("German", |w| { let id = w.ask(idn("m\u{fc}nchen.de")); w.yes(id) }),
    Benign("Polish", |w| { let id = w.ask(idn("\u{142}\u{f3}d\u{17a}.pl")); w.yes(id) }),
    Benign("Russian", |w| { let id = w.ask(idn("\u{43f}\u{440}\u{438}\u{43c}\u{435}\u{440}.\u{440}\u{444}")); w.yes(id) }),
    Benign("Russian of letters that look Latin, below a Russian name", |w| { let id = w.ask(idn("\u{440}\u{43e}\u{441}.\u{440}\u{444}")); w.yes(id) }),
    Benign("Greek", |w| { let id = w.ask(idn("\u{3c0}\u{3b1}\u{3c1}\u{3ac}\u{3b4}\u{3b5}\u{3b9}\u{3b3}\u{3bc}\u{3b1}.gr")); w.yes(id) }),
    Benign("Japanese with a Latin letter", |w| { let id = w.ask(idn("\u{65e5}\u{672c}\u{8a9e}e\u{30e9}\u{30fc}.jp")); w.yes(id) }),
    Benign("Korean", |w| { let id = w.ask(idn("\u{d55c}\u{ad6d}.kr")); w.yes(id) }),
    Benign("Chinese", |w| { let id = w.ask(idn("\u{4e2d}\u{56fd}.cn")); w.yes(id) }),
    Benign("a dot at the end", |w| { let id = w.ask(idn("api.docs.test.")); w.yes(id) }),
    Benign("capital letters", |w| { let id = w.ask(idn("M\u{dc}NCHEN.de")); w.yes(id) }),
    Benign("reading every path", |w| { let id = w.ask(by(route("docs.test", "/*"), &["GET", "HEAD", "OPTIONS"])); w.yes(id) }),
    Benign("reading, and one method that writes", |w| { let id = w.ask(by(route("docs.test", "/**"), &["GET", "POST"])); w.yes(id) }),
    Benign("many methods for one path", |w| { let id = w.ask(by(route("docs.test", "/v1/x/*"), &["GET", "POST", "PUT", "DELETE"])); w.yes(id) }),
    Benign("one more path of a host with a credential", |w| beside_api(w, "api.vendor.test", "/v2/*", &["GET"])),
    Benign("another host of the same domain", |w| beside_api(w, "cdn.vendor.test", "/*", &["GET"])),
    Benign("all of a host that an operator granted in part", |w| {
        let id = w.ask(route("a.test", "/x"));
        assert!(w.yes(id));
        let id = w.ask(route("a.test", "/*"));
        w.yes(id)
    }),
];

/// Name, and what an operator does; true: it is in force.
pub struct Benign(pub &'static str, pub fn(&mut World) -> bool);

/// The host as an agent may write it.
fn idn(host: &str) -> super::RouteAsk {
    super::RouteAsk { host: super::parse_host(host).unwrap(), ..route("a.test", "/x") }
}

fn by(route: super::RouteAsk, methods: &[&str]) -> super::RouteAsk {
    super::RouteAsk { methods: methods.iter().map(|m| m.parse().unwrap()).collect(), ..route }
}

/// Approves a route by one key in a bottle that sends a token to /v1/* of api.vendor.test.
fn beside_api(w: &mut World, host: &str, path: &str, methods: &[&str]) -> bool {
    limit(w, "api.vendor.test", "/v1/*", true);
    let host = super::parse_host(host).unwrap();
    let id = w.ask(by(super::RouteAsk { host, ..route("a.test", path) }, methods));
    w.yes(id)
}

/// Launches anew with a route to `path` of `host`, which may get a token.
fn limit(w: &mut World, host: &str, path: &str, token: bool) {
    let inject = token.then(|| super::Inject {
        place: super::Place::Header("authorization".to_owned()),
        scheme: super::Scheme::Bearer,
        token: "TOKEN".parse().unwrap(),
    });
    let paths = vec![path.parse().unwrap()];
    let route = super::Route::to(host.to_owned(), host.parse().unwrap());
    w.plan.policy.routes.push(super::Route { paths, inject, ..route });
    let checks = w.work().checks.clone();
    w.die();
    w.launch(checks);
}

fn choices(all: &[&str]) -> super::Ask {
    let choices = all.iter().map(|c| super::UntrustedText::new(c, 99)).collect();
    super::Ask::Question { text: super::UntrustedText::new("which?", 99), choices }
}

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
    let checks = w.work().checks.clone();
    w.die();
    w.launch(checks);
    w.yes(7)
}
