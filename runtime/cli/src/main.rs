//! The `plumb` command: words to checked requests, library calls, text or `--json`, exit codes.

mod args;
mod client;
mod commands;
mod context;
mod exit;
mod interrupt;
mod start;
mod telemetry;
mod values;

use args::{Cli, Command};
use clap::Parser;
use context::Output;
use exit::Done;
use std::path::Path;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A service logs as its settings say, once they are read.
    if !matches!(cli.command, Command::Run(_) | Command::Serve(_)) {
        telemetry::plain();
    }
    match run(&cli.command, Output { json: cli.json }) {
        Ok(Done::Ok) => ExitCode::SUCCESS,
        Ok(Done::Failed) => ExitCode::from(1),
        Err(_) if interrupt::is_stopped() => {
            telemetry::say("ERROR", "interrupted: what was not complete is not there", &[]);
            ExitCode::from(interrupt::EXIT_CODE)
        }
        Err(error) => exit::report(&error),
    }
}

fn run(command: &Command, output: Output) -> anyhow::Result<Done> {
    let made = |path: std::path::PathBuf| {
        output.print(&serde_json::json!({"path": path}), || path.display().to_string());
        Done::Ok
    };
    match command {
        Command::New(arguments) => commands::new::new(&arguments.name, &arguments.entity, Path::new(".")).map(made),
        Command::Build(arguments) => {
            commands::build::build(arguments.path.as_deref(), arguments.out.as_deref()).map(made)
        }
        Command::Inspect(arguments) => commands::inspect::run(arguments, output),
        Command::Test(arguments) => commands::test::run(arguments, output),
        Command::Generate(arguments) => commands::generate::run(arguments, output),
        Command::Produce(arguments) => commands::produce::run(arguments, output),
        Command::Run(arguments) => commands::run::run(arguments, output),
        Command::Serve(arguments) => commands::run::serve(arguments),
        Command::Backfill(arguments) => commands::backfill::run(arguments, output),
        Command::Join(arguments) => commands::join::run(arguments, output),
        Command::Audit(arguments) => commands::audit::run(arguments, output),
        Command::Stats(arguments) => commands::stats::run(arguments, output),
        Command::Compare(arguments) => commands::compare::run(arguments, output),
        Command::Check(arguments) => commands::check::run(arguments, output),
        Command::Materialize(arguments) => commands::materialize::run(arguments, output),
        Command::DeadLetters(arguments) => commands::dead_letters::run(arguments, output),
        Command::Transforms(arguments) => commands::transforms::run(arguments, output),
        Command::Registry(arguments) => commands::registry::run(arguments, output),
    }
}
