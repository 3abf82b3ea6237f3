//! What a job keeps aside, in memory or on disk: pieces of bytes, found again by the bucket they belong to.

use super::bounded::Limits;
use super::gather::{Share, Wanted};
use super::ranks::Ranked;
use crate::port::{Scratch, ScratchFolder};
use crate::{Error, Result};
use plumb_core::temporal::{Question, RankHistory};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Pieces of bytes by bucket: in memory up to a limit, further ones in a scratch file.
#[derive(Debug)]
pub(super) struct Spill<'a> {
    folder: &'a dyn ScratchFolder,
    limit_bytes: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    /// Made once it is needed.
    file: Option<Arc<dyn Scratch>>,
    held: Vec<Arc<Vec<u8>>>,
    held_bytes: usize,
    /// Per bucket its pieces.
    places: Vec<Vec<Place>>,
}

#[derive(Debug, Clone)]
struct Place {
    /// The buffer in memory it is in; `None` = in the file.
    held: Option<usize>,
    at: u64,
    len: usize,
}

impl<'a> Spill<'a> {
    pub(super) fn new(folder: &'a dyn ScratchFolder, buckets: usize, limit_bytes: usize) -> Self {
        let kept = Kept { file: None, held: Vec::new(), held_bytes: 0, places: vec![Vec::new(); buckets] };
        Self { folder, limit_bytes, kept: Mutex::new(kept) }
    }

    fn lock(&self) -> Result<MutexGuard<'_, Kept>> {
        self.kept.lock().map_err(|_| Error::internal("a worker panicked while it wrote to disk"))
    }

    /// Keeps a buffer, of which these parts belong to these buckets.
    pub(super) fn put(&self, mut buffer: Vec<u8>, parts: Vec<(usize, Range<usize>)>) -> Result<()> {
        if parts.is_empty() {
            return Ok(());
        }
        let mut kept = self.lock()?;
        let (held, start) = if kept.held_bytes + buffer.len() <= self.limit_bytes {
            buffer.shrink_to_fit();
            kept.held_bytes += buffer.len();
            kept.held.push(Arc::new(buffer));
            (Some(kept.held.len() - 1), 0)
        } else {
            let file = match &kept.file {
                Some(file) => file.clone(),
                None => Arc::from(self.folder.create()?),
            };
            kept.file = Some(file.clone());
            // Others may write meanwhile.
            drop(kept);
            let start = file.append(&buffer)?;
            kept = self.lock()?;
            (None, start)
        };
        for (bucket, part) in parts {
            kept.places[bucket].push(Place { held, at: start + part.start as u64, len: part.len() });
        }
        Ok(())
    }

    /// Makes another bucket; returns which.
    pub(super) fn add_bucket(&self) -> Result<usize> {
        let mut kept = self.lock()?;
        kept.places.push(Vec::new());
        Ok(kept.places.len() - 1)
    }

    /// Reads one of a bucket's pieces into `buffer`; `false` where it has no more.
    pub(super) fn piece(&self, bucket: usize, index: usize, buffer: &mut Vec<u8>) -> Result<bool> {
        let kept = self.lock()?;
        let Some(Place { held, at, len }) = kept.places[bucket].get(index).cloned() else { return Ok(false) };
        buffer.clear();
        match (held, &kept.file) {
            (Some(held), _) => buffer.extend_from_slice(&kept.held[held][at as usize..at as usize + len]),
            (None, Some(file)) => {
                let file = file.clone();
                drop(kept);
                buffer.resize(len, 0);
                file.read(at, buffer)?;
            }
            (None, None) => return Err(Error::internal("a scratch file is gone")),
        }
        Ok(true)
    }

    /// The bytes of a bucket's pieces.
    pub(super) fn bytes(&self, bucket: usize) -> Result<usize> {
        Ok(self.lock()?.places[bucket].iter().map(|place| place.len).sum())
    }

    /// Reads the pieces of a bucket, one after the other: first kept, first read, where one thread kept them.
    pub(super) fn each(&self, bucket: usize, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (places, file) = {
            let kept = self.lock()?;
            (kept.places[bucket].clone(), kept.file.clone())
        };
        let mut buffer = Vec::new();
        for Place { held, at, len } in places {
            match (held, &file) {
                (Some(held), _) => {
                    let piece = self.lock()?.held[held].clone();
                    take(&piece[at as usize..at as usize + len])?;
                }
                (None, Some(file)) => {
                    buffer.resize(len, 0);
                    file.read(at, &mut buffer)?;
                    take(&buffer)?;
                }
                (None, None) => return Err(Error::internal("a scratch file is gone")),
            }
        }
        Ok(())
    }
}

/// Bytes by slice: in memory while all slices together have fewer than a limit, further ones in a scratch file. Each
/// slice's come back in the order in which they were put.
#[derive(Debug)]
pub(super) struct Slices<'a> {
    spill: Spill<'a>,
    /// Those of each slice that were not put down yet.
    held: Vec<Vec<u8>>,
    held_bytes: usize,
    limit_bytes: usize,
}

impl<'a> Slices<'a> {
    /// Nothing yet, of so many slices.
    pub(super) fn new(folder: &'a dyn ScratchFolder, slices: usize, limit_bytes: usize) -> Self {
        let held = vec![Vec::new(); slices];
        Self { spill: Spill::new(folder, slices, 0), held, held_bytes: 0, limit_bytes }
    }

    /// How many slices there are.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Lets `write` append bytes to a slice: a piece that comes back whole.
    pub(super) fn put(&mut self, slice: usize, write: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        let held = &mut self.held[slice];
        let before = held.len();
        write(held);
        self.held_bytes += held.len() - before;
        if self.held_bytes < self.limit_bytes {
            return Ok(());
        }
        self.held_bytes = 0;
        let (mut buffer, mut parts) = (Vec::new(), Vec::new());
        for (slice, held) in self.held.iter_mut().enumerate().filter(|(_, held)| !held.is_empty()) {
            let start = buffer.len();
            buffer.append(held);
            // Slices are of unlike sizes: what one has grown to is not kept for it.
            held.shrink_to_fit();
            parts.push((slice, start..buffer.len()));
        }
        self.spill.put(buffer, parts)
    }

    /// The bytes of a slice.
    pub(super) fn bytes(&self, slice: usize) -> Result<usize> {
        Ok(self.spill.bytes(slice)? + self.held[slice].len())
    }

    /// Reads a slice, some pieces at a time.
    pub(super) fn each(&self, slice: usize, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.spill.each(slice, &mut take)?;
        take(&self.held[slice])
    }
}

/// Where workers put the histories of a source's views when their shares get large.
#[derive(Debug)]
pub(super) struct Unloading<'a> {
    /// Per view, by slice.
    pub(super) histories: Vec<Spill<'a>>,
    /// Per view, by distribution of its plan.
    pub(super) ranked: Vec<Vec<Ranked<'a>>>,
    /// The bytes that a worker's share may have.
    pub(super) share_bytes: usize,
    /// The bytes that a worker sorts at once.
    pub(super) sort_bytes: usize,
    used: AtomicBool,
}

impl<'a> Unloading<'a> {
    pub(super) fn new(folder: &'a dyn ScratchFolder, views: &[Wanted<'_>], keeps_known: bool, limits: &Limits) -> Self {
        let histories = views.iter().map(|_| Spill::new(folder, limits.slices, 0)).collect();
        let ranked = views.iter().map(|wanted| {
            let plan = wanted.transform.plan();
            let histories = (0..plan.globals.len()).map(|global| RankHistory::new(plan, global));
            histories.map(|history| Ranked::new(&history, keeps_known, folder, limits.run_bytes)).collect()
        });
        Self {
            histories,
            ranked: ranked.collect(),
            share_bytes: limits.share_bytes,
            sort_bytes: limits.sort_bytes,
            used: AtomicBool::new(false),
        }
    }

    /// Whether anything was unloaded. If so, everything has to be: a slice is read from one place.
    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes over what the views' distributions of a share hold where it is more than `bytes`.
    pub(super) fn unload_ranks(&self, share: &mut Share, bytes: usize) -> Result<()> {
        for (histories, ranked) in share.ranks().zip(&self.ranked) {
            for (history, ranked) in histories.iter_mut().zip(ranked) {
                if history.bytes() > bytes {
                    ranked.take(history)?;
                }
            }
        }
        Ok(())
    }

    /// Unloads a share.
    pub(super) fn unload(&self, share: &mut Share) -> Result<()> {
        self.used.store(true, Ordering::Relaxed);
        for (history, spill) in share.histories().zip(&self.histories) {
            let (mut buffer, mut parts) = (Vec::new(), Vec::new());
            for slice in 0..history.slices() {
                let start = buffer.len();
                history.unload(slice, &mut buffer);
                if buffer.len() > start {
                    parts.push((slice, start..buffer.len()));
                }
            }
            spill.put(buffer, parts)?;
        }
        Ok(())
    }
}

/// What is kept as so many bytes each.
pub(super) trait Record: Copy {
    /// The bytes it takes up.
    const BYTES: usize;

    /// Appends its bytes.
    fn put(self, out: &mut Vec<u8>);

    /// Of the bytes that [`put`](Self::put) appended.
    fn of(bytes: &[u8]) -> Option<Self>;
}

impl Record for Question {
    const BYTES: usize = 16;

    #[inline]
    fn put(self, out: &mut Vec<u8>) {
        // In one piece, so that there is room for it or not.
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&self.label.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.key.to_le_bytes());
        bytes[8..].copy_from_slice(&self.as_of_us.to_le_bytes());
        out.extend_from_slice(&bytes);
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        let [l0, l1, l2, l3, k0, k1, k2, k3, as_of @ ..] = *bytes.as_array::<16>()?;
        let (label, key) = (u32::from_le_bytes([l0, l1, l2, l3]), u32::from_le_bytes([k0, k1, k2, k3]));
        Some(Question { key, label, as_of_us: i64::from_le_bytes(as_of) })
    }
}

/// Records by slice of keys; each slice's come back in the order in which they were pushed.
#[derive(Debug)]
pub(super) struct BySlice<'a, R> {
    slices: Slices<'a>,
    counts: Vec<usize>,
    of: PhantomData<fn() -> R>,
}

/// The questions of an entity's labels, by slice of keys; each slice's rise by label.
pub(super) type Questions<'a> = BySlice<'a, Question>;

impl<'a, R: Record> BySlice<'a, R> {
    pub(super) fn new(folder: &'a dyn ScratchFolder, slices: usize, limit_bytes: usize) -> Self {
        Self { slices: Slices::new(folder, slices, limit_bytes), counts: vec![0; slices], of: PhantomData }
    }

    /// Adds a record of a key.
    pub(super) fn push(&mut self, key: u32, record: R) -> Result<()> {
        let slice = key as usize % self.slices.len();
        self.counts[slice] += 1;
        self.slices.put(slice, |held| record.put(held))
    }

    /// The number of records of a slice.
    pub(super) fn count(&self, slice: usize) -> usize {
        self.counts[slice]
    }

    /// The records of a slice.
    pub(super) fn of_slice(&self, slice: usize) -> Result<Vec<R>> {
        let mut records = Vec::with_capacity(self.counts[slice]);
        self.slices.each(slice, |bytes| {
            for bytes in bytes.chunks_exact(R::BYTES) {
                records.push(R::of(bytes).ok_or_else(|| Error::internal("a scratch file holds no records"))?);
            }
            Ok(())
        })?;
        Ok(records)
    }
}
