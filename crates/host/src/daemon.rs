//! The daemon: puts the parts together, serves, and ends.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api::{HostInfo, Id, Size, Time, VmState};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use vmm::engine;

use crate::access::Access;
use crate::alarms::{self, Alarms};
use crate::audit::Audit;
use crate::backup;
use crate::bandwidth::{self, Bandwidth};
use crate::events::{self, Happening};
use crate::figures::Figures;
use crate::groups::Groups;
use crate::http;
use crate::http::serve::{Door, Room, serve};
use crate::images::Images;
use crate::log;
use crate::machine;
use crate::memory::{self, Device, Means, Merging, Pager, Pool};
use crate::paths::{Paths, PathsError};
use crate::pools::{Pools, UPLOADS};
use crate::records;
use crate::repeats::Repeats;
use crate::schedules::{self, Schedules};
use crate::series::{Sampler, Series};
use crate::share_groups::{self, ShareGroups};
use crate::shares::{Regulator, Shares};
use crate::store::{Sqlite, Store, StoreError, Transaction};
use crate::supervisor::{Agents, Shared, Supervisor, Turns};
use crate::tasks::{Tasks, Work};
use crate::tls::{Certificates, Given, TlsError};
use crate::wires::Wires;

pub use crate::memory::{Paging, PagingError};

/// How often old events are forgotten.
const HOUSEKEEPING: Duration = Duration::from_secs(600);
/// How long connections may take to end when the daemon does.
const FAREWELL: Duration = Duration::from_secs(5);

/// With less there is nothing to divide.
const LEAST_POOL: Size = Size(64 << 20);

/// Where what the daemon knows of itself is in the store.
const SELF: &str = "host";

/// What the daemon is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it keeps things.
    pub state: PathBuf,
    /// Where it listens for TCP; other addresses than loopback ones with TLS.
    pub listen: Vec<SocketAddr>,
    /// Where its Unix socket is, if not in its folder.
    pub socket: Option<PathBuf>,
    /// The program whose `vmm` is a guest's process.
    pub program: PathBuf,
    /// How much memory all guests have together, if that is less than what each believes to have.
    pub memory_pool: Option<MemoryPool>,
    /// Where what guests use beyond that is paged to.
    pub memory_paging: Option<Paging>,
    /// How much of it is compressed in memory before.
    pub memory_compression: Option<Size>,
    /// Whether equal pages of guests that trust one another are kept once.
    pub memory_merge: bool,
    /// Whether what guests report as free is given back at once.
    pub memory_reporting: bool,
    /// Whether a guest whose engine is to be KVM gets it even where that cannot run stock guests.
    pub kvm_as_it_is: bool,
    /// What those are shown who connect from elsewhere, in place of a certificate of the host's own authority.
    pub certificate: Option<Given>,
    /// Is told where the page is, once it can be opened.
    pub announce: fn(&[String]),
}

/// How much memory all guests of a host have together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MemoryPool {
    /// So much.
    Bytes(Size),
    /// This part of what the machine has, percent.
    Percent(f64),
}

impl MemoryPool {
    /// How much that is on a machine with so much memory.
    fn of(self, machine: Size) -> Size {
        match self {
            Self::Bytes(size) => size,
            Self::Percent(percent) => Size((machine.0 as f64 * percent / 100.0) as u64),
        }
    }
}

/// The daemon cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Its folder.
    #[error(transparent)]
    Paths(#[from] PathsError),
    /// Its store.
    #[error("{0}: {1}")]
    Store(PathBuf, StoreError),
    /// Another daemon has the folder.
    #[error("{0}: another daemon uses this folder; give this one a folder of its own with --state-dir")]
    InUse(PathBuf),
    /// What a backup brought back.
    #[error("{0}: what was restored cannot be put in its place: {1}")]
    Restore(PathBuf, io::Error),
    /// Its own log.
    #[error("{0}: the log cannot be written: {1}")]
    Log(PathBuf, io::Error),
    /// Its audit log.
    #[error("{0}: the audit log cannot be written: {1}")]
    Audit(PathBuf, io::Error),
    /// What is used cannot be measured.
    #[error("what is used cannot be measured: {0}")]
    Series(io::Error),
    /// It cannot listen there.
    #[error("--listen {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// Its certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Its socket.
    #[error("--socket {0}: {1}")]
    Socket(PathBuf, io::Error),
    /// It cannot have so much memory for guests.
    #[error(
        "--memory-pool: {asked} is no pool: this machine has {has}; give from 64M to that, or a part such as 80%"
    )]
    MemoryPool {
        /// What was asked for.
        asked: Size,
        /// What the machine has.
        has: Size,
    },
    /// It cannot page guests' memory there.
    #[error(transparent)]
    MemoryPaging(#[from] PagingError),
    /// No engine runs guests here.
    #[error(transparent)]
    Engine(#[from] engine::EngineError),
}

/// What the store knows of the daemon itself.
#[derive(Debug, Serialize, Deserialize)]
struct Own {
    id: Id,
    /// The start of the machine that the daemon ran in last (proc(5), random/boot_id).
    boot: String,
}

/// The parts of the daemon, for whoever serves requests.
pub struct Host {
    /// Its id.
    pub id: Id,
    /// When it started.
    pub started: Time,
    /// Where things are.
    pub paths: Paths,
    /// What is known.
    pub store: Arc<dyn Store>,
    /// What is being done.
    pub tasks: Tasks,
    /// The guests.
    pub supervisor: Arc<Supervisor>,
    /// Who may do what.
    pub access: Access,
    /// Requests that may come twice.
    pub(crate) repeats: Repeats,
    /// Where the page is.
    pages: OnceLock<Vec<String>>,
    /// Who did what.
    pub(crate) audit: Audit,
    /// What was used over time.
    pub(crate) series: Arc<Series>,
    /// What is made again and again.
    pub schedules: Schedules,
    /// What is bad, and who hears of it.
    pub alarms: Alarms,
    /// The groups in which guests share.
    pub(crate) share_groups: ShareGroups,
    /// The pool of memory, if there is one.
    pub(crate) memory: Arc<Pool>,
    /// What guests say of themselves all the time.
    figures: Arc<Figures>,
    /// What guests do on pools and networks.
    pub(crate) bandwidth: Arc<Bandwidth>,
    /// What shows that this is the host.
    pub certificates: Arc<Certificates>,
}

/// A task that tells its progress as the storage does.
pub struct TaskProgress {
    work: Work,
    step: std::sync::Mutex<String>,
}

impl TaskProgress {
    /// The progress of `work`.
    pub fn new(work: Work) -> Self {
        Self { work, step: Default::default() }
    }

    fn current(&self) -> std::sync::MutexGuard<'_, String> {
        self.step.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl storage::Progress for TaskProgress {
    fn step(&self, what: &str) {
        *self.current() = what.into();
        self.work.progress(None, what);
    }

    fn amount(&self, done: u64, total: u64) {
        let part = (total > 0).then(|| done as f64 / total as f64);
        self.work.progress(part, &self.current());
    }

    fn cancelled(&self) -> bool {
        self.work.is_cancelled()
    }
}

impl Host {
    async fn open(config: &Config) -> Result<Arc<Host>, DaemonError> {
        let paths = Paths::new(&config.state)?;
        let database = paths.database();
        backup::finish(paths.state()).map_err(|error| DaemonError::Restore(config.state.clone(), error))?;
        let opened = Sqlite::open(&database).map_err(|error| match error.is_busy() {
            true => DaemonError::InUse(config.state.clone()),
            false => DaemonError::Store(database.clone(), error),
        });
        let store: Arc<dyn Store> = Arc::new(opened?);
        // Not before the folder is ours.
        log::keep(&paths.log()).map_err(|error| DaemonError::Log(paths.log(), error))?;
        backup::sweep(&paths);
        let told = |error| DaemonError::Store(database.clone(), error);
        let (id, booted) = introduce(&*store).await.map_err(told)?;
        let audit = Audit::open(&paths.audit()).map_err(|error| DaemonError::Audit(paths.audit(), error))?;
        let certificates =
            Certificates::open(&paths.tls(), id, &machine::host_name(), config.certificate.clone())?;
        let pool = config.memory_pool.map(|pool| check_pool(pool, machine::memory().0)).transpose()?;
        let shares = Arc::new(Shares::new(pool));
        shares.load_groups(share_groups::load(&*store).await.map_err(told)?);
        let choice = engine::choose(engine::Kind::Auto)?;
        let own = storage::Host { id, name: machine::host_name() };
        let pools = Pools::open(Arc::clone(&store), &paths, own, Arc::clone(&shares)).await.map_err(told)?;
        let figures = Arc::<Figures>::default();
        let shared = Shared {
            groups: Groups::open(id),
            figures: Arc::clone(&figures),
            reporting: config.memory_reporting,
            kvm_as_it_is: config.kvm_as_it_is,
            turns: Turns::new(machine::cpus()),
            shares: Arc::clone(&shares),
            pools: Arc::new(pools),
            images: Images::new(paths.images()),
            paths: paths.clone(),
            store: Arc::clone(&store),
            agents: Agents::default(),
            wires: Wires::new(Arc::clone(&store), paths.networks(), Arc::clone(&shares)),
            program: config.program.clone(),
            engine: if choice.engine.name() == "kvm" { engine::Kind::Kvm } else { engine::Kind::Soft },
            why: choice.why.unwrap_or_default(),
            tsc_khz: engine::kvm::Kvm::open().ok().map(|kvm| engine::Engine::tsc_khz(&kvm)),
        };
        let series =
            Arc::new(Series::open(&paths.series(), paths.state(), Arc::clone(&figures), Arc::clone(&shares)));
        let (memory, bandwidth) = (Arc::<memory::Pool>::default(), Arc::<Bandwidth>::default());
        let (seen, flows) = (Arc::clone(&memory), Arc::clone(&bandwidth));
        let alarms = Alarms::open(Arc::clone(&store), id, machine::host_name()).await.map_err(told)?;
        let host = Host {
            id,
            started: Time::now(),
            paths,
            tasks: Tasks::new(Arc::clone(&store)),
            supervisor: Arc::new(Supervisor::new(shared)),
            access: Access::new(Arc::clone(&store)),
            repeats: Repeats::new(Arc::clone(&store)),
            pages: OnceLock::new(),
            audit,
            schedules: Schedules::new(Arc::clone(&store)),
            series,
            alarms,
            share_groups: ShareGroups::new(Arc::clone(&store), shares, flows, seen),
            memory,
            figures,
            bandwidth,
            certificates: Arc::new(certificates),
            store,
        };
        host.recover(booted).await.map_err(told)?;
        Ok(Arc::new(host))
    }

    async fn recover(&self, booted: bool) -> Result<(), StoreError> {
        let unfinished = self.tasks.recover().await?;
        let (vms, alive) = self.supervisor.recover(booted).await?;
        let message = format!(
            "the daemon has started: {vms} guests, {alive} of them run; {} tasks had been interrupted",
            unfinished.len()
        );
        tracing::info!("{message}");
        let happening = Happening::new("host.started", message).to("/api/v1/host", machine::host_name());
        self.store.commit(happening.add(Transaction::new())?).await.map(drop)
    }

    /// What the machine has, and what of it is in use.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn info(&self) -> Result<HostInfo, StoreError> {
        let (records, _) = records::list(&*self.store).await?;
        let running: Vec<_> =
            records.iter().map(|(record, _)| &record.vm).filter(|vm| vm.status.state.is_alive()).collect();
        let (memory, memory_available) = machine::memory();
        let looked = tokio::task::spawn_blocking(|| (machine::nodes(), machine::disks())).await;
        // A thread that failed has found nothing.
        let (numa, disks) = looked.unwrap_or_default();
        let (storage, storage_available) = machine::storage(self.paths.state());
        Ok(HostInfo {
            id: self.id,
            name: machine::host_name(),
            version: env!("CARGO_PKG_VERSION").into(),
            started: self.started,
            kernel: machine::kernel(),
            processor: machine::processor(),
            cpus: machine::cpus(),
            nodes: numa.len() as u32,
            numa,
            disks,
            nics: machine::nics().await,
            memory,
            memory_available,
            storage,
            storage_available,
            pages: self.pages.get().cloned().unwrap_or_default(),
            engine: self.supervisor.engine(),
            vms: records.len() as u32,
            vms_running: running.iter().filter(|vm| vm.status.state == VmState::Running).count() as u32,
            cpus_promised: running.iter().map(|vm| vm.definition.cpus).sum(),
            memory_promised: Size(running.iter().map(|vm| vm.definition.memory.0).sum()),
        })
    }
}

/// How large a pool is on a machine with so much memory.
fn check_pool(pool: MemoryPool, has: Size) -> Result<Size, DaemonError> {
    let asked = pool.of(has);
    if !(LEAST_POOL..=has).contains(&asked) {
        return Err(DaemonError::MemoryPool { asked, has });
    }
    Ok(asked)
}

/// The daemon's id, made at its first start, and whether the machine has started since it ran last.
async fn introduce(store: &dyn Store) -> Result<(Id, bool), StoreError> {
    let boot = machine::boot_id();
    let before = store.get(SELF).await?;
    let known: Option<Own> = before.map(|entry| serde_json::from_slice(&entry.value)).transpose()?;
    let booted = known.as_ref().is_some_and(|own| own.boot != boot);
    let own = Own { id: known.map_or_else(Id::new, |own| own.id), boot };
    store.commit(Transaction::new().put(SELF, &own)?).await?;
    Ok((own.id, booted))
}

/// The id of the daemon whose store this is, if one has had it.
pub(crate) async fn id(store: &dyn Store) -> Result<Option<Id>, StoreError> {
    let known = store.get(SELF).await?;
    Ok(known.map(|entry| serde_json::from_slice::<Own>(&entry.value)).transpose()?.map(|own| own.id))
}

/// Has the next start of the daemon `id` take the machine for one that has started since: its guests have ended.
pub(crate) fn forget_boot(id: Id, transaction: Transaction) -> Result<Transaction, StoreError> {
    transaction.put(SELF, &Own { id, boot: String::new() })
}

/// Serves until `stop` says so. Guests go on.
///
/// # Errors
/// If the daemon cannot start.
pub async fn run(config: Config, stop: watch::Receiver<bool>) -> Result<(), DaemonError> {
    let mut tcp = Vec::new();
    for address in &config.listen {
        tcp.push(TcpListener::bind(address).await.map_err(|error| DaemonError::Listen(*address, error))?);
    }
    let files = more_files();
    let host = Host::open(&config).await?;
    let path = config.socket.clone().unwrap_or_else(|| host.paths.socket());
    let socket = bind(&path).map_err(|error| DaemonError::Socket(path.clone(), error))?;
    let merging = begin_merging(&config)?;
    let means = Means { pager: open_paging(&config, &host).await?, merging };
    let done = go_on(&config, &host, tcp, (&path, socket), files, means, stop).await;
    // Whoever pages for this host is found by what it has left, in use or not; it ends with the daemon, however that ends.
    let (id, may_touch) = (host.id, memory::may_touch(&host.supervisor, &host.memory));
    let taken = tokio::task::spawn_blocking(move || take_away(id, &[], may_touch)).await;
    if let Err(error) = taken {
        tracing::error!("paging is not taken away: {error}");
    }
    done?;
    host.supervisor.close();
    // Whoever removed it before us had a reason.
    let _ = std::fs::remove_file(&path);
    Ok(())
}

/// Has all parts work until `stop` says that they end.
async fn go_on(
    config: &Config,
    host: &Arc<Host>,
    tcp: Vec<TcpListener>,
    (path, socket): (&Path, UnixListener),
    files: u64,
    means: Means,
    mut stop: watch::Receiver<bool>,
) -> Result<(), DaemonError> {
    let (router, room) = (http::router(Arc::clone(host)), Arc::new(Room::new(files)));
    let mut servers = tokio::task::JoinSet::new();
    let mut pages = Vec::new();
    for listener in tcp {
        let address = listener.local_addr().map_err(|error| DaemonError::Socket(path.to_owned(), error))?;
        let loopback = address.ip().is_loopback();
        let certificates = || Arc::clone(&host.certificates);
        let door = if loopback { Door::Tcp(listener) } else { Door::Tls(listener, certificates()) };
        let place = match address.ip().is_unspecified() {
            true => format!("{}:{}", machine::host_name(), address.port()),
            false => address.to_string(),
        };
        pages.push(format!("{}://{place}/", if loopback { "http" } else { "https" }));
        servers.spawn(serve(door, router.clone(), Arc::clone(&room), stop.clone()));
    }
    (config.announce)(&pages);
    // Nobody has set them before.
    let _ = host.pages.set(pages);
    tracing::info!("listens at {}", path.display());
    servers.spawn(serve(Door::Unix(socket), router, room, stop.clone()));
    let keeper = tokio::spawn(keep_house(Arc::clone(host)));
    let pools = tokio::spawn(Arc::clone(host.supervisor.pools()).keep());
    let (series, store) = (Arc::clone(&host.series), Arc::clone(&host.store));
    let sampler = Sampler::begin(series, store, Arc::clone(&host.supervisor)).map_err(DaemonError::Series)?;
    let (shares, controls) = (Arc::clone(host.supervisor.shares()), host.supervisor.groups().controls());
    let regulator =
        Regulator::begin(shares, Arc::clone(&host.figures), controls).map_err(DaemonError::Series)?;
    let (shares, figures) = (Arc::clone(host.supervisor.shares()), Arc::clone(&host.figures));
    let bandwidth = bandwidth::Keeper::begin(shares, figures, Arc::clone(&host.bandwidth));
    let bandwidth = bandwidth.map_err(DaemonError::Series)?;
    let alarms = tokio::spawn(alarms::keep(Arc::clone(host)));
    let schedules = tokio::spawn(schedules::keep(Arc::clone(host)));
    let (supervisor, pool, store) =
        (Arc::clone(&host.supervisor), Arc::clone(&host.memory), Arc::clone(&host.store));
    let memory = tokio::spawn(memory::keep(supervisor, pool, means, store));
    // A sender that is gone says stop as well.
    let _ = stop.wait_for(|stop| *stop).await;
    // Watchers and consoles would stay for ever.
    let _ = tokio::time::timeout(FAREWELL, async { while servers.join_next().await.is_some() {} }).await;
    keeper.abort();
    pools.abort();
    sampler.end();
    regulator.end();
    bandwidth.end();
    alarms.abort();
    schedules.abort();
    memory.abort();
    // It has the devices until it has ended, which an abort is no error of.
    let _ = memory.await;
    Ok(())
}

/// Has the kernel look for equal pages, if that is wanted.
fn begin_merging(config: &Config) -> Result<Option<Merging>, PagingError> {
    if config.memory_merge && config.memory_pool.is_none() {
        return Err(PagingError::NoPoolToMerge);
    }
    config.memory_merge.then(Merging::begin).transpose().map_err(PagingError::NoMerging)
}

/// Makes or finds the devices to which guests' memory goes, and takes away what a daemon before had that is wanted no more.
async fn open_paging(config: &Config, host: &Host) -> Result<Option<Pager>, PagingError> {
    let (asked, compression) = (config.memory_paging.clone(), config.memory_compression);
    let options = [("--memory-paging", asked.is_some()), ("--memory-compression", compression.is_some())];
    if let (None, Some((option, _))) = (config.memory_pool, options.iter().find(|(_, said)| *said)) {
        return Err(PagingError::NoPool(option));
    }
    let (own, id) = (host.paths.paging(), host.id);
    let may_touch = memory::may_touch(&host.supervisor, &host.memory);
    let open = move || {
        if asked.is_some() || compression.is_some() {
            memory::can_page().map_err(PagingError::Process)?;
        }
        let compression = compression.map(|size| Device::compressed(size, id)).transpose()?;
        let paging = asked.map(|asked| Device::open(&asked, &own, id)).transpose();
        let paging = paging.inspect_err(|_| compression.iter().for_each(Device::give_up))?;
        let wanted: Vec<_> = paging.iter().chain(&compression).map(Device::path).collect();
        // Where there is another one, what guests touch can go there.
        take_away(id, &wanted, if wanted.is_empty() { may_touch } else { Size(0) });
        Ok(Pager::new(compression, paging))
    };
    tokio::task::spawn_blocking(open).await?
}

/// Takes paging devices of this host away, but those that are wanted: what is on them comes back, if there is room for that and for what guests may
/// touch besides.
fn take_away(host: Id, but: &[&Path], may_touch: Size) {
    for device in Device::left(host, but) {
        match device.close(may_touch) {
            Ok(()) => tracing::info!("{}: nothing is paged there any more", device.path().display()),
            Err(error) => tracing::warn!("{error}"),
        }
    }
}

/// Lets the daemon have as many files open as the system allows: guests and connections take some each. Gives how many that are.
fn more_files() -> u64 {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    let now = match rustix::process::setrlimit(rustix::process::Resource::Nofile, limit) {
        Ok(()) => limit.current,
        Err(error) => {
            tracing::warn!("the limit of open files stays: {error}");
            before
        }
    };
    // Nothing is no limit.
    now.unwrap_or(u64::MAX)
}

async fn keep_house(host: Arc<Host>) {
    loop {
        let images = Arc::clone(host.supervisor.images());
        let clear = move || {
            images.sweep();
            images.expire_uploads(UPLOADS);
        };
        // It is tried again.
        let _ = tokio::task::spawn_blocking(clear).await;
        tokio::time::sleep(HOUSEKEEPING).await;
        if let Err(error) = events::trim(&*host.store).await {
            tracing::warn!("old events cannot be forgotten: {error}");
        }
        if let Err(error) = host.repeats.trim().await {
            tracing::warn!("old answers cannot be forgotten: {error}");
        }
        if let Err(problem) = host.access.forget_old_sessions().await {
            tracing::warn!("old sessions cannot be forgotten: {}", problem.detail);
        }
    }
}

/// A socket for every user: who is at the other end is asked for each connection. One that a killed daemon left is replaced.
fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another daemon listens there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}
