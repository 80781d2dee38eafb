//! Translated code: blocks of ops, where to find them, and when they stop being true.
//!
//! Blocks are keyed by the physical address of their first byte and by [`Mode`], so they outlive changes of address space.
//! From block to block execution goes by links (within a page: same mapping, same page) or through a small table keyed by
//! virtual address, which is forgotten whenever translations are. Each processor has its own cache; what they share is
//! [`CodeMap`](crate::code_map::CodeMap), which says for each page which 64-byte pieces somebody translated.

use std::hash::Hasher;
use std::ptr;
use std::sync::Arc;

use iced_x86::Instruction;

use crate::bus::PAGE_SIZE;
use crate::code_map::{AddressHasher, AddressMap, pieces};
use crate::cpu::{Cpu, Mode};
use crate::op::{Op, Stop};

/// Entries of the table from virtual address to block; a power of two.
const JUMPS: usize = 4096;
/// Ops a cache may hold before it starts afresh (32 bytes each).
const MOST_OPS: usize = 512 * 1024;
/// Ops of blocks that were executed once so far, before those are forgotten.
const MOST_YOUNG: usize = 4096;
/// Bits that say which code has been translated before; a power of two.
const SEEN: usize = 64 * 1024;

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
    young: Young,
    /// Which code has been translated before.
    seen: Seen,
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

/// Blocks that were executed once, in whose way nobody has come again: no link and no jump leads to them. Much of what a system executes it
/// executes once, so they are kept apart, and not for long.
#[derive(Default)]
struct Young {
    blocks: AddressMap<Box<Block>>,
    /// The 64-byte pieces that they were made from, of each page.
    pages: AddressMap<u64>,
    ops: usize,
}

/// Which blocks were made before, by their keys: a bit for each, which it may share with others.
struct Seen {
    bits: Box<[u64; SEEN / 64]>,
    set: usize,
}

impl Default for Seen {
    fn default() -> Self {
        Self { bits: Box::new([0; SEEN / 64]), set: 0 }
    }
}

impl Seen {
    /// Whether it was not seen before; it is now.
    fn is_new(&mut self, key: u64) -> bool {
        let mut hasher = AddressHasher::default();
        hasher.write_u64(key);
        let place = hasher.finish() as usize & (SEEN - 1);
        let (word, bit) = (&mut self.bits[place / 64], 1 << (place % 64));
        let is_new = *word & bit == 0;
        *word |= bit;
        self.set += usize::from(is_new);
        // Too full, it would take most of what is new for seen.
        if self.set > SEEN / 4 {
            *self = Self::default();
        }
        is_new
    }
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
            young: Young::default(),
            seen: Seen::default(),
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
        self.forget_young();
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
        self.young = Young::default();
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
            self.insert(key, Box::new(Block { ops: own.into(), ..block }));
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
        if self.young.pages.contains_key(&(gpa / PAGE_SIZE)) {
            self.forget_young();
        }
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
        let page = gpa / PAGE_SIZE;
        self.pages.contains_key(&page) || self.young.pages.contains_key(&page)
    }

    /// Whether a block may have been made from one of `len` bytes at `gpa`, within one page.
    fn has_code(&self, gpa: u64, len: u64) -> bool {
        let page = gpa / PAGE_SIZE;
        let kept = self.pages.get(&page).map_or(0, |page| page.pieces);
        let young = self.young.pages.get(&page).copied().unwrap_or_default();
        (kept | young) & pieces(gpa, len) != 0
    }

    /// Keeps a block that is executed for the first time for a while.
    fn insert_young(&mut self, key: u64, block: Block) -> *const Block {
        if self.young.ops > MOST_YOUNG {
            self.forget_young();
        }
        self.young.ops += block.ops.len();
        for (gpa, len) in block.ranges() {
            *self.young.pages.entry(gpa / PAGE_SIZE).or_default() |= pieces(gpa, len);
        }
        let block = Box::new(block);
        let at = ptr::from_ref(&*block);
        if let Some(old) = self.young.blocks.insert(key, block) {
            self.graveyard.push(unlinked(old));
        }
        at
    }

    /// The block with this key, which is kept from now on if it was young.
    fn known(&mut self, key: u64) -> Option<*const Block> {
        if let Some(block) = self.blocks.get_mut(&key) {
            block.used = self.age;
            return Some(ptr::from_ref(&**block));
        }
        let block = self.young.blocks.remove(&key)?;
        self.young.ops -= block.ops.len();
        Some(self.insert(key, block))
    }

    /// One of them may be executing.
    fn forget_young(&mut self) {
        let Young { blocks, .. } = std::mem::take(&mut self.young);
        self.graveyard.extend(blocks.into_values().map(unlinked));
    }

    fn insert(&mut self, key: u64, block: Box<Block>) -> *const Block {
        self.ops += block.ops.len();
        for (gpa, len) in block.ranges() {
            let page = self.pages.entry(gpa / PAGE_SIZE).or_default();
            page.blocks.push(key);
            page.pieces |= pieces(gpa, len);
        }
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

/// Goes on at `rip` where no link leads there: into another page there never is one, nor to or from a block that is in two.
///
/// # Safety
/// As [`chain`].
#[inline(never)]
unsafe fn unlinked_yet(cpu: &mut Cpu, from: u64, rip: u64, way: usize) -> Stop {
    if from ^ rip >= PAGE_SIZE {
        // SAFETY: the caller's contract is the same.
        return unsafe { indirect(cpu, rip) };
    }
    let link = (cpu.block, way);
    match cpu.code.jump(rip) {
        Some(block) => {
            cpu.link(link, block);
            // SAFETY: entries with a current tag lead to blocks that are true.
            unsafe { enter(cpu, block) }
        }
        None => {
            cpu.code.link = Some(link);
            Stop::Dispatch
        }
    }
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
        let (block, stays) = match self.code.jump(rip) {
            Some(block) => (block, true),
            None => self.find_block_slow(rip)?,
        };
        if let Some(link) = link.filter(|_| stays) {
            self.link(link, block);
        }
        Ok(block)
    }

    /// Has control go on at `to` by itself when it leaves a block by a way, if both are within a page.
    fn link(&self, (from, way): (*const Block, usize), to: *const Block) {
        if self.mode.contains(Mode::LIMITED) {
            return;
        }
        // SAFETY: a link is asked for by the block in execution, or reset whenever blocks go, so both are alive; nobody executes `from`.
        unsafe {
            if (*from).second.is_none() && (*to).second.is_none() && (*from).gpa ^ (*to).gpa < PAGE_SIZE {
                (*from.cast_mut()).links[way] = to;
            }
        }
    }

    /// The block, and whether it is kept: what is executed for the first time is not yet.
    fn find_block_slow(&mut self, rip: u64) -> Result<(*const Block, bool), crate::fault::Trap> {
        let la = self.fetch_address(rip)?;
        let (gpa, global) = self.fetch_page(la)?;
        let gpa = gpa | (la % PAGE_SIZE);
        let key = gpa << 8 | u64::from(self.mode.bits());
        let mut found = self.code.known(key);
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
                let block = Block { used: self.code.age, ..self.build_block(la, gpa)? };
                if self.code.seen.is_new(key) {
                    return Ok((self.code.insert_young(key, block), false));
                }
                self.code.insert(key, Box::new(block))
            }
        };
        self.code.jumps[jump_index(rip)] = Jump { rip, tag: self.code.tags[usize::from(global)], block };
        Ok((block, true))
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
    /// To be called after `len` bytes at `gpa` were written to pages whose flags have [`PageFlags::CODE`](crate::bus::PageFlags::CODE) by a device:
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
