//! A guest that tries to hurt its host, or to make itself unstoppable.

use super::Case;
use crate::support::{Home, Running, assert_code, eventually, processes_naming, stdout};

pub const CASES: &[Case] = &[
    ("attacks::denial::a_fork_bomb_can_be_stopped", fork_bomb),
    ("attacks::denial::a_console_flood_costs_no_memory_and_blocks_nothing", console_flood),
    ("attacks::denial::two_thousand_connections_leave_the_bottle_usable", connection_flood),
    ("attacks::denial::output_that_nobody_reads_blocks_nothing_else", unread_output),
    ("attacks::denial::a_guest_that_powers_off_ends_the_launch_with_4", power_off),
    ("attacks::denial::a_guest_that_panics_ends_the_launch_with_4", panic_guest),
];

/// Resident memory of a process, in KiB.
fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("VmRSS");
    line.split_ascii_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("KiB")
}

/// Does `work` and requires that no process of the host's side of the bottle (all but QEMU) is ever
/// `limit` KiB larger than before.
fn without_growth<T: Send>(bottle: &Running<'_>, limit: u64, work: impl FnOnce() -> T + Send) -> T {
    let mut egress = processes_naming(bottle.home.path());
    egress.retain(|(_, argv)| argv.contains(" egress --"));
    let [(egress, _)] = &egress[..] else { panic!("one egress: {egress:?}") };
    let mut watched = [("the orchestrator", bottle.pid()), ("egress", *egress)]
        .map(|(name, pid)| (name, pid, resident(pid), 0));
    let done = std::thread::scope(|scope| {
        let work = scope.spawn(work);
        while !work.is_finished() {
            for (_, pid, before, most) in &mut watched {
                *most = resident(*pid).saturating_sub(*before).max(*most);
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        work.join().expect("the work")
    });
    for (name, _, before, most) in watched {
        assert!(most < limit, "{name} grew from {before} KiB by {most} KiB");
    }
    done
}

fn fork_bomb() {
    let home = Home::new();
    let bottle = home.up("bomb", &["demo"]);
    bottle.sh(false, "b() { b | b & }; b; true");
    bottle.stop();
}

fn console_flood() {
    let home = Home::new();
    let bottle = home.up("flood", &["demo"]);
    without_growth(&bottle, 8 * 1024, || {
        assert_code(
            &bottle.sh(true, "timeout 3 cat /dev/zero > /dev/ttyS0; echo still here > /dev/ttyS0"),
            0,
        );
        assert_code(&bottle.sh(false, "true"), 0);
    });
    bottle.stop();
}

fn connection_flood() {
    let home = Home::new();
    let bottle = home.up("connections", &["demo"]);
    // More than the host gives a guest; the rest waits in the guest's own queue for as long as the
    // flood lasts.
    let flood = "ulimit -n 4096; timeout 10 perl -MSocket -e 'for (1..2000) { socket(my $s, AF_INET, SOCK_STREAM, 0) or last; \
                 connect($s, sockaddr_in(9099, inet_aton(\"127.0.0.1\"))); push @s, $s; $| = 1; print scalar(@s), \"\\n\" } sleep 2' | tail -1";
    let flooded = without_growth(&bottle, 16 * 1024, || bottle.sh(true, flood));
    let opened: u32 = stdout(&flooded).trim().parse().expect("a number of connections");
    assert!(opened >= 400, "only {opened} connections: this is no flood");
    let ask = "curl -sm20 -o /dev/null -w '%{http_connect}' https://hello.demo.test/whoami";
    eventually("egress answers again", || stdout(&bottle.sh(false, ask)).trim() == "200");
    bottle.stop();
}

fn unread_output() {
    let home = Home::new();
    let bottle = home.up("unread", &["demo"]);
    let mut endless = home.bottle(&["exec", "unread", "--", "cat", "/dev/zero"]);
    let mut endless = endless.stdout(std::process::Stdio::piped()).spawn().expect("exec");
    std::thread::sleep(std::time::Duration::from_secs(1)); // let every buffer on the way fill up
    for _ in 0..5 {
        assert_code(&bottle.sh(false, "head -c 1000000 /dev/zero | wc -c"), 0);
    }
    endless.kill().expect("kill");
    endless.wait().expect("wait");
    // The guest's process is gone with its reader.
    eventually("cat ends", || {
        !stdout(&bottle.sh(true, "pgrep -x cat || true")).contains(char::is_numeric)
    });
    bottle.stop();
}

fn ends_with_4(name: &str, script: &str) {
    let home = Home::new();
    let mut bottle = home.up(name, &["demo"]);
    bottle.sh(true, script);
    assert_eq!(bottle.wait().code(), Some(4), "{}", bottle.said());
    assert_eq!(home.leftovers(name), Vec::<String>::new());
    assert!(processes_naming(home.path()).is_empty());
}

fn power_off() {
    ends_with_4("poweroff", "echo o > /proc/sysrq-trigger; sleep 5");
}

fn panic_guest() {
    ends_with_4("panic", "echo c > /proc/sysrq-trigger; sleep 5");
}
