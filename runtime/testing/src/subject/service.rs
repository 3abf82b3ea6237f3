//! The whole embedded service in this process: records go into its log, reads through its evaluator.

use super::{Features, settings, text};
use crate::case::{Accounting, CaseError, Read, Subject};
use plumb_assembly::Settings;
use plumb_assembly::backend::ServiceBackend;
use plumb_assembly::service::{RunOptions, Service};
use plumb_pipeline::query::{Answer, Query, Request, Status};
use plumb_serve_http::Backend;
use std::collections::BTreeMap;
use tempfile::TempDir;

const SOURCE: &str = "default";

/// When the service is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restarts {
    /// Never.
    None,
    /// After every line of a case, in each of the ways of [`Disturbance`] in turn.
    EveryLine,
}

/// How the service ends before it is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disturbance {
    /// Like a crash, with what was just appended perhaps not even read.
    Crash,
    /// Like a crash after everything was published, nothing of it committed for sure.
    CrashWhenPublished,
    /// Like a crash right after a commit.
    CrashWhenCommitted,
    /// As it should.
    Stop,
}

impl Disturbance {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Crash, Self::CrashWhenPublished, Self::CrashWhenCommitted, Self::Stop];
}

struct Running {
    // Dropped before the service it belongs to.
    backend: ServiceBackend,
    service: Service,
}

/// A service over a data folder of its own.
pub struct ServiceSubject {
    running: Option<Running>,
    settings: Settings,
    partitions: u32,
    restarts: Restarts,
    /// The log's next offsets.
    appended: BTreeMap<u32, u64>,
    lines: usize,
    _folder: TempDir,
}

impl std::fmt::Debug for ServiceSubject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

impl ServiceSubject {
    /// Starts a service with an empty log.
    pub fn start(partitions: u32, restarts: Restarts) -> Result<Self, CaseError> {
        let folder = tempfile::tempdir()?;
        let mut subject = Self {
            running: None,
            settings: settings(folder.path(), partitions)?,
            partitions,
            restarts,
            appended: (0..partitions).map(|partition| (partition, 0)).collect(),
            lines: 0,
            _folder: folder,
        };
        subject.open()?;
        Ok(subject)
    }

    fn open(&mut self) -> Result<(), CaseError> {
        let service = Service::start(self.settings.clone(), RunOptions::default())?;
        self.running = Some(Running { backend: ServiceBackend::new(&service)?, service });
        Ok(())
    }

    fn running(&self) -> Result<&Running, CaseError> {
        self.running.as_ref().ok_or_else(|| "the service did not start again".into())
    }

    /// Appends records together.
    pub fn append(&mut self, records: &[&[u8]]) -> Result<(), CaseError> {
        let position = self.running()?.backend.append(SOURCE, records).map_err(|error| format!("{error:?}"))?;
        self.appended.extend(position.source(SOURCE)?);
        Ok(())
    }

    /// Ends the service and starts it again over the same folder.
    pub fn restart(&mut self, disturbance: Disturbance) -> Result<(), CaseError> {
        match disturbance {
            Disturbance::Crash | Disturbance::Stop => {}
            Disturbance::CrashWhenPublished => self.settle()?,
            Disturbance::CrashWhenCommitted => {
                self.settle()?;
                self.running()?.service.runtime().commit_now()?;
            }
        }
        let Running { backend, service } = self.running.take().ok_or("the service did not start again")?;
        drop(backend);
        if disturbance == Disturbance::Stop {
            service.stop()?
        } else {
            service.abandon()?
        }
        self.open()
    }

    /// Waits until answers hold everything appended.
    fn settle(&self) -> Result<(), CaseError> {
        Ok(self.running()?.service.runtime().wait_published(SOURCE, &self.appended)?)
    }

    /// Answers reads together, with everything appended; `with_archive` compares each answer with what the archive
    /// says at its position, too.
    pub fn answers(&self, reads: &[Read], with_archive: bool) -> Result<Vec<Features>, CaseError> {
        self.settle()?;
        let Running { backend, service } = self.running()?;
        let active = service.runtime().active_views();
        let requests: Result<Vec<Request>, CaseError> = reads
            .iter()
            .map(|read| {
                let view = active.iter().find(|view| view.name() == read.view);
                let view = view.ok_or_else(|| format!("no active view `{}`", read.view))?;
                Ok(Request {
                    fields: vec![(view.transform.def().entity.key[0].clone(), read.key.clone())],
                    features: Some(vec![format!("{}:*", read.view)]),
                    as_of_us: Some(read.at_us),
                    ..Request::default()
                })
            })
            .collect();
        let query = Query { requests: requests?, defaults: Vec::new() };
        let answers = backend.query(&query)?;
        if with_archive {
            for (request, online) in query.requests.iter().zip(&answers) {
                let archived = backend.history(request, Some(&online.position))?;
                let (online, archived) = (printed(online)?, printed(&archived)?);
                if online != archived {
                    return Err(format!("online {online:?}\narchive at its position {archived:?}").into());
                }
            }
        }
        answers.iter().map(|answer| Ok(printed(answer)?.0)).collect()
    }

    /// What became of the records appended.
    pub fn counts(&self) -> Result<Accounting, CaseError> {
        self.settle()?;
        let mut sum = plumb_pipeline::accept::Accounting::default();
        let status = self.running()?.service.runtime().status();
        status.partitions.iter().for_each(|partition| sum += partition.accounting);
        Ok(sum.into())
    }

    fn line_done(&mut self) -> Result<(), CaseError> {
        self.lines += 1;
        match self.restarts {
            Restarts::None => Ok(()),
            Restarts::EveryLine => self.restart(Disturbance::ALL[self.lines % Disturbance::ALL.len()]),
        }
    }
}

/// The features of an answer to one view, and the newest contribution's time.
fn printed(answer: &Answer) -> Result<(Features, Option<i64>), CaseError> {
    let [view] = answer.views.as_slice() else { return Err(format!("{} views answer", answer.views.len()).into()) };
    let features = match view.status {
        Status::Found => {
            let named = answer.features.iter().map(|(name, value)| {
                (name.split_once(':').map_or(name.as_ref(), |(_, feature)| feature).to_owned(), text(value))
            });
            Some(named.collect())
        }
        Status::NotFound if answer.features.iter().all(|(_, value)| text(value) == "null") => None,
        other => return Err(format!("status {}: {:?}", other.name(), answer.features).into()),
    };
    Ok((features, answer.entities[0].event_time_us))
}

impl Subject for ServiceSubject {
    fn name(&self) -> String {
        let restarted = if self.restarts == Restarts::None { "" } else { ", restarted after every line" };
        format!("service with {} partitions{restarted}", self.partitions)
    }

    fn record(&mut self, record: &str) -> Result<(), CaseError> {
        self.append(&[record.as_bytes()])?;
        self.line_done()
    }

    fn read(&mut self, read: &Read) -> Result<Features, CaseError> {
        // The archive commits before it answers: not asked where restarts are to find what is not committed.
        let with_archive = self.restarts == Restarts::None;
        let features = self.answers(std::slice::from_ref(read), with_archive)?.pop().ok_or("no answer")?;
        self.line_done()?;
        Ok(features)
    }

    fn accounting(&mut self) -> Result<Accounting, CaseError> {
        let counts = self.counts()?;
        self.line_done()?;
        Ok(counts)
    }
}
