//! The words of the command line, as typed; what they mean is checked by the commands.

mod reading;
mod service;
mod tables;
mod transforms;

use clap::{Parser, Subcommand};

pub(crate) use reading::Reading;
pub(crate) use service::{
    Check, DeadLetters, DeadLettersAction, Generate, LetterFilter, Materialize, Produce, Run, Serve,
};
pub(crate) use tables::{
    AsOf, Audit, Backfill, ColdStart, Compare, Entities, Every, Inputs, Join, Knowledge, Stats, Tables,
};
pub(crate) use transforms::{Build, Inspect, New, Registry, RegistryAction, Test, Transforms, TransformsAction};

/// Features for machine learning, from events to vectors: one WebAssembly transform online and offline.
#[derive(Debug, Parser)]
#[command(name = "plumb", version, propagate_version = true, max_term_width = 110)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Print one JSON document on stdout instead of text.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a new transform crate that builds and passes its own test
    New(New),
    /// Compile a transform crate to one component
    Build(Build),
    /// Show what a component declares; refuses one that imports anything
    Inspect(Inspect),
    /// Run a component over a file of events and print the features
    Test(Test),
    /// Write realistic synthetic events, the same for the same seed
    Generate(Generate),
    /// Publish a file of events to the log
    Produce(Produce),
    /// Run the stream processor
    Run(Run),
    /// Serve features over HTTP
    Serve(Serve),
    /// Compute historical snapshots of feature values
    Backfill(Backfill),
    /// Make a point-in-time training set
    Join(Join),
    /// Look for leakage in a training set, ours or anyone's
    Audit(Audit),
    /// What is in snapshots and training sets, column by column
    Stats(Stats),
    /// How the distributions of two snapshots or training sets differ
    Compare(Compare),
    /// Compare online values with offline ones, feature by feature
    Check(Check),
    /// Rebuild online state from the archive, and check it
    Materialize(Materialize),
    /// Records that could not be applied: look at them, publish them again
    DeadLetters(DeadLetters),
    /// See and change the transforms of a running service
    Transforms(Transforms),
    /// Look at the catalogue of features
    Registry(Registry),
}
