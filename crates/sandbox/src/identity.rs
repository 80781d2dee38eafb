//! Who the process is: nobody in particular, for good.

use rustix::process::{
    DumpableBehavior, Gid, Resource, Rlimit, Uid, getrlimit, set_dumpable_behavior, setrlimit,
};
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::{Error, failed};

/// The most threads and copies of a process that is a user of its own: far more than a machine of 254 processors and 24 disks has.
const MOST_THREADS: u64 = 1024;
/// The most bytes that a process may keep the kernel from paging: the rings of as many queues as a large machine has.
const MOST_HELD: u64 = 8 << 20;

/// Becomes `user`, where there is one, and gives up ever becoming more.
pub fn give_up(user: Option<u32>) -> Result<(), Error> {
    if let Some(user) = user {
        let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
        set_thread_groups(&[]).map_err(failed("setgroups"))?;
        set_thread_res_gid(gid, gid, gid).map_err(failed("setresgid"))?;
        // That takes the capabilities away, too (capabilities(7), "Effect of user ID changes on capabilities").
        set_thread_res_uid(uid, uid, uid).map_err(failed("setresuid"))?;
        // The kernel counts by user, who nobody else is.
        let most = Rlimit { current: Some(MOST_THREADS), maximum: Some(MOST_THREADS) };
        setrlimit(Resource::Nproc, most).map_err(failed("RLIMIT_NPROC"))?;
    }
    // Whoever may not raise it has less already.
    let held = getrlimit(Resource::Memlock).maximum.map_or(MOST_HELD, |most| most.min(MOST_HELD));
    let most = Rlimit { current: Some(held), maximum: Some(held) };
    setrlimit(Resource::Memlock, most).map_err(failed("RLIMIT_MEMLOCK"))?;
    drop_capabilities()?;
    // A guest's memory is in this process's, and belongs in no core dump.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("PR_SET_DUMPABLE"))?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(failed("RLIMIT_CORE"))?;
    set_no_new_privs(true).map_err(failed("PR_SET_NO_NEW_PRIVS"))
}

/// In a user namespace of its own a process has all capabilities, over that namespace.
fn drop_capabilities() -> Result<(), Error> {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, sets).map_err(failed("capset"))
}
