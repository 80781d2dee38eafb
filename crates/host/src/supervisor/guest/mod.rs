//! One guest: a task of its own that does what is asked of it, one thing after the other, and follows its process.

mod change;
mod end;
mod fork;
mod grow;
mod order;
mod plan;
mod room;
mod snapshot;
mod start;
mod suspend;
mod twin;
mod undo;

use std::future::pending;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use api::{Problem, Time, VmState};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use vmm::control::{Changed, NoRoom, SaveEnd, StateReport};

use super::identity::Became;
use super::process::Process;
use super::rpc::{Client, Notice, Notices};
use super::turns::Turn;
use super::{Shared, store_problem};
use crate::events::Happening;
use crate::records::{self, Record};
use crate::store::Revision;

use change::Changing;
pub use change::{Apply, Edit};
pub use fork::ForkReply;
pub use order::{Deleted, Options, Order};
pub use plan::needs_restart;
use snapshot::Snapping;
pub use snapshot::{Follower, SnapshotReply};
use suspend::Suspending;

/// How orders come to a guest.
pub type Orders = mpsc::UnboundedSender<Order>;
type Reply = oneshot::Sender<Result<(), Problem>>;

/// A guest that ran for so long has not failed to start.
const RAN_WELL: Duration = Duration::from_secs(600);

/// A guest and what is known of it.
pub struct Guest {
    shared: Arc<Shared>,
    record: Record,
    revision: Revision,
    running: Option<Running>,
    closing: Option<Closing>,
    suspending: Option<Suspending>,
    changing: Option<Changing>,
    snapping: Option<Snapping>,
    /// When it is to start again by itself.
    restart: Option<Instant>,
}

/// Its process.
struct Running {
    client: Client,
    notices: Notices,
    process: Process,
    since: Instant,
    /// Its system is becoming one of its own.
    becoming: Option<mpsc::Receiver<Became>>,
    /// How often it has not become that.
    not_itself: u32,
    /// Others wait until it has its addresses.
    turn: Option<Turn>,
}

/// Somebody has asked it to power itself off.
struct Closing {
    deadline: Instant,
    /// Whether its plug is pulled then.
    force: bool,
    /// Whether it starts again.
    again: bool,
    actor: String,
    reply: Reply,
}

/// What comes next.
enum Next {
    Order(Order),
    Event(StateReport),
    Saved(SaveEnd),
    Hardware(Changed),
    NoRoom(NoRoom),
    Patience,
    Ended(Option<ExitStatus>),
    Deadline,
    Look,
    SnapshotLook,
    Became(Became),
    Restart,
}

impl Running {
    /// What happens in the guest, or to its process.
    async fn next(&mut self) -> Next {
        tokio::select! {
            biased;
            Some(notice) = self.notices.recv() => match notice {
                Notice::Event(report) => Next::Event(report),
                Notice::Saved(end) => Next::Saved(end),
                Notice::Hardware(changed) => Next::Hardware(changed),
                Notice::NoRoom(told) => Next::NoRoom(told),
            },
            status = self.process.ended() => Next::Ended(status),
            result = became(&mut self.becoming) => Next::Became(result),
        }
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

/// What has become of a guest that becomes one of its own.
async fn became(becoming: &mut Option<mpsc::Receiver<Became>>) -> Became {
    let lost = || Became::Itself(Err(Problem::internal("nobody has told it")));
    match becoming {
        Some(told) => told.recv().await.unwrap_or_else(lost),
        None => pending().await,
    }
}

impl Guest {
    /// Looks after a guest from now on. One that a daemon before this one left running is taken over; `autostart` says what becomes
    /// of one whose process is gone.
    pub fn spawn(shared: Arc<Shared>, record: Record, revision: Revision) -> Orders {
        let (orders, incoming) = mpsc::unbounded_channel();
        let guest = Guest {
            shared,
            record,
            revision,
            running: None,
            closing: None,
            suspending: None,
            changing: None,
            snapping: None,
            restart: None,
        };
        tokio::spawn(guest.live(incoming));
        orders
    }

    async fn live(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        loop {
            let running = async {
                match &mut self.running {
                    Some(running) => running.next().await,
                    None => pending().await,
                }
            };
            let next = tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => Next::Order(order),
                    None => return,
                },
                next = running => next,
                () = at(self.closing.as_ref().map(|closing| closing.deadline)) => Next::Deadline,
                () = at(self.suspending.as_ref().map(|suspending| suspending.look)) => Next::Look,
                () = at(self.snapping.as_ref().map(|snapping| snapping.look)) => Next::SnapshotLook,
                () = at(self.changing.as_ref().map(Changing::looks)) => Next::Patience,
                () = at(self.restart) => Next::Restart,
            };
            match next {
                Next::Order(order) => {
                    if self.obey(order).await {
                        return;
                    }
                }
                Next::Event(report) => self.on_event(report).await,
                Next::Ended(status) => self.on_process_end(status).await,
                Next::Saved(end) if self.snapping.is_some() => self.on_snapshot_saved(end).await,
                Next::Saved(end) => self.on_saved(end).await,
                Next::Hardware(changed) => self.on_hardware(changed).await,
                Next::NoRoom(told) => self.on_no_room(&told.disks).await,
                Next::Patience => self.on_patience().await,
                Next::Look => self.on_look().await,
                Next::SnapshotLook => self.on_snapshot_look().await,
                Next::Became(Became::Addressed) => self.on_addresses().await,
                Next::Became(Became::Itself(result)) => self.on_identity(result).await,
                Next::Deadline => self.on_deadline().await,
                Next::Restart => self.on_restart().await,
            }
        }
    }

    fn name(&self) -> &str {
        self.record.vm.definition.name.as_str()
    }

    fn state(&self) -> VmState {
        self.record.vm.status.state
    }

    /// Something that happened to this guest.
    fn happening(&self, kind: &str, message: impl Into<String>) -> Happening {
        Happening::new(kind, message).to(records::path(self.record.vm.id), self.name())
    }

    fn set_state(&mut self, state: VmState) {
        let status = &mut self.record.vm.status;
        if status.state != state {
            (status.state, status.since) = (state, Time::now());
        }
    }

    /// From now on nothing is said of a process.
    fn has_no_process(&mut self) {
        self.record.resting = false;
        let status = &mut self.record.vm.status;
        (status.pid, status.engine) = (None, None);
        status.no_room.clear();
    }

    /// Makes what the record says durable, together with what happened.
    async fn save(&mut self, happening: Option<Happening>) -> Result<(), Problem> {
        let name = self.record.vm.definition.name.clone();
        self.save_renamed(&name, happening).await
    }

    /// The same for a guest that was called `old` so far.
    async fn save_renamed(&mut self, old: &api::Name, happening: Option<Happening>) -> Result<(), Problem> {
        let mut transaction = records::update(old, &self.record, self.revision).map_err(store_problem)?;
        if let Some(happening) = happening {
            transaction = happening.add(transaction).map_err(store_problem)?;
        }
        self.revision = self.shared.store.commit(transaction).await.map_err(store_problem)?;
        Ok(())
    }

    /// Saves where it is told to nobody that it could not be.
    async fn note(&mut self, happening: Option<Happening>) {
        if let Err(problem) = self.save(happening).await {
            tracing::error!("what became of {} cannot be recorded: {problem}", self.name());
        }
    }
}
