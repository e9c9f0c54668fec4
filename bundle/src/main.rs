//! Entry point of the bundle: parse, confine, run, exit code.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
