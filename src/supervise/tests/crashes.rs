//! What is left when the orchestrator dies between two steps of a decision: the change is made, or
//! it is asked again, and never both.

use super::fixture::{Daemons, MANIFEST, World, Yes, branch, plain, route};
use super::*;
use bottle_policy::{Push, Stale, UntrustedText};

const STEPS: [Step; 4] = [Step::Recorded, Step::Decided, Step::InForce, Step::Done];

fn repository() -> Ask {
    Ask::GitUpstream { url: "https://forge.test/y.git".parse().unwrap(), branches: Vec::new() }
}

fn question() -> Ask {
    Ask::Question { text: UntrustedText::new("which?", 99), choices: Vec::new() }
}

/// Decides and dies at `step`, if it comes to it: then true.
fn dies(w: &mut World, step: Step, id: u32, verdict: Verdict) -> bool {
    let reached = Arc::new(tokio::sync::Notify::new());
    w.work().dies = Some((step, reached.clone()));
    let (work, runtime) = (w.work.as_mut().unwrap(), &w.runtime);
    let decide = work.decide(Decide { id, via: "cli".into(), verdict }, 0);
    let died = runtime.block_on(async {
        tokio::select! { _ = decide => false, () = reached.notified() => true }
    });
    w.die();
    died
}

/// What the next launch's plan has of a manifest that was changed.
fn replan(w: &mut World) {
    let manifest = w.manifest();
    if manifest.contains("a.test") {
        w.plan.policy.routes.push(route("a.test", "/x").route("a.test".into()));
    }
    let git = manifest.contains("y.git").then(|| ("y", "https://forge.test/y.git", Vec::new()));
    let topic =
        if manifest.contains("topic/*") { vec!["agent/*", "topic/*"] } else { vec!["agent/*"] };
    let all = std::iter::once(("x", "https://forge.test/x.git", topic)).chain(git);
    let spec = |(name, url, branches): (&str, &str, Vec<&str>)| {
        let push =
            serde_json::to_value(Push::to(branches.iter().map(|b| b.parse().unwrap()).collect()))
                .unwrap();
        serde_json::from_value(serde_json::json!({ "name": name, "url": url, "stale": Stale::default(), "push": push })).unwrap()
    };
    w.plan.git = all.map(spec).collect();
}

#[test]
fn what_was_to_be_saved_is_saved_or_asked_again_wherever_the_orchestrator_dies() {
    for ask in [Ask::Route(route("a.test", "/x")), branch("topic/*"), repository()] {
        for step in STEPS {
            let mut w = World::new(&[]);
            let id = w.ask(ask.clone());
            let yes = w.verdict(id, Yes { scope: Some(Scope::Save), ..Yes::default() });
            let died = dies(&mut w, step, id, yes);
            // A repository is not in force in this launch.
            assert_eq!(died, !(step == Step::InForce && ask == repository()), "{ask:?} {step:?}");
            let shown = Queue::read(&w.dir, false).unwrap().get(id).cloned().unwrap();
            assert!(!shown.is_open(0), "of a bottle that is gone nothing is open: {shown:?}");
            let saved = w.manifest() != MANIFEST;
            replan(&mut w);
            w.launch(Checks::on());
            let found = w.on_disk(id);
            let what = format!("{ask:?} {step:?}: {found:?}\n{}", w.manifest());
            match step {
                // The operator was told nothing, and the log has the attempt.
                Step::Recorded => {
                    assert!(!saved && found.state == ProposalState::Expired, "{what}")
                }
                Step::Decided | Step::InForce if died => {
                    assert!(
                        !saved && found.is_open(now_ms()) && found.decision.is_none(),
                        "{what}"
                    );
                    assert!(
                        w.yes_with(id, Yes { scope: Some(Scope::Save), ..Yes::default() }),
                        "{what}"
                    );
                    assert_eq!(
                        w.manifest().matches("test/y.git").count()
                            + w.manifest().matches("topic/*").count()
                            + w.manifest().matches("a.test").count(),
                        1
                    );
                }
                _ => assert!(
                    saved && found.decision.is_some_and(|d| d.effect == Effect::Saved),
                    "{what}"
                ),
            }
            assert!(w.decide(id, Verdict::Deny { reason: None }).is_err(), "and it is decided now");
            let audit = std::fs::read(w.dir.supervise_audit()).unwrap();
            assert!(String::from_utf8_lossy(&audit).contains("\"taken-over\"") || !died);
        }
    }
}

#[test]
fn what_was_for_the_launch_ends_with_it_wherever_the_orchestrator_dies() {
    for ask in [Ask::Route(route("a.test", "/x")), branch("topic/*")] {
        for scope in [Scope::Launch, Scope::For(60)] {
            for step in STEPS {
                let mut w = World::new(&[]);
                let id = w.ask(ask.clone());
                let yes = w.verdict(id, Yes { scope: Some(scope), ..Yes::default() });
                assert!(dies(&mut w, step, id, yes));
                let shown = Queue::read(&w.dir, false).unwrap().get(id).cloned().unwrap();
                replan(&mut w);
                w.launch(Checks::on());
                let found = w.on_disk(id);
                assert_eq!(
                    found, shown,
                    "{ask:?} {step:?}: what is shown of it is what becomes of it"
                );
                let over = found.decision.as_ref().is_some_and(|d| d.effect == Effect::Expired);
                assert!(
                    over || (step == Step::Recorded && found.state == ProposalState::Expired),
                    "{step:?} {found:?}"
                );
                assert_eq!(w.policies().routes, w.plan.policy, "nothing of it is in force");
                assert!(!w.yes(id), "and it is not taken twice");
                assert_eq!(w.manifest(), MANIFEST);
                let again = w.ask(ask.clone());
                assert!(again > id, "the agent asks anew");
                let verdict = w.verdict(again, Yes::default());
                assert!(
                    matches!(w.decide(again, verdict), Ok(DecisionOutcome::Done { .. })),
                    "{:?}",
                    w.on_disk(again)
                );
            }
        }
    }
}

#[test]
fn an_answer_or_a_no_is_whole_or_not_there() {
    for (ask, verdict) in [
        (
            question(),
            Verdict::Approve {
                against: String::new(),
                scope: Scope::Launch,
                route: None,
                typed: None,
                answer: Some("a".into()),
            },
        ),
        (Ask::Route(route("a.test", "/x")), Verdict::Deny { reason: Some("no".into()) }),
    ] {
        let mut w = World::new(&[]);
        let id = w.ask(ask);
        assert!(dies(&mut w, Step::Recorded, id, verdict));
        assert_eq!(w.on_disk(id).state, ProposalState::Pending);
        w.launch(Checks::on());
        assert_eq!(w.on_disk(id).state, ProposalState::Expired);
    }
}

#[test]
fn who_asks_and_dies_has_decided_once() {
    let mut w = World::new(&[]);
    let id = w.ask(route("a.test", "/x"));
    let verdict = w.verdict(id, Yes::default());
    let mut work = w.work.take().unwrap();
    let (drafts, arriving) = mpsc::channel(1);
    let (decisions, deciding) = mpsc::channel(4);
    let (end, ending) = oneshot::channel();
    let request = |verdict: Verdict, outcome| {
        let decide = Decide { id, via: "cli".into(), verdict };
        DecisionRequest { decide, uid: 0, outcome }
    };
    w.runtime.block_on(async {
        work.checks = Checks::on();
        let broker = run(work, arriving, deciding, ending);
        let operators = async {
            let (gone, answer) = oneshot::channel();
            drop(answer); // its program was killed after it had asked
            decisions.send(request(verdict.clone(), gone)).await.unwrap();
            for verdict in [verdict.clone(), Verdict::Deny { reason: None }] {
                let (sender, answer) = oneshot::channel();
                decisions.send(request(verdict, sender)).await.unwrap();
                let DecisionOutcome::Refused { why, .. } = answer.await.unwrap() else {
                    panic!("decided twice")
                };
                assert!(why.contains("approved already, by"), "{why}");
            }
            end.send(()).unwrap();
        };
        tokio::join!(broker, operators);
    });
    drop(drafts);
    assert!(w.policies().routes.routes.iter().any(|r| r.host.as_str() == "a.test"));
    let log = std::fs::read_to_string(w.dir.supervise_audit()).unwrap();
    assert_eq!(log.matches("\"event\":\"approved\"").count(), 1, "{log}");
}

#[test]
fn what_a_daemon_refuses_or_does_not_answer_is_open_again() {
    for how in [Daemons::Refuse, Daemons::Silent] {
        for ask in [Ask::Route(route("a.test", "/x")), branch("topic/*")] {
            let mut w = World::new(&[]);
            let id = w.ask(ask.clone());
            let before = w.policies();
            w.daemons(how);
            let verdict = w.verdict(id, Yes { scope: Some(Scope::Save), ..Yes::default() });
            let Err(Rejection { reason: why, .. }) = w.decide(id, verdict) else {
                panic!("{how:?}: in force")
            };
            assert!(why.contains("is open again"), "{why}");
            assert_eq!(
                (w.policies(), w.manifest().as_str()),
                (before, MANIFEST),
                "{how:?}: nothing has changed"
            );
            assert!(w.on_disk(id).is_open(now_ms()) && w.on_disk(id).decision.is_none());
            let SuperviseCommand::Changed(last) = w.told().pop().unwrap() else {
                panic!("the agent is told")
            };
            assert_eq!(last.state, ProposalState::Pending);
            // The daemon sees the old policy again before the next one.
            w.daemons(Daemons::Obey);
            std::thread::sleep(Duration::from_millis(50));
            assert!(w.yes(id), "{how:?}: and then it works");
        }
    }
}

#[test]
fn a_manifest_that_was_changed_meanwhile_is_left_alone() {
    let mut w = World::new(&[]);
    let id = w.ask(repository());
    let edit = w.work().manifest_with(&repository(), None).unwrap();
    let theirs = format!("{MANIFEST}# the operator was here\n");
    std::fs::write(w.home.path().join("bottle.toml"), &theirs).unwrap();
    assert!(edit.write().unwrap_err().to_string().contains("changed in the meantime"));
    assert_eq!(w.manifest(), theirs);
    assert!(w.yes_with(id, Yes { scope: Some(Scope::Save), ..Yes::default() }));
    assert!(w.manifest().contains("# the operator was here\n"), "their line stays");
}

#[test]
fn what_waits_and_what_is_granted_ends_by_itself() {
    let mut w = World::new(&[]);
    let (late, timed) = (w.ask(route("late.test", "/x")), w.ask(route("a.test", "/x")));
    assert!(w.yes_with(timed, Yes { scope: Some(Scope::For(1)), ..Yes::default() }));
    w.expire(late);
    let mut work = w.work.take().unwrap();
    assert_eq!(work.due(), Duration::ZERO);
    w.runtime.block_on(work.sweep());
    assert_eq!(w.on_disk(late).state, ProposalState::Expired);
    assert!(work.due() <= Duration::from_secs(1));
    // A reload that is under way is waited for, and then it ends all the same.
    let held = w.runtime.block_on(w.switch.lock::<Policy>()).unwrap();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1200));
        drop(held);
    });
    w.runtime.block_on(async {
        tokio::time::sleep(work.due()).await;
        work.sweep().await;
    });
    assert_eq!(w.policies().routes, w.plan.policy);
    assert!(matches!(w.on_disk(timed).decision.unwrap().effect, Effect::Expired));
    assert!(work.grants.is_empty());
}

#[test]
fn an_outdated_yes_changes_nothing_and_says_so() {
    let mut w = World::new(&[]);
    let id = w.ask(route("a.test", "/x"));
    let shown = w.policies().routes.digest();
    w.reload("b.test");
    let now = w.policies();
    let verdict = w.verdict(id, Yes { against: Some(shown), ..Yes::default() });
    assert_eq!(
        w.decide(id, verdict),
        Ok(DecisionOutcome::Outdated { digest: now.routes.digest() })
    );
    assert_eq!(w.policies(), now);
    assert!(w.on_disk(id).is_open(now_ms()), "it waits to be shown again");
    assert!(w.yes(id), "against the policy of now it is in force");
}

#[test]
fn an_edit_is_kept_as_what_was_approved() {
    let mut w = World::new(&[]);
    let asked = RouteAsk {
        methods: vec!["GET".parse().unwrap(), "POST".parse().unwrap()],
        ..plain("*.a.test")
    };
    let id = w.ask(asked);
    let edited = plain("one.a.test");
    let yes = |typed| Yes { route: Some(edited.clone()), typed: Some(typed), ..Yes::default() };
    assert!(!w.yes_with(id, yes("*.a.test")), "what is approved is typed, not what was asked");
    assert!(w.yes_with(id, yes("one.a.test")));
    let kept = w.on_disk(id);
    assert_eq!(
        (kept.state, kept.decision.unwrap().route),
        (ProposalState::Edited, Some(edited.clone()))
    );
    let granted = w.policies().routes.routes.pop().unwrap();
    assert_eq!((granted.host, granted.methods, granted.tls), (edited.host, edited.methods, false));
}

#[test]
fn a_number_answers_with_its_choice_and_text_with_itself() {
    for (typed, answer) in
        [("2", "drop it"), (" 1 ", "keep it"), ("3", "3"), ("neither", "neither")]
    {
        let mut w = World::new(&[]);
        let choices = ["keep it", "drop it"].map(|c| UntrustedText::new(c, 99)).to_vec();
        let id = w.ask(Ask::Question { text: UntrustedText::new("which?", 99), choices });
        let verdict = w.verdict(id, Yes { answer: Some(typed), ..Yes::default() });
        w.decide(id, verdict).unwrap();
        assert_eq!(w.on_disk(id).decision.unwrap().text.as_deref(), Some(answer), "{typed}");
    }
    let mut w = World::new(&[]);
    let numbers = ["1", "2", "10"].map(|c| UntrustedText::new(c, 99)).to_vec();
    assert!(w.asks(Ask::Question { text: UntrustedText::new("how many?", 99), choices: numbers }));
}
