//! Translated code: blocks of ops, where to find them, and when they stop being true.
//!
//! Blocks are keyed by the physical address of their first byte and by [`Mode`], so they outlive changes of address space.
//! From block to block execution goes by links (within a page: same mapping, same page) or through a small table keyed by
//! virtual address, which is forgotten whenever translations are. Each processor has its own cache; what they share is
//! [`CodeMap`], which says for each page which 64-byte pieces somebody translated.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iced_x86::Instruction;

use crate::bus::{PAGE_SIZE, PageFlags};
use crate::cpu::{Cpu, Mode};
use crate::op::{Op, Stop};

/// Entries of the table from virtual address to block; a power of two.
const JUMPS: usize = 4096;
/// Ops a cache may hold before it starts afresh (32 bytes each).
const MOST_OPS: usize = 512 * 1024;

/// A run of ops ending in one that stops or jumps.
pub(crate) struct Block {
    /// Blocks in the same page that control has gone on to: 0 by falling through, 1 by the branch.
    links: [*const Block; 2],
    /// Guest-physical address of the first byte.
    gpa: u64,
    /// Length of the code in bytes.
    bytes: u16,
    /// Where the code goes on if it crosses into a second page.
    second: Option<u64>,
    /// Instructions in the block: one op each, and perhaps one that only goes on to the next block.
    instructions: u32,
    /// The age in which it was last looked for.
    used: u32,
    ops: Box<[Op]>,
}

impl Block {
    pub(crate) fn new(gpa: u64, bytes: u16, second: Option<u64>, instructions: u32, ops: Box<[Op]>) -> Self {
        Self { links: [ptr::null(); 2], gpa, bytes, second, instructions, used: 0, ops }
    }

    /// The first op.
    #[inline(always)]
    pub(crate) fn first(&self) -> *const Op {
        self.ops.as_ptr()
    }

    /// Instructions in the block.
    #[inline(always)]
    pub(crate) fn count(&self) -> i64 {
        i64::from(self.instructions)
    }

    /// The guest-physical ranges the block was made from.
    fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        let whole = u64::from(self.bytes);
        let here = whole.min(PAGE_SIZE - self.gpa % PAGE_SIZE);
        [Some((self.gpa, here)), self.second.map(|page| (page, whole - here))].into_iter().flatten()
    }
}

/// Multiplies and folds: the keys are addresses, which need no more.
#[derive(Default)]
pub(crate) struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u64(u64::from(b));
        }
    }
    fn write_u64(&mut self, v: u64) {
        let mixed = (self.0 ^ v).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 29);
    }
}

type AddressMap<V> = HashMap<u64, V, BuildHasherDefault<AddressHasher>>;

/// Which 64-byte pieces of guest pages somebody holds translated code of, for all processors of a guest.
#[derive(Default)]
pub(crate) struct CodeMap {
    pages: Mutex<CodePages>,
}

#[derive(Default)]
struct CodePages {
    map: AddressMap<CodePage>,
    /// How many pages were ever added: tells a page that was forgotten and added again from what it was.
    added: u64,
}

/// A page with code. It is in the map exactly as long as its flags have [`PageFlags::CODE`].
struct CodePage {
    /// The 64-byte pieces that code was made from.
    pieces: u64,
    /// No processor writes the page without telling, and none can begin to.
    settled: bool,
    added: u64,
}

fn pieces(gpa: u64, len: u64) -> u64 {
    let first = gpa % PAGE_SIZE / 64;
    let last = ((gpa % PAGE_SIZE + len.max(1) - 1) / 64).min(63);
    (u64::MAX >> (63 - (last - first))) << first
}

impl CodeMap {
    fn lock(&self) -> MutexGuard<'_, CodePages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that code is made from `len` bytes at `gpa`, within one page, in the map and in the page's flags, which
    /// change under the lock so that they always agree. If some processor may still write the page without telling,
    /// gives the ticket to pass to [`settle`](Self::settle) once none does.
    fn add(&self, gpa: u64, len: u64, flags: &AtomicU8) -> Option<u64> {
        let mut pages = self.lock();
        let CodePages { map, added } = &mut *pages;
        let before = PageFlags::from_bits_truncate(flags.fetch_or(PageFlags::CODE.bits(), Ordering::SeqCst));
        let page = map.entry(gpa / PAGE_SIZE).or_insert_with(|| {
            *added += 1;
            CodePage { pieces: 0, settled: !before.contains(PageFlags::WRITABLE), added: *added }
        });
        page.pieces |= pieces(gpa, len);
        (!page.settled).then_some(page.added)
    }

    /// All processors have given up writing the page of `gpa` without telling since `ticket` was given. False if the page
    /// was forgotten meanwhile: then some may have begun again.
    fn settle(&self, gpa: u64, ticket: u64, flags: &AtomicU8) -> bool {
        let mut pages = self.lock();
        match pages.map.get_mut(&(gpa / PAGE_SIZE)) {
            Some(page) if page.added == ticket => {
                page.settled = true;
                flags.fetch_and(!PageFlags::WRITABLE.bits(), Ordering::SeqCst);
                true
            }
            _ => false,
        }
    }

    /// If a write of `len` bytes at `gpa`, within one page, touched code: forgets the page and says so. A processor that
    /// has not yet heard drops what it has when it does; one that translates anew adds the page again.
    fn take_if_written(&self, gpa: u64, len: u64, flags: &AtomicU8) -> bool {
        let mut pages = self.lock();
        let page = gpa / PAGE_SIZE;
        let hit = pages.map.get(&page).is_some_and(|p| p.pieces & pieces(gpa, len) != 0);
        if hit {
            pages.map.remove(&page);
            flags.fetch_and(!PageFlags::CODE.bits(), Ordering::SeqCst);
        }
        hit
    }
}

#[derive(Clone, Copy)]
struct Jump {
    rip: u64,
    tag: u64,
    block: *const Block,
}

const NO_JUMP: Jump = Jump { rip: 0, tag: 0, block: ptr::null() };

/// One processor's translated code.
pub(crate) struct CodeCache {
    jumps: Box<[Jump; JUMPS]>,
    /// What a jump entry made from a global, or from any other, page must carry to count: generation, mode, privilege.
    tags: [u64; 2],
    generations: [u64; 2],
    context: u64,
    place: (u64, u32),
    /// The block that wants to know its successor, and which way it left.
    link: Option<(*const Block, usize)>,
    blocks: AddressMap<Box<Block>>,
    pages: AddressMap<OwnPage>,
    /// Blocks that are no longer true but may still be executing.
    #[expect(clippy::vec_box, reason = "a block that is executing must not move")]
    graveyard: Vec<Box<Block>>,
    /// Translations of instruction fetches.
    fetches: Box<[Fetch; 256]>,
    ops: usize,
    /// How many times cold blocks were forgotten.
    age: u32,
    /// Where blocks are made, one at a time: most have few instructions, and room for those is soon found.
    pub(crate) decoded: Vec<Instruction>,
    pub(crate) lowered: Vec<Op>,
}

/// What one processor has of a page.
#[derive(Default)]
struct OwnPage {
    /// The keys of its blocks.
    blocks: Vec<u64>,
    /// The 64-byte pieces they were made from.
    pieces: u64,
}

#[derive(Clone, Copy)]
struct Fetch {
    page: u64,
    tag: u64,
    gpa: u64,
}

// SAFETY: the pointers point into the cache's own boxes.
unsafe impl Send for CodeCache {}

impl CodeCache {
    pub(crate) fn new() -> Self {
        let mut cache = Self {
            jumps: Box::new([NO_JUMP; JUMPS]),
            tags: [0; 2],
            generations: [1; 2],
            context: 0,
            place: (0, u32::MAX),
            link: None,
            blocks: AddressMap::default(),
            pages: AddressMap::default(),
            graveyard: Vec::new(),
            fetches: Box::new([Fetch { page: 0, tag: 0, gpa: 0 }; 256]),
            ops: 0,
            age: 0,
            decoded: Vec::new(),
            lowered: Vec::new(),
        };
        cache.retag();
        cache
    }

    fn retag(&mut self) {
        for (i, generation) in self.generations.iter().enumerate() {
            self.tags[i] = generation << 16 | self.context << 1 | i as u64;
        }
    }

    /// Translations changed: jumps and fetches through virtual addresses count no more.
    pub(crate) fn forget_translations(&mut self, global: bool) {
        self.generations[0] += 1;
        if global {
            self.generations[1] += 1;
        }
        self.link = None;
        self.retag();
    }

    /// The processor executes in another mode, at another privilege or in another place: code segment base and limit.
    pub(crate) fn context_changed(&mut self, mode: Mode, cpl: u8, place: (u64, u32)) {
        if place != self.place {
            self.place = place;
            self.forget_translations(true);
        }
        self.context = u64::from(mode.bits()) << 2 | u64::from(cpl & 3);
        self.link = None;
        self.retag();
    }

    #[inline(always)]
    fn jump(&self, rip: u64) -> Option<*const Block> {
        let j = &self.jumps[jump_index(rip)];
        (j.rip == rip && (j.tag == self.tags[0] || j.tag == self.tags[1])).then_some(j.block)
    }

    /// Forgets all blocks.
    pub(crate) fn clear(&mut self) {
        self.forget_translations(true);
        let blocks = std::mem::take(&mut self.blocks);
        self.graveyard.extend(blocks.into_values().map(unlinked));
        self.pages.clear();
        self.ops = 0;
    }

    /// How many instructions are translated.
    pub(crate) fn len(&self) -> usize {
        self.ops
    }

    /// Forgets the blocks that were not executed since this was called the last time, and frees their memory and what lies between the
    /// others; to be called when no block is executing.
    pub(crate) fn forget_cold(&mut self) {
        self.graveyard = Vec::new();
        self.pages = AddressMap::default();
        let blocks = std::mem::take(&mut self.blocks);
        // In one piece for a moment: what they are copied to then lies close together, and the heap has whole pages to give back.
        let (mut ops, mut kept) = (Vec::new(), Vec::new());
        for (key, block) in blocks {
            if block.used == self.age {
                ops.extend_from_slice(&block.ops);
                kept.push((key, block.ops.len(), Block { ops: Box::default(), ..*unlinked(block) }));
            }
        }
        // Without links and jumps each is looked for, and found to be used, before it is executed again.
        self.forget_translations(true);
        self.age = self.age.wrapping_add(1);
        self.ops = 0;
        let mut rest = &ops[..];
        for (key, len, block) in kept {
            let own;
            (own, rest) = rest.split_at(len);
            self.insert(key, Block { ops: own.into(), ..block });
        }
    }

    /// Frees what is no longer true; to be called when no block is executing.
    pub(crate) fn bury(&mut self) {
        self.link = None;
        if !self.graveyard.is_empty() {
            self.graveyard.clear();
        }
    }

    /// Forgets all blocks made from the page of `gpa`.
    pub(crate) fn drop_page(&mut self, gpa: u64) {
        let Some(page) = self.pages.remove(&(gpa / PAGE_SIZE)) else { return };
        for key in page.blocks {
            if let Some(block) = self.blocks.remove(&key) {
                self.ops -= block.ops.len();
                self.graveyard.push(unlinked(block));
            }
        }
        self.forget_translations(true);
    }

    /// Whether there are blocks made from the page of `gpa`.
    pub(crate) fn has_page(&self, gpa: u64) -> bool {
        self.pages.contains_key(&(gpa / PAGE_SIZE))
    }

    /// Whether a block may have been made from one of `len` bytes at `gpa`, within one page.
    fn has_code(&self, gpa: u64, len: u64) -> bool {
        self.pages.get(&(gpa / PAGE_SIZE)).is_some_and(|page| page.pieces & pieces(gpa, len) != 0)
    }

    fn insert(&mut self, key: u64, block: Block) -> *const Block {
        self.ops += block.ops.len();
        for (gpa, len) in block.ranges() {
            let page = self.pages.entry(gpa / PAGE_SIZE).or_default();
            page.blocks.push(key);
            page.pieces |= pieces(gpa, len);
        }
        let block = Box::new(block);
        let at = ptr::from_ref(&*block);
        if let Some(old) = self.blocks.insert(key, block) {
            self.graveyard.push(unlinked(old));
        }
        at
    }
}

fn unlinked(mut block: Box<Block>) -> Box<Block> {
    block.links = [ptr::null(); 2];
    block
}

#[inline(always)]
fn jump_index(rip: u64) -> usize {
    (rip ^ rip >> 12) as usize & (JUMPS - 1)
}

/// Goes on at `rip`, the target of a direct branch (`way` 1) or of falling through (`way` 0).
///
/// # Safety
/// The current block must be `cpu.block`, as the dispatcher and this function keep it.
#[inline(always)]
pub(crate) unsafe fn chain(cpu: &mut Cpu, rip: u64, way: usize) -> Stop {
    let from = cpu.block_rip();
    cpu.set_rip(rip);
    // SAFETY: `cpu.block` is the block in execution; links lead to blocks that live as long as the linking one is true,
    // and are cut when it is not.
    unsafe {
        let to = (*cpu.block).links[way];
        if !to.is_null() {
            return enter(cpu, to);
        }
        unlinked_yet(cpu, from, rip, way)
    }
}

/// Goes on at `rip` where no link leads there: into another page there never is one.
///
/// # Safety
/// As [`chain`].
#[inline(never)]
unsafe fn unlinked_yet(cpu: &mut Cpu, from: u64, rip: u64, way: usize) -> Stop {
    if from ^ rip >= PAGE_SIZE {
        // SAFETY: the caller's contract is the same.
        return unsafe { indirect(cpu, rip) };
    }
    cpu.code.link = Some((cpu.block, way));
    Stop::Dispatch
}

/// Goes on at `rip`, the target of an indirect branch or in another page.
///
/// # Safety
/// As [`chain`].
#[inline(always)]
pub(crate) unsafe fn indirect(cpu: &mut Cpu, rip: u64) -> Stop {
    cpu.set_rip(rip);
    match cpu.code.jump(rip) {
        // SAFETY: entries with a current tag lead to blocks that are true.
        Some(block) => unsafe { enter(cpu, block) },
        None => Stop::Dispatch,
    }
}

#[inline(always)]
unsafe fn enter(cpu: &mut Cpu, block: *const Block) -> Stop {
    // SAFETY: the callers vouch for `block`.
    unsafe {
        cpu.fuel -= (*block).count();
        if cpu.fuel < 0 {
            return Stop::Dispatch;
        }
        cpu.block = block;
        let op = (*block).first();
        ((*op).run)(cpu, op)
    }
}

impl Cpu {
    /// Whether the block in execution was made from any of `len` bytes at `gpa`.
    pub(crate) fn current_block_overlaps(&self, gpa: u64, len: u64) -> bool {
        if self.block.is_null() {
            return false;
        }
        // SAFETY: `block` is null or the block in execution, which stays allocated while it is.
        let block = unsafe { &*self.block };
        block.ranges().any(|(start, n)| gpa < start + n && start < gpa + len)
    }

    /// After a write to a page that holds code: whoever translated what was written forgets the page. This processor may
    /// hold code of a page that another has since written and nobody else knows of any more.
    pub(crate) fn code_written(&mut self, gpa: u64, len: u64) {
        if self.system.code_written_by(Some(self.index), gpa, len) || self.code.has_code(gpa, len) {
            self.code.drop_page(gpa);
        }
    }

    /// The block for the instruction at RIP, from the jump table, the cache or newly made. Links it to the block that
    /// wanted it.
    pub(crate) fn find_block(&mut self) -> Result<*const Block, crate::fault::Trap> {
        let rip = self.block_rip();
        let link = self.code.link.take();
        let block = match self.code.jump(rip) {
            Some(block) => block,
            None => self.find_block_slow(rip)?,
        };
        if let Some((from, way)) = link
            && !self.mode.contains(Mode::LIMITED)
        {
            // SAFETY: `link` is reset whenever blocks go, so both blocks are alive; nobody executes `from` now.
            unsafe {
                if (*from).second.is_none()
                    && (*block).second.is_none()
                    && (*from).gpa ^ (*block).gpa < PAGE_SIZE
                {
                    (*from.cast_mut()).links[way] = block;
                }
            }
        }
        Ok(block)
    }

    fn find_block_slow(&mut self, rip: u64) -> Result<*const Block, crate::fault::Trap> {
        let la = self.fetch_address(rip)?;
        let (gpa, global) = self.fetch_page(la)?;
        let gpa = gpa | (la % PAGE_SIZE);
        let key = gpa << 8 | u64::from(self.mode.bits());
        let age = self.code.age;
        let mut found = self.code.blocks.get_mut(&key).map(|block| {
            block.used = age;
            ptr::from_ref(&**block)
        });
        if let Some(at) = found {
            // SAFETY: just looked up.
            if let Some(second) = unsafe { (*at).second } {
                let next = self.wrap_linear((la | (PAGE_SIZE - 1)).wrapping_add(1));
                if self.fetch_page(next)?.0 != second {
                    found = None;
                }
            }
        }
        if self.mode.contains(Mode::LIMITED) {
            let room = self.code_room();
            // SAFETY: just looked up.
            found = found.filter(|&at| unsafe { u64::from((*at).bytes) <= room });
        }
        let block = match found {
            Some(block) => block,
            None => {
                if self.code.ops > MOST_OPS {
                    self.code.clear();
                }
                let block = Block { used: age, ..self.build_block(la, gpa)? };
                self.code.insert(key, block)
            }
        };
        self.code.jumps[jump_index(rip)] = Jump { rip, tag: self.code.tags[usize::from(global)], block };
        Ok(block)
    }

    /// The guest-physical page an instruction fetch at `la` goes to, and whether its translation is global.
    pub(crate) fn fetch_page(&mut self, la: u64) -> Result<(u64, bool), crate::fault::Trap> {
        let page = la & !(PAGE_SIZE - 1);
        let slot = (la >> 12) as usize & 255;
        let f = &self.code.fetches[slot];
        if f.page == page && (f.tag == self.code.tags[0] || f.tag == self.code.tags[1]) {
            return Ok((f.gpa, f.tag & 1 != 0));
        }
        let t = self.translate_fetch(la)?;
        let gpa = t.gpa & !(PAGE_SIZE - 1);
        self.code.fetches[slot] = Fetch { page, tag: self.code.tags[usize::from(t.global)], gpa };
        Ok((gpa, t.global))
    }

    /// Announces that `len` bytes at `gpa`, within one page, are about to be read as code: from now on nobody writes the
    /// page unnoticed.
    pub(crate) fn announce_code(&mut self, gpa: u64, len: u64) {
        let Some(frame) = self.frame_of(gpa) else { return };
        // SAFETY: `GuestMemory::frame` promises a valid flag byte.
        let flags = unsafe { frame.flags.as_ref() };
        let page = gpa & !(PAGE_SIZE - 1);
        let system = Arc::clone(&self.system);
        while let Some(ticket) = system.code_map.add(gpa, len, flags) {
            self.mmu.drop_writable(page);
            self.drop_writable_elsewhere(page);
            if system.code_map.settle(gpa, ticket, flags) {
                break;
            }
        }
    }
}

impl crate::system::System {
    /// To be called after `len` bytes at `gpa` were written to pages whose flags have [`PageFlags::CODE`] by a device:
    /// every processor forgets code made from them. Says whether there was any.
    pub fn code_written(&self, gpa: u64, len: u64) -> bool {
        self.code_written_by(None, gpa, len)
    }

    /// The same for a write by processor `writer`, which sees to itself.
    fn code_written_by(&self, writer: Option<usize>, gpa: u64, len: u64) -> bool {
        let mut any = false;
        let end = gpa.saturating_add(len.max(1));
        let mut at = gpa;
        while at < end {
            let n = (end - at).min(PAGE_SIZE - at % PAGE_SIZE);
            let page = at & !(PAGE_SIZE - 1);
            if let Some(frame) = self.memory.frame(page) {
                // SAFETY: `GuestMemory::frame` promises a valid flag byte.
                if self.code_map.take_if_written(at, n, unsafe { frame.flags.as_ref() }) {
                    any = true;
                    self.invalidate_code(writer, page, PAGE_SIZE);
                }
            }
            at += n;
        }
        any
    }
}
