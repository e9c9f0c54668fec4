//! From launch to teardown, whatever happens in between.

pub mod disk;
pub mod git;
pub mod input;
pub mod smolvm;
pub mod supervise;
mod terminal;

use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::attacks::Case;
use crate::support::{
    Home, PATIENCE, assert_code, engine, eventually, output_within, processes_naming, stderr,
    stdout,
};

pub const CASES: &[Case] = &[
    ("lifecycle::the_demo_prints_its_table_and_exits_0", demo),
    ("lifecycle::the_exit_code_is_the_commands", exit_codes),
    ("lifecycle::a_terminal_has_its_size_and_follows_a_resize", terminal::size),
    ("lifecycle::ctrl_c_reaches_the_agent_and_not_the_launch", terminal::interrupt),
    ("lifecycle::a_terminal_that_goes_away_ends_the_launch", terminal::hangup),
    ("lifecycle::the_terminal_is_restored", terminal::restored),
    ("lifecycle::preflight_asks_and_no_means_no", terminal::declined),
    ("lifecycle::sigterm_tears_down_at_any_moment", sigterm),
    ("lifecycle::sigint_tears_down", sigint),
    ("lifecycle::stop_tears_down", stop),
    ("lifecycle::a_stopped_bottle_goes_on_with_its_disk", resumed),
    ("lifecycle::stop_ends_a_launch_that_is_still_starting", stop_early),
    ("lifecycle::a_closed_standard_error_stops_no_teardown", closed_stderr),
    ("lifecycle::what_is_given_for_a_launch_is_in_no_file_and_not_shown", given),
    ("lifecycle::a_weak_token_is_named_before_the_agent_runs", weak_token),
    ("lifecycle::kill_9_leaves_nothing_running_and_the_next_command_cleans_up", kill_9),
    ("lifecycle::launches_at_once", concurrent),
    ("lifecycle::a_second_launch_of_the_same_name_is_refused", same_name),
    ("lifecycle::a_launch_that_loses_egress_ends", lost_egress),
    ("lifecycle::a_launch_that_loses_its_vmm_ends", lost_vmm),
    ("lifecycle::a_bottle_that_is_not_shut_in_does_not_run_its_agent", open_egress),
    ("lifecycle::a_bottle_with_a_network_device_does_not_run_its_agent", network_device),
    ("lifecycle::a_reload_counts_at_once_and_the_log_tells_all", reload),
    ("lifecycle::the_guest_trusts_the_bottles_authority_everywhere", trust),
];

fn demo() {
    let home = Home::new();
    let output = home.run(&["launch", "demo", "--yes"]);
    assert_code(&output, 0);
    let table = stdout(&output);
    assert!(table.lines().count() >= 6 && table.contains("403"), "{table}");
    assert_eq!(home.leftovers("demo"), Vec::<String>::new());
    assert_eq!(home.listed("demo").as_deref(), Some("exited"));
    assert_code(&home.run(&["rm", "demo"]), 0);
    assert_eq!(home.listed("demo"), None);
}

fn exit_codes() {
    let home = Home::new();
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)]
    {
        let output = home.run(&["launch", "demo", "--yes", "--quiet", "--", "bash", "-c", script]);
        assert_code(&output, code);
        assert_eq!(stderr(&output), "", "--quiet is quiet");
    }
    assert_code(&home.run(&["launch", "demo", "--yes", "--", "/no/such/program"]), 127);
    assert_code(&home.run(&["launch", "demo", "--yes", "--", "/etc/passwd"]), 126);
}

fn sigterm() {
    // At moments from before the first step to after the boot.
    for ms in [0, 20, 60, 200, 700, 1500] {
        let home = Home::new();
        let mut bottle = home.start("demo", &["demo", "--", "sleep", "1000"]);
        std::thread::sleep(std::time::Duration::from_millis(ms));
        bottle.signal(Signal::SIGTERM);
        let status = bottle.wait();
        // Before signals are caught the default action applies: the code of a shell is the same.
        use std::os::unix::process::ExitStatusExt;
        assert!(
            status.code() == Some(143) || status.signal() == Some(15),
            "{ms} ms: {status}\n{}",
            bottle.said()
        );
        assert_eq!(home.leftovers("demo"), Vec::<String>::new(), "{ms} ms");
    }
    let home = Home::new();
    let bottle = home.up("term", &["demo"]);
    bottle.stop();
}

fn sigint() {
    let home = Home::new();
    let mut bottle = home.up("int", &["demo"]);
    bottle.signal(Signal::SIGINT);
    assert_eq!(bottle.wait().code(), Some(130));
    assert_eq!(home.leftovers("int"), Vec::<String>::new());
}

fn stop() {
    let home = Home::new();
    let mut bottle = home.up("stop", &["demo"]);
    assert_code(&home.run(&["stop", "stop"]), 0);
    assert_eq!(home.leftovers("stop"), Vec::<String>::new());
    bottle.wait();
    assert_code(&home.run(&["stop", "stop"]), 2);
    assert_code(&home.run(&["exec", "stop", "--", "true"]), 2);
}

/// A bottle of the kind that is kept, with a project in it and this agent.
fn kept(home: &Home, verb: &[&str], script: &str) -> std::process::Output {
    let mut args = verb.to_vec();
    args.extend(["--yes", "--", "bash", "-c", script]);
    let mut command = home.bottle(&args);
    command.env("ANTHROPIC_API_KEY", "no-key");
    output_within(command, PATIENCE)
}

fn resumed() {
    let home = Home::with_manifest(
        "version = 1\n[agents.worker]\nbottle = \"dev\"\nprovider = \"claude\"\n[bottles.dev]\nimage = \"demo\"\nworkspace = { mode = \"copy\" }\nresources = { cpus = 1, memory = \"512MiB\", disk = \"1GiB\" }\n",
    );
    // Two files, whatever a file system that folds case would make of them.
    for name in ["given", "Given"] {
        std::fs::write(home.project().join(name), name).expect("a file");
    }
    let script = "test $(cat given Given) = givenGiven && echo changed > given && echo new > new && chmod 755 new && echo kept > ~/kept && mkfifo ~/pipe";
    assert_code(&kept(&home, &["launch", "worker"], script), 0);
    assert_eq!(
        (home.leftovers("worker"), home.listed("worker").as_deref()),
        (Vec::new(), Some("stopped"))
    );
    assert_code(&home.run(&["pull", "worker"]), 0);
    let file = |name: &str| std::fs::read_to_string(home.project().join(name)).expect("a file");
    assert_eq!(["given", "Given", "new"].map(file), ["changed\n", "Given", "new\n"]);

    let output =
        kept(&home, &["resume", "worker"], "cat ~/kept given; test -p ~/pipe && stat -c %a new");
    assert_code(&output, 0);
    assert_eq!(stdout(&output), "kept\nchanged\n755\n");
    // The twin: a launch that does not go on has none of it.
    assert_code(
        &kept(&home, &["launch", "worker", "--discard"], "test ! -e ~/kept && test ! -e ~/pipe"),
        0,
    );
}

fn stop_early() {
    let home = Home::new();
    let mut bottle = home.start("early", &["demo", "--name", "early", "--", "sleep", "1000"]);
    eventually("it can be asked to stop", || home.runtime("early").join("control.sock").exists());
    assert_code(&home.run(&["stop", "early"]), 0);
    assert_eq!(home.leftovers("early"), Vec::<String>::new());
    assert_eq!(bottle.wait().code(), Some(143));
}

fn closed_stderr() {
    let home = Home::new();
    let mut launch = home.bottle(&["launch", "demo", "--yes", "--", "true"]);
    let mut launch = launch.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("launch");
    drop(launch.stderr.take());
    assert_eq!(launch.wait().expect("wait").code(), Some(0));
    assert_eq!(home.leftovers("demo"), Vec::<String>::new());
}

fn given() {
    let home = Home::with_manifest(
        "version = 1\n[agents.worker]\nbottle = \"dev\"\nprovider = \"command\"\ncommand = [\"printenv\", \"A\"]\n[bottles.dev]\nimage = \"demo\"\nenv = { A = \"?What is A\" }\n",
    );
    let output = home.run(&["launch", "worker", "--yes", "--env", "A=given-4711"]);
    assert_code(&output, 0);
    assert_eq!(stdout(&output), "given-4711\n", "the agent has it");
    assert!(!stderr(&output).contains("given-4711"), "{}", stderr(&output));
    let found = std::process::Command::new("grep")
        .args(["-rl", "given-4711"])
        .arg(home.state())
        .output()
        .expect("grep");
    assert_eq!(stdout(&found), "");
}

fn weak_token() {
    let home = Home::with_manifest(
        "version = 1\n[agents.worker]\nbottle = \"dev\"\nprovider = \"command\"\ncommand = [\"true\"]\n[bottles.dev]\nimage = \"demo\"\n\
         [[bottles.dev.egress]]\nhost = \"api.test\"\nconnect = \"127.0.0.1:9\"\ninject = { token = { env = \"API_KEY\" } }\n",
    );
    // No word that the guest's own environment holds, for which the self-test would stop the launch.
    for (value, weak) in [("marmalade", true), ("zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq17", false)] {
        let mut command = home.bottle(&["launch", "worker", "--yes"]);
        command.env("API_KEY", value);
        let output = output_within(command, PATIENCE);
        assert_code(&output, 0);
        let said = stderr(&output);
        assert_eq!(said.contains("token API_KEY is weak: it is an ordinary word."), weak, "{said}");
        assert!(!said.contains("zQWBu"), "{said}");
    }
}

fn kill_9() {
    for ms in [100, 900] {
        let home = Home::new();
        let mut bottle = home.start("demo", &["demo", "--", "sleep", "1000"]);
        std::thread::sleep(std::time::Duration::from_millis(ms));
        bottle.signal(Signal::SIGKILL);
        bottle.wait();
        eventually("the children die with the orchestrator", || {
            processes_naming(home.path()).is_empty()
        });
        home.run(&["list"]);
        assert_eq!(home.leftovers("demo"), Vec::<String>::new(), "{ms} ms");
    }
    let home = Home::new();
    let mut bottle = home.up("dead", &["demo"]);
    assert!(!processes_naming(home.path()).is_empty());
    bottle.signal(Signal::SIGKILL);
    bottle.wait();
    eventually("the children die with the orchestrator", || {
        processes_naming(home.path()).is_empty()
    });
    assert_eq!(home.listed("dead").as_deref(), Some("crashed"));
    assert_eq!(home.leftovers("dead"), Vec::<String>::new());
    // And the name is free again.
    assert_code(&home.run(&["launch", "demo", "--yes", "--name", "dead", "--", "true"]), 0);
}

fn concurrent() {
    let home = Home::new();
    // On one emulated processor two are as many as four on two real ones.
    let count = if engine() == Some("smolvm") { 2 } else { 4 };
    let mut all: Vec<_> = (0..count)
        .map(|i| home.start(&format!("c{i}"), &["demo", "--name", &format!("c{i}")]))
        .collect();
    for bottle in &mut all {
        assert_eq!(bottle.wait().code(), Some(0), "{}", bottle.said());
    }
    for bottle in &all {
        assert_eq!(home.leftovers(&bottle.slug), Vec::<String>::new());
    }
}

fn same_name() {
    let home = Home::new();
    let bottle = home.up("twice", &["demo"]);
    let second = home.run(&["launch", "demo", "--yes", "--name", "twice", "--", "true"]);
    assert_code(&second, 2);
    assert!(stderr(&second).contains("running already"), "{second:?}");
    assert_code(&bottle.sh(false, "true"), 0);
    bottle.stop();
}

fn child_named(bottle: &crate::support::Running<'_>, word: &str) -> i32 {
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", bottle.pid()))
        .expect("children");
    let named = children.split_ascii_whitespace().find(|pid| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|argv| String::from_utf8_lossy(&argv).contains(word))
    });
    named.and_then(|pid| pid.parse().ok()).expect("the child")
}

fn lost(word: &str, name: &str) {
    let home = Home::new();
    let mut bottle = home.up(name, &["demo"]);
    let pid = if word == SMOLVM {
        // A daemon in a namespace of its own: nobody's child here.
        processes_naming(home.path())
            .iter()
            .find(|(_, argv)| argv.contains(word))
            .expect("the VMM")
            .0
    } else {
        child_named(&bottle, word)
    };
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, Signal::SIGKILL).expect("kill");
    assert_eq!(bottle.wait().code(), Some(4), "{}", bottle.said());
    assert_eq!(home.leftovers(name), Vec::<String>::new());
}

fn lost_egress() {
    lost("--policy", "lost-egress");
}

/// What smolvm's VMM is called.
const SMOLVM: &str = "_boot-vm";

fn lost_vmm() {
    lost(if engine() == Some("smolvm") { SMOLVM } else { "qemu-system" }, "lost-vmm");
}

fn fails_self_test(how: &str, said: &str) {
    let home = Home::faulty();
    // The twin: the same build, without a fault, runs the agent.
    assert_code(&home.run(&["launch", "demo", "--yes"]), 0);
    let mut command = home.bottle(&["launch", "demo", "--yes", "--", "echo", "the agent ran"]);
    command.env("BOTTLE_FAULT", how);
    let output = output_within(command, PATIENCE);
    assert_code(&output, 5);
    assert!(
        stderr(&output).contains(said) && !stdout(&output).contains("the agent ran"),
        "{output:?}"
    );
    assert_eq!(home.leftovers("demo"), Vec::<String>::new());
}

fn open_egress() {
    fails_self_test("open-egress", "denied");
}

fn network_device() {
    fails_self_test("network-device", "device");
}

fn trust() {
    let home = Home::new();
    let bottle = home.up("trust", &["demo"]);
    // Variables, the system bundle alone, and no trust at all: the last must fail.
    let ask = "curl -so /dev/null -w '%{ssl_verify_result}' https://hello.demo.test/whoami";
    assert_eq!(stdout(&bottle.sh(false, ask)), "0");
    assert_eq!(
        stdout(&bottle.sh(false, &format!("unset SSL_CERT_FILE CURL_CA_BUNDLE; {ask}"))),
        "0"
    );
    assert_ne!(
        stdout(&bottle.sh(
            false,
            &format!("CURL_CA_BUNDLE=/etc/hostname SSL_CERT_FILE=/etc/hostname {ask}; echo")
        ))
        .trim(),
        "0"
    );
    bottle.stop();
}

fn reload() {
    let manifest = |more: &str| {
        format!(
            "version = 1\n[agents.worker]\nbottle = \"dev\"\nprovider = \"command\"\ncommand = [\"sleep\", \"1000\"]\n\
             [bottles.dev]\nimage = \"demo\"\n[[bottles.dev.egress]]\nhost = \"api.test\"\nconnect = \"127.0.0.1:9\"\n{more}"
        )
    };
    let home = Home::with_manifest(&manifest("paths = [\"/v1/*\"]\n"));
    let mut bottle = home.start("worker", &["worker"]);
    bottle.wait_until_up();
    // Nobody listens at port 9: 502 is egress letting it through, 403 is egress refusing.
    let ask = |path: &str| {
        let script = format!("curl -s -o /dev/null -w '%{{http_code}}' https://api.test{path}");
        stdout(&home.run(&["exec", "worker", "--", "sh", "-c", &script]))
    };
    assert_eq!((ask("/v1/a"), ask("/admin")), ("502".to_owned(), "403".to_owned()));

    let file = home.project().join("bottle.toml");
    std::fs::write(&file, manifest("paths = [\"/admin\"]\n")).expect("a manifest");
    assert_code(&home.run(&["reload", "worker"]), 0);
    assert_eq!((ask("/v1/a"), ask("/admin")), ("403".to_owned(), "502".to_owned()));

    std::fs::write(&file, manifest("scan = { rules = { \"no-such-rule\" = \"off\" } }\n"))
        .expect("a manifest");
    let refused = home.run(&["reload", "worker"]);
    assert!(
        refused.status.code() != Some(0) && stderr(&refused).contains("no-such-rule"),
        "{}",
        stderr(&refused)
    );
    assert_eq!(ask("/admin"), "502", "the old one stays");

    let log = stdout(&home.run(&["logs", "worker"]));
    assert!(
        log.contains("/v1/a") && log.contains("/admin") && log.contains("not-allowed"),
        "{log}"
    );
    assert_code(&home.run(&["audit", "verify", "worker"]), 0);
    let path = home.state().join("bottles/worker/audit.jsonl");
    let text = std::fs::read_to_string(&path).expect("the log");
    bottle.stop();
    std::fs::write(&path, text.replacen("/admin", "/other", 1)).expect("a forgery");
    let broken = home.run(&["audit", "verify", "worker"]);
    assert_code(&broken, 5);
}
