//! The files of a machine's disks: `disk_switch`, `disk_pull`, `disk_replace_below`, `disk_grow`, all while the guest runs; and `no_room`, which tells
//! that the host has no room for what the guest writes there.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use disk::{Disk, Stack, Switch};
use serde_json::{Value, json};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::guest::Guest;
use super::open::Files;
use super::protocol::{
    BelowSpec, DiskName, GrowSpec, Layers, NewTop, NoRoom, PullEnd, PullProgress, PullSpec, Refusal,
    SwitchSpec, Switched, code, notification,
};
use crate::virtio::block::{Bell, Block};

/// How often it is told how far a pull is.
const OFTEN: Duration = Duration::from_millis(250);

/// What a machine's disks are made of, by their names, whose layers are being merged, and which have no room on the host.
pub(super) struct Disks {
    stacks: Vec<(String, Arc<Stack>, Bell)>,
    short: BTreeSet<String>,
    pulls: Vec<Pull>,
    news: Arc<News>,
}

/// Layers that are being merged.
struct Pull {
    name: String,
    cancelled: Arc<AtomicBool>,
}

/// What is to be told of disks.
struct News {
    waiting: Mutex<VecDeque<Told>>,
    /// Readable when there is something.
    ready: EventFd,
}

enum Told {
    Progress(PullProgress),
    End(PullEnd),
    /// The disk of this name has no room, or has some again.
    Short(String, bool),
}

impl Disks {
    pub fn none() -> io::Result<Self> {
        let ready = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        let news = Arc::new(News { waiting: Mutex::default(), ready });
        Ok(Self { stacks: Vec::new(), short: BTreeSet::new(), pulls: Vec::new(), news })
    }

    pub fn add(&mut self, name: &str, stack: Arc<Stack>, disk: &Block) {
        let (news, called) = (Arc::clone(&self.news), name.to_owned());
        disk.on_room(move |short| news.tell(Told::Short(called.clone(), short)));
        self.stacks.push((name.into(), stack, disk.bell()));
    }

    /// Those for which the host has no room.
    pub fn short(&self) -> Vec<String> {
        self.short.iter().cloned().collect()
    }

    /// A disk that is not there any more. What is being done with its layers ends soon.
    pub fn forget(&mut self, name: &str) {
        self.stacks.retain(|(disk, ..)| disk != name);
        self.short.remove(name);
        for pull in self.pulls.iter().filter(|pull| pull.name == name) {
            pull.cancelled.store(true, Ordering::Relaxed);
        }
    }

    /// Has everything that the guest has written in the files, as far as the host takes it.
    pub fn write_back(&self) {
        for (name, stack, _) in &self.stacks {
            if let Err(error) = stack.write_back() {
                tracing::error!("Not all that was written to the disk {name} is in its file: {error}");
            }
        }
    }

    /// Has everything that the guest has written be durable, for one that goes on later, and whose memory says that it is.
    ///
    /// # Errors
    /// If the host has no room for it, or its disk fails.
    pub fn make_durable(&self) -> Result<(), Refusal> {
        for (name, stack, _) in &self.stacks {
            stack.flush().map_err(|error| {
                Refusal::new(
                    code::MACHINE,
                    format!("what was written to the disk {name} cannot be kept: {error}"),
                )
            })?;
        }
        Ok(())
    }

    fn get(&self, field: &str, name: &str) -> Result<Arc<Stack>, Refusal> {
        self.find(field, name).map(|(_, stack, _)| Arc::clone(stack))
    }

    fn find(&self, field: &str, name: &str) -> Result<&(String, Arc<Stack>, Bell), Refusal> {
        let none = || Refusal::new(code::PARAMS, format!("{field}: there is no disk {name}"));
        self.stacks.iter().find(|(disk, ..)| disk == name).ok_or_else(none)
    }

    /// What to wait for: readable when there is something to tell.
    pub fn ready(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as this is there.
        unsafe { BorrowedFd::borrow_raw(self.news.ready.as_raw_fd()) }
    }

    /// The lines that tell what there is.
    pub fn news(&mut self) -> Vec<String> {
        // Takes the count; there may be none.
        let _ = self.news.ready.read();
        let all = std::mem::take(&mut *self.news.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let line = |told| match told {
            Told::Progress(progress) => notification("disk_pulling", &progress),
            Told::End(end) => {
                self.pulls.retain(|pull| pull.name != end.name);
                notification("disk_pulled", &end)
            }
            Told::Short(name, short) => {
                // One that is gone needs none.
                if short && self.stacks.iter().any(|(disk, ..)| *disk == name) {
                    self.short.insert(name);
                } else {
                    self.short.remove(&name);
                }
                notification("no_room", &NoRoom { disks: self.short.iter().cloned().collect() })
            }
        };
        all.into_iter().map(line).collect()
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for pull in &self.pulls {
            pull.cancelled.store(true, Ordering::Relaxed);
        }
    }
}

impl News {
    fn tell(&self, told: Told) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(told);
        // A counter that is full is readable, too.
        let _ = self.ready.write(1);
    }
}

/// Disks with the files that they are to go on with.
pub(super) struct NewTops {
    field: &'static str,
    disks: Vec<(String, Arc<Stack>, File)>,
}

impl NewTops {
    fn refusal(&self, number: usize, error: impl std::fmt::Display) -> Refusal {
        let name = self.disks.get(number).map_or("", |(name, ..)| name);
        Refusal::new(
            code::MACHINE,
            format!("{}[{number}]: the disk {name} stays as it is: {error}", self.field),
        )
    }

    /// Makes durable what is on the disks.
    pub fn flush(&self) -> Result<(), Refusal> {
        for (number, (_, stack, _)) in self.disks.iter().enumerate() {
            stack.flush().map_err(|error| self.refusal(number, error))?;
        }
        Ok(())
    }

    /// Has all requests wait and everything ready, what was written durable.
    pub fn prepare(&self) -> Result<Switch<'_>, Refusal> {
        let mut disks = Vec::new();
        for (number, (_, stack, file)) in self.disks.iter().enumerate() {
            let file = file.try_clone().map_err(|error| self.refusal(number, error))?;
            disks.push((&**stack, file));
        }
        let mut switch = Switch::prepare(disks).map_err(|(number, error)| self.refusal(number, error))?;
        switch.flush().map_err(|(number, error)| self.refusal(number, error))?;
        Ok(switch)
    }
}

impl Guest {
    /// The disks that are to go on with these files.
    pub(super) fn new_tops(
        &self,
        field: &'static str,
        tops: Vec<NewTop>,
        files: &mut Files,
    ) -> Result<NewTops, Refusal> {
        self.machine()?;
        let mut disks: Vec<(String, Arc<Stack>, File)> = Vec::new();
        for (number, top) in tops.into_iter().enumerate() {
            let at = |what: &str| format!("{field}[{number}].{what}");
            if disks.iter().any(|(name, ..)| *name == top.name) {
                let why = format!("{}: the disk {} is there twice", at("name"), top.name);
                return Err(Refusal::new(code::PARAMS, why));
            }
            let stack = self.disks.get(&at("name"), &top.name)?;
            disks.push((top.name, stack, files.take(&at("file"), top.file)?));
        }
        Ok(NewTops { field, disks })
    }

    /// Has disks go on with new tops.
    pub(super) fn switch_disks(&mut self, spec: SwitchSpec, mut files: Files) -> Result<Switched, Refusal> {
        let tops = self.new_tops("disks", spec.disks, &mut files)?;
        // What is durable before need not be waited for while requests wait.
        tops.flush()?;
        let started = Instant::now();
        tops.prepare()?.take();
        Ok(Switched { held_ns: started.elapsed().as_nanos() as u64 })
    }

    /// Makes a disk longer, and tells its driver.
    pub(super) fn grow_disk(&mut self, spec: &GrowSpec) -> Result<Value, Refusal> {
        let (_, stack, bell) = self.disks.find("name", &spec.name)?;
        if stack.read_only() {
            return Err(Refusal::new(code::PARAMS, format!("the disk {} is only read", spec.name)));
        }
        if spec.size < stack.len() {
            let why = format!(
                "size: the disk {} has {} bytes, and does not shrink while it is there",
                spec.name,
                stack.len()
            );
            return Err(Refusal::new(code::PARAMS, why));
        }
        stack.grow(spec.size).map_err(|error| Refusal::new(code::MACHINE, format!("size: {error}")))?;
        bell.ring();
        Ok(json!({ "size": stack.len() }))
    }

    /// Merges layers into a disk's top, in the background.
    pub(super) fn pull_layers(&mut self, spec: PullSpec) -> Result<Layers, Refusal> {
        self.machine()?;
        let PullSpec { name, layers } = spec;
        let stack = self.disks.get("name", &name)?;
        let below = stack.layers();
        if layers == 0 || layers > below {
            let why = format!("layers: the disk {name} has {below} below its top, not {layers}");
            return Err(Refusal::new(code::PARAMS, why));
        }
        if self.disks.pulls.iter().any(|pull| pull.name == name) {
            return Err(Refusal::new(
                code::STATE,
                format!("layers of the disk {name} are being merged already"),
            ));
        }
        let cancelled = Arc::new(AtomicBool::new(false));
        let (stop, news, disk) = (Arc::clone(&cancelled), Arc::clone(&self.disks.news), name.clone());
        let body = move || {
            let mut last = Instant::now();
            let result = stack.pull(layers, |done, total| {
                if last.elapsed() >= OFTEN {
                    last = Instant::now();
                    news.tell(Told::Progress(PullProgress { name: disk.clone(), done, total }));
                }
                !stop.load(Ordering::Relaxed)
            });
            // The disk may be gone from the machine, and its files are closed by then.
            drop(stack);
            let error = result.err().map(|error| match error.kind() {
                io::ErrorKind::Interrupted => "it was cancelled".to_owned(),
                _ => error.to_string(),
            });
            news.tell(Told::End(PullEnd { name: disk, error }));
        };
        let spawned = Builder::new().name("layers".into()).spawn(body);
        spawned.map_err(|error| {
            Refusal::new(code::MACHINE, format!("the host has no thread to spare: {error}"))
        })?;
        self.disks.pulls.push(Pull { name, cancelled });
        Ok(Layers { layers: below })
    }

    /// Calls it off; its end is told as any other.
    pub(super) fn cancel_pull(&mut self, spec: &DiskName) -> Result<Value, Refusal> {
        let pull = self.disks.pulls.iter().find(|pull| pull.name == spec.name);
        let none =
            || Refusal::new(code::STATE, format!("no layers of a disk {} are being merged", spec.name));
        pull.ok_or_else(none)?.cancelled.store(true, Ordering::Relaxed);
        Ok(json!({}))
    }

    /// Takes other files for what is below a disk's top.
    pub(super) fn replace_below(&mut self, spec: BelowSpec, mut files: Files) -> Result<Layers, Refusal> {
        self.machine()?;
        let stack = self.disks.get("name", &spec.name)?;
        let take = |(number, file)| files.take(&format!("files[{number}]"), file);
        let below = spec.files.into_iter().enumerate().map(take).collect::<Result<Vec<_>, _>>()?;
        let replaced = stack.replace_below(below);
        replaced.map_err(|error| Refusal::new(code::MACHINE, format!("the disk {}: {error}", spec.name)))?;
        Ok(Layers { layers: stack.layers() })
    }
}
