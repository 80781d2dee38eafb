//! The host's own processor: a forked child executes the cases, shut in by seccomp, and reports by shared memory.

use std::arch::global_asm;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::layout::*;

/// What parent and child share.
#[repr(C, align(4096))]
struct Shared {
    arena: [u8; READABLE],
    code: [u8; CODE_BYTES],
    input: [State; BATCH],
    output: [State; BATCH],
    arena_out: [[u8; WRITABLE]; BATCH],
    count: AtomicU32,
    /// The case in execution.
    progress: AtomicU32,
}

static mut IN: *const State = ptr::null();
static mut OUT: State = State::EMPTY;
static mut HOST_RSP: u64 = 0;
static mut TARGET: u64 = 0;
static DEFAULT_MXCSR: u32 = 0x1f80;

// `enter` loads the state at RDI and jumps to TARGET. Execution comes back to whoever called it through `left` (the case
// ran to its end) or `recover` (the signal handler sends it there).
global_asm!(
    ".globl differential_enter",
    ".globl differential_left",
    ".globl differential_recover",
    "differential_enter:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [rip + {host_rsp}], rsp",
    "fxrstor64 [rdi + 192]",
    "push qword ptr [rdi + 128]",
    "popfq",
    "mov rax, [rdi]",
    "mov rcx, [rdi + 8]",
    "mov rdx, [rdi + 16]",
    "mov rbx, [rdi + 24]",
    "mov rsp, [rdi + 32]",
    "mov rbp, [rdi + 40]",
    "mov rsi, [rdi + 48]",
    "mov r8, [rdi + 64]",
    "mov r9, [rdi + 72]",
    "mov r10, [rdi + 80]",
    "mov r11, [rdi + 88]",
    "mov r12, [rdi + 96]",
    "mov r13, [rdi + 104]",
    "mov r14, [rdi + 112]",
    "mov r15, [rdi + 120]",
    "mov rdi, [rdi + 56]",
    "jmp qword ptr [rip + {target}]",
    "differential_left:",
    "mov [rip + {out}], rax",
    "lea rax, [rip + {out}]",
    "mov [rax + 8], rcx",
    "mov [rax + 16], rdx",
    "mov [rax + 24], rbx",
    "mov [rax + 32], rsp",
    "mov [rax + 40], rbp",
    "mov [rax + 48], rsi",
    "mov [rax + 56], rdi",
    "mov [rax + 64], r8",
    "mov [rax + 72], r9",
    "mov [rax + 80], r10",
    "mov [rax + 88], r11",
    "mov [rax + 96], r12",
    "mov [rax + 104], r13",
    "mov [rax + 112], r14",
    "mov [rax + 120], r15",
    "mov rsp, [rip + {host_rsp}]",
    "pushfq",
    "pop qword ptr [rax + 128]",
    "fxsave64 [rax + 192]",
    "differential_recover:",
    "push 0x202",
    "popfq",
    "fninit",
    "ldmxcsr [rip + {mxcsr}]",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    host_rsp = sym HOST_RSP,
    target = sym TARGET,
    out = sym OUT,
    mxcsr = sym DEFAULT_MXCSR,
);

unsafe extern "C" {
    fn differential_enter(state: *const State);
    fn differential_left();
    fn differential_recover();
}

/// Index in `gregs` of each general register in encoding order.
const GREGS: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Notes what the processor had when it faulted, and goes back to the child's loop.
extern "C" fn on_signal(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid context; the child has one thread and OUT no other user while a case runs.
    unsafe {
        let mc = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext;
        let out = &raw mut OUT;
        for (value, &index) in (*out).gpr.iter_mut().zip(&GREGS) {
            *value = mc.gregs[index as usize] as u64;
        }
        (*out).rip = mc.gregs[libc::REG_RIP as usize] as u64;
        (*out).rflags = mc.gregs[libc::REG_EFL as usize] as u64;
        (*out).vector = mc.gregs[libc::REG_TRAPNO as usize] as u64;
        (*out).error = mc.gregs[libc::REG_ERR as usize] as u64;
        (*out).cr2 = mc.gregs[libc::REG_CR2 as usize] as u64;
        ptr::copy_nonoverlapping(mc.fpregs.cast::<u8>(), (&raw mut (*out).fx).cast::<u8>(), 512);
        // The state that sigreturn loads must not fault in turn.
        let fp = &mut *mc.fpregs;
        fp.cwd = 0x37f;
        fp.swd = 0;
        fp.mxcsr = 0x1f80;
        mc.gregs[libc::REG_RIP as usize] = differential_recover as *const () as i64;
        mc.gregs[libc::REG_RSP as usize] = HOST_RSP as i64;
        mc.gregs[libc::REG_EFL as usize] = 0x202;
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Maps `len` bytes of `fd` at exactly `at`.
fn map(at: u64, len: usize, protection: i32, fd: i32, offset: usize) -> io::Result<()> {
    // SAFETY: MAP_FIXED_NOREPLACE never touches an existing mapping.
    let got = unsafe {
        libc::mmap(
            at as *mut _,
            len,
            protection,
            libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE,
            fd,
            offset as i64,
        )
    };
    if got as u64 != at {
        return Err(io::Error::other(format!("{at:#x} is not free: {}", io::Error::last_os_error())));
    }
    Ok(())
}

fn map_anywhere(len: usize, fd: i32) -> io::Result<*mut u8> {
    let flags = if fd < 0 { libc::MAP_SHARED | libc::MAP_ANONYMOUS } else { libc::MAP_SHARED };
    // SAFETY: a new mapping.
    let got = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) };
    if got == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(got.cast()) }
}

fn memory(len: usize) -> io::Result<i32> {
    // SAFETY: the name is a C string.
    unsafe {
        let fd = check(libc::memfd_create(c"differential".as_ptr(), libc::MFD_CLOEXEC))?;
        check(libc::ftruncate(fd, len as i64))?;
        Ok(fd)
    }
}

/// The mappings at fixed addresses, made once and inherited by every child.
#[derive(Clone, Copy)]
struct Mappings {
    /// The data arena, writable throughout.
    arena: *mut u8,
    /// The code, writable.
    code: *mut u8,
}

impl Mappings {
    fn new() -> io::Result<Self> {
        let (rw, r, rx) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ, libc::PROT_READ | libc::PROT_EXEC);
        let arena = memory(READABLE)?;
        for at in [ARENA, LOW_ARENA] {
            map(at, WRITABLE, rw, arena, 0)?;
            map(at + WRITABLE as u64, READABLE - WRITABLE, r, arena, WRITABLE)?;
        }
        let code = memory(CODE_BYTES)?;
        map(CODE, CODE_BYTES, rx, code, 0)?;
        let exit = memory(PAGE)?;
        let writable = map_anywhere(PAGE, exit)?;
        // SAFETY: the page was just mapped. JMP [RIP+0] and its target.
        unsafe {
            ptr::copy_nonoverlapping([0xff, 0x25, 0, 0, 0, 0].as_ptr(), writable, 6);
            writable.add(6).cast::<u64>().write_unaligned(differential_left as *const () as u64);
        }
        map(EXIT, PAGE, rx, exit, 0)?;
        Ok(Self { arena: map_anywhere(READABLE, arena)?, code: map_anywhere(CODE_BYTES, code)? })
    }
}

/// The host's processor.
pub struct Native {
    mappings: Mappings,
    shared: *mut Shared,
    child: Option<Child>,
    /// Cases in which the child died or did not come back.
    pub lost: Vec<usize>,
}

struct Child {
    pid: i32,
    /// Our ends of the two pipes.
    go: i32,
    done: i32,
}

impl Native {
    pub fn new() -> io::Result<Self> {
        let shared = map_anywhere(size_of::<Shared>(), -1)?.cast::<Shared>();
        Ok(Self { mappings: Mappings::new()?, shared, child: None, lost: Vec::new() })
    }

    /// Lets the child begin with `batch`.
    pub fn start(&mut self, batch: &Batch) -> io::Result<()> {
        self.lost.clear();
        // SAFETY: the child touches the shared memory only between `start` and `finish`.
        let shared = unsafe { &mut *self.shared };
        shared.arena.copy_from_slice(&batch.arena);
        shared.code.copy_from_slice(&batch.code);
        for (to, case) in shared.input.iter_mut().zip(&batch.cases) {
            *to = case.input;
            to.rip = CODE + case.offset as u64;
        }
        shared.count.store(batch.cases.len() as u32, Ordering::SeqCst);
        shared.progress.store(0, Ordering::SeqCst);
        self.go()
    }

    fn go(&mut self) -> io::Result<()> {
        let child = match self.child.take() {
            Some(child) => child,
            None => fork_child(self.mappings, self.shared)?,
        };
        let go = child.go;
        self.child = Some(child);
        // SAFETY: one byte from a valid buffer.
        check(unsafe { libc::write(go, [0u8].as_ptr().cast(), 1) } as i32)?;
        Ok(())
    }

    /// Waits until the batch is done. A child that dies or hangs is replaced and the batch goes on after that case.
    pub fn finish(&mut self) -> io::Result<()> {
        loop {
            let done = self.child.as_ref().map_or(-1, |c| c.done);
            let mut poll = libc::pollfd { fd: done, events: libc::POLLIN, revents: 0 };
            let mut byte = 0u8;
            // SAFETY: the pointers are valid for the calls.
            let answered = unsafe {
                libc::poll(&mut poll, 1, 20_000) == 1 && libc::read(done, (&raw mut byte).cast(), 1) == 1
            };
            if answered {
                return Ok(());
            }
            self.reap();
            // SAFETY: the child is gone.
            let shared = unsafe { &mut *self.shared };
            let at = shared.progress.fetch_add(1, Ordering::SeqCst);
            self.lost.push(at as usize);
            if at + 1 >= shared.count.load(Ordering::SeqCst) {
                return Ok(());
            }
            self.go()?;
        }
    }

    /// What case `index` ended with.
    pub fn output(&self, index: usize) -> &State {
        // SAFETY: between `finish` and the next `start` the child does not touch the shared memory.
        unsafe { &(&(*self.shared).output)[index] }
    }

    /// The writable part of the arena as case `index` left it.
    pub fn arena(&self, index: usize) -> &[u8; WRITABLE] {
        // SAFETY: as in `output`.
        unsafe { &(&(*self.shared).arena_out)[index] }
    }

    fn reap(&mut self) {
        if let Some(child) = self.child.take() {
            // SAFETY: our own child and descriptors.
            unsafe {
                libc::kill(child.pid, libc::SIGKILL);
                libc::waitpid(child.pid, ptr::null_mut(), 0);
                libc::close(child.go);
                libc::close(child.done);
            }
        }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        self.reap();
    }
}

fn fork_child(mappings: Mappings, shared: *mut Shared) -> io::Result<Child> {
    let (mut go, mut done) = ([0; 2], [0; 2]);
    // SAFETY: the arrays take two descriptors each.
    unsafe {
        check(libc::pipe2(go.as_mut_ptr(), libc::O_CLOEXEC))?;
        check(libc::pipe2(done.as_mut_ptr(), libc::O_CLOEXEC))?;
    }
    // The alternate stack must exist before the fork: the child calls no allocator.
    let stack = map_anywhere(64 * 1024, -1)?;
    // SAFETY: the child runs only code that is safe after a fork: no locks, no allocation.
    match unsafe { check(libc::fork())? } {
        0 => {
            // SAFETY: the descriptors are ours.
            unsafe {
                libc::close(go[1]);
                libc::close(done[0]);
                run_child(mappings, shared, stack, go[0], done[1])
            }
        }
        pid => {
            // SAFETY: the child has its own copies.
            unsafe {
                libc::close(go[0]);
                libc::close(done[1]);
            }
            Ok(Child { pid, go: go[1], done: done[0] })
        }
    }
}

/// The child's life.
///
/// # Safety
/// Only to be called in a process of its own.
unsafe fn run_child(mappings: Mappings, shared: *mut Shared, stack: *mut u8, go: i32, done: i32) -> ! {
    // SAFETY: the process has one thread and nothing else to do; the pointers are to mappings it inherited.
    unsafe {
        if !shut_in(stack) {
            libc::_exit(1);
        }
        // Page tables are filled now, so that an access that is not allowed finds its page present.
        for (at, len) in [(ARENA, READABLE), (LOW_ARENA, READABLE), (CODE, CODE_BYTES)] {
            for offset in (0..len).step_by(PAGE) {
                (at as *const u8).add(offset).read_volatile();
            }
        }
        let shared = &mut *shared;
        let mut byte = 0u8;
        while libc::read(go, (&raw mut byte).cast(), 1) == 1 {
            ptr::copy_nonoverlapping(shared.code.as_ptr(), mappings.code, CODE_BYTES);
            ptr::copy_nonoverlapping(shared.arena.as_ptr(), mappings.arena, READABLE);
            for i in shared.progress.load(Ordering::Relaxed)..shared.count.load(Ordering::Relaxed) {
                shared.progress.store(i, Ordering::Relaxed);
                let i = i as usize;
                IN = &raw const shared.input[i];
                TARGET = shared.input[i].rip;
                OUT.vector = NO_VECTOR;
                OUT.rip = EXIT;
                differential_enter(IN);
                ptr::copy_nonoverlapping(&raw const OUT, &raw mut shared.output[i], 1);
                ptr::copy_nonoverlapping(mappings.arena, shared.arena_out[i].as_mut_ptr(), WRITABLE);
                ptr::copy_nonoverlapping(shared.arena.as_ptr(), mappings.arena, WRITABLE);
            }
            libc::write(done, (&raw const byte).cast(), 1);
        }
        libc::_exit(0)
    }
}

/// Takes the signals and gives up every system call but those of the loop.
///
/// # Safety
/// `stack` must be 64 KiB that nobody else uses.
unsafe fn shut_in(stack: *mut u8) -> bool {
    const ARCH_SET_GS: i32 = 0x1001;
    let allow = [libc::SYS_read, libc::SYS_write, libc::SYS_rt_sigreturn, libc::SYS_exit_group];
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut filter = [statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_KILL_PROCESS); 7];
    filter[0] = statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0);
    for (i, &call) in allow.iter().enumerate() {
        filter[1 + i] = libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: (4 - i) as u8,
            jf: 0,
            k: call as u32,
        };
    }
    filter[6] = statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW);
    let program = libc::sock_fprog { len: 7, filter: filter.as_mut_ptr() };
    // SAFETY: all pointers are to live objects of the types the calls want.
    unsafe {
        let alternate = libc::stack_t { ss_sp: stack.cast(), ss_flags: 0, ss_size: 64 * 1024 };
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        let core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        let signals = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
            && libc::setrlimit(libc::RLIMIT_CORE, &core) == 0
            && libc::sigaltstack(&alternate, ptr::null_mut()) == 0
            && signals.iter().all(|&s| libc::sigaction(s, &action, ptr::null_mut()) == 0)
            && libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, GS_BASE) == 0
            && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    }
}
