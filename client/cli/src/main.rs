//! The `asymflow` command.

fn main() -> std::process::ExitCode {
    cli::main()
}
