//! The outermost loop of a processor: look around, then run blocks for a while.

use std::time::Duration;

use crate::cpu::{Cpu, Exit, Mode};
use crate::fault::{Fault, Pending, Trap, vector};
use crate::flags::rflags;
use crate::op::{Stop, seg};
use crate::state::Activity;

/// Instructions between two looks at interrupts, timers and requests: about ten microseconds.
const SLICE: i64 = 2000;

/// DR6.BS: the exception comes from single stepping.
const DR6_BS: u64 = 1 << 14;

impl Cpu {
    /// Executes guest code until something needs the caller.
    ///
    /// To be called by one thread; other threads reach the processor through its [`Mailbox`](crate::apic::Mailbox).
    pub fn run(&mut self) -> Exit {
        loop {
            if let Some(exit) = self.run_for(u64::MAX) {
                return exit;
            }
        }
    }

    /// As [`run`](Self::run), but gives up, with `None`, when about `instructions` instructions have been executed.
    pub fn run_for(&mut self, instructions: u64) -> Option<Exit> {
        self.enter(|cpu| cpu.run_until_exit(cpu.instructions.saturating_add(instructions), u64::MAX))
    }

    /// As [`run`](Self::run), but gives up, with `None`, when about so much time has passed, whatever is executed in it: code that is met for the first time takes a hundred times as long as what has been
    /// translated.
    pub fn run_at_most(&mut self, time: Duration) -> Option<Exit> {
        self.enter(|cpu| cpu.run_until_exit(u64::MAX, time.as_nanos() as u64))
    }

    fn enter(&mut self, run: impl FnOnce(&mut Self) -> Option<Exit>) -> Option<Exit> {
        let mailbox = std::sync::Arc::clone(&self.mailbox);
        mailbox.enter();
        self.enter_fp();
        let exit = run(self);
        self.leave_fp();
        mailbox.leave();
        exit
    }

    /// Until so many instructions have been executed, or so much time has passed since the first look, ns.
    fn run_until_exit(&mut self, end: u64, time: u64) -> Option<Exit> {
        let mut until = None;
        while self.instructions < end {
            if let Some(exit) = self.look_around() {
                return Some(exit);
            }
            if self.polled >= *until.get_or_insert(self.polled.saturating_add(time.max(1))) {
                return None;
            }
            let shadow = std::mem::take(&mut self.shadow);
            if shadow || self.stepping() {
                self.run_alone();
            } else {
                self.run_slice();
            }
            if let Some(exit) = self.exit.take() {
                return Some(exit);
            }
        }
        None
    }

    fn stepping(&self) -> bool {
        self.rflags_rest & rflags::TF != 0 || self.breakpoints_enabled()
    }

    /// Between blocks: frees dropped code, hears what others ask, takes interrupts. Gives an exit if the caller is wanted
    /// or there is nothing to execute.
    fn look_around(&mut self) -> Option<Exit> {
        self.block = std::ptr::null();
        self.code.bury();
        if self.mailbox.take_attention() {
            self.drain_inbox();
            if self.mailbox.take_kick() {
                return Some(Exit::Kicked);
            }
        }
        self.apic_poll();
        if let Some(exit) = self.exit.take() {
            return Some(exit);
        }
        if matches!(self.activity, Activity::Uninitialized | Activity::WaitForSipi) {
            return Some(Exit::Halted { deadline: None });
        }
        if !self.shadow {
            self.take_interrupt();
            if let Some(exit) = self.exit.take() {
                return Some(exit);
            }
        }
        if self.activity == Activity::Halted {
            return Some(Exit::Halted { deadline: self.apic_next_event() });
        }
        None
    }

    /// Delivers the most urgent NMI or interrupt that may come in now, and ends a halt with it.
    fn take_interrupt(&mut self) {
        if self.nmi_pending && !self.nmi_blocked {
            self.nmi_pending = false;
            self.activity = Activity::Running;
            self.deliver_nmi();
        } else if self.rflags_rest & rflags::IF != 0
            && let Some(vector) = self.apic_pending_vector()
        {
            self.apic_accept(vector);
            self.activity = Activity::Running;
            self.deliver_interrupt(vector);
        }
    }

    /// Runs blocks until the slice is used up, something happened, or an instruction must be run alone.
    fn run_slice(&mut self) {
        self.fuel = SLICE;
        while self.fuel > 0 {
            let block = match self.find_block() {
                Ok(block) => block,
                Err(Trap) => {
                    self.fetch_trapped();
                    break;
                }
            };
            // SAFETY: `find_block` gives a block that is true; it stays allocated until `bury`, which only `look_around`
            // calls.
            let stop = unsafe {
                self.fuel -= (*block).count();
                self.block = block;
                let op = (*block).first();
                ((*op).run)(self, op)
            };
            match stop {
                Stop::Dispatch => {}
                Stop::Trap => {
                    self.trapped_in_block();
                    break;
                }
                Stop::Exit => break,
            }
            if self.shadow || self.activity != Activity::Running || self.stepping() {
                // Only a SYSRET that sets TF is trapped here.
                self.debug_trap();
                break;
            }
        }
        self.instructions = self.instructions.wrapping_add((SLICE - self.fuel) as u64);
    }

    /// Runs one instruction as a block of its own.
    fn run_alone(&mut self) {
        let held = std::mem::take(&mut self.debug_held);
        if !held {
            if self.instruction_breakpoint() {
                return;
            }
            self.watch_hits = 0;
        }
        self.single_step = self.rflags_rest & rflags::TF != 0;
        let mode = self.mode;
        self.mode |= Mode::ALONE;
        // Without fuel a branch goes no further than its target.
        let fuel = std::mem::take(&mut self.fuel);
        let found = self.build_alone();
        let (block, stop) = match found {
            Ok(block) => {
                self.block = &raw const *block;
                let op = block.first();
                // SAFETY: the block was just built and lives until the end of this function.
                let stop = unsafe { ((*op).run)(self, op) };
                (Some(block), stop)
            }
            Err(Trap) => {
                (self.mode, self.fuel) = (mode, fuel);
                self.single_step = false;
                self.fetch_trapped();
                return;
            }
        };
        self.instructions = self.instructions.wrapping_add(1);
        self.mode.remove(Mode::ALONE);
        self.fuel = fuel;
        match stop {
            Stop::Dispatch | Stop::Exit => self.debug_trap(),
            Stop::Trap => {
                (self.single_step, self.watch_hits) = (false, 0);
                self.trapped_in_block();
            }
        }
        self.block = std::ptr::null();
        self.code.bury();
        drop(block);
    }

    fn build_alone(&mut self) -> Result<Box<crate::cache::Block>, Trap> {
        let la = self.fetch_address(self.block_rip())?;
        let (page, _) = self.fetch_page(la)?;
        Ok(Box::new(self.build_block(la, page | la & (crate::bus::PAGE_SIZE - 1))?))
    }

    /// A fetch faulted: RIP is already at the instruction.
    fn fetch_trapped(&mut self) {
        // Counted, so that a guest that only faults also gets somewhere.
        self.instructions = self.instructions.wrapping_add(1);
        if let Pending::Fault(fault) = std::mem::replace(&mut self.pending, Pending::None) {
            self.deliver_fault(fault);
        }
    }

    /// An op did not finish: RIP goes back to it, and what it raised is delivered.
    fn trapped_in_block(&mut self) {
        // SAFETY: `stopped_at` was set by the op that stopped, whose block is still allocated.
        let op = unsafe { *self.stopped_at };
        let rip = self.this_rip(&op);
        self.set_rip(rip);
        match std::mem::replace(&mut self.pending, Pending::None) {
            Pending::Fault(mut fault) => {
                if fault.non_canonical && op.seg == seg::SS {
                    fault.vector = vector::SS;
                }
                self.deliver_fault(fault);
            }
            Pending::Alone => {
                self.block = std::ptr::null();
                self.run_alone();
            }
            Pending::Again | Pending::None => {}
        }
    }

    /// Delivers #DB if the instruction just completed is single-stepped or met a data or port breakpoint, unless it is
    /// one after which that waits.
    fn debug_trap(&mut self) {
        if self.debug_held {
            return;
        }
        let step = if std::mem::take(&mut self.single_step) { DR6_BS } else { 0 };
        let info = std::mem::take(&mut self.watch_hits) | step;
        if info != 0 && self.exit.is_none() {
            self.deliver_fault(Fault { info, ..Fault::plain(vector::DB) });
        }
    }

    /// Delivers #DB if an enabled instruction breakpoint is at RIP, unless RF holds it off for this once.
    fn instruction_breakpoint(&mut self) -> bool {
        if self.rflags_rest & rflags::RF != 0 {
            self.rflags_rest &= !rflags::RF;
            return false;
        }
        let Ok(la) = self.fetch_address(self.block_rip()) else { return false };
        let mut hit = 0;
        for n in 0..4 {
            let enabled = self.dr[7] >> (n * 2) & 3 != 0;
            let kind = self.dr[7] >> (16 + n * 4) & 3;
            if enabled && kind == 0 && self.dr[n] == la {
                hit |= 1 << n;
            }
        }
        if hit != 0 {
            self.deliver_fault(Fault { info: hit, ..Fault::plain(vector::DB) });
        }
        hit != 0
    }
}
