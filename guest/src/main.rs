//! The program that runs inside a bottle: PID 1 of a qemu guest, the server in a guest that has an
//! init of its own, and the self-test, relay and demo.
//!
//! It is static and parses its arguments without a crate, because it is loaded at every boot and
//! for every self-test, and under emulation each page of it takes time.

mod args;
mod checks;
mod demo;
mod limits;
mod net;
mod pid1;
mod proxy;
mod relay;
mod secret_search;
mod self_test;
mod serve;

use std::process::ExitCode;

const USAGE: &str = "\
usage: bottle-guest relay --map PORT=SOCKET...
       bottle-guest serve SOCKET   # the channel, with the launch's key on standard input
       bottle-guest idle
       bottle-guest self-test [--canary PORT] [--denied-host HOST] [--endpoint NAME=PORT]...
       bottle-guest demo [--json] [--canary PORT] [--denied-host HOST] [--allowed-host HOST[:PORT]] [--host-kernel RELEASE] [--workspace DIR]
As PID 1 it boots the guest.";

fn main() -> ExitCode {
    if std::process::id() == 1 {
        pid1::main();
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.split_first() {
        Some((role, rest)) => match role.as_str() {
            "relay" => relay::main(rest),
            "self-test" => self_test::main(rest),
            "demo" => demo::main(rest),
            "serve" => serve::main(rest),
            "idle" => loop {
                std::thread::park();
            },
            "--help" | "-h" | "help" => {
                println!("{USAGE}");
                Ok(ExitCode::SUCCESS)
            }
            other => Err(format!("unknown role {other}")),
        },
        None => Err("no role".into()),
    };
    result.unwrap_or_else(|e| {
        eprintln!("bottle-guest: {e}\n{USAGE}");
        ExitCode::from(2)
    })
}
