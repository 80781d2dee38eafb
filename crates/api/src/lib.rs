//! The resources people talk about – guests, tasks, events – as they travel between the daemon and its clients: their JSON and
//! their OpenAPI. Types and their rules only; nothing here reads a file or opens a socket.

mod access;
mod agent;
mod alarm;
mod backup;
mod bandwidth;
mod device;
mod event;
mod history;
mod host;
mod id;
mod image;
mod keys;
mod limit;
mod list;
mod memory_share;
mod name;
mod patch;
mod problem;
mod quantity;
mod receipt;
mod schedule;
mod share_group;
mod share_in_bytes;
mod shares;
mod site;
mod snapshot;
mod stats;
mod task;
mod template;
mod vm;
mod vm_state;

pub use access::{
    Account, AccountChange, AuditEntry, Bound, Login, LoginLink, MadeToken, NewAccount, NewToken,
    PasswordChange, Role, Session, Token, check_labels,
};
pub use agent::{AgentInfo, Encoding, Exec, ExecResult, GuestInterface, GuestPassword};
pub use alarm::{
    Acknowledge, Acknowledgement, ActionResult, ActiveAlarm, Alarm, AlarmAction, AlarmDefinition, AlarmScope,
    AlarmState, AlarmStatus, EventTrigger, METRICS, Metric, MetricTrigger, Severity, Trigger, Watched,
};
pub use backup::{Backup, BackupDisk, NewBackup, RestoreBackup, VerifiedBackup};
pub use bandwidth::{
    BandwidthFlow, BandwidthOther, BandwidthPlace, BandwidthReport, BandwidthShare, LEAST_BANDWIDTH, Way,
};
pub use device::{
    Disk, DiskFormat, DiskSource, Network, Nic, PortForward, Protocol, VolumeName, default_pool,
};
pub use event::Event;
pub use history::{History, HistoryQuery, Series};
pub use host::{EngineInfo, HostDisk, HostInfo, HostMount, HostNic, NumaNode};
pub use id::Id;
pub use image::{ImageChange, ImageDetails, ImageInfo, ImageUsers, NewImage};
pub use keys::{SendKeys, Typed};
pub use limit::{Limit, Rates};
pub use list::{List, ListQuery};
pub use memory_share::{
    MemoryCompression, MemoryFlow, MemoryMerging, MemoryNow, MemoryOfGuest, MemoryPaging, MemoryPool,
    MemoryPressure, MemoryReport, MemoryShare,
};
pub use name::{ImageName, Name, NameError};
pub use patch::{merge, patch};
pub use problem::{Invalid, Problem};
pub use quantity::{Size, SizeError};
pub use receipt::{Receipt, Receipts, ReceiptsQuery};
pub use schedule::{Retention, Schedule, ScheduleAction, ScheduleDefinition};
pub use share_group::{GroupMemory, GroupPlace, ShareGroup, ShareGroupInfo};
pub use shares::{
    CpuBound, CpuHost, CpuNow, CpuOther, CpuReport, CpuShare, NotProcessors, Processors, ShareReport,
};
pub use site::{SITE_LABEL, Site, SiteBefore, SiteKind, SiteMember, SiteMemory};
pub use snapshot::{NewSnapshot, Snapshot, SnapshotLabel};
pub use stats::{DiskStats, HostStats, NicStats, ProcessorStats, Stats, VmStats, VmSums};
pub use task::{NewTask, Task, TaskState};
pub use template::{NewTemplate, Template};
pub use vm::{Autostart, Boot, CloudInit, DEFAULT_MEMORY, Engine, OnEnd, User, Vm, VmDefinition};
pub use vm_state::{Ending, VERBS, Verb, VmState, VmStatus};

/// A moment: RFC 3339 in JSON.
pub type Time = jiff::Timestamp;
