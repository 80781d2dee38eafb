//! The system calls that a machine needs (seccomp(2)): any other ends the process, so that a guest that has taken it over is gone
//! with it. Some are answered with an error instead: the C library and Rust's own try them where they need not succeed.

use std::collections::BTreeMap;

use libc::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Is, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use crate::Error;

/// Allowed whatever the arguments are. None of them opens, connects, starts or ends anything outside the process and its copies.
const ALLOWED: &[c_long] = &[
    // What is open already.
    SYS_read,
    SYS_write,
    SYS_readv,
    SYS_writev,
    SYS_pread64,
    SYS_pwrite64,
    SYS_preadv,
    SYS_pwritev,
    SYS_preadv2,
    SYS_pwritev2,
    SYS_lseek,
    SYS_fsync,
    SYS_fdatasync,
    SYS_sync_file_range,
    SYS_fallocate,
    SYS_ftruncate,
    SYS_fstat,
    SYS_statx,
    SYS_newfstatat,
    SYS_close,
    SYS_close_range,
    SYS_pipe2,
    SYS_dup,
    SYS_dup3,
    SYS_fcntl,
    SYS_copy_file_range,
    SYS_fadvise64,
    // Connections that were handed in, and those that come to a socket that was.
    SYS_recvmsg,
    SYS_sendmsg,
    SYS_recvfrom,
    SYS_sendto,
    SYS_accept,
    SYS_accept4,
    SYS_shutdown,
    SYS_getsockopt,
    SYS_getsockname,
    SYS_getpeername,
    // Waiting.
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_wait,
    SYS_epoll_pwait,
    SYS_epoll_pwait2,
    SYS_eventfd2,
    SYS_poll,
    SYS_ppoll,
    SYS_timerfd_create,
    SYS_timerfd_settime,
    SYS_timerfd_gettime,
    SYS_clock_gettime,
    SYS_clock_getres,
    SYS_clock_nanosleep,
    SYS_nanosleep,
    SYS_gettimeofday,
    SYS_futex,
    SYS_restart_syscall,
    SYS_sched_yield,
    // Memory; what can be executed is below.
    SYS_munmap,
    SYS_mremap,
    SYS_madvise,
    SYS_brk,
    SYS_memfd_create,
    SYS_mincore,
    SYS_mlock2,
    SYS_munlock,
    SYS_membarrier,
    // Threads and their signals.
    SYS_set_robust_list,
    SYS_rseq,
    SYS_set_tid_address,
    SYS_gettid,
    SYS_getpid,
    SYS_sched_getaffinity,
    SYS_getcpu,
    SYS_sigaltstack,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_rt_sigtimedwait,
    SYS_exit,
    SYS_exit_group,
    // The end of a copy of itself.
    SYS_wait4,
    SYS_getrusage,
    SYS_getrandom,
    SYS_geteuid,
    SYS_getuid,
];

/// Answered with EACCES: they look for files, of which there are none, or for limits.
const REFUSED: &[c_long] = &[
    SYS_open,
    SYS_openat,
    SYS_openat2,
    SYS_stat,
    SYS_lstat,
    SYS_access,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_readlink,
    SYS_readlinkat,
    SYS_unlink,
    SYS_unlinkat,
    SYS_getcwd,
    SYS_prlimit64,
    SYS_sched_setaffinity,
];

/// Answered with ENOSYS, so that the C library takes the older call, whose arguments can be looked at.
const UNKNOWN: &[c_long] = &[SYS_clone3];

/// ioctls of the devices that a machine uses, besides KVM's: terminals and their like, tap devices (linux/if_tun.h), block devices
/// (linux/fs.h).
const IOCTLS: &[u32] = &[
    0x5401,     // TCGETS
    0x541b,     // FIONREAD
    0x5421,     // FIONBIO
    0x800454d2, // TUNGETIFF
    0x400454d0, // TUNSETOFFLOAD
    0x400454d8, // TUNSETVNETHDRSZ
    0x400454dc, // TUNSETVNETLE
    0x1260,     // BLKGETSIZE
    0x80081272, // BLKGETSIZE64
    0x1268,     // BLKSSZGET
    0x1277,     // BLKDISCARD
    0x127f,     // BLKZEROOUT
    0x127c,     // BLKDISCARDZEROES
    0x127b,     // BLKPBSZGET
    0x1278,     // BLKIOMIN
    0x1279,     // BLKIOOPT
];

/// The type byte of KVM's ioctls (linux/kvm.h), and where it is in a number.
const KVM: (u32, u32) = (0xae00, 0xff00);

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn told(error: impl std::fmt::Display) -> Error {
    Error::Filter(error.to_string())
}

/// A call is meant if argument `number` is so.
fn when(number: u8, len: Len, is: Is, value: u64) -> Result<SeccompRule, Error> {
    let condition = SeccompCondition::new(number, len, is, value).map_err(told)?;
    SeccompRule::new(vec![condition]).map_err(told)
}

/// Those whose arguments matter.
fn conditional() -> Result<Rules, Error> {
    let not_executable = || when(2, Len::Dword, Is::MaskedEq(PROT_EXEC as u64), 0);
    // Threads, and copies that write memory as it was: they are locked in as this process is, and tell it of their end alone.
    let only_threads = when(0, Len::Qword, Is::MaskedEq(CLONE_THREAD as u64), CLONE_THREAD as u64)?;
    let only_copies = when(0, Len::Qword, Is::Eq, SIGCHLD as u64)?;
    let only_own = when(0, Len::Dword, Is::Eq, std::process::id().into())?;
    let mut ioctls = vec![when(1, Len::Dword, Is::MaskedEq(KVM.1.into()), KVM.0.into())?];
    for ioctl in IOCTLS {
        ioctls.push(when(1, Len::Dword, Is::Eq, (*ioctl).into())?);
    }
    // A thread's own name, and how late its sleep may end.
    let options = [PR_SET_NAME, PR_GET_NAME, PR_SET_TIMERSLACK]
        .map(|option| when(0, Len::Dword, Is::Eq, option as u64));
    Ok(Rules::from([
        (SYS_mmap, vec![not_executable()?]),
        (SYS_mprotect, vec![not_executable()?]),
        (SYS_clone, vec![only_threads, only_copies]),
        (SYS_tgkill, vec![only_own]),
        (SYS_ioctl, ioctls),
        (SYS_prctl, options.into_iter().collect::<Result<_, _>>()?),
    ]))
}

fn always(calls: &[c_long]) -> Rules {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

fn install(rules: Rules, otherwise: SeccompAction, then: SeccompAction) -> Result<(), Error> {
    let filter = SeccompFilter::new(rules, otherwise, then, TargetArch::x86_64).map_err(told)?;
    let program: BpfProgram = filter.try_into().map_err(told)?;
    apply_filter(&program).map_err(told)
}

/// Filters the calling thread's system calls, and those of all threads it starts. Of several filters the strictest decides.
pub fn filter() -> Result<(), Error> {
    install(always(REFUSED), SeccompAction::Allow, SeccompAction::Errno(EACCES as u32))?;
    install(always(UNKNOWN), SeccompAction::Allow, SeccompAction::Errno(ENOSYS as u32))?;
    let mut rules = always(ALLOWED);
    rules.extend(always(REFUSED));
    rules.extend(always(UNKNOWN));
    rules.extend(conditional()?);
    install(rules, SeccompAction::KillProcess, SeccompAction::Allow)
}
