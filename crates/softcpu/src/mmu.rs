//! Guest memory as instructions see it: the software TLB and the slow paths behind it.
//!
//! Each entry answers reads and writes of one page with one comparison: the tag is chosen so that `address ^ tag` is the
//! offset in the page on a hit and larger on everything else — a miss, a page crossing, a device's register, a page whose
//! first write must still be logged, a page that holds translated code. All of those take the slow path, so the fast path
//! costs the same whether or not anybody looks.

mod tlb;

pub(crate) use self::tlb::Mmu;
use self::tlb::{NEVER_FILLED, SUPERVISOR};

use crate::bus::{Frame, PAGE_SIZE, PageFlags};
use crate::cpu::{Cpu, Mode};
use crate::fault::{Fault, Pending, Trap};
use crate::flags::rflags;
use crate::mem::{self, Word};
use crate::paging::{Access, Translation};
use std::sync::atomic::Ordering;

/// Where a read-modify-write takes place.
enum Place {
    /// At this host address.
    Ram(*mut u8),
    /// At this host address, in a page with translated code, whose guest-physical address this is.
    Code(*mut u8, u64),
    /// In a device, in ROM or over a page boundary.
    Elsewhere,
}

/// Applies `f` to the operand at `at`; gives the old and the new value.
///
/// # Safety
/// `at` must be readable and writable for the operand's width.
#[inline(always)]
unsafe fn modify<T: Word>(at: *mut u8, lock: bool, mut f: impl FnMut(T) -> T) -> (T, T) {
    // SAFETY: the caller vouches for `at`.
    unsafe {
        let mut old = T::load(at);
        let mut new = f(old);
        if lock {
            loop {
                let seen = T::compare_exchange(at, old, new);
                if seen == old {
                    break;
                }
                old = seen;
                new = f(old);
            }
        } else {
            T::store(at, new);
        }
        (old, new)
    }
}

/// Sign-extends from bit 47.
#[inline(always)]
pub(crate) const fn canonical(la: u64) -> bool {
    (((la as i64) << 16) >> 16) as u64 == la
}

impl Cpu {
    /// The host address of the operand at `la` if it may be read without a further look.
    #[inline(always)]
    pub(crate) fn readable<T: Word>(&self, la: u64) -> Option<*const u8> {
        let e = self.mmu.entry(la);
        let offset = la ^ e.read;
        if offset <= PAGE_SIZE - size_of::<T>() as u64 { Some((e.host + offset) as *const u8) } else { None }
    }

    /// The host address of the operand at `la` if it may be written (and read) without a further look.
    #[inline(always)]
    pub(crate) fn writable<T: Word>(&self, la: u64) -> Option<*mut u8> {
        let e = self.mmu.entry(la);
        let offset = la ^ e.write;
        if offset <= PAGE_SIZE - size_of::<T>() as u64 { Some((e.host + offset) as *mut u8) } else { None }
    }

    /// A read at linear address `la`.
    #[inline(always)]
    pub(crate) fn load<T: Word>(&mut self, la: u64) -> Result<T, Trap> {
        let e = self.mmu.entry(la);
        let offset = la ^ e.read;
        if offset <= PAGE_SIZE - size_of::<T>() as u64 {
            // SAFETY: on a hit `host` is the page's host address and the access lies inside the page.
            return Ok(unsafe { T::load((e.host + offset) as *const u8) });
        }
        match self.load_slow(la, size_of::<T>()) {
            Ok(v) => Ok(T::from_u64(v)),
            Err(t) => Err(t),
        }
    }

    /// A write at linear address `la`.
    #[inline(always)]
    pub(crate) fn store<T: Word>(&mut self, la: u64, value: T) -> Result<(), Trap> {
        let e = self.mmu.entry(la);
        let offset = la ^ e.write;
        if offset <= PAGE_SIZE - size_of::<T>() as u64 {
            // SAFETY: as in `load`, and the page is writable.
            unsafe { T::store((e.host + offset) as *mut u8, value) };
            return Ok(());
        }
        self.store_slow(la, size_of::<T>(), value.to_u64())
    }

    /// Reads, lets `f` compute, writes back; gives the old and the new value. With `lock` the whole is atomic towards
    /// other processors (`f` may then be called more than once).
    #[inline(always)]
    pub(crate) fn update<T: Word>(
        &mut self,
        la: u64,
        lock: bool,
        f: impl FnMut(T) -> T,
    ) -> Result<(T, T), Trap> {
        let e = self.mmu.entry(la);
        let offset = la ^ e.write;
        if offset <= PAGE_SIZE - size_of::<T>() as u64 {
            let at = (e.host + offset) as *mut u8;
            // SAFETY: on a hit the page is writable RAM at `host`, and the operand lies inside it.
            return Ok(unsafe { modify(at, lock, f) });
        }
        match self.update_slow(la, size_of::<T>())? {
            Place::Ram(at) => {
                // SAFETY: `update_slow` vouches for the place.
                Ok(unsafe { modify(at, lock, f) })
            }
            Place::Code(at, gpa) => {
                // SAFETY: as above.
                let result = unsafe { modify(at, lock, f) };
                self.code_written(gpa, size_of::<T>() as u64);
                Ok(result)
            }
            Place::Elsewhere => self.update_elsewhere(la, f),
        }
    }

    /// Where a read-modify-write of `size` bytes can be done.
    #[cold]
    #[inline(never)]
    fn update_slow(&mut self, la: u64, size: usize) -> Result<Place, Trap> {
        self.check_alignment(la, size)?;
        if offset_in_page(la) + size as u64 > PAGE_SIZE {
            self.probe(la, size as u64, true)?;
            return Ok(Place::Elsewhere);
        }
        let t = self.translate_data(la, Access::WRITE)?;
        self.watch(la, size, true);
        let Some(frame) = self.frame_of(t.gpa).filter(|f| f.writable) else { return Ok(Place::Elsewhere) };
        let at = host_at(&frame, t.gpa);
        Ok(if self.note_write(la, &t, &frame, size)? { Place::Code(at, t.gpa) } else { Place::Ram(at) })
    }

    /// A read-modify-write where there is no RAM or over a page boundary: not atomic.
    #[inline(never)]
    fn update_elsewhere<T: Word>(&mut self, la: u64, mut f: impl FnMut(T) -> T) -> Result<(T, T), Trap> {
        let old = T::from_u64(self.load_slow(la, size_of::<T>())?);
        let new = f(old);
        self.store_slow(la, size_of::<T>(), new.to_u64())?;
        Ok((old, new))
    }

    /// As [`readable`](Self::readable), for 16 bytes.
    #[inline(always)]
    pub(crate) fn readable128(&self, la: u64) -> Option<*const u8> {
        let e = self.mmu.entry(la);
        let offset = la ^ e.read;
        if offset <= PAGE_SIZE - 16 { Some((e.host + offset) as *const u8) } else { None }
    }

    /// As [`writable`](Self::writable), for 16 bytes.
    #[inline(always)]
    pub(crate) fn writable128(&self, la: u64) -> Option<*mut u8> {
        let e = self.mmu.entry(la);
        let offset = la ^ e.write;
        if offset <= PAGE_SIZE - 16 { Some((e.host + offset) as *mut u8) } else { None }
    }

    /// A 16-byte read.
    #[inline(always)]
    pub(crate) fn load128(&mut self, la: u64) -> Result<u128, Trap> {
        let e = self.mmu.entry(la);
        let offset = la ^ e.read;
        if offset <= PAGE_SIZE - 16 {
            // SAFETY: as in `load`.
            return Ok(unsafe { mem::load128((e.host + offset) as *const u8) });
        }
        let mut bytes = [0; 16];
        self.load_bytes(la, &mut bytes)?;
        Ok(u128::from_le_bytes(bytes))
    }

    /// A 16-byte write.
    #[inline(always)]
    pub(crate) fn store128(&mut self, la: u64, value: u128) -> Result<(), Trap> {
        let e = self.mmu.entry(la);
        let offset = la ^ e.write;
        if offset <= PAGE_SIZE - 16 {
            // SAFETY: as in `store`.
            unsafe { mem::store128((e.host + offset) as *mut u8, value) };
            return Ok(());
        }
        self.store_bytes(la, &value.to_le_bytes())
    }

    /// CMPXCHG16B at a 16-byte aligned `la`: writes `new` if `expected` is there; gives what was there.
    pub(crate) fn compare_exchange128(&mut self, la: u64, expected: u128, new: u128) -> Result<u128, Trap> {
        debug_assert!(la & 15 == 0, "the instruction has checked the alignment");
        match self.update_slow(la, 16)? {
            Place::Ram(at) => {
                // SAFETY: `at` is aligned as `la` is and lies in a writable page of guest RAM.
                return Ok(unsafe { mem::compare_exchange128(at, expected, new) });
            }
            Place::Code(at, gpa) => {
                // SAFETY: as above.
                let old = unsafe { mem::compare_exchange128(at, expected, new) };
                self.code_written(gpa, 16);
                return Ok(old);
            }
            Place::Elsewhere => {}
        }
        let old = self.load128(la)?;
        self.store128(la, if old == expected { new } else { old })?;
        Ok(old)
    }

    /// Reads `bytes.len()` bytes; all or nothing.
    pub(crate) fn load_bytes(&mut self, la: u64, bytes: &mut [u8]) -> Result<(), Trap> {
        self.check_canonical(la.wrapping_add(bytes.len().max(1) as u64 - 1))?;
        let mut done = 0;
        while done < bytes.len() {
            let at = la.wrapping_add(done as u64);
            let n = piece(at, bytes.len() - done);
            if let Some(host) = self.span(at, n as u64, false)? {
                // SAFETY: `span` vouches for `n` readable bytes; `bytes` is ours.
                unsafe { std::ptr::copy_nonoverlapping(host, bytes[done..].as_mut_ptr(), n) };
            } else {
                for i in 0..n {
                    bytes[done + i] = self.load_slow(at + i as u64, 1)? as u8;
                }
            }
            done += n;
        }
        Ok(())
    }

    /// Writes `bytes`; all or nothing.
    pub(crate) fn store_bytes(&mut self, la: u64, bytes: &[u8]) -> Result<(), Trap> {
        if offset_in_page(la) + bytes.len() as u64 > PAGE_SIZE {
            self.probe(la, bytes.len() as u64, true)?;
        }
        let mut done = 0;
        while done < bytes.len() {
            let at = la.wrapping_add(done as u64);
            let n = piece(at, bytes.len() - done);
            if let Some(host) = self.span(at, n as u64, true)? {
                // SAFETY: `span` vouches for `n` writable bytes.
                unsafe { std::ptr::copy_nonoverlapping(bytes[done..].as_ptr(), host, n) };
            } else {
                for i in 0..n {
                    self.store_slow(at + i as u64, 1, u64::from(bytes[done + i]))?;
                }
            }
            done += n;
        }
        Ok(())
    }

    /// Checks that `len` bytes (at most a page) at `la` may be read or written, without doing it.
    pub(crate) fn probe(&mut self, la: u64, len: u64, write: bool) -> Result<(), Trap> {
        let access = if write { Access::WRITE } else { Access::empty() };
        let last = la.wrapping_add(len.max(1) - 1);
        self.check_canonical(last)?;
        let first = self.translate_data(la, access)?;
        self.refuse_own_code(first.gpa, len.min(PAGE_SIZE - offset_in_page(la)), write)?;
        if last >> 12 != la >> 12 {
            let start = last & !(PAGE_SIZE - 1);
            let second = self.translate_data(self.wrap_linear(start), access)?;
            self.refuse_own_code(second.gpa, last - start + 1, write)?;
        }
        Ok(())
    }

    /// The host address of `len` bytes at `la`, if they lie in one page of RAM that may be accessed directly: for a read,
    /// any RAM; for a write, RAM without translated code (its page is then marked dirty).
    pub(crate) fn span(&mut self, la: u64, len: u64, write: bool) -> Result<Option<*mut u8>, Trap> {
        if offset_in_page(la) + len > PAGE_SIZE {
            return Ok(None);
        }
        let e = self.mmu.entry(la);
        let offset = la ^ if write { e.write } else { e.read };
        if offset < PAGE_SIZE {
            return Ok(Some((e.host + offset) as *mut u8));
        }
        let t = self.translate_data(la, if write { Access::WRITE } else { Access::empty() })?;
        self.watch(la, len as usize, write);
        let Some(frame) = self.frame_of(t.gpa) else { return Ok(None) };
        if write && (!frame.writable || self.note_write(la, &t, &frame, len as usize)?) {
            return Ok(None);
        }
        if !write {
            self.mmu.fill(la, &t, &frame, false);
        }
        Ok(Some(host_at(&frame, t.gpa)))
    }

    /// A read as supervisor, whatever the privilege level: descriptor tables, the TSS.
    pub(crate) fn load_system<T: Word>(&mut self, la: u64) -> Result<T, Trap> {
        self.as_supervisor(|cpu| cpu.load::<T>(la))
    }

    /// A write as supervisor.
    pub(crate) fn store_system<T: Word>(&mut self, la: u64, value: T) -> Result<(), Trap> {
        self.as_supervisor(|cpu| cpu.store::<T>(la, value))
    }

    /// Runs `f` with the supervisor's rights.
    pub(crate) fn as_supervisor<R>(&mut self, f: impl FnOnce(&mut Self) -> R) -> R {
        if self.mmu.which == SUPERVISOR {
            return f(self);
        }
        let (cpl, which) = (self.cpl, self.mmu.which);
        self.cpl = 0;
        self.mmu.select(if which == NEVER_FILLED { NEVER_FILLED } else { SUPERVISOR });
        let result = f(self);
        self.cpl = cpl;
        self.mmu.select(which);
        result
    }

    #[cold]
    #[inline(never)]
    fn load_slow(&mut self, la: u64, size: usize) -> Result<u64, Trap> {
        self.check_alignment(la, size)?;
        if offset_in_page(la) + size as u64 > PAGE_SIZE {
            let mut bytes = [0; 8];
            let next = self.wrap_linear((la | (PAGE_SIZE - 1)).wrapping_add(1));
            let here = (PAGE_SIZE - offset_in_page(la)) as usize;
            self.check_canonical(next)?;
            self.translate_data(la, Access::empty())?;
            self.translate_data(next, Access::empty())?;
            self.load_bytes(la, &mut bytes[..here])?;
            self.load_bytes(next, &mut bytes[here..size])?;
            return Ok(u64::from_le_bytes(bytes));
        }
        let t = self.translate_data(la, Access::empty())?;
        self.watch(la, size, false);
        if let Some(frame) = self.frame_of(t.gpa) {
            self.mmu.fill(la, &t, &frame, false);
            let at = host_at(&frame, t.gpa);
            // SAFETY: the operand lies inside a page of guest RAM.
            return Ok(unsafe {
                match size {
                    1 => u64::from(u8::load(at)),
                    2 => u64::from(u16::load(at)),
                    4 => u64::from(u32::load(at)),
                    _ => u64::load(at),
                }
            });
        }
        let mut bytes = [0; 8];
        self.device_read(t.gpa, &mut bytes[..size]);
        Ok(u64::from_le_bytes(bytes))
    }

    #[cold]
    #[inline(never)]
    fn store_slow(&mut self, la: u64, size: usize, value: u64) -> Result<(), Trap> {
        self.check_alignment(la, size)?;
        let bytes = value.to_le_bytes();
        if offset_in_page(la) + size as u64 > PAGE_SIZE {
            self.probe(la, size as u64, true)?;
            let next = self.wrap_linear((la | (PAGE_SIZE - 1)).wrapping_add(1));
            let here = (PAGE_SIZE - offset_in_page(la)) as usize;
            self.store_bytes(la, &bytes[..here])?;
            return self.store_bytes(next, &bytes[here..size]);
        }
        let t = self.translate_data(la, Access::WRITE)?;
        self.watch(la, size, true);
        let Some(frame) = self.frame_of(t.gpa) else {
            self.device_write(t.gpa, &bytes[..size]);
            return Ok(());
        };
        if !frame.writable {
            return Ok(());
        }
        let code = self.note_write(la, &t, &frame, size)?;
        let at = host_at(&frame, t.gpa);
        // SAFETY: the operand lies inside a writable page of guest RAM.
        unsafe {
            match size {
                1 => u8::store(at, value as u8),
                2 => u16::store(at, value as u16),
                4 => u32::store(at, value as u32),
                _ => u64::store(at, value),
            }
        }
        if code {
            self.code_written(t.gpa, size as u64);
        }
        Ok(())
    }

    /// What must happen before `size` bytes of a RAM page are written: the dirty log, and code made from it. Says whether
    /// the page holds code, so that [`code_written`](Self::code_written) must follow the write.
    fn note_write(&mut self, la: u64, t: &Translation, frame: &Frame, size: usize) -> Result<bool, Trap> {
        self.refuse_own_code(t.gpa, size as u64, true)?;
        // SAFETY: `GuestMemory::frame` promises a valid flag byte.
        let flags = unsafe { frame.flags.as_ref() };
        let before = flags.fetch_or((PageFlags::DIRTY | PageFlags::WRITABLE).bits(), Ordering::SeqCst);
        let code = before & PageFlags::CODE.bits() != 0 || self.code.has_page(t.gpa);
        if !code {
            self.mmu.fill(la, t, frame, true);
        }
        Ok(code)
    }

    /// An instruction must not write the block it is in and then run on in the old one: it is run again alone.
    fn refuse_own_code(&mut self, gpa: u64, len: u64, write: bool) -> Result<(), Trap> {
        if write && !self.mode.contains(Mode::ALONE) && self.current_block_overlaps(gpa, len) {
            self.pending = Pending::Alone;
            return Err(Trap);
        }
        Ok(())
    }

    /// The first check of an access, for all of its bytes before any is translated.
    #[inline]
    fn check_canonical(&mut self, la: u64) -> Result<(), Trap> {
        if self.long_mode() && !canonical(la) {
            return Err(self.raise(Fault { non_canonical: true, ..Fault::gp(0) }));
        }
        Ok(())
    }

    /// Translates for a data access, checking canonical form first.
    fn translate_data(&mut self, la: u64, access: Access) -> Result<Translation, Trap> {
        self.check_canonical(la)?;
        let user = if self.cpl == 3 { Access::USER } else { Access::empty() };
        match self.walk(la, access | user) {
            Ok(t) => Ok(t),
            Err(fault) => Err(self.raise(fault)),
        }
    }

    /// The RAM page that holds guest-physical address `gpa`.
    pub(crate) fn frame_of(&self, gpa: u64) -> Option<Frame> {
        if self.apic_covers(gpa) {
            return None;
        }
        self.system.memory.frame(gpa & !(PAGE_SIZE - 1))
    }

    fn device_read(&mut self, gpa: u64, data: &mut [u8]) {
        if self.apic_covers(gpa) {
            self.apic_mmio_read(offset_in_page(gpa), data);
        } else {
            self.call_out(|bus| bus.mmio_read(gpa, data));
        }
    }

    fn device_write(&mut self, gpa: u64, data: &[u8]) {
        if self.apic_covers(gpa) {
            self.apic_mmio_write(offset_in_page(gpa), data);
        } else {
            self.call_out(|bus| bus.mmio_write(gpa, data));
        }
    }

    /// Writes guest-physical RAM for the processor's own purposes (kvmclock); what is not RAM is passed over.
    pub(crate) fn write_physical(&mut self, gpa: u64, bytes: &[u8]) {
        for (i, &byte) in bytes.iter().enumerate() {
            let at = gpa.wrapping_add(i as u64);
            if let Some(frame) = self.frame_of(at).filter(|f| f.writable) {
                // SAFETY: `GuestMemory::frame` promises a valid flag byte and a writable page.
                let before = unsafe {
                    u8::store(host_at(&frame, at), byte);
                    frame.flags.as_ref().fetch_or(PageFlags::DIRTY.bits(), Ordering::SeqCst)
                };
                if before & PageFlags::CODE.bits() != 0 || self.code.has_page(at) {
                    self.code_written(at, 1);
                }
            }
        }
    }

    /// Tells the data breakpoints of an access. While there are any, every access takes the slow path.
    #[inline]
    fn watch(&mut self, la: u64, size: usize, write: bool) {
        if self.mmu.which == NEVER_FILLED && self.breakpoints_enabled() {
            self.watch_data(la, size as u64, write);
        }
    }

    fn check_alignment(&mut self, la: u64, size: usize) -> Result<(), Trap> {
        if self.mmu.which == NEVER_FILLED && self.alignment_checked() && la & (size as u64 - 1) != 0 {
            return Err(self.raise(Fault::coded(crate::fault::vector::AC, 0)));
        }
        Ok(())
    }

    /// Whether misaligned accesses raise #AC.
    pub(crate) fn alignment_checked(&self) -> bool {
        self.cpl == 3 && self.cr0 & crate::paging::CR0_AM != 0 && self.rflags_rest & rflags::AC != 0
    }

    /// Outside 64-bit mode linear addresses wrap at 4 GiB.
    #[inline]
    pub(crate) fn wrap_linear(&self, la: u64) -> u64 {
        if self.long_mode() { la } else { la & 0xffff_ffff }
    }

    /// Forgets all translations, or all but global ones.
    pub(crate) fn flush_tlb(&mut self, global: bool) {
        self.mmu.flush(global);
        self.code.forget_translations(global);
    }

    /// Forgets the translation of the page of `la`, however large it is (Intel SDM vol. 3, 4.10.4.1).
    pub(crate) fn flush_page(&mut self, la: u64) {
        self.mmu.drop_page(la);
        self.code.forget_translations(true);
    }

    /// Recomputes what depends on CR0, CR4, EFER, CS, SS, CPL and RFLAGS.VM, AC: to be called after any of them changed.
    pub(crate) fn mode_changed(&mut self) {
        let virtual_8086 = self.rflags_rest & rflags::VM != 0;
        let cs = &self.segs[usize::from(crate::op::seg::CS)];
        let mut mode = Mode::empty();
        if self.efer & crate::paging::EFER_LMA != 0 && cs.long() {
            mode |= Mode::LONG;
        } else {
            mode.set(Mode::CODE32, cs.big());
            mode.set(Mode::STACK32, self.segs[usize::from(crate::op::seg::SS)].big());
            mode.set(Mode::LIMITED, cs.limit != u32::MAX);
        }
        mode.set(Mode::REAL, virtual_8086 || self.cr0 & crate::paging::CR0_PE == 0);
        self.mode = mode;
        let place = if mode.contains(Mode::LONG) { (0, u32::MAX) } else { (cs.base, cs.limit) };
        let watched = self.alignment_checked() || self.breakpoints_enabled();
        self.mmu.select(if watched { NEVER_FILLED } else { SUPERVISOR + usize::from(self.cpl == 3) });
        self.code.context_changed(mode, self.cpl, place);
        self.fp_mode_changed();
    }
}

#[inline(always)]
pub(crate) const fn offset_in_page(address: u64) -> u64 {
    address & (PAGE_SIZE - 1)
}

fn host_at(frame: &Frame, gpa: u64) -> *mut u8 {
    frame.host.as_ptr().wrapping_add(offset_in_page(gpa) as usize)
}

/// How much of `len` bytes at `la` lies in `la`'s page.
fn piece(la: u64, len: usize) -> usize {
    len.min((PAGE_SIZE - offset_in_page(la)) as usize)
}
